"""Edits in, rows out: everything the card needs to know of each edit, as plain numbers.

Path: [Edited] of models and controls -> FaceEstimator -> rows (Parquet, or straight on to `card.card`).

Wanted are the source's coefficients with the edit mixed in, measured by the judge on the same pictures: shape and albedo of
the source; pose, expression and light of the target, or as numbers, where they are edited. A row's distance to them is
NaN where the output shows no face; `status` says so, and the card decides what a failure costs.
"""

from __future__ import annotations

import hashlib
from collections.abc import MutableMapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from rigface.evaluation import measurements
from rigface.evaluation.baselines import CONTROLS, FLOOR
from rigface.evaluation.estimator import Estimate, FaceEstimator
from rigface.evaluation.samples import Case, Edited, traits_of
from rigface.face.controls.transfer import transfer
from rigface.metrics import image

if TYPE_CHECKING:
    from rigface.face.head.head_model import Head
    from rigface.metrics.perceptual import Lpips

Row = dict[str, Any]


def measure(
    judge: FaceEstimator,
    edits: Sequence[Edited],
    *,
    head: Head | None = None,
    lpips: Lpips | None = None,
    size: int | None = None,
    known: MutableMapping[bytes, Estimate | None] | None = None,
) -> list[Row]:
    """Judge edits of any number of models, controls included.

    Args:
        judge: looks at every picture once.
        edits: N edits. Pictures are first brought to one size, the smallest shorter side of all (antialiased, never
            enlarged), so that no model gains by its resolution.
        head: its vertices turn coefficient errors into mm; None leaves those out.
        lpips: None leaves LPIPS out.
        size: shorter side to compare at, instead of the smallest; pass it where several calls make one card.
        known: faces of sources, targets and true pictures already judged, by content; filled here. Pass the same mapping
            again when the same pairs are judged during training.

    Returns:
        N rows in the order of the edits. `status` is `ok`, `no_face` (a failure of the model), or `unusable` (source or
        target show no face: nobody's failure, nothing measured).

    Raises:
        ValueError: output or true picture have not the source's proportions.
    """
    if not edits:
        return []
    size = size or min(
        min(p.shape[:2]) for e in edits for p in (e.source, e.output, e.target, e.truth) if p is not None
    )
    edits = [_at(one, size) for one in edits]
    faces = _look(judge, edits, {} if known is None else known)
    rows, cases, places = [], [], []
    for place, one in enumerate(edits):
        source, output, target, truth = (faces.get(_digest(p)) for p in (one.source, one.output, one.target, one.truth))
        usable = source is not None and (target is not None or not one.edit.needs_target)
        rows.append(_words(one, "unusable" if not usable else "ok" if output is not None else "no_face"))
        if source is not None and usable:
            wanted = transfer(source.params, one.edit, judge.head, None if target is None else target.params)
            goal = truth if one.truth is not None else target
            cases.append(Case(one, source, output, target, goal, wanted, one.model == FLOOR))
            places.append(place)
    if cases:
        numbers = measurements.numbers(cases, judge, head, lpips)
        for k, place in enumerate(places):
            rows[place] |= {name: _plain(values[k]) for name, values in numbers.items()}
            rows[place] |= measurements.swept(cases[k], judge)
    return rows


def _words(one: Edited, status: str) -> Row:
    sweep, number = one.sweep or (None, None)
    clip, time_s = one.clip or (None, None)
    return {
        "model": one.model, "edit": one.name, "key": one.key, "person": one.person, "seed": one.seed,
        "status": status, "control": one.model in CONTROLS, "traits": "+".join(traits_of(one.edit)),
        "target_person": one.target_person or one.person, "sweep": sweep, "number": number, "latency_s": one.latency_s,
        "clip": clip, "time_s": time_s,
    }  # fmt: skip


def _at(one: Edited, size: int) -> Edited:
    def small(picture: np.ndarray | None) -> np.ndarray | None:
        return None if picture is None else image.resized(picture, size)

    source = image.resized(one.source, size)
    out = replace(one, source=source, output=small(one.output), target=small(one.target), truth=small(one.truth))
    for name in ("output", "truth"):
        picture = getattr(out, name)
        if picture is not None and picture.shape != source.shape:
            raise ValueError(
                f"{one.name} {one.key}: want {name} in the source's framing {source.shape}, got {picture.shape}"
            )
    return out


def _digest(picture: np.ndarray | None) -> bytes:
    if picture is None:
        return b""
    return hashlib.blake2b(picture.tobytes(), digest_size=16).digest() + str(picture.shape).encode()


def _look(
    judge: FaceEstimator, edits: Sequence[Edited], known: MutableMapping[bytes, Estimate | None]
) -> dict[bytes, Estimate | None]:
    """Every different picture judged once."""
    given = {_digest(p): p for e in edits for p in (e.source, e.target, e.truth) if p is not None}
    made = {_digest(e.output): e.output for e in edits if e.output is not None}
    new = {digest: p for digest, p in {**made, **given}.items() if digest not in known}
    fresh = dict(zip(new, judge(list(new.values()))))
    known.update({digest: fresh[digest] for digest in given if digest in fresh})
    return {**{digest: known[digest] for digest in (*given, *made) if digest in known}, **fresh}


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value
