"""Pairs of frames of one person as source, target and instruction, for the training of edit models.

Path: `plan_pairs` of `rigface pair` -> `PairUnit` -> DEST/<split>/source/NAME.jpg, target/NAME.jpg, target/NAME.txt,
and DEST/pairs/<unit>.parquet, with which a unit is done.

Both pictures are cut to the square that both crops show, in the source's framing: the camera stands still between them,
and nothing is invented. People are in one split alone.
Source: ai-toolkit's example configs (`folder_path`, `control_path`: one name in both, captions as .txt) and
SimpleTuner's DATALOADER.md (`conditioning_data` with `reference_strict`: one name in both).
"""

import json
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
import pyarrow as pa

from pipelines.examples.compose_example import between
from pipelines.examples.config import PairSettings
from pipelines.examples.face_reader import FaceReader
from pipelines.examples.pair_plan import PlannedExample, parts_behind
from pipelines.export.config import ExportConfig
from pipelines.export.instructions import MEASURED, differences, instruction
from pipelines.extract.layout import plain_parquet
from rigface.dataset.faces import Faces
from rigface.image import encode_jpeg
from rigface.storage import lock
from rigface.storage.store import Store, sharded
from rigface.study.frame_columns import INPUT_COLUMNS, study_columns
from rigface.types import CROP_PX, Face

PAIRS = "pairs"
DEFAULT_PAIRS = 20_000
MIN_SIDE = 0.75  # of the crop: smaller common squares cut heads
JPEG_QUALITY = 95
SPLITS = ("train", "test")


def pair_settings(config: ExportConfig) -> PairSettings:
    """The choice of pairs, as `rigface pair` makes it: two frames of one input, evenly spread, nothing staged."""
    confidence = config.min_confidence or PairSettings.min_confidence
    return PairSettings(
        pairs=config.limit or DEFAULT_PAIRS, relit=0, relit_pair_fraction=0.0, mirrored_fraction=0.0,
        min_confidence=confidence, held_out_fraction=config.held_out_fraction, seed=config.seed,
    )  # fmt: skip


class PairUnit:
    """Writes units of pairs. One per actor."""

    def __init__(self, config: ExportConfig) -> None:
        self._faces, self._store = Faces(config.faces), lock.follow(Store(config.dest))
        self._reader = FaceReader(self._faces.store, self._faces.head)

    def __call__(self, unit: str, planned: list[PlannedExample]) -> dict[str, int]:
        self._reader.read(parts_behind(planned))
        measured = self._measured(planned)
        rows = [row for pair in planned if (row := self._write(pair, measured)) is not None]
        self._store.publish(sharded(PAIRS, unit, ".parquet"), plain_parquet(pa.Table.from_pylist(rows, pairs_schema())))
        return {"pairs": len(rows), "without a common square or a difference": len(planned) - len(rows), "units": 1}

    def _measured(self, planned: list[PlannedExample]) -> dict[tuple[str, int], dict[str, float]]:
        """The study columns of the rows behind these pairs."""
        out: dict[tuple[str, int], dict[str, float]] = {}
        for part in sorted(parts_behind(planned)):
            wanted = sorted({place[1] for pair in planned for place in (pair.source, pair.target) if place[0] == part})
            rows = self._faces.table(part, INPUT_COLUMNS).take(pa.array(wanted))
            measured = study_columns(rows, self._faces.detector).select(list(MEASURED)).to_pylist()
            out |= {(part, row): cells for row, cells in zip(wanted, measured)}
        return out

    def _write(self, pair: PlannedExample, measured: dict[tuple[str, int], dict[str, float]]) -> dict[str, Any] | None:
        """Publish the files of a pair; its row, or None if there is nothing to say or to show."""
        before, after = measured[pair.source], measured[pair.target]
        if any(v is None for v in (*before.values(), *after.values())):
            return None
        said = instruction(before, after)
        pictures = common_square(self._reader.face(*pair.source), self._reader.face(*pair.target)) if said else None
        if pictures is None:
            return None
        place = f"{pair.split}/{{}}/{pair.example}"
        for folder, picture in zip(("source", "target"), pictures):
            self._store.publish(f"{place.format(folder)}.jpg", encode_jpeg(picture, JPEG_QUALITY))
        self._store.publish(f"{place.format('target')}.txt", said.encode())
        keys = {f"{end}_{n}": v for end, at in (("source", pair.source), ("target", pair.target))
                for n, v in self._reader.key(*at).items() if n != "uri"}  # fmt: skip
        change = {f"d_{name}": value for name, value in differences(before, after).items()}
        uri = self._reader.key(*pair.source)["uri"]
        known = {"name": pair.example, "split": pair.split, "identity": pair.identity, "uri": uri, "instruction": said}
        return {**known, **keys, **change}


def pairs_schema() -> pa.Schema:
    """Arrow schema of DEST/pairs."""
    texts = [(name, pa.string()) for name in ("name", "split", "identity", "uri", "instruction")]
    kinds = (("frame_index", pa.int32()), ("track", pa.int32()), ("time_s", pa.float64()))
    keys = [(f"{end}_{name}", kind) for end in ("source", "target") for name, kind in kinds]
    return pa.schema([*texts, *keys, *((f"d_{name}", pa.float32()) for name in MEASURED)])


def common_square(source: Face, target: Face) -> tuple[np.ndarray, np.ndarray] | None:
    """Both pictures (512, 512, 3) uint8 of the largest square about the source's middle that both crops show.

    None if it is smaller than `MIN_SIDE` of a crop, or cuts one of the faces.
    """
    affine = between(source, target)
    low = np.maximum(affine[:, 2], 0)
    high = np.minimum(affine[:, :2] @ (CROP_PX, CROP_PX) + affine[:, 2], CROP_PX)
    side = float((high - low).min())
    if side < MIN_SIDE * CROP_PX:
        return None
    corner = np.clip((CROP_PX - side) / 2, low, high - side)
    cut = np.array([[CROP_PX / side, 0, -corner[0] * CROP_PX / side], [0, CROP_PX / side, -corner[1] * CROP_PX / side]])
    moved = cut @ np.vstack([affine, [0, 0, 1]])
    for face, to_square in ((source, cut), (target, moved)):
        points = face.landmarks[:, :2] @ to_square[:, :2].T + to_square[:, 2]
        if points.min() < 0 or points.max() > CROP_PX:
            return None
    return _warped(source.crop, cut), _warped(target.crop, moved)


def _warped(image: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """An image through an affine of pixel coordinates whose centres are at k + 0.5."""
    moved = affine.copy()
    moved[:, 2] += moved[:, :2] @ (0.5, 0.5) - 0.5
    out = cv2.warpAffine(image, moved, (CROP_PX, CROP_PX), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(out)


def configs(place: str) -> Iterator[tuple[str, str]]:
    """Name and text of the parts of the trainers' configurations that name the data."""
    resolution = {"resolution": CROP_PX, "resolution_type": "pixel_area"}
    backends = [
        {"id": "rigface-targets", "type": "local", "dataset_type": "image",
         "instance_data_dir": f"{place}/train/target", "caption_strategy": "textfile",
         "conditioning_data": ["rigface-sources"], "cache_dir_vae": f"{place}/cache/target", **resolution},
        {"id": "rigface-sources", "type": "local", "dataset_type": "conditioning",
         "instance_data_dir": f"{place}/train/source", "conditioning_type": "reference_strict",
         "cache_dir_vae": f"{place}/cache/source", **resolution},
        {"id": "rigface-texts", "type": "local", "dataset_type": "text_embeds", "default": True,
         "cache_dir": f"{place}/cache/text"},
    ]  # fmt: skip
    yield "simpletuner.json", json.dumps(backends, indent=2) + "\n"
    yield (
        "ai-toolkit.yaml",
        f"""# The part `datasets` of a process in ai-toolkit's config, as in its train_lora_flux_kontext_24gb.yaml
datasets:
  - folder_path: "{place}/train/target"
    control_path: "{place}/train/source"
    caption_ext: "txt"
    resolution: [{CROP_PX}]
""",
    )
