"""Accuracy of head angles and gaze on rendered heads, and agreement of expression scores with those of a mirror image.

    python benchmarks/study.py out/faces                  # a dataset of faces, the more people the better
    python benchmarks/study.py out/faces --renders 100 --mirrored 100

Heads of people of the dataset (shape, albedo, light) are rendered with a known pose and eyes of a known direction; the
landmarker and the fit see the picture. Poses are within 30, 15 and 10 degrees of yaw, pitch and roll, eyes within
20 and 10 degrees of straight ahead. Mirrored are crops of other people, one of each input.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import Any

import harness
import numpy as np
import pyarrow as pa

from rigface import schema
from rigface.dataset.faces import Faces
from rigface.face.analyzer import FaceAnalyzer
from rigface.face.detection.mediapipe import BLENDSHAPES
from rigface.face.geometry.rotation import from_degrees, to_axis_angle, to_degrees
from rigface.image import decode
from rigface.study.action_units import ACTION_UNITS, TWO_SIDED
from rigface.study.gaze import angles_deg, gaze_directions, in_head
from rigface.study.head_pose import head_turns
from rigface.testing import looking_heads
from rigface.types import FaceParams

HEAD_DEG, EYES_DEG = (30, 15, 10), (20, 10)
CAMERA = (10.5, 0.0, -0.02)  # as large in the crop as photographs are


def people(faces: Faces, count: int, random: np.random.Generator) -> pa.Table:
    """One good row of as many inputs, at random."""
    light = pa.concat_tables([faces.table(p, ["uri", "status", "confidence"]) for p in faces.parts])
    places = [(part, row) for part in faces.parts for row in range(faces.store.table(part, ["uri"]).num_rows)]
    good = (np.array(light["status"].to_pylist()) == "ok") & (np.nan_to_num(light["confidence"].to_numpy()) > 0.5)
    _, first = np.unique(np.array(light["uri"].to_pylist())[good], return_index=True)
    chosen = random.permutation(np.flatnonzero(good)[first])[:count]
    rows = {}
    for part in {places[i][0] for i in chosen}:
        table = faces.table(part)
        rows |= {i: table.take([places[i][1]]) for i in chosen if places[i][0] == part}
    return pa.concat_tables([rows[i] for i in chosen])


def errors(found: np.ndarray, known: np.ndarray) -> dict[str, Any]:
    """Degrees: mean, mean of the size, median and 95th percentile of the errors (N, K), each a list of K."""
    gap = found - known
    size = np.abs(gap)
    numbers = {
        "bias": gap.mean(0),
        "mean": size.mean(0),
        "median": np.median(size, 0),
        "p95": np.percentile(size, 95, 0),
    }
    return {name: np.round(value, 2).tolist() for name, value in numbers.items()}


def on_renders(rows: pa.Table, analyzer: FaceAnalyzer, random: np.random.Generator) -> dict[str, Any]:
    """Errors of yaw, pitch, roll of the head, and of yaw and pitch of the gaze, against the camera and the head."""
    params = schema.params_of(rows)
    poses, gazes, heads, looks, asked, turned = [], [], [], [], [], []
    for i in range(len(rows)):
        pose, eyes = random.uniform(-1, 1, 3) * HEAD_DEG, random.uniform(-1, 1, 2) * EYES_DEG
        turn = from_degrees(pose[None])[0]
        person = params.map(lambda a, i=i: a[i])
        known: FaceParams = replace(
            person, head_rotation=to_axis_angle(turn[None])[0].astype(np.float32), camera=np.float32(CAMERA)
        )
        found = analyzer(looking_heads.picture(known, *eyes))
        if len(found) != 1:
            continue
        poses.append(pose)
        gazes.append(angles_deg((turn @ looking_heads.direction(*eyes))[None])[0])
        face = found[0]
        own = head_turns(face.params.head_rotation[None])
        heads.append(to_degrees(own)[0])
        numbers = (face.landmarks, face.params.head_rotation, face.params.camera)
        seen = gaze_directions(*(a[None] for a in numbers))
        looks.append(angles_deg(seen)[0])
        asked.append(eyes)
        turned.append(angles_deg(in_head(seen, own))[0])
    return {
        "renders": len(rows),
        "found": len(heads),
        "head_yaw_pitch_roll": errors(np.array(heads), np.array(poses)),
        "gaze_yaw_pitch": errors(np.array(looks), np.array(gazes)),
        "eye_yaw_pitch": errors(np.array(turned), np.array(asked)),
    }


def in_mirror(rows: pa.Table, analyzer: FaceAnalyzer) -> dict[str, Any]:
    """Correlation of each unit's score, and of its difference of sides, with those of the mirrored crop."""
    pairs = []
    for crop in rows["crop"].to_pylist():
        image = decode(crop)
        both = [analyzer.detector(np.ascontiguousarray(a), second_look=False) for a in (image, image[:, ::-1])]
        if all(len(found) == 1 for found in both):
            pairs.append([found[0].blendshapes for found in both])
    plain, mirrored = np.array(pairs).transpose(1, 0, 2)
    at = {name: i for i, name in enumerate(BLENDSHAPES)}

    def side(scores: np.ndarray, unit: Any, number: int) -> np.ndarray:
        return np.asarray(scores[:, [at[name] for name in unit.sides[number]]].mean(1))

    out: dict[str, Any] = {"faces": len(pairs), "score": {}, "asymmetry": {}, "preference": {}}
    for unit in ACTION_UNITS:
        if unit.shapes:
            both = [(side(plain, unit, k), side(mirrored, unit, 1 - k)) for k in (0, 1)]
            out["score"][unit.column] = float(np.mean([np.corrcoef(a, b)[0, 1] for a, b in both]).round(2))
        if unit in TWO_SIDED:
            a, b = (side(s, unit, 0) - side(s, unit, 1) for s in (plain, mirrored))
            out["asymmetry"][unit.column] = float(np.corrcoef(a, -b)[0, 1].round(2))
            out["preference"][unit.column] = float(np.mean((a + b) / 2).round(3))
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("faces", help="dataset of faces, with the open head")
    parser.add_argument("--renders", type=int, default=300)
    parser.add_argument("--mirrored", type=int, default=400)
    options = parser.parse_args()
    random = np.random.default_rng(1)
    rows = people(Faces(options.faces), options.renders + options.mirrored, random)
    analyzer = FaceAnalyzer.load()
    result = on_renders(rows.slice(0, options.renders), analyzer, random)
    result |= {"mirror": in_mirror(rows.slice(options.renders), analyzer), **harness.environment()}
    harness.write("study", result)
    print(result)


if __name__ == "__main__":
    main()
