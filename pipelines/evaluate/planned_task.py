"""Evaluation tasks before their pictures are read: small values that are sent to workers."""

from dataclasses import dataclass, fields
from typing import Any

from pipelines.evaluate.config import TaskKind
from rigface.edits import EditSpec

Place = tuple[str, int]  # part and row
SELF_EDIT, RELIT = "self-edit", "self-edit, re-lit"  # rows of the card; the preview made the source of the second


@dataclass(frozen=True)
class PlannedTask:
    """A task without its pictures."""

    kind: TaskKind
    name: str  # row of the card
    key: str  # name of the pair, equal for all models
    person: str  # of the source
    edit: EditSpec
    source: Place
    target: Place | None = None
    target_person: str | None = None
    truth: bool = False  # the target is the source's person in the source's input
    relit: bool = False  # the source is given an invented light first
    sweep: tuple[str, str] | None = None  # its name, and its number
    clip: str | None = None  # its name

    def to_dict(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in fields(self)} | {"edit": self.edit.to_dict()}
