"""Cost of the preview on one core, and the share of the asked change that it achieves.

    python benchmarks/preview.py [--rounds 20] [--data ../shared/data]

Writes one line of JSON to benchmarks/results/preview.json. Costs are processor seconds of one thread, medians, on the
face of tests/fixtures/clip.mp4, fitted beforehand. What is reached is re-measured on the output, on that face and, with
--data, on one portrait of each of its people whose licence lets it ship: the share of the asked change that the
reconstructor finds in the result (1: all of it; 0: nothing moved), as medians over people, and in how many results a
face is found at all. `edit_*` is a whole edit with the default model, from pixels to pixels, analysis and measuring
included: the frame as it is, and enlarged.
"""

import argparse
import csv
import json
import os
import time
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from statistics import median

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch reads it

import cv2
import harness
import numpy as np
import torch

from rigface.editor import Editor, numbers
from rigface.edits import EditSpec, LightEdit
from rigface.face.analyzer import FaceAnalyzer
from rigface.face.geometry.alignment import crop
from rigface.image import decode
from rigface.video.decode import read_frames

EVERYTHING = EditSpec(yaw_deg=15, relative=True, expression={"smile": 0.6}, light=LightEdit(azimuth_deg=-50))
EDITS = {
    "yaw_deg": [EditSpec(yaw_deg=v, relative=True) for v in (-15, 15)],
    "pitch_deg": [EditSpec(pitch_deg=v, relative=True) for v in (-10, 10)],
    "smile": [EditSpec(expression={"smile": 1.0})],
    "jaw_open": [EditSpec(expression={"jaw_open": 0.8})],
    "blink": [EditSpec(expression={"blink": 1.0})],
    "light_azimuth_deg": [EditSpec(light=LightEdit(azimuth_deg=v)) for v in (-60, 60)],
}


def costs(editor: Editor, image: np.ndarray, rounds: int) -> dict[str, float]:
    """Milliseconds of one thread by size and kind of edit."""
    face, preview = editor.analyzer(image)[0], editor._composer.preview
    out = {}
    for size in (256, 512, 1024):
        small = crop(image, face.frame_to_crop * (size / 512), size)
        mask = cv2.resize(face.mask, (size, size))
        for name, edit, person in (
            ("all", EVERYTHING, mask),
            ("all_without_mask", EVERYTHING, None),
            ("light", EditSpec(light=LightEdit(azimuth_deg=50)), mask),
        ):
            wanted = editor.edited_params(face.params, edit, {})
            preview(small, face.params, wanted, person)
            took = []
            for _ in range(rounds):
                start = time.process_time()
                preview(small, face.params, wanted, person)
                took.append(time.process_time() - start)
            out[f"{name}_{size}px_ms"] = round(1000 * median(took), 1)
    return out


def edits(image: np.ndarray, rounds: int) -> dict[str, float]:
    """Milliseconds of one thread for a whole edit of a photograph seen for the first time, by its size."""
    editor, out = Editor.load(), {}
    for times in (1, 4, 8):
        large = cv2.resize(image, None, fx=times, fy=times, interpolation=cv2.INTER_CUBIC)
        editor.edit(large, EVERYTHING)
        took = []
        for turn in range(rounds):
            large[:8, :8] = turn  # another picture, whose background is not known from the last round
            start = time.process_time()
            editor.edit(large, EVERYTHING)
            took.append(time.process_time() - start)
        out[f"edit_{large.shape[1]}x{large.shape[0]}_ms"] = round(1000 * median(took), 1)
    return out


def reached(editor: Editor, pictures: Iterator[np.ndarray]) -> dict[str, object]:
    """Shares of the asked changes that are found in the result."""
    shares: dict[str, list[float]] = {name: [] for name in EDITS}
    people = results = found = 0
    for image in pictures:
        faces = editor.analyzer(image)
        if len(faces) != 1:
            continue
        people += 1
        for name, edits in EDITS.items():
            for edit in edits:
                wanted = editor.edited_params(faces[0].params, edit, {})
                out, _ = editor.apply(image, faces[0], wanted)
                (seen,) = editor.measure(out, faces)
                results, found = results + 1, found + (seen is not None)
                if seen is not None:
                    head, source = editor.analyzer.head, faces[0].params
                    was, now = (numbers(p, edit, head)[name] for p in (source, seen))
                    asked = numbers(wanted, edit, head, source)[name]
                    if abs(asked - was) > (5 if name.endswith("deg") else 0.2):
                        shares[name].append((now - was) / (asked - was))
    return {
        "people": people,
        "results": results,
        "face_found": round(found / max(results, 1), 4),
        "reached": {name: round(median(values), 2) for name, values in shares.items() if values},
    }


def portraits(data: Path, most: int) -> Iterator[np.ndarray]:
    """One portrait per person that may ship, at most 900 px."""
    seen: set[str] = set()
    for row in csv.DictReader((data / "manifest.csv").open()):
        if row["ship"] != "1" or row["kind"] != "image" or row["person"] in seen or row["faces_eye"] != "1":
            continue
        seen.add(row["person"])
        image = decode((data / row["file"]).read_bytes())
        shrink = min(900 / max(image.shape[:2]), 1)
        yield cv2.resize(image, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)
        if len(seen) == most:
            return


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--data", type=Path, help="folder with manifest.csv and images/")
    parser.add_argument("--people", type=int, default=40, help="portraits of --data to look at, at most")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    editor = Editor(FaceAnalyzer.load())
    image = next(read_frames(str(harness.CLIP))).image
    pictures = chain([image], portraits(options.data, options.people) if options.data else ())
    result = {
        "benchmark": "preview",
        **costs(editor, image, options.rounds),
        **edits(image, max(options.rounds // 4, 1)),
        **reached(editor, pictures),
        **harness.environment(),
    }
    harness.write("preview", result)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
