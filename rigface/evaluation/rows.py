"""Edits in, rows of numbers out: the input of the report card.

Path: [Edited] of models and controls -> FaceEstimator -> rows (Parquet, or directly to `make_card`).

The wanted coefficients are the source's with the edit applied, both estimated on the same pictures: shape and albedo of
the source; edited pose, expression and light of the target, or as numbers. If the output shows no face, its errors are
NaN and `status` is `no_face`; the card decides the cost of a failure.
"""

import hashlib
from collections.abc import MutableMapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from rigface.evaluation import measurements
from rigface.evaluation.baselines import CONTROLS, FLOOR
from rigface.evaluation.estimator import Estimate, FaceEstimator
from rigface.evaluation.metric_registry import Row
from rigface.evaluation.samples import Case, Edited, traits_of
from rigface.face.controls.transfer import transfer
from rigface.face.head.head_model import Head
from rigface.metrics import image
from rigface.metrics.perceptual import Lpips


def measure_edits(
    estimator: FaceEstimator,
    edits: Sequence[Edited],
    *,
    head: Head | None = None,
    lpips: Lpips | None = None,
    size: int | None = None,
    known: MutableMapping[bytes, Estimate | None] | None = None,
) -> list[Row]:
    """Measure edits of any number of models, controls included.

    Args:
        edits: N edits. Pictures are first brought to one size, the smallest shorter side of all (antialiased, never
            enlarged), so that no model gains by its resolution.
        head: its vertices turn coefficient errors into mm; None leaves those out.
        lpips: None leaves LPIPS out.
        size: shorter side to compare at, instead of the smallest; pass it if several calls make one card.
        known: estimates of sources, targets and true pictures, by content; filled here. Pass the same mapping again for
            the same pairs.

    Returns:
        N rows in the order of the edits. `status` is `ok`, `no_face` (a failure of the model), or `unusable` (source or
        target show no face: no failure, nothing measured).

    Raises:
        ValueError: output or true picture have other proportions than the source.
    """
    if not edits:
        return []
    size = size or min(
        min(p.shape[:2]) for e in edits for p in (e.source, e.output, e.target, e.truth) if p is not None
    )
    edits = [_at(edited, size) for edited in edits]
    faces = _estimates(estimator, edits, {} if known is None else known)
    rows, cases, places = [], [], []
    for place, edited in enumerate(edits):
        source, output, target, truth = (
            faces.get(_digest(p)) for p in (edited.source, edited.output, edited.target, edited.truth)
        )
        usable = source is not None and (target is not None or not edited.edit.needs_target)
        rows.append(_words(edited, "unusable" if not usable else "ok" if output is not None else "no_face"))
        if source is not None and usable:
            wanted = transfer(source.params, edited.edit, estimator.head, None if target is None else target.params)
            goal = truth if edited.truth is not None else target
            cases.append(Case(edited, source, output, target, goal, wanted, edited.model == FLOOR))
            places.append(place)
    if cases:
        numbers = measurements.numbers(cases, estimator, head, lpips)
        for k, place in enumerate(places):
            rows[place] |= {name: _plain(values[k]) for name, values in numbers.items()}
            rows[place] |= measurements.swept(cases[k], estimator)
    return rows


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


def _at(edited: Edited, size: int) -> Edited:
    def small(picture: np.ndarray | None) -> np.ndarray | None:
        return None if picture is None else image.resized(picture, size)

    source = image.resized(edited.source, size)
    out = replace(
        edited, source=source, output=small(edited.output), target=small(edited.target), truth=small(edited.truth)
    )
    for name in ("output", "truth"):
        picture = getattr(out, name)
        if picture is not None and picture.shape != source.shape:
            raise ValueError(
                f"{edited.name} {edited.key}: want {name} in the source's framing {source.shape}, got {picture.shape}"
            )
    return out


def _digest(picture: np.ndarray | None) -> bytes:
    if picture is None:
        return b""
    return hashlib.blake2b(picture.tobytes(), digest_size=16).digest() + str(picture.shape).encode()


def _estimates(
    estimator: FaceEstimator, edits: Sequence[Edited], known: MutableMapping[bytes, Estimate | None]
) -> dict[bytes, Estimate | None]:
    """Estimates of every different picture, each made once."""
    given = {_digest(p): p for e in edits for p in (e.source, e.target, e.truth) if p is not None}
    outputs = {_digest(e.output): e.output for e in edits if e.output is not None}
    new = {digest: p for digest, p in {**outputs, **given}.items() if digest not in known}
    fresh = dict(zip(new, estimator(list(new.values()))))
    known.update({digest: fresh[digest] for digest in given if digest in fresh})
    return {**{digest: known[digest] for digest in (*given, *outputs) if digest in known}, **fresh}


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value
