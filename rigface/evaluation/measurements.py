"""Columns of a row: the numbers of each extractor for N edits.

Path: [Case] -> named arrays (N,) -> `measure_edits` puts them into rows.

Names: `<group>_rmse`, `<group>_mm`, `<angle>_error_deg` are errors; `before_`, `after_` distances of source and output
from the wanted coefficients (for gain); `change_` distances of output and source, `along_`, `asked_` the halves of
achieved / asked (for leakage); `_mp` are the detector's own scores and matrix; `source_` defines the groups. Comparison
with a true frame is in `regions.py`, that by strangers in `strangers.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rigface.colour import ita_deg
from rigface.evaluation.estimator import Estimate, FaceEstimator, achieved
from rigface.evaluation.regions import MAX_DB, TrueFrame, regions_of
from rigface.evaluation.samples import Case, is_copy, traits_of
from rigface.face.controls.transfer import exposure
from rigface.face.geometry.rotation import to_degrees, to_matrix
from rigface.face.head.head_model import Head
from rigface.metrics import geometry, identity, image, light
from rigface.metrics.perceptual import InceptionFeatures, Lpips
from rigface.types import DLIB_WIDTH


@dataclass(frozen=True)
class Networks:
    """Networks of the measurement that may be left out, and their columns with them."""

    lpips: Lpips | None = None
    inception: InceptionFeatures | None = None  # features of FID and KID


def numbers(
    cases: Sequence[Case], estimator: FaceEstimator, head: Head | None = None, networks: Networks | None = None
) -> dict[str, Any]:
    """Name -> (N,) values, or (N, D) vectors, of N edits; NaN if not measured."""
    out = {**_coefficients(cases, head), **_detector(cases, estimator), **_identities(cases), **_lights(cases)}
    return {**out, **_pictures(cases, estimator, networks or Networks()), **_groups(cases), **_tracks(cases)}


def _coefficients(cases: Sequence[Case], head: Head | None) -> dict[str, np.ndarray]:
    source = geometry.stack([c.source.params for c in cases])
    output = geometry.stack([c.output.params if c.output else None for c in cases], like=cases[0].source.params)
    wanted = geometry.stack([c.wanted for c in cases])
    aim = geometry.stack([c.source.params if c.is_floor else c.wanted for c in cases])
    out = {f"{group}_rmse": values for group, values in geometry.coefficient_errors(output, aim).items()}
    out["pose_deg"] = geometry.rotation_errors_deg(output.head_rotation, aim.head_rotation)
    errors = geometry.angle_errors_deg(output.head_rotation, aim.head_rotation)
    out |= {f"{name}_error_deg": errors[:, k] for k, name in enumerate(("yaw", "pitch", "roll"))}
    if head is not None:
        out |= {f"{group}_mm": values for group, values in geometry.vertex_errors_mm(head, output, aim).items()}
    out |= {f"after_{trait}": values for trait, values in geometry.distances(output, wanted).items()}
    out |= {f"before_{trait}": values for trait, values in geometry.distances(source, wanted).items()}
    out |= {f"change_{trait}": values for trait, values in geometry.distances(output, source).items()}
    for trait, (along, asked) in geometry.moves(source, output, wanted).items():
        out |= {f"along_{trait}": along, f"asked_{trait}": asked}
    turn = geometry.angle_errors_deg(source.head_rotation, wanted.head_rotation)
    return {**out, "turn_yaw_deg": turn[:, 0]}


def _detector(cases: Sequence[Case], estimator: FaceEstimator) -> dict[str, np.ndarray]:
    names = estimator.score_names == estimator.head.expression_names
    columns: dict[str, list[float]] = {}
    for case in cases:
        own = case.output
        tracks = {
            "pose_mp": (geometry.apd_mp, own.turn if own else None, _wanted_turn(case), case.source.turn),
            "expression_mp": (
                geometry.aed_mp52, own.blendshapes if own else None, _wanted_scores(case, names),
                case.source.blendshapes,
            ),
        }  # fmt: skip
        for name, (distance, output, wanted, source) in tracks.items():
            before, after, change = (
                np.nan if a is None or b is None else float(distance(a[None], b[None])[0])
                for a, b in ((wanted, source), (output, wanted), (output, source))
            )
            row = {"": change if case.is_floor else after, "after_": after, "before_": before, "change_": change}
            for prefix, value in row.items():
                columns.setdefault(f"{prefix}{name}", []).append(value)
    return {name: np.array(values) for name, values in columns.items()}


def _wanted_turn(case: Case) -> np.ndarray | None:
    """The wanted matrix of the detector: the target's, or the source's turned by the edit."""
    if is_copy(case.edited.edit, "pose") and case.target is not None:
        return case.target.turn
    if case.source.turn is None:
        return None
    goal, start = (to_matrix(p.head_rotation[None].astype(np.float64))[0] for p in (case.wanted, case.source.params))
    return np.asarray(goal @ start.T @ case.source.turn)


def _wanted_scores(case: Case, same_names: bool) -> np.ndarray | None:
    """The wanted scores of the detector: the target's, or the source's plus the edit, if the axes are the scores'.

    The second assumes that scores are independent; they are not (a smile widens the mouth), so the independent
    expression error of edits by number is an upper estimate.
    """
    if is_copy(case.edited.edit, "expression") and case.target is not None:
        return case.target.blendshapes
    if "expression" not in traits_of(case.edited.edit):
        return case.source.blendshapes
    if case.source.blendshapes is None or not same_names:
        return None
    return np.asarray(np.clip(case.source.blendshapes + case.wanted.expression - case.source.params.expression, 0, 1))


def _identities(cases: Sequence[Case]) -> dict[str, Any]:
    width = next((len(c.source.identity) for c in cases if c.source.identity is not None), 0)
    if not width:
        return {}

    def vectors(faces: Sequence[Estimate | None]) -> np.ndarray:
        gap = np.full(width, np.nan, np.float32)
        return np.stack([gap if f is None or f.identity is None else f.identity for f in faces])

    own, source = vectors([c.output for c in cases]), vectors([c.source for c in cases])
    wanted = vectors([c.target if "identity" in c.edited.edit.take and not c.is_floor else c.source for c in cases])
    goal = vectors([c.goal for c in cases])
    truth = vectors([c.goal if c.edited.truth is not None else None for c in cases])
    before, after = 1 - identity.cosine(source, wanted), 1 - identity.cosine(own, wanted)
    is_dlib = width == DLIB_WIDTH  # whose rule of the same person is by distance
    return {
        "identity": 1 - after,
        "identity_distance": identity.distance(own, wanted) if is_dlib else np.full(len(own), np.nan),
        "truth_distance": identity.distance(own, truth),
        "before_identity": before,
        "after_identity": after,
        "change_identity": 1 - identity.cosine(own, source),
        "along_identity": before - after,
        "asked_identity": before,
        "vector_output": own,
        "vector_source": source,
        "vector_goal": goal,
    }


def _lights(cases: Sequence[Case]) -> dict[str, Any]:
    output = geometry.stack([c.output.params if c.output else None for c in cases], like=cases[0].source.params).light
    source = geometry.stack([c.source.params for c in cases]).light
    wanted = geometry.stack([c.wanted for c in cases]).light
    floor = np.array([c.is_floor for c in cases])
    aim = np.asarray(np.where(floor[:, None, None], source, wanted))
    gap = np.full(3, np.nan)
    skin = np.stack([c.output.skin if c.output else gap for c in cases])
    own_skin = np.stack([c.source.skin for c in cases])
    hold = np.abs(ita_deg(light.remove_shading(skin, output)) - ita_deg(light.remove_shading(own_skin, source)))
    angle = light.direction_errors_deg(output, aim)
    skipped = np.isnan(angle) & np.isfinite(output).all((1, 2))
    ball = light.ball_error(output, wanted)
    change = light.ball_error(output, source)
    return {
        "light_ball": np.where(floor, change, ball),
        "after_light_ball": ball,
        "before_light_ball": light.ball_error(source, wanted),
        "change_light_ball": change,
        "light_angle_deg": angle,
        "light_angle_skipped": skipped,
        "skin_ita_deg": np.minimum(hold, 360 - hold),
        "light_wanted": wanted.reshape(len(cases), -1),
        "light_output": output.reshape(len(cases), -1),
    }


def _pictures(cases: Sequence[Case], estimator: FaceEstimator, networks: Networks) -> dict[str, Any]:
    """Pixels against the true frame and the source. The floor's picture is moved, so its pixels are not compared."""
    frames: dict[tuple[int, int], TrueFrame] = {}
    rows: list[dict[str, Any]] = []

    for case in cases:
        edited, row = case.edited, dict[str, Any]()
        rows.append(row)
        if edited.output is None or case.is_floor:
            continue
        output, source, truth = edited.output, edited.source, edited.truth
        if truth is not None and case.goal is not None:
            row |= {"psnr": min(image.psnr(output, truth), MAX_DB)}
            row["lpips"] = np.nan if networks.lpips is None else networks.lpips(output, truth)
            pair = (id(source), id(truth))
            if pair not in frames:
                both = estimator.person(source, case.source), estimator.person(truth, case.goal)
                regions = regions_of(case.goal.landmarks, case.source.landmarks, both, edited.truth_shown)
                frames[pair] = TrueFrame(truth, regions, case.goal.landmarks)
            row |= frames[pair].compare(output, None if case.output is None else case.output.landmarks)
        # A mask of the output itself, where there is no true frame, is empty without a face.
        after = estimator.person(*((output, case.output) if truth is None else (truth, case.goal)))
        free = image.background(estimator.person(source, case.source), after)
        error = image.mean_square(output, source, free)
        row["change_background"] = np.sqrt(error)
        row["background_psnr"] = min(-10 * np.log10(error), MAX_DB) if error > 0 else MAX_DB if error == 0 else np.nan
        if networks.inception is not None:
            row["features_output"], row["features_goal"] = networks.inception(
                [output, source if truth is None else truth]
            )
    return _columns_of(rows)


def _columns_of(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Rows that may lack names as columns: NaN, or a vector of NaN, in the gaps."""
    out = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        like = next(row[name] for row in rows if name in row)
        out[name] = np.stack([np.asarray(row.get(name, np.full(np.shape(like), np.nan)), np.float64) for row in rows])
    return out


def _groups(cases: Sequence[Case]) -> dict[str, Any]:
    """Properties of the source for the groups of the fairness table."""
    poses = to_degrees(to_matrix(np.stack([c.source.params.head_rotation for c in cases]).astype(np.float64)))
    return {
        "source_yaw_deg": poses[:, 0],
        "source_ita_deg": ita_deg(np.stack([c.source.skin for c in cases])),
        "source_face_px": np.array([float(max(c.source.box[2:] - c.source.box[:2])) for c in cases]),
    }


def _tracks(cases: Sequence[Case]) -> dict[str, Any]:
    """Coefficients of a clip's outputs and driving frames, for smoothness."""
    if all(c.edited.clip is None for c in cases):
        return {}
    like, out = cases[0].source.params, dict[str, Any]()
    for who in ("output", "goal"):
        faces = geometry.stack([f.params if (f := getattr(c, who)) else None for c in cases], like=like)
        out |= {f"track_{who}_rotation": faces.head_rotation, f"track_{who}_expression": faces.expression}
    return out


def swept(case: Case, estimator: FaceEstimator) -> dict[str, float]:
    """The number swept, asked and achieved."""
    if case.edited.sweep is None:
        return {}
    number = case.edited.sweep[1]
    absolute = case.edited.edit.light is not None and not case.edited.edit.light.relative
    unit = 1.0 if absolute else exposure(case.source.params.light)
    own = None if case.output is None else case.output.params
    found = achieved(case.wanted, own, estimator.head, case.edited.edit, unit)
    if number not in found:
        raise ValueError(f"sweep {case.edited.sweep[0]}: {number} is not a number of the edit: {', '.join(found)}")
    return {"asked": found[number].asked, "achieved": found[number].achieved}
