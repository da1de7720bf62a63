"""Captions of pictures, from a table beside the dataset: for frames, or for whole inputs.

Path: `pair --captions FILE` -> `Captions` -> column `caption` of examples/ -> the text encoder in training.

FILE is a .parquet or .csv with the columns `uri` and `caption`, and `frame_index` for captions of single frames. Those
go first; a row whose `frame_index` is empty is about the whole input. Uris are those of faces/.
"""

from __future__ import annotations

import csv
import os
from typing import Any

from pipelines.inputs import manifests
from rigface.errors import PlanError
from rigface.storage.store import Store

MAX_CHARACTERS = 2000  # characters of one caption: a text encoder reads some 77 words of them
_KINDS = (".csv", ".parquet")


class Captions:
    """Captions by uri and frame index, or None for all frames."""

    def __init__(self, captions: dict[tuple[str, int | None], str]) -> None:
        self._captions = captions

    def __len__(self) -> int:
        return len(self._captions)

    @staticmethod
    def load(file: str) -> Captions:
        """Read a table of captions, none for an empty name; PlanError if it is missing, or not such a table."""
        if not file:
            return Captions({})
        folder, name = os.path.split(file)
        suffix = os.path.splitext(name)[1].lower()
        if suffix not in _KINDS:
            raise PlanError(
                f"captions {file!r}: want a .parquet or .csv with the columns uri, caption and, optionally, frame_index"
            )
        try:
            with Store(folder or ".").open(name) as source:
                table = manifests.rows(source, suffix, ("uri", "caption"), f"captions {file!r}", ("frame_index",))
                captions = {_key(row, number, file): _text(row, number, file) for number, row in enumerate(table, 1)}
        except FileNotFoundError:
            raise PlanError(f"captions {file!r}: no such file") from None
        except csv.Error as e:
            raise PlanError(f"captions {file!r}: not a table: {e}") from None
        return Captions(captions)

    def of(self, uri: str, frame_index: int) -> str | None:
        """The caption of a frame, or None."""
        return self._captions.get((uri, frame_index), self._captions.get((uri, None)))


def _key(row: dict[str, Any], number: int, file: str) -> tuple[str, int | None]:
    frame = row.get("frame_index")
    if frame is None or frame == "" or frame != frame:  # pandas writes a missing number as not a number
        return row["uri"], None
    try:
        if float(frame) == (whole := int(float(frame))):
            return row["uri"], whole
    except (ValueError, OverflowError):
        pass
    raise PlanError(f"captions {file!r}: row {number} has frame_index {frame!r}; want a whole number or an empty cell")


def _text(row: dict[str, Any], number: int, file: str) -> str:
    text = (row["caption"] or "").strip()
    if any("\ud800" <= c <= "\udfff" for c in text):  # bytes that were no UTF-8
        raise PlanError(f"captions {file!r}: row {number} is not UTF-8")
    if not text or len(text) > MAX_CHARACTERS:
        raise PlanError(
            f"captions {file!r}: row {number} has {len(text):,} characters of caption; want 1 to {MAX_CHARACTERS:,}"
        )
    return text
