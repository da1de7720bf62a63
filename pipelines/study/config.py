"""The settings of `rigface study`."""

from dataclasses import dataclass, field
from typing import Annotated

from tyro.conf import Positional, arg

from pipelines.cluster.workers import Workers


@dataclass(frozen=True)
class StudyConfig:
    """One run of `study`."""

    faces: Positional[str]  # The dataset of faces.
    to: str = ""  # Folder or s3:// prefix to write study/ in; empty: that of the dataset.
    dry_run: bool = False  # Print what would be done and stop.
    pool: Annotated[Workers, arg(name="")] = field(default_factory=Workers)
