"""WebDataset shards: tar files whose members of one name are one sample.

Path: rows of faces/ -> `tar_bytes` -> DEST/shards/train-000000.tar ...
Source: the WebDataset format, https://github.com/webdataset/webdataset: KEY.jpg, KEY.mask.png, KEY.json.

The JSON has all columns but the pictures: numbers, names, and vectors as lists.
"""

import hashlib
import io
import json
import math
import tarfile
from typing import Any

import pyarrow as pa

from pipelines.export.huggingface import with_study
from rigface.dataset.faces import Faces

FOLDER, SUFFIX = "shards", ".tar"


class TarEncoder:
    """Encodes tables of faces as tar files; the same rows give the same bytes."""

    def __init__(self, faces: Faces) -> None:
        self._detector = faces.detector

    def __call__(self, rows: pa.Table) -> bytes:
        sink = io.BytesIO()
        with tarfile.open(fileobj=sink, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            for row in with_study(rows, self._detector).to_pylist():
                key = sample_key(row)
                crop, mask = row.pop("crop"), row.pop("mask")
                _add(tar, f"{key}.jpg", crop)
                _add(tar, f"{key}.mask.png", mask)
                _add(tar, f"{key}.json", json.dumps({n: _plain(v) for n, v in row.items()}).encode())
        return sink.getvalue()


def sample_key(row: dict[str, Any]) -> str:
    """The name of a row: a hash of its input, then frame and track; without dots, which end a key."""
    return f"{hashlib.sha256(row['uri'].encode()).hexdigest()[:12]}_{row['frame_index']:06}_{row['track']:03}"


def _plain(value: Any) -> Any:
    """A value as JSON can hold it, floats as short as float32 allows."""
    if isinstance(value, float):
        return None if math.isnan(value) else float(f"{value:.7g}")
    return [_plain(v) for v in value] if isinstance(value, list) else value


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    about = tarfile.TarInfo(name)
    about.size = len(data)
    tar.addfile(about, io.BytesIO(data))
