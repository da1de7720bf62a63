"""Fit the tables of `rigface/face/controls/named_curves.py`, and check them on other people.

    python scripts/fit_named_curves.py --data ../shared/data [--people 24]

Portraits marked `ship = 1`, one a person, frontal, well read. Half of the people by a hash of their name serve the fit,
the other half the check. A preview is drawn of each face for a range of amounts without a curve, and read again by the
same reconstructor. A table has the median share of a change that is found, of the jaw's by a line over the smile; the
check asks for a few numbers with the curves in force and prints the medians of what is read, also of those who smile
and of those who do not.
"""

import argparse
import csv
import hashlib
from collections import defaultdict
from pathlib import Path

import cv2
import numpy as np
import torch

from rigface.editor import Editor, numbers
from rigface.edits import NAMED_EXPRESSIONS, EditSpec, LightEdit
from rigface.face.analyzer import FaceAnalyzer
from rigface.face.controls import named_curves
from rigface.face.controls.transfer import expression_amount, light_coefficients
from rigface.face.geometry.rotation import to_degrees, to_matrix
from rigface.image import decode
from rigface.types import Face

REACH = {"smile": 0.7, "jaw_open": 0.5}  # wanted change up to which a curve is straight; more would deform the face
MOST = {"smile": 1.6, "jaw_open": 1.2}  # drawn for it; of more, faces are grotesque
FLAT = (1.2, 0.15)  # up to this wanted change, hardly more is drawn: so much
MAX_PX = 900  # of a picture's longer side
DRAWN, AZIMUTHS = (0.0, 0.5, 1.0), (-80, -50, -25, 25, 50, 80)
LARGE = 0.25  # of a change, from which its share that is found is clear of noise
CHECKED = [
    EditSpec(expression={"smile": 0.7}), EditSpec(expression={"smile": 0.3}), EditSpec(expression={"jaw_open": 0.5}),
    EditSpec(expression={"jaw_open": 0.25}), *(EditSpec(light=LightEdit(azimuth_deg=a)) for a in (-50, 30, 50)),
]  # fmt: skip


def people(editor: Editor, data: Path, half: int, most: int) -> list[tuple[np.ndarray, Face]]:
    """Pictures and faces of people of one half."""
    rows = [(data / sub, row) for sub in ("", "more") for row in rows_of(data / sub / "manifest.csv")]
    files = {}
    for folder, row in rows:
        if (row["ship"], row["kind"], row["faces_eye"] or "1") == ("1", "image", "1") and half_of(
            row["person"]
        ) == half:
            files.setdefault(row["person"], folder / row["file"])
    names, found = sorted(files), []
    np.random.default_rng(0).shuffle(names)
    for name in names:
        image = decode(files[name].read_bytes())
        shrink = min(MAX_PX / max(image.shape[:2]), 1)
        image = cv2.resize(image, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)
        faces = editor.analyzer(image)
        if len(faces) == 1 and is_clear(faces[0]):
            found.append((image, faces[0]))
        if len(found) == most:
            break
    return found


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def half_of(person: str) -> int:
    return int(hashlib.sha256(person.encode()).hexdigest()[:8], 16) % 2


def is_clear(face: Face) -> bool:
    yaw, pitch, _ = to_degrees(to_matrix(face.params.head_rotation[None]))[0]
    large = face.frame_to_crop[0, 0] <= 2.2  # at least 230 px of crop
    return bool(face.confidence >= 0.6 and abs(yaw) <= 15 and abs(pitch) <= 25 and large)


def smile_of(editor: Editor, face: Face) -> float:
    return expression_amount(face.params, "smile", editor.analyzer.head)


def read(editor: Editor, image: np.ndarray, face: Face, drawn: EditSpec, named: EditSpec) -> dict[str, float]:
    """The numbers of `named` that are found after an edit."""
    out, _ = editor.apply(image, face, editor.edited_params(face.params, drawn, {}))
    (seen,) = editor.measure(out, [face])
    return {} if seen is None else numbers(seen, named, editor.analyzer.head)


def fit(editor: Editor, faces: list[tuple[np.ndarray, Face]]) -> None:
    """Print the tables."""
    for name, reach in REACH.items():
        named, changes = EditSpec(expression={name: 0.0}), []
        for image, face in faces:
            own = numbers(face.params, named, editor.analyzer.head)[name]
            for amount in DRAWN:  # axis by axis, which no curve touches
                axes = {axis: share * amount for axis, share in NAMED_EXPRESSIONS[name].items()}
                if seen := read(editor, image, face, EditSpec(expression=axes), named):
                    changes.append((amount - own, seen[name] - own, smile_of(editor, face)))
        for smile in (0.0, named_curves.SMILE) if name in named_curves.SMILING else (None,):
            print(f"    {name!r}: {table(np.array(changes), reach, MOST[name], smile)},  # smile: {smile}")
    by_angle = defaultdict(list)
    for image, face in faces:
        for angle in AZIMUTHS:
            sh = light_coefficients(LightEdit(azimuth_deg=angle), 1.0)
            edit = EditSpec(light=LightEdit(sh=sh.tolist()))
            if seen := read(editor, image, face, edit, edit):
                by_angle[abs(angle)].append(abs(seen["light_azimuth_deg"]))
    middle = [(round(float(np.median(found)), 1), float(angle)) for angle, found in sorted(by_angle.items())]
    print(f"AZIMUTH = {((0.0, 0.0), *middle, (180.0, 180.0))}")


def table(changes: np.ndarray, reach: float, limit: float, smile: float | None) -> tuple[tuple[float, float], ...]:
    """(wanted, drawn) from drawn and found changes and the face's smile (N, 3), for a smile or for all.

    What is found is a share of what is drawn, whatever the amount: one share for more, one for less of an expression.
    """
    knots = [(-named_curves.FAR, -named_curves.FAR), (0.0, 0.0), (named_curves.FAR, named_curves.FAR)]
    for sign in (-1, 1):
        drawn, found, smiles = changes[sign * changes[:, 0] > LARGE].T
        share = np.median(found / drawn)
        if smile is not None and sign == 1:
            line = np.polyfit(np.clip(smiles, 0, named_curves.SMILE), found / drawn, 1)
            share = np.polyval(line, smile)
        most = min(round(float(reach / share), 2), limit)
        knots += [(sign * reach, sign * most), (sign * FLAT[0], round(sign * (max(most, FLAT[0]) + FLAT[1]), 2))]
    return tuple(sorted(knots))


def check(editor: Editor, faces: list[tuple[np.ndarray, Face]]) -> None:
    """Print asked numbers and the medians read, curves in force."""
    for edit in CHECKED:
        name = next(iter(edit.expression), "light_azimuth_deg")
        asked = edit.expression.get(name, edit.light and edit.light.azimuth_deg)
        seen = [(smile_of(editor, f), found[name]) for i, f in faces if (found := read(editor, i, f, edit, edit))]
        smiles, values = np.array(seen).T
        apart = [np.median(values[(smiles > named_curves.SMILE / 2) == smiling]) for smiling in (False, True)]
        print(
            f"{name} {asked}: read {np.median(values):.2f} (quartiles {np.percentile(values, (25, 75)).round(2)}), "
            f"faces at rest {apart[0]:.2f}, smiling {apart[1]:.2f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with manifest.csv and more/manifest.csv")
    parser.add_argument("--people", type=int, default=24)
    parser.add_argument("--check-only", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    editor = Editor(FaceAnalyzer.load())
    if not options.check_only:
        fit(editor, people(editor, options.data, 0, options.people))
    check(editor, people(editor, options.data, 1, options.people))


if __name__ == "__main__":
    main()
