"""The settings of an evaluation."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Suppress, arg

from pipelines.cluster.actor_pool import Workers
from rigface.errors import PlanError

if TYPE_CHECKING:
    pass


KINDS = ("self", "cross", "sweep", "clip")


@dataclass(frozen=True)
class EvaluateConfig:
    """One evaluation."""

    data: Suppress[str]
    out: Suppress[str]
    models: tuple[str, ...] = ()
    """`preview`, `mini`, folders of checkpoints (NAME=FOLDER names one); none: the preview, and `mini` where it is."""
    tasks: tuple[str, ...] = ()
    """Of self (two frames of one person), cross (a trait of another), sweep (one number), clip; none: all the data can give."""
    limit: int = 96
    """Self-edits, and as many cross-identity edits."""
    sweeps: int = 4
    """People whose numbers are swept."""
    clips: int = 4
    clip_frames: int = 12
    seeds: int = 3
    """Of each model whose result depends on chance."""
    size: int = 0
    """Side of the pictures that are compared; 0: that of the smallest model."""
    all_people: bool = False
    """Evaluate on all people, where no model learned from this dataset."""
    page_tasks: int = 24
    """Tasks on the page."""
    title: str = "Evaluation"
    threads: int = 0
    """CPU threads per worker; 0: torch's own choice."""
    seed: int = 0
    """Of the choice of tasks."""
    dry_run: bool = False
    """Say what would be done, and stop."""
    run: Annotated[Workers, arg(name="")] = field(default_factory=Workers)

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.tasks) - set(KINDS)):
            raise PlanError(f"--tasks: want some of {', '.join(KINDS)}, got {', '.join(unknown)}")
        if self.limit < 1 or self.seeds < 1:
            raise PlanError("--limit and --seeds: want at least 1")
