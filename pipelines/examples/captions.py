"""What is said of a picture, from a table beside the dataset: words for frames, or for whole inputs.

Path: `pair --captions FILE` -> `Captions` -> column `caption` of examples/ -> the text encoder in training.

FILE is a .parquet or .csv with the columns `uri` and `caption`, and `frame_index` where words are said of single frames. Such
words go first; rows whose `frame_index` is empty are said of the whole input. Uris are those of faces/.
"""

from __future__ import annotations

import csv
import os
from typing import Any

from pipelines.inputs import manifests
from rigface.errors import PlanError
from rigface.storage.store import Store

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
            with Store(folder or ".").open(name) as source:
                table = manifests.rows(source, suffix, ("uri", "caption"), f"captions {file!r}", ("frame_index",))
                said = {_key(row, number, file): _words(row, number, file) for number, row in enumerate(table, 1)}
        except FileNotFoundError:
            raise PlanError(f"captions {file!r}: there is no such file") from None
        except csv.Error as e:
            raise PlanError(f"captions {file!r}: not a table: {e}") from None
        return Captions(said)

    def of(self, uri: str, frame_index: int) -> str | None:
        """What is said of a frame; None where nothing is."""
        return self._said.get((uri, frame_index), self._said.get((uri, None)))


def _key(row: dict[str, Any], number: int, file: str) -> tuple[str, int | None]:
    frame = row.get("frame_index")
    if frame is None or frame == "" or frame != frame:  # pandas writes a missing number as not a number
        return row["uri"], None
    try:
        if float(frame) == (whole := int(float(frame))):
            return row["uri"], whole
    except (ValueError, OverflowError):
        pass
    raise PlanError(f"captions {file!r}: row {number} has frame_index {frame!r}; want a whole number, or nothing")


def _words(row: dict[str, Any], number: int, file: str) -> str:
    words = (row["caption"] or "").strip()
    if any("\ud800" <= c <= "\udfff" for c in words):  # bytes that were no UTF-8
        raise PlanError(f"captions {file!r}: row {number} is not UTF-8")
    if not words or len(words) > LONGEST:
        raise PlanError(
            f"captions {file!r}: row {number} has {len(words):,} characters of caption; want 1 to {LONGEST:,}"
        )
    return words
