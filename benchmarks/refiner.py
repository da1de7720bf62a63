"""The refiner beside the preview, on people it never learned from, against the true picture.

    python benchmarks/refiner.py CLIP... --faces FACES --people CSV... [--mini] [--sheet PNG]

* Clips, one person each: a frame is edited to the pose, expression and light of another frame.
* FACES, a dataset of `rigface extract`: of the people whom `rigface refine` holds out, the calmest photograph is edited
  to the expression of each of their others that smiles, opens the mouth or closes the eyes.

Measured in the refiner's tight crop, by region, in the mean of each person: PSNR; landmarks by MediaPipe in percent of
the outer-eye distance; distance of dlib's vectors; sharpness relative to the true picture. PSNR rewards blur, so the
preview blurred by 1.2 px, the best of four widths, stands beside. Neither network is in the loss; the conditions are
fitted to MediaPipe's landmarks.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import cv2
import numpy as np
import torch

from benchmarks import harness
from pipelines.examples.face_reader import FaceReader
from pipelines.examples.frame_index import GATES, read_frames
from pipelines.examples.split import split_of
from pipelines.refine.config import ExampleSettings
from pipelines.refine.examples import IDENTITY_CROP, ExampleComposer, RefinerExample
from pipelines.refine.plan import feature_weights, named
from rigface.assets import find
from rigface.dataset.faces import Faces
from rigface.editor import Editor
from rigface.face.analyzer import FaceAnalyzer
from rigface.face.geometry import alignment
from rigface.face.geometry.landmarks import LIPS
from rigface.face.identity.dlib_embedding import DlibIdentity
from rigface.refiner.preview_refiner import PreviewRefiner, TightCrops
from rigface.refiner.regions import OUTER_LIPS, REGIONS
from rigface.storage.store import Store
from rigface.types import Face
from rigface.video.decode import read_frames as read_video

EVERY, FRAMES, TARGETS = 10, 12, 3  # every tenth frame, at most twelve; every third of those is a target
PHOTOGRAPHS, MIN_CHANGE = 6, 0.8  # targets of a person in FACES, and the weighted change of expression they need
JUDGED_PX = 512
MIN_PIXELS = 30
EYES = (33, 263)
BLUR_PX = 1.2
LIMITS = {"mouth and eyes": 1.0, "face": 0.3, "rim": 0.3}  # dB above the preview
LOWER_IS_BETTER = ("landmarks, %", "lips, %", "identity")
MEASURES = ("mouth and eyes", "mouth", "eyes", "face", "rim", *LOWER_IS_BETTER, "sharpness", "sharpness of the skin")


@dataclass(eq=False)
class Case:
    """An edit, and what each editor makes of it."""

    person: str
    example: RefinerExample
    pictures: dict[str, np.ndarray] = field(default_factory=dict)  # editor -> (S, S, 3) in [0, 255]
    measures: dict[str, dict[str, float]] = field(default_factory=dict)  # editor -> measure -> value


class Judge:
    """Distances of crops to the true picture."""

    def __init__(self, analyzer: FaceAnalyzer) -> None:
        self._detector, self._identity = analyzer.detector, DlibIdentity()
        self._truth: tuple[RefinerExample | None, tuple[np.ndarray, np.ndarray] | None] = (None, None)

    def __call__(self, picture: np.ndarray, example: RefinerExample) -> dict[str, float]:
        """Measures of one picture (S, S, 3), [0, 255]; without a face those of pixels alone."""
        squares = np.square(picture - example.target.astype(np.float32)).mean(2)
        masks = {name: example.regions == k for k, name in enumerate(REGIONS) if name in ("rim", "eyes", "mouth")}
        masks["mouth and eyes"] = example.regions >= REGIONS.index("eyes")
        masks["face"] = example.regions >= REGIONS.index("face")
        shown = {name: mask for name, mask in masks.items() if mask.sum() > MIN_PIXELS}
        measures = {name: float(-10 * np.log10(squares[m].mean() / 255**2 + 1e-9)) for name, m in shown.items()}
        skin = example.regions == REGIONS.index("face")
        for name, mask in (("sharpness", masks["mouth and eyes"]), ("sharpness of the skin", skin)):
            if mask.sum() > MIN_PIXELS:
                measures[name] = _sharpness(picture, mask) / max(_sharpness(example.target, mask), 1e-3)
        if self._truth[0] is not example:
            self._truth = example, self._face(example.target.astype(np.float32))
        true, seen = self._truth[1], self._face(picture)
        if true is not None and seen is not None:
            eyes = np.linalg.norm(np.subtract(*true[0][list(EYES)]))
            apart = np.linalg.norm(true[0] - seen[0], axis=1) / eyes * 100
            measures |= {"landmarks, %": float(apart.mean()), "lips, %": float(apart[[*LIPS, *OUTER_LIPS]].mean())}
            measures["identity"] = float(np.linalg.norm(true[1] - seen[1]))
        return measures

    def _face(self, picture: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
        large = cv2.resize(picture, (JUDGED_PX, JUDGED_PX), interpolation=cv2.INTER_CUBIC)
        image = (large + 0.5).clip(0, 255).astype(np.uint8)
        found = self._detector(image)
        vector = self._identity(image, found[0]) if found else None
        return None if vector is None else (found[0].landmarks[:468, :2], vector)


def _sharpness(picture: np.ndarray, mask: np.ndarray) -> float:
    """Root mean square of the Laplacian, grey levels."""
    grey = cv2.cvtColor(picture.clip(0, 255).astype(np.float32), cv2.COLOR_RGB2GRAY)
    return float(np.sqrt(np.square(cv2.Laplacian(grey, cv2.CV_32F)[mask]).mean()))


class Editors:
    """The editors compared, but for the refiner."""

    def __init__(self, composer: ExampleComposer, crops: TightCrops, mini: Editor | None) -> None:
        self._composer, self._crops, self._mini = composer, crops, mini

    def case(self, person: str, source: Face, target: Face, *, photographs: bool) -> Case:
        """The edit that turns a face into another one; `photographs`: of different inputs."""
        example = (self._composer.photographs if photographs else self._composer.pair)(source, target)
        preview = example.inputs.preview.astype(np.float32)
        made = Case(person, example, {"copy source": example.inputs.photograph.astype(np.float32), "preview": preview})
        made.pictures["blurred preview"] = cv2.GaussianBlur(preview, (0, 0), BLUR_PX)
        if self._mini is not None:
            if photographs:
                source, target = (replace(face, frame_to_crop=IDENTITY_CROP) for face in (source, target))
            wanted = self._composer.wanted(source, target)
            inside = replace(source, frame_to_crop=IDENTITY_CROP)
            crop = self._mini.apply(source.crop, inside, wanted)[0]
            square = self._crops.square(wanted)
            made.pictures["mini"] = alignment.crop(crop, square, self._crops.size).astype(np.float32)
        return made


def clip_cases(clip: Path, editors: Editors, analyzer: FaceAnalyzer) -> Iterator[Case]:
    """Edits of a clip: each target from the frame whose expression differs most."""
    images = [f.image for k, f in enumerate(read_video(str(clip))) if k % EVERY == 0][:FRAMES]
    faces = [found[0] for image in images if len(found := analyzer(image)) == 1]
    if len(faces) < 2:
        return
    codes = np.stack([face.params.expression for face in faces])
    for t in range(0, len(faces), TARGETS):
        s = int(np.abs(codes - codes[t]).sum(1).argmax())
        if s != t:
            yield editors.case(clip.name, faces[s], faces[t], photographs=False)


def photograph_cases(faces: str, people: list[str], editors: Editors, analyzer: FaceAnalyzer) -> Iterator[Case]:
    """Edits of a dataset's held-out people with several photographs: from the calmest one to the liveliest others."""
    store = Store(faces)
    head, held_out = Faces(store).head, ExampleSettings().held_out_fraction
    frames, places = read_frames(store, dict(zip(GATES, (ExampleSettings().min_confidence, 0.0, 0.0))))
    frames, reader = named(frames, people), FaceReader(store, head)
    codes = frames.expression * feature_weights(head.expression_names)
    for person in sorted(set(frames.identity[frames.good])):
        rows = np.flatnonzero(frames.good & (frames.identity == person))
        _, first = np.unique(frames.uri[rows], return_index=True)
        rows = rows[first]
        if len(rows) < 2 or split_of(person, held_out) != "test":
            continue
        source = rows[np.abs(codes[rows]).sum(1).argmin()]
        change = np.abs(codes[rows] - codes[source]).sum(1)
        for k in np.argsort(-change)[:PHOTOGRAPHS]:
            if change[k] >= MIN_CHANGE:
                pair = []
                for row in (source, rows[k]):
                    reader.read([places[row, 0]])
                    face = reader.face(places[row, 0], int(places[row, 1]))
                    pair.append(replace(face, mask=analyzer.parser(face.crop, face.landmarks)))
                yield editors.case(person, pair[0], pair[1], photographs=True)


def table_of(cases: list[Case]) -> dict[str, object]:
    """Means of the people by measure and editor, and the refiner's change against the preview."""
    table: dict[str, object] = {"people": len({c.person for c in cases}), "edits": len(cases)}
    editors = list(cases[0].measures)
    for measure in MEASURES:
        complete = [c for c in cases if all(measure in c.measures[e] for e in editors)]
        people = sorted({c.person for c in complete})
        values = np.array(
            [
                np.mean([[c.measures[e][measure] for e in editors] for c in complete if c.person == p], axis=0)
                for p in people
            ]
        )
        change = values[:, editors.index("refiner")] - values[:, editors.index("preview")]
        better = (change < 0) if measure in LOWER_IS_BETTER else (change > 0)
        table[measure] = {e: round(float(v), 3) for e, v in zip(editors, values.mean(0))} | {
            "change": round(float(change.mean()), 3),
            "standard_error": round(float(change.std() / np.sqrt(len(change))), 3),
            "people_better": int(better.sum()),
            "people": len(people),
        }
    return table


def sheet_of(cases: list[Case], columns: int = 3) -> np.ndarray:
    """One strip a person: photograph, the editors in order, and the truth."""
    shown = {case.person: case for case in cases}.values()  # the last of each
    names = ("preview", "mini", "refiner")
    strips = []
    for case in shown:
        tiles = [case.example.inputs.photograph, *(case.pictures[n] for n in names if n in case.pictures)]
        strips.append(np.hstack([np.asarray(t).clip(0, 255).astype(np.uint8) for t in (*tiles, case.example.target)]))
    strips += [np.zeros_like(strips[0])] * (-len(strips) % columns)
    height = len(strips) // columns
    return np.hstack([np.vstack(strips[k * height : (k + 1) * height]) for k in range(columns)])


def main() -> None:
    """Measure, print, and write the results file."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("clips", type=Path, nargs="*")
    parser.add_argument("--faces", help="dataset of faces, for people with several photographs")
    parser.add_argument("--people", nargs="*", default=[], help="CSV files as those of `rigface refine --people`")
    parser.add_argument("--refiner", type=Path, help="folder of weights; default: those that ship")
    parser.add_argument("--mini", action="store_true", help="measure `mini` too")
    parser.add_argument("--sheet", type=Path, help="PNG of a strip a person: photograph, preview, refined, truth")
    args = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    refiner, analyzer = PreviewRefiner.load(args.refiner or find("refiner")), FaceAnalyzer.load()
    size, judge = refiner.config.size, Judge(analyzer)
    mini = Editor.load("mini", analyzer=analyzer) if args.mini else None
    editors = Editors(ExampleComposer(size), TightCrops(size), mini)
    tests: dict[str, Iterator[Case]] = {
        "clips": (case for clip in args.clips for case in clip_cases(clip, editors, analyzer))
    }
    if args.faces:
        tests["photographs"] = photograph_cases(args.faces, args.people, editors, analyzer)
    tables: dict[str, object] = {}
    measured: list[Case] = []
    for name, made in tests.items():
        cases = []
        for case in made:
            case.pictures["refiner"] = refiner.refine(case.example.inputs)
            case.measures = {editor: judge(picture, case.example) for editor, picture in case.pictures.items()}
            cases.append(case)
            print(f"{name}: {len(cases)} edits", end="\r", flush=True)
        if cases:
            measured += cases
            tables[name] = table = table_of(cases)
            for measure in MEASURES:
                print(f"{name} {measure:22}", table[measure], flush=True)
    harness.write("refiner", {**tables, "limits_db": LIMITS, **harness.environment()})
    if args.sheet and measured:
        cv2.imwrite(str(args.sheet), cv2.cvtColor(sheet_of(measured), cv2.COLOR_RGB2BGR))


if __name__ == "__main__":
    main()
