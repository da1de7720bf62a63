"""The settings of `rigface export`."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from pipelines.cluster.workers import Workers
from pipelines.examples.split import HELD_OUT
from rigface.ranges import SEED, in_range

Format = Literal["openface", "pyfeat", "huggingface", "webdataset", "edit-pairs"]


@dataclass(frozen=True)
class ExportConfig:
    """One run of `export`."""

    faces: Positional[str]  # The dataset of faces.
    dest: Positional[str]  # Folder or s3:// prefix to write to.
    to: Format
    """`openface`, `pyfeat`: a CSV for each input. `huggingface`: a folder for `datasets.load_dataset`. `webdataset`:
    tar shards. `edit-pairs`: source, target and instruction, for SimpleTuner and ai-toolkit."""
    limit: int = 0  # At most so many faces, inputs (CSVs) or pairs; 0: all faces and inputs, 20,000 pairs.
    min_confidence: float = 0.0  # Leave out faces below this; pairs need at least 0.5.
    held_out_fraction: float = HELD_OUT  # Fraction of people in the split `test`.
    identity_vectors: bool = False  # Export the vectors that recognise people, too.
    seed: int = 0  # Of the choice of pairs.
    dry_run: bool = False  # Print what would be written and stop.
    overwrite: bool = False  # Delete an earlier export in DEST and begin again.
    pool: Annotated[Workers, arg(name="")] = field(default_factory=Workers)

    def __post_init__(self) -> None:
        in_range(self, "[0, inf)", "limit")
        in_range(self, "[0, 1]", "min_confidence", "held_out_fraction")
        in_range(self, SEED, "seed")
