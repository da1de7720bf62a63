"""Readings of networks that took no part in an edit: pose, smile, age and identity, as columns named after the network.

Path: pictures of a case -> `Strangers` -> readings -> `columns`, beside the numbers of the loop's own estimator.

A model that was fitted, conditioned or selected by an estimator can move that estimator and leave the picture as it
was. A stranger finds the face itself. `<trait>_<network>` is the distance to the reading of the true frame, or else of
the target whose trait was copied, or else to what the numbers ask.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from rigface.evaluation.samples import Case, is_copy, traits_of
from rigface.face.geometry.rotation import to_degrees, to_matrix
from rigface.metrics import identity

UNITS = {"yaw": "degrees", "roll": "degrees", "smile": "score", "age": "years", "identity": "cosine distance"}
READ_BY = {"yaw": "pose", "roll": "pose"}  # five points hardly show the pitch, so it is left out
DEGREES = ("yaw", "pitch", "roll")


class Reading(Protocol):
    """What the strangers see in one face; `rigface.judges` has one. NaN or None: not read."""

    yaw_deg: float  # signs as in `face/geometry/rotation.py`
    pitch_deg: float
    roll_deg: float
    smile: float  # [0, 1]
    age_years: float
    identity: np.ndarray | None  # (D,) as the network gives it


class Strangers(Protocol):
    """All strangers of a run; `rigface.judges.Judges` is one."""

    networks: Mapping[str, str]  # pose, smile, age, identity -> the network that reads it, as it ends the columns
    versions: Mapping[str, str]  # trait -> name and version of the network

    def __call__(self, picture: np.ndarray) -> Reading | None:
        """Read the largest face of a picture (H, W, 3) uint8; None if no face is found."""


def extractors_of(judges: Strangers | None) -> dict[str, str]:
    """`yaw by <network>` ... -> version, of the traits that are read."""
    if judges is None:
        return {}
    traits = {trait: READ_BY.get(trait, trait) for trait in UNITS}
    return {
        f"{trait} by {judges.networks[read]}": judges.versions[read]
        for trait, read in traits.items()
        if read in judges.networks
    }


def columns(
    cases: Sequence[Case], readings: Sequence[Mapping[str, Reading | None]], networks: Mapping[str, str]
) -> dict[str, Any]:
    """The strangers' columns of N cases.

    Args:
        cases: N edits.
        readings: per case those of its `source`, `output`, `target` and `goal` pictures.
        networks: of `Strangers`.

    Returns:
        Name -> (N,): `<trait>_<network>` and `after_...` distance of output and goal, `before_...` of source and
        goal, `change_...` of output and source; `truth_identity_<network>` of output and true frame;
        `read_smile_<network>` the score of the output. NaN if not read.
    """
    out: dict[str, list[float]] = {}
    for case, seen in zip(cases, readings):
        for trait in UNITS:
            if (network := networks.get(READ_BY.get(trait, trait))) is None:
                continue
            source, output, goal = (_of(seen.get(name), trait) for name in ("source", "output", "goal"))
            wanted = _wanted(case, trait, source, _of(seen.get("target"), trait), goal)
            change, after = _distance(trait, output, source), _distance(trait, output, wanted)
            row = {
                f"{trait}_{network}": change if case.is_floor else after,
                f"after_{trait}_{network}": after,
                f"before_{trait}_{network}": _distance(trait, source, wanted),
                f"change_{trait}_{network}": change,
            }
            if trait == "identity":
                row[f"truth_identity_{network}"] = (
                    np.nan if case.edited.truth is None or case.is_floor else _distance(trait, output, goal)
                )
            if trait == "smile":
                row[f"read_smile_{network}"] = np.nan if output is None else float(output[0])
            for name, value in row.items():
                out.setdefault(name, []).append(value)
    return {name: np.array(values) for name, values in out.items()}


def _of(reading: Reading | None, trait: str) -> np.ndarray | None:
    """(D,) float64 of one trait; None if it was not read."""
    if reading is None:
        return None
    values = {
        "yaw": (reading.yaw_deg,),
        "roll": (reading.roll_deg,),
        "smile": (reading.smile,),
        "age": (reading.age_years,),
        "identity": reading.identity,
    }[trait]
    vector = None if values is None else np.asarray(values, np.float64)
    return vector if vector is not None and np.isfinite(vector).all() else None


def _distance(trait: str, a: np.ndarray | None, b: np.ndarray | None) -> float:
    if a is None or b is None:
        return np.nan
    if trait == "identity":
        return float(1 - identity.cosine(a, b))
    return float(abs((a[0] - b[0] + 180) % 360 - 180 if trait in DEGREES else a[0] - b[0]))


def _wanted(
    case: Case, trait: str, source: np.ndarray | None, target: np.ndarray | None, goal: np.ndarray | None
) -> np.ndarray | None:
    """The wanted reading; None for a smile that is asked by numbers, which are not the network's."""
    edit = case.edited.edit
    if trait == "identity":  # the source's person, unless it is a face swap
        return target if "identity" in edit.take else source
    if case.edited.truth is not None:
        return goal
    if trait == "age":
        return target if "identity" in edit.take else source
    edited = "expression" if trait == "smile" else "pose"
    if is_copy(edit, edited):
        return target
    if edited not in traits_of(edit):
        return source
    if trait == "smile" or source is None:
        return None
    before, after = (
        to_degrees(to_matrix(p.head_rotation[None].astype(np.float64)))[0] for p in (case.source.params, case.wanted)
    )
    return np.asarray(source + (after - before)[DEGREES.index(trait)])
