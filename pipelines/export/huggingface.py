"""A folder that `datasets.load_dataset` reads: Parquet files with pictures as images, and a card.

Path: rows of faces/ and their study columns -> `HubEncoder` -> DEST/data/train-000000.parquet ...; `card` -> README.md
Source: the dataset hub's *Dataset Cards* and *Image dataset*: an image is a struct of bytes and path, and the features
are JSON in the metadata of a Parquet file.
"""

import io
import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rigface import schema
from rigface.dataset.faces import Faces
from rigface.schema import Column
from rigface.study.frame_columns import INPUT_COLUMNS, MEASURES, study_columns
from rigface.types import DetectorSpec, HeadSpec

FOLDER, SUFFIX = "data", ".parquet"
IMAGES = {"crop": "jpg", "mask": "png"}
ROW_GROUP = 100  # rows: the hub's viewer reads a group at a time
_STUDIED = tuple(c for c in MEASURES if c.name not in ("yaw_deg", "pitch_deg", "roll_deg"))  # those are in faces/


class HubEncoder:
    """Encodes tables of faces as Parquet with the hub's features."""

    def __init__(self, faces: Faces) -> None:
        self._detector = faces.detector

    def __call__(self, rows: pa.Table) -> pa.Buffer:
        """Rows of faces/ of any inputs; velocities are known where the frame before is among them."""
        rows = with_study(rows, self._detector)
        for name, ending in IMAGES.items():
            pictures = rows[name].combine_chunks()
            paths = pa.array([f"{i:06}.{ending}" for i in range(len(rows))], pa.string())
            at = rows.schema.get_field_index(name)
            images = pa.StructArray.from_arrays([pictures, paths], ["bytes", "path"])
            rows = rows.set_column(at, pa.field(name, images.type), images)
        about = json.dumps({"info": {"features": {f.name: _feature(f) for f in rows.schema}}})
        sink = io.BytesIO()
        table = rows.replace_schema_metadata({**(rows.schema.metadata or {}), "huggingface": about})
        pq.write_table(table, sink, compression="zstd", row_group_size=ROW_GROUP, use_dictionary=["uri", "identity"])
        return pa.py_buffer(sink.getvalue())


def with_study(rows: pa.Table, detector: DetectorSpec) -> pa.Table:
    """The rows (all `ok`) with the study columns that they do not have, and without status and reason."""
    studied = study_columns(rows.select(list(INPUT_COLUMNS)), detector)
    rows = rows.drop_columns(["status", "reason"])
    for c in _STUDIED:
        rows = rows.append_column(pa.field(c.name, c.type), studied[c.name])
    return rows


def _feature(field: pa.Field) -> dict[str, Any]:
    """A column as the hub's library describes it."""
    if field.name in IMAGES:
        return {"_type": "Image"}
    if pa.types.is_fixed_size_list(field.type):
        value = {"dtype": "float32", "_type": "Value"}
        return {"feature": value, "length": field.type.list_size, "_type": "Sequence"}
    names = {"bool": "bool", "string": "string", "int32": "int32", "float": "float32", "double": "float64"}
    return {"dtype": names[str(field.type)], "_type": "Value"}


def card(head: HeadSpec, detector: DetectorSpec, splits: dict[str, int], commit: str, with_vectors: bool) -> str:
    """README.md of the folder: front matter and a description; `splits` are rows by name, without those of none."""
    splits = {name: rows for name, rows in splits.items() if rows}
    files = "".join(
        f"  - split: {name}\n    path: {FOLDER}/{name}-*{SUFFIX}\n" for name in sorted(splits, reverse=True)
    )
    hidden = {"status", "reason", *(["identity_vector"] * (not with_vectors))}
    columns: list[Column] = [c for c in schema.face_columns(head, detector) if c.name not in hidden]
    identity = Column("identity", pa.string(), "one person across all inputs; null where nobody computed it")
    table = schema.markdown([*columns, identity, *_STUDIED])
    counts = ", ".join(f"{rows:,} in `{name}`" for name, rows in sorted(splits.items(), reverse=True))
    return f"""---
license: other
pretty_name: Faces with 3D coefficients
tags:
- faces
- 3d
configs:
- config_name: default
  data_files:
{files}---

# Faces with 3D coefficients

Crops of faces with landmarks, coefficients of a 3D head model, masks and measurements, exported by RigFace on Ray
(commit {commit or "unknown"}). Rows: {counts}. No person is in both splits.

```python
from datasets import load_dataset

faces = load_dataset("path/of/this/folder", split="train")
faces[0]["crop"], faces[0]["yaw_deg"], faces[0]["au12"]
```

* Head model: {head.name} {head.version}{f" ({head.licence})" if head.licence else ""}. Its `expression` coefficients:
  {", ".join(head.expression_names) or "without names"}.
* Detector: {detector.name} {detector.version}. Its `blendshapes`: {", ".join(detector.blendshape_names) or "none"}.
* Measurements (`au01` and further) are explained in RigFace's docs/study.md.

**Licence and consent**: state here where the pictures come from and under which licence; `license: other` above stands
for that. Faces{", identity vectors" if with_vectors else ""} and coefficients are biometric data in many jurisdictions.

{table}
"""
