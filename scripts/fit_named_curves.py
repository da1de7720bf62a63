"""Fit the tables of `rigface/face/controls/named_curves.py`, and check them on other people.

    python scripts/fit_named_curves.py out/faces --data ../shared/data [--people 30]

Portraits marked `ship = 1`, one a person, frontal, well read. Half of the people by a hash of their name serve the fit,
the other half the check. A preview is drawn of each face for a range of amounts without a curve, and read again by the
same reconstructor. A table has the median share of a change that is found; the check asks for a few numbers with the
curves in force and prints the medians of what is read.
"""

import argparse
import csv
import hashlib
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import torch

from pipelines.examples.face_reader import FaceReader
from pipelines.examples.layout import face_parts, head_of
from rigface.editor import Editor, numbers
from rigface.edits import NAMED_EXPRESSIONS, EditSpec, LightEdit
from rigface.face.analyzer import FaceAnalyzer
from rigface.face.controls import named_curves
from rigface.face.controls.transfer import light_coefficients
from rigface.face.geometry import alignment
from rigface.storage.store import Store
from rigface.types import Face

REACH = {"smile": 0.7, "jaw_open": 0.5}  # wanted change up to which a curve is straight; more would deform the face
FLAT = (1.2, 0.15)  # up to this wanted change, hardly more is drawn: so much
DRAWN, AZIMUTHS = (0.0, 0.5, 1.0, 1.5), (-80, -50, -25, 25, 50, 80)
LARGE = 0.25  # of a change, from which its share that is found is clear of noise
CHECKED = [
    EditSpec(expression={"smile": 0.7}), EditSpec(expression={"smile": 0.3}), EditSpec(expression={"jaw_open": 0.5}),
    EditSpec(expression={"jaw_open": 0.25}), *(EditSpec(light=LightEdit(azimuth_deg=a)) for a in (-50, 30, 50)),
]  # fmt: skip


def people(folder: str, data: Path, half: int, most: int) -> list[Face]:
    """Faces of the people of one half, each as a picture of its own crop."""
    manifests = {data / sub / row["file"]: row for sub in ("", "more") for row in rows_of(data / sub / "manifest.csv")}
    store, found = Store(folder), dict[str, tuple[str, int]]()
    for part in face_parts(store):
        for k, row in enumerate(store.table(part).to_pylist()):
            known = manifests.get(Path(row["uri"]), {})
            person = known.get("person", "")
            usable = row["status"] == "ok" and (known.get("ship"), known.get("kind")) == ("1", "image")
            if usable and half_of(person) == half and is_clear(row):
                found.setdefault(person, (part, k))
    names = sorted(found)
    np.random.default_rng(0).shuffle(names)
    reader, faces = FaceReader(store, head_of(store)), []
    for part, k in (found[name] for name in names[:most]):
        reader.read([part])
        face = reader.face(part, k)
        corners = alignment.apply(face.frame_to_crop, face.box.reshape(2, 2))
        faces.append(replace(face, frame_to_crop=np.eye(2, 3, dtype=np.float32), box=corners.ravel()))
    return faces


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def half_of(person: str) -> int:
    return int(hashlib.sha256(person.encode()).hexdigest()[:8], 16) % 2


def is_clear(row: dict) -> bool:
    return (
        row["confidence"] >= 0.6
        and abs(row["yaw_deg"]) <= 15
        and abs(row["pitch_deg"]) <= 25
        and row["frame_to_crop"][0] <= 2.2  # at least 230 px of crop
        and not row["is_suspect"]
        and row["occlusion"] <= 0.2
    )


def read(editor: Editor, face: Face, drawn: EditSpec, named: EditSpec) -> dict[str, float]:
    """The numbers of `named` that are found after an edit."""
    out, _ = editor.apply(face.crop, face, editor.edited_params(face.params, drawn, {}))
    (seen,) = editor.measure(out, [face])
    return {} if seen is None else numbers(seen, named, editor.analyzer.head)


def fit(editor: Editor, faces: list[Face]) -> None:
    """Print the tables."""
    for name, reach in REACH.items():
        named, changes = EditSpec(expression={name: 0.0}), []
        for face in faces:
            own = numbers(face.params, named, editor.analyzer.head)[name]
            for amount in DRAWN:  # axis by axis, which no curve touches
                axes = {axis: share * amount for axis, share in NAMED_EXPRESSIONS[name].items()}
                if seen := read(editor, face, EditSpec(expression=axes), named):
                    changes.append((amount - own, seen[name] - own))
        print(f"    {name!r}: {table(np.array(changes), reach)},")
    by_angle = defaultdict(list)
    for face in faces:
        for angle in AZIMUTHS:
            sh = light_coefficients(LightEdit(azimuth_deg=angle), 1.0)
            edit = EditSpec(light=LightEdit(sh=sh.tolist()))
            if seen := read(editor, face, edit, edit):
                by_angle[abs(angle)].append(abs(seen["light_azimuth_deg"]))
    middle = [(round(float(np.median(found)), 1), float(angle)) for angle, found in sorted(by_angle.items())]
    print(f"AZIMUTH = {((0.0, 0.0), *middle, (180.0, 180.0))}")


def table(changes: np.ndarray, reach: float) -> tuple[tuple[float, float], ...]:
    """(wanted, drawn) from (drawn, found) changes (N, 2).

    What is found is a share of what is drawn, whatever the amount: one share for more, one for less of an expression.
    """
    knots = [(-named_curves.FAR, -named_curves.FAR), (0.0, 0.0), (named_curves.FAR, named_curves.FAR)]
    for sign in (-1, 1):
        drawn, found = changes[sign * changes[:, 0] > LARGE].T
        most = round(float(reach / np.median(found / drawn)), 2)
        knots += [(sign * reach, sign * most), (sign * FLAT[0], round(sign * (max(most, FLAT[0]) + FLAT[1]), 2))]
    return tuple(sorted(knots))


def check(editor: Editor, faces: list[Face]) -> None:
    """Print asked numbers and the medians read, curves in force."""
    for edit in CHECKED:
        seen = [found for face in faces if (found := read(editor, face, edit, edit))]
        name = next(iter(edit.expression), "light_azimuth_deg")
        asked = edit.expression.get(name, edit.light and edit.light.azimuth_deg)
        values = np.array([found[name] for found in seen])
        print(f"{name} {asked}: read {np.median(values):.2f} (quartiles {np.percentile(values, (25, 75)).round(2)})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("faces", help="folder of `rigface extract`")
    parser.add_argument("--data", type=Path, required=True, help="folder with manifest.csv and more/manifest.csv")
    parser.add_argument("--people", type=int, default=30)
    parser.add_argument("--check-only", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    editor = Editor(FaceAnalyzer.load())
    if not options.check_only:
        fit(editor, people(options.faces, options.data, 0, options.people))
    check(editor, people(options.faces, options.data, 1, options.people))


if __name__ == "__main__":
    main()
