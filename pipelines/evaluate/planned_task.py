"""Evaluation tasks before their pictures are read: small values that are sent to workers."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from pipelines.evaluate.config import TaskKind
from rigface.edits import EditSpec

Place = tuple[str, int]  # part and row
SELF_EDITS = {  # kind of example -> row of the card; in all but the first the source was made by the preview
    "pair": "self-edit",
    "relit": "self-edit, re-lit",
    "posed": "self-edit, posed",
}


@dataclass(frozen=True)
class PlannedTask:
    """A task without its pictures.

    Args:
        name: row of the card. key: name of the pair, equal for all models.
        person: of the source. target_person: of the target.
        source, target: rows; with `truth`, the target is the source's person in the source's input.
        relit: the source is given an invented light first.
        sweep: name of the sweep, and its number. clip: name of the clip.
        example: the row is one of examples/, which holds everything.
    """

    kind: TaskKind
    name: str
    key: str
    person: str
    edit: EditSpec
    source: Place
    target: Place | None = None
    target_person: str | None = None
    truth: bool = False
    relit: bool = False
    sweep: tuple[str, str] | None = None
    clip: str | None = None
    example: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {f.name: getattr(self, f.name) for f in fields(self)} | {"edit": self.edit.to_dict()}
