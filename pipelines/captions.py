"""What is said of a picture, from a table beside the dataset: words for frames, or for whole inputs.

Path: `pair --captions FILE` -> `Captions` -> column `caption` of examples/ -> the text encoder in training.

FILE is a .parquet or .csv with the columns `uri` and `caption`, and `frame_index` where words are said of single frames. Such
words go first; rows whose `frame_index` is empty are said of the whole input. Uris are those of faces/.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator
from typing import Any

from rigface.errors import PlanError
from rigface.storage import Store

LONGEST = 2000  # characters of one caption: a text encoder reads some 77 words of them
_KINDS = (".csv", ".parquet")


class Captions:
    """Words by input and frame.

    Args:
        said: (uri, frame index, or None for all frames) -> caption.
    """

    def __init__(self, said: dict[tuple[str, int | None], str]) -> None:
        self._said = said

    def __len__(self) -> int:
        return len(self._said)

    @staticmethod
    def load(file: str) -> Captions:
        """Read a table of captions; an empty name has none.

        Raises:
            PlanError: it is not there, has other columns, or a row that cannot be meant.
        """
        if not file:
            return Captions({})
        folder, name = os.path.split(file)
        suffix = os.path.splitext(name)[1].lower()
        if suffix not in _KINDS:
            raise PlanError(
                f"captions {file!r}: want a .parquet or .csv with the columns uri, caption and, if you like, frame_index"
            )
        try:
            rows = _parquet(folder, name, file) if suffix == ".parquet" else _csv(folder, name, file)
            said = {_key(row, number, file): _words(row, number, file) for number, row in enumerate(rows, 1)}
        except FileNotFoundError:
            raise PlanError(f"captions {file!r}: there is no such file") from None
        return Captions(said)

    def of(self, uri: str, frame_index: int) -> str | None:
        """What is said of a frame; None where nothing is."""
        return self._said.get((uri, frame_index), self._said.get((uri, None)))


def _key(row: dict[str, Any], number: int, file: str) -> tuple[str, int | None]:
    frame = row.get("frame_index")
    try:
        return row["uri"], None if frame in (None, "") else int(frame)
    except ValueError:
        raise PlanError(
            f"captions {file!r}: row {number} has frame_index {frame!r}; want a whole number, or nothing"
        ) from None


def _words(row: dict[str, Any], number: int, file: str) -> str:
    words = (row["caption"] or "").strip()
    if not words or len(words) > LONGEST:
        raise PlanError(
            f"captions {file!r}: row {number} has {len(words):,} characters of caption; want 1 to {LONGEST:,}"
        )
    return words


def _checked(columns: list[str], file: str) -> None:
    if missing := sorted({"uri", "caption"} - set(columns)):
        raise PlanError(f"captions {file!r}: no column {' and no column '.join(missing)}; it has {', '.join(columns)}")


def _csv(folder: str, name: str, file: str) -> Iterator[dict[str, Any]]:
    with Store(folder or ".").open(name) as source:
        rows = csv.DictReader(io.TextIOWrapper(source, "utf-8-sig", newline=""))
        _checked(list(rows.fieldnames or []), file)
        yield from rows


def _parquet(folder: str, name: str, file: str) -> Iterator[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with Store(folder or ".").open(name) as source:
        try:
            table = pq.ParquetFile(source)
        except pa.ArrowInvalid as e:
            raise PlanError(f"captions {file!r}: not a Parquet file ({e})") from None
        names = table.schema_arrow.names
        _checked(names, file)
        wanted = [n for n in ("uri", "caption", "frame_index") if n in names]
        for batch in table.iter_batches(columns=wanted):
            yield from batch.to_pylist()
