"""`rigface assets check --reproduce CLONE`: compare our conditions with those that RigFace's repository ships.

Path: CLONE/**/sor.*, tar.* -> FaceAnalyzer and Composer of the profile `rigface` -> a row per render_*, bg_* and exp_*.

The repository has the real intermediates of two edits, so that whoever has the licensed files can confirm that ours are
the same. A file's name says what the edit takes from the target (`pose`, `exp`, `light`), or whose
code it is (`sor`, `tar`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from operator import itemgetter
from pathlib import Path

import numpy as np

from pipelines.edit.inputs import read_image
from rigface.conditions import HOLE_GREY, Composer
from rigface.errors import NoFace, PlanError
from rigface.face.analyzer import FaceAnalyzer
from rigface.face.steps import AlignedFaces, reconstruct, segment
from rigface.image import resized
from rigface.metrics.image import psnr
from rigface.model.model_config import RELEASED
from rigface.types import CROP_PX, Face, FaceParams

MAX_CODE_DIFFERENCE = 0.05  # mean, of numbers whose mean size is 0.75
MIN_RENDER_DB = 35.0  # inside the silhouettes
MIN_BACKGROUND_IOU = 0.99  # of the holes
_NAME = re.compile(r"(render|bg|exp)_(.+)\.(png|jpg|jpeg|npy)")
_ENCODING = 2  # levels by which JPEG may move the grey of a hole
_EXPRESSION = ("expression", "jaw_rotation", "bfm_expression")


@dataclass(frozen=True)
class Comparison:
    """One file of theirs against ours."""

    file: Path
    measure: str
    value: float
    passes: bool


def report(clone: Path) -> int:
    """Print comparisons as they are made; returns 1 if one does not pass. Raises as `reproduce`."""
    failed = 0
    for row in reproduce(clone):
        failed += not row.passes
        print(f"{'ok  ' if row.passes else 'FAIL'} {row.file}: {row.measure} {row.value:.4g}", flush=True)
    print(f"{failed} differ" if failed else "all agree")
    return 1 if failed else 0


def reproduce(clone: Path) -> Iterator[Comparison]:
    """Compare every intermediate below a clone.

    Raises:
        PlanError: there are none.
        MissingAsset: a network of the profile is not on this machine.
        NoFace: a picture has no face.
    """
    edits = [(source, target) for source in sorted(clone.rglob("sor.*")) if (target := _beside(source, "tar"))]
    if not edits:
        raise PlanError(f"{clone} has no pictures sor.* and tar.* in one folder; name a clone of RigFace's repository")
    analyzer, composer = FaceAnalyzer.load(RELEASED.profile), Composer(RELEASED.conditions)
    for pictures in edits:
        faces = [_face(analyzer, path) for path in pictures]
        for file in sorted(pictures[0].parent.iterdir()):
            if match := _NAME.fullmatch(file.name):
                yield _compared(file, match[1], match[2], faces[0], faces[1], composer)


def _beside(source: Path, stem: str) -> Path | None:
    return next(iter(sorted(source.parent.glob(f"{stem}.*"))), None)


def _face(analyzer: FaceAnalyzer, path: Path) -> Face:
    """The face of a picture that is a crop of 512 px already."""
    picture = resized(read_image(path), CROP_PX)
    found = max(analyzer.detector(picture), key=lambda d: float(np.prod(d.box[2:] - d.box[:2])), default=None)
    if found is None:
        raise NoFace(f"{path}: no face was found", stage="detect")
    crop = AlignedFaces(
        crops=[picture],
        frame_to_crop=np.eye(2, 3, dtype=np.float32)[None],
        boxes=found.box[None],
        landmarks=found.landmarks[None],
        scores=np.array([found.score]),
        blendshapes=None if found.blendshapes is None else found.blendshapes[None],
    )
    params = reconstruct(analyzer.reconstructor, crop).params.map(itemgetter(0))
    mask = segment(analyzer.parser, crop, 0, (CROP_PX, CROP_PX))
    return Face(picture, crop.frame_to_crop[0], found.box, found.landmarks, params, mask, 0.0)


def _compared(file: Path, kind: str, mode: str, source: Face, target: Face, composer: Composer) -> Comparison:
    before, after = as_released(mode, source.params, target.params)
    if kind == "exp":
        assert after.bfm_expression is not None  # the profile has codes
        difference = float(np.abs(np.load(file, allow_pickle=False).ravel() - after.bfm_expression).mean())
        return Comparison(file, "mean difference of the code", difference, difference <= MAX_CODE_DIFFERENCE)
    theirs = resized(read_image(file), CROP_PX)
    if kind == "render":
        ours = composer(replace(source, params=before), after).conditions.render
        inside = (ours > 0).any(-1) | (theirs > _ENCODING).any(-1)
        decibels = psnr(ours / 255, theirs / 255, inside)
        return Comparison(file, "PSNR of the render, dB", decibels, decibels >= MIN_RENDER_DB)
    ours = composer(source, source.params, target.mask if "pose" in mode else None).conditions.background
    overlap = _overlap(_hole(ours), _hole(theirs))
    return Comparison(file, "IoU of the hole in the background", overlap, overlap >= MIN_BACKGROUND_IOU)


def as_released(mode: str, source: FaceParams, target: FaceParams) -> tuple[FaceParams, FaceParams]:
    """Coefficients before and after an edit as the released code mixes them, which is not how `transfer` does.

    With `pose` everything is the target's that is not kept from the source, its shape and skin too. Without `pose` the
    light goes the wrong way round: it is the target's if it is *not* asked for.
    """
    if "pose" in mode:
        base, light = target, target if "light" in mode else source
    else:
        base, light = source, source if "light" in mode else target
    expression = target if "exp" in mode or mode == "tar" else source
    taken = {name: getattr(expression, name) for name in _EXPRESSION}
    return base, replace(base, light=light.light, **taken)


def _hole(picture: np.ndarray) -> np.ndarray:
    """(H, W) bool: pixels of the grey of a hole."""
    return np.asarray((np.abs(picture.astype(int) - HOLE_GREY) <= _ENCODING).all(-1))


def _overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union; 1 if both are empty."""
    union = int((a | b).sum())
    return float((a & b).sum()) / union if union else 1.0
