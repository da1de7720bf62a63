"""Schema of the dataset, a public contract: column names, Arrow types, units.

Derived from `types.py`, so that a field added there is a column here. `OUT/faces/` holds one row per face and sampled
frame, `OUT/inputs/` one row per input, `OUT/identities/` one row per track. Name and
version of the schema, the head model and the detector go into the metadata of every file: rows of two head models never
mix.

`python -m rigface.schema` prints the table of the docs.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import Field, asdict, dataclass, fields
from math import prod
from typing import Any

import numpy as np
import pyarrow as pa

from rigface.types import CROP_PX, EXTRAS, DetectorSpec, FaceParams, HeadSpec, Quality

FACES_VERSION = "faces/2"
KEY = ("uri", "frame_index", "time_s", "track", "status", "reason", "box")  # columns that every `faces/` has
INPUTS_VERSION = "inputs/1"
IDENTITIES_VERSION = "identities/1"
_VECTORS = {
    "arcface": "ArcFace's 512 numbers, scaled to length 1: the larger their cosine, the more alike",
    "dlib": "dlib's 128 numbers, as it gives them: two images show one person if their distance is below 0.6",
}


@dataclass(frozen=True)
class Column:
    """One column: its name, its Arrow type, what it means and in which unit."""

    name: str
    type: pa.DataType
    doc: str
    unit: str = ""


def _params_fields(head: HeadSpec) -> list[Field[Any]]:
    """The fields of `FaceParams` that are columns for this head."""
    return [f for f in fields(FaceParams) if f.name not in EXTRAS or f.name in head.extras]


def _numbers(width: int) -> pa.DataType:
    return pa.list_(pa.float32(), width)


def face_columns(head: HeadSpec, detector: DetectorSpec) -> list[Column]:
    """The columns of `OUT/faces/` for one head model and one detector, in file order."""
    key = [
        Column("uri", pa.string(), "the input: its absolute path or s3:// address, or its path from --root"),
        Column("frame_index", pa.int32(), "position among the frames the input shows, from 0"),
        Column("time_s", pa.float64(), "presentation time; the first shown frame is 0", "s"),
        Column("track", pa.int32(), "one person's uninterrupted run through one input"),
        Column("status", pa.string(), "`ok`, or `error` if a stage failed on this face; its columns are then null"),
        Column("reason", pa.string(), "the reason, if status is not `ok`"),
    ]
    geometry = [
        Column("box", _numbers(4), "x0, y0, x1, y1 of the landmarks", "frame px"),
        Column("frame_to_crop", _numbers(6), "2 x 3 affine, row by row: crop px = A * (frame px, 1)"),
        Column(
            "landmarks",
            _numbers(3 * detector.landmarks),
            f"{detector.landmarks} points x, y, z, point by point; z negative towards the camera",
            "crop px",
        ),
        Column(
            "blendshapes",
            _numbers(max(len(detector.blendshape_names), 1)),
            "the detector's expression scores; names in the file metadata",
            "[0, 1]",
        ),
        Column(
            "identity_vector",
            _numbers(detector.identity_width),
            f"{_VECTORS.get(detector.identity.partition('-')[0], _VECTORS['dlib'])}; "
            "on a few frames per track, else null",
        ),
    ]
    pictures = [
        Column("crop", pa.binary(), f"{CROP_PX} x {CROP_PX} JPEG"),
        Column("mask", pa.binary(), f"{CROP_PX} x {CROP_PX} PNG: 255 person (face, hair, neck), 0 background"),
    ]
    params = [
        Column(f.name, _numbers(prod(head.size(a) for a in f.metadata["shape"])), f.metadata["doc"], f.metadata["unit"])
        for f in _params_fields(head)
    ]
    quality = [
        Column(f.name, pa.bool_() if f.type == "bool" else pa.float32(), f.metadata["doc"], f.metadata["unit"])
        for f in fields(Quality)
    ]
    return [*key, *geometry, *pictures, *params, *quality]


INPUT_COLUMNS = [
    Column("uri", pa.string(), "the input: its absolute path or s3:// address, or its path from --root"),
    Column("kind", pa.string(), "`video` or `image`, by content, not by name"),
    Column("status", pa.string(), "`ok`, `partial` (some of it could be read), `no_face` or `error`"),
    Column("stage", pa.string(), "the stage that stopped it, if status is `partial` or `error`"),
    Column("reason", pa.string(), "the reason, in one sentence"),
    Column("frames", pa.int32(), "sampled frames"),
    Column("faces", pa.int32(), "rows in `faces/`"),
    Column("tracks", pa.int32(), "tracks in `faces/`"),
    Column("shown_frames", pa.int32(), "frames the input shows, sampled or not, as far as it was decoded"),
    Column("duration_s", pa.float64(), "time of the last decoded frame", "s"),
    Column("width", pa.int32(), "upright width", "px"),
    Column("height", pa.int32(), "upright height", "px"),
    Column("bytes", pa.int64(), "size of the input", "bytes"),
    Column("sha256", pa.string(), "hash of the first MiB and the size: a changed input is a new input"),
    Column("chunks", pa.int32(), "units of work it was cut into"),
    Column("stage_seconds", pa.map_(pa.string(), pa.float64()), "working time by stage", "s"),
]


def identity_columns(width: int) -> list[Column]:
    """The columns of `OUT/identities/` for identity vectors of a width."""
    return [
        Column("uri", pa.string(), "the input, as in `faces`"),
        Column("track", pa.int32(), "the track, as in `faces`"),
        Column("identity", pa.string(), "one person across all inputs; null without an identity vector"),
        Column("distance", pa.float32(), "from `vector` to the mean of the person's vectors, when the track was added"),
        Column("faces", pa.int32(), "rows of the track in `faces/`: the weight of its vector"),
        Column("vector", _numbers(width), "direction of the track's mean identity vector (dlib: less the mean face)"),
    ]


def faces_schema(head: HeadSpec, detector: DetectorSpec, columns: Collection[str] = ()) -> pa.Schema:
    """Arrow schema of `OUT/faces/`, with the head model's and the detector's description in the metadata.

    `columns`, if there are any, are all that it has beside the `KEY`; ValueError names one that there is not.
    """
    known = face_columns(head, detector)
    if unknown := set(columns) - {c.name for c in known}:
        raise ValueError(f"no column {', '.join(sorted(unknown))}; there are {', '.join(c.name for c in known)}")
    metadata = {
        "rigface.schema": FACES_VERSION,
        "rigface.head": json.dumps(asdict(head)),
        "rigface.detector": json.dumps(asdict(detector)),
    }
    kept = (c for c in known if not columns or c.name in (*KEY, *columns))
    return pa.schema([pa.field(c.name, c.type) for c in kept], metadata=metadata)


def inputs_schema() -> pa.Schema:
    """Arrow schema of `OUT/inputs/`."""
    return pa.schema([pa.field(c.name, c.type) for c in INPUT_COLUMNS], metadata={"rigface.schema": INPUTS_VERSION})


def identities_schema(width: int) -> pa.Schema:
    """Arrow schema of `OUT/identities/`."""
    metadata = {"rigface.schema": IDENTITIES_VERSION}
    return pa.schema([pa.field(c.name, c.type) for c in identity_columns(width)], metadata=metadata)


def head_of(schema: pa.Schema) -> HeadSpec:
    """The head model a file was written with; ValueError if the file has no RigFace metadata."""
    return HeadSpec(**_described(schema, b"rigface.head"))


def detector_of(schema: pa.Schema) -> DetectorSpec:
    """The detector a file was written with; ValueError if the file has no RigFace metadata."""
    described = _described(schema, b"rigface.detector")
    return DetectorSpec(**{**described, "blendshape_names": tuple(described["blendshape_names"])})


def _described(schema: pa.Schema, key: bytes) -> dict[str, Any]:
    if key not in (schema.metadata or {}):
        raise ValueError(f"not a faces file: its metadata has no {key.decode()}; was it rewritten by another tool?")
    described: dict[str, Any] = json.loads(schema.metadata[key])
    return described


def column(values: Sequence[np.ndarray | None] | np.ndarray, width: int) -> pa.FixedSizeListArray:
    """N float32 vectors of any shape, or one (N, ...) array, as one column of fixed-size lists; None becomes null.

    ValueError if a row has not `width` numbers.
    """
    if isinstance(values, np.ndarray) and values.dtype != object and values[:1].size == width * len(values[:1]):
        return pa.FixedSizeListArray.from_arrays(pa.array(np.ravel(values).astype(np.float32, copy=False)), width)
    mask = np.array([v is None for v in values], dtype=bool)
    flat = np.zeros((len(values), width), np.float32)
    for i, value in enumerate(values):
        if value is not None:
            if np.size(value) != width:
                raise ValueError(f"row {i}: want {width} numbers, got shape {np.shape(value)}")
            flat[i] = np.ravel(value)
    return pa.FixedSizeListArray.from_arrays(pa.array(flat.ravel()), width, mask=pa.array(mask))


def params_columns(params: FaceParams, head: HeadSpec) -> dict[str, pa.Array]:
    """A batch of N faces as columns; an absent optional field is a column of nulls."""
    count = params.batch[0]
    return {
        f.name: column(
            [None] * count if getattr(params, f.name) is None else getattr(params, f.name),
            prod(head.size(a) for a in f.metadata["shape"]),
        )
        for f in _params_fields(head)
    }


def params_of(table: pa.Table, head: HeadSpec | None = None) -> FaceParams:
    """The coefficients of N rows as one batch (N,), numpy float32; ValueError if one is null: rows must be `ok`."""
    head = head or head_of(table.schema)
    out: dict[str, Any] = {}
    for f in _params_fields(head):
        values = table[f.name].combine_chunks()
        if values.null_count:
            if not f.metadata["optional"]:
                raise ValueError(f"{f.name}: {values.null_count} rows are null; filter on status == 'ok' first")
            out[f.name] = None
        else:
            own = tuple(head.size(a) for a in f.metadata["shape"])
            out[f.name] = values.flatten().to_numpy(zero_copy_only=False).reshape(len(table), *own)
    return FaceParams(**out)


def markdown(columns: Sequence[Column]) -> str:
    """The columns as a Markdown table, for the docs."""
    rows = [f"| `{c.name}` | {_type_name(c.type)} | {c.unit} | {c.doc.replace('|', chr(92) + '|')} |" for c in columns]
    return "\n".join(["| column | type | unit | meaning |", "|---|---|---|---|", *rows])


def _type_name(kind: pa.DataType) -> str:
    return f"float[{kind.list_size}]" if pa.types.is_fixed_size_list(kind) else str(kind).replace("double", "float64")


def table_of(columns: Mapping[str, Any], schema: pa.Schema) -> pa.Table:
    """A table in the schema's order; a column that is not given is null."""
    count = len(next(iter(columns.values())))
    arrays = [columns[f.name] if f.name in columns else pa.nulls(count, f.type) for f in schema]
    return pa.table(
        [a if isinstance(a, pa.Array) else pa.array(a, f.type) for a, f in zip(arrays, schema)], schema=schema
    )
