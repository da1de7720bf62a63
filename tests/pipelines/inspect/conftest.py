"""Datasets for the inspect page: random faces in the real schema, a coloured disc as the person."""

from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.inspect.statistics import FaceStatistics
from rigface import schema
from rigface.image import encode_jpeg, encode_png
from rigface.types import CROP_PX, DetectorSpec, FaceParams, HeadSpec, Quality

HEAD = HeadSpec("toy", "1", shape=3, expression=4, albedo=2, expression_names=("jawOpen", "smile", "blink", "frown"))
DETECTOR = DetectorSpec("toy", "1", landmarks=5, blendshape_names=("jawOpen", "smile"))
FLAGS = [name for name, f in Quality.__dataclass_fields__.items() if f.type == "bool"]
NUMBERS = [name for name in Quality.__dataclass_fields__ if name not in FLAGS]


@pytest.fixture(scope="session")
def make():
    """`make.faces(count, **columns)`, `make.inputs(*rows)`, `make.dataset(folder, *tables)`,
    `make.statistics(*tables)`."""
    return SimpleNamespace(faces=faces, inputs=inputs, dataset=put, statistics=counted)


def faces(count, *, seed=0, head=HEAD, pictures=True, **given_columns):
    """A table of random faces; keyword arguments replace whole columns."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[:CROP_PX, :CROP_PX]
    disc = ((rows - 280) ** 2 + (columns - 256) ** 2 < 120**2).astype(np.uint8) * 255
    crops, masks = [], []
    for i in range(count if pictures else 0):
        image = np.full((CROP_PX, CROP_PX, 3), 40 + 8 * (i % 20), np.uint8)
        image[disc > 0] = random.integers(60, 220, 3)
        crops.append(encode_jpeg(image))
        masks.append(encode_png(disc))
    light = np.zeros((count, 9, 3), np.float32)
    light[:, 0] = 3.0
    light[:, 1:4] = random.normal(0, 0.4, (count, 3, 1))
    params = FaceParams(
        shape=random.normal(size=(count, head.shape)).astype(np.float32),
        expression=random.uniform(0, 1, (count, head.expression)).astype(np.float32),
        head_rotation=np.zeros((count, 3), np.float32),
        jaw_rotation=np.zeros((count, 3), np.float32),
        camera=np.tile(np.float32([7, 0, 0]), (count, 1)),
        albedo=np.zeros((count, head.albedo), np.float32),
        light=light,
    )
    values = {
        "uri": [f"clips/c{i % 5}.mp4" for i in range(count)],
        "frame_index": list(range(count)),
        "time_s": [i / 5 for i in range(count)],
        "track": [i % 2 for i in range(count)],
        "identity": [f"person-{i % 7}" for i in range(count)],
        "status": ["ok"] * count,
        "landmarks": schema.column(random.uniform(150, 350, (count, 5, 3)).astype(np.float32), 15),
        **schema.params_columns(params, head),
        **{name: random.uniform(0, 1, count).astype(np.float32) for name in NUMBERS},
        **{name: np.zeros(count, bool) for name in FLAGS},
        "yaw_deg": random.uniform(-80, 80, count).astype(np.float32),
        "pitch_deg": random.normal(0, 12, count).astype(np.float32),
        "face_size_px": random.uniform(40, 800, count).astype(np.float32),
        "skin_tone_ita_deg": random.uniform(-60, 80, count).astype(np.float32),
    }
    if pictures:
        values |= {"crop": crops, "mask": masks}
    return schema.table_of(
        values | given_columns, schema.faces_schema(head, DETECTOR).append(pa.field("identity", pa.string()))
    )


def inputs(*rows):
    return pa.Table.from_pylist(list(rows), schema=schema.inputs_schema())


def put(out, *tables, input_rows=()):
    for i, table in enumerate(tables):
        path = out / "faces" / f"{i:02d}" / "part.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, path, row_group_size=8)
    if input_rows:
        (out / "inputs").mkdir(parents=True, exist_ok=True)
        pq.write_table(inputs(*input_rows), out / "inputs" / "rows.parquet")
    return str(out)


def counted(*tables, batch_rows=10_000, **options):
    statistics = FaceStatistics(HEAD, DETECTOR, **options)
    for file, table in enumerate(tables):
        row = 0
        for batch in table.select(FaceStatistics.columns()).combine_chunks().to_batches(max_chunksize=batch_rows):
            statistics.add(batch, file, row)
            row += len(batch)
    return statistics
