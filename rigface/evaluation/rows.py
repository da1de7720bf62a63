"""Edits in, rows of numbers out: the input of the report card.

Path: [Edited] of models and controls -> FaceEstimator -> rows (Parquet, or directly to `make_card`).

The wanted coefficients are the source's with the edit applied, both estimated on the same pictures: shape and albedo of
the source; edited pose, expression and light of the target, or as numbers. If the output shows no face, its errors are
NaN and `status` is `no_face`; the card decides the cost of a failure.
"""

import hashlib
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import cv2
import numpy as np

from rigface.evaluation import measurements, strangers
from rigface.evaluation.baselines import CONTROLS, FLOOR
from rigface.evaluation.estimator import Estimate, FaceEstimator
from rigface.evaluation.measurements import Networks
from rigface.evaluation.metric_registry import Row
from rigface.evaluation.samples import Case, Edited, traits_of
from rigface.evaluation.strangers import Reading, Strangers
from rigface.face.controls.transfer import transfer
from rigface.face.head.head_model import Head
from rigface.metrics import image


@dataclass
class Known:
    """What was seen in sources, targets and true pictures, by their content; pass it again for the same pairs."""

    estimates: dict[bytes, Estimate | None] = field(default_factory=dict)
    readings: dict[bytes, Reading | None] = field(default_factory=dict)


def measure_edits(
    estimator: FaceEstimator,
    edits: Sequence[Edited],
    *,
    head: Head | None = None,
    judges: Strangers | None = None,
    networks: Networks | None = None,
    size: int | None = None,
    known: Known | None = None,
) -> list[Row]:
    """Measure edits of any number of models, controls included.

    Args:
        edits: N edits. Pictures are first brought to one size, the smallest shorter side of all (antialiased, never
            enlarged), so that no model gains by its resolution.
        head: its vertices turn coefficient errors into mm; None leaves those out.
        judges: networks outside the loop; None leaves their columns out.
        networks: LPIPS and the features of FID.
        size: shorter side to compare at, instead of the smallest; pass it if several calls make one card.
        known: filled here.

    Returns:
        N rows in the order of the edits. `status` is `ok`, `no_face` (a failure of the model), or `unusable` (source or
        target show no face: no failure, nothing measured).

    Raises:
        ValueError: output or true picture have other proportions than the source.
    """
    if not edits:
        return []
    known = known or Known()
    size = size or min(
        min(p.shape[:2]) for e in edits for p in (e.source, e.output, e.target, e.truth) if p is not None
    )
    small = _Sizer(size)
    edits = [small.edit(edited) for edited in edits]
    given = {small.digest(p): p for e in edits for p in (e.source, e.target, e.truth) if p is not None}
    outputs = {small.digest(e.output): e.output for e in edits if e.output is not None}
    with ThreadPoolExecutor(1) as strangers_thread:  # both are networks outside Python, so they run side by side
        read = partial(_seen, given, outputs, known.readings, lambda pictures: _read(judges, pictures))
        reading = strangers_thread.submit(read)
        faces = _seen(given, outputs, known.estimates, estimator)
        rows, cases, places = list[Row](), list[Case](), list[int]()
        for place, edited in enumerate(edits):
            source, output, target, truth = (
                faces.get(small.digest(p)) for p in (edited.source, edited.output, edited.target, edited.truth)
            )
            usable = source is not None and (target is not None or not edited.edit.needs_target)
            rows.append(_words(edited, "unusable" if not usable else "ok" if output is not None else "no_face"))
            if source is not None and usable:
                wanted = transfer(source.params, edited.edit, estimator.head, None if target is None else target.params)
                goal = truth if edited.truth is not None else target
                cases.append(Case(edited, source, output, target, goal, wanted, edited.model == FLOOR))
                places.append(place)
        numbers = measurements.numbers(cases, estimator, head, networks) if cases else {}
        seen = reading.result()
    if judges is not None and cases:
        readings = [
            {name: seen.get(small.digest(getattr(c.edited, name))) for name in ("source", "output", "target")}
            | {"goal": seen.get(small.digest(c.edited.target if c.edited.truth is None else c.edited.truth))}
            for c in cases
        ]
        numbers |= strangers.columns(cases, readings, judges.networks)
    for k, place in enumerate(places):
        rows[place] |= {name: _plain(values[k]) for name, values in numbers.items()}
        rows[place] |= measurements.swept(cases[k], estimator)
    return rows


def _read(judges: Strangers | None, pictures: Sequence[np.ndarray]) -> list[Reading | None]:
    return [None if judges is None else judges(picture) for picture in pictures]


def _words(edited: Edited, status: str) -> Row:
    sweep, number = edited.sweep or (None, None)
    clip, time_s = edited.clip or (None, None)
    return {
        "model": edited.model, "edit": edited.name, "key": edited.key, "person": edited.person, "seed": edited.seed,
        "status": status, "control": edited.model in CONTROLS, "traits": "+".join(traits_of(edited.edit)),
        "target_person": edited.target_person or edited.person, "sweep": sweep, "number": number,
        "latency_s": edited.latency_s,
        "clip": clip, "time_s": time_s,
    }  # fmt: skip


class _Sizer:
    """Pictures at one size, each resized and hashed once; a picture is known by its object while a call lasts."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._small: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self._digests: dict[int, tuple[np.ndarray, bytes]] = {}

    def __call__(self, picture: np.ndarray) -> np.ndarray:
        if id(picture) not in self._small:  # the picture is kept, so that its id stays its own
            self._small[id(picture)] = picture, image.resized(picture, self._size)
        return self._small[id(picture)][1]

    def edit(self, edited: Edited) -> Edited:
        source = self(edited.source)
        output, target, truth = (None if p is None else self(p) for p in (edited.output, edited.target, edited.truth))
        want = source.shape
        for name, picture in (("output", output), ("truth", truth)):
            if picture is not None and picture.shape != want:
                raise ValueError(
                    f"{edited.name} {edited.key}: want {name} in the source's framing {want}, got {picture.shape}"
                )
        shown = edited.truth_shown
        if shown is not None and shown.shape != want[:2]:
            shown = cv2.resize(shown.astype(np.uint8), want[1::-1], interpolation=cv2.INTER_NEAREST) > 0
        return replace(edited, source=source, output=output, target=target, truth=truth, truth_shown=shown)

    def digest(self, picture: np.ndarray | None) -> bytes:
        if picture is None:
            return b""
        if id(picture) not in self._digests:
            digest = hashlib.blake2b(picture.tobytes(), digest_size=16).digest() + str(picture.shape).encode()
            self._digests[id(picture)] = picture, digest
        return self._digests[id(picture)][1]


def _seen(
    given: Mapping[bytes, np.ndarray],
    outputs: Mapping[bytes, np.ndarray],
    known: MutableMapping[bytes, Any],
    look: Callable[[list[np.ndarray]], list[Any]],
) -> dict[bytes, Any]:
    """What is seen in every different picture, each looked at once; `given` ones are added to `known`."""
    new = {digest: p for digest, p in {**outputs, **given}.items() if digest not in known}
    fresh = dict(zip(new, look(list(new.values()))))
    known.update({digest: fresh[digest] for digest in given if digest in fresh})
    return {**{digest: known[digest] for digest in (*given, *outputs) if digest in known}, **fresh}


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value
