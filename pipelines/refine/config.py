"""Settings of `refine`: examples from a dataset of faces, and the training of a refiner on them."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from pipelines.cluster.workers import Workers
from pipelines.examples.split import HELD_OUT
from rigface.ranges import SEED, in_range


@dataclass(frozen=True)
class ExampleSettings:
    """Settings of the examples, fixed for an output."""

    size: int = 128  # Side of the tight crops, px.
    people: tuple[str, ...] = ()
    """CSV files with the columns `file` (relative to the CSV file) and `person`, for who is on which input. Inputs that
    they do not name are told apart by the dataset's column `identity`."""
    restored: int = 2
    """Examples per photograph that the preview first gives another expression, pose or light, and then its own back."""
    pairs: int = 2  # Examples per frame with another frame of its track, the more mouth and eyes differ the better.
    photographs: int = 6  # Examples per frame, at most, with pictures of the same person from other inputs.
    max_frames: int = 24  # Frames used of a track: a third of them those with the rarest expressions.
    min_confidence: float = 0.4
    held_out_fraction: float = HELD_OUT  # Fraction of people who are never trained on.
    unit_size: int = 64  # Examples per unit of work.
    seed: int = 0

    def __post_init__(self) -> None:
        in_range(self, "[16, 1024]", "size")
        in_range(self, "[0, inf)", "restored", "pairs", "photographs")
        in_range(self, "[1, inf)", "max_frames", "unit_size")
        in_range(self, "[0, 1]", "min_confidence", "held_out_fraction")
        in_range(self, SEED, "seed")


@dataclass(frozen=True)
class RefineConfig:
    """Settings of the job."""

    faces: Positional[str]  # The dataset of faces.
    out: Positional[str]  # Folder to write to.
    settings: Annotated[ExampleSettings, arg(name="")] = field(default_factory=ExampleSettings)
    pool: Annotated[Workers, arg(name="")] = field(default_factory=Workers)
    start: str = ""  # A refiner to start from, `refiner` or a folder; empty: random weights.
    steps: int = 3000
    batch: int = 16
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    ema_decay: float = 0.999  # Decay of the weight average that is validated and exported.
    device: str = "auto"  # Of the training: cpu, cuda, or cuda if there is one.
    number_format: Literal["auto", "bfloat16", "float32"] = "auto"
    """Of the network's arithmetic; weights, optimizer and loss stay float32. auto: bfloat16 if the device has hardware
    for it."""
    threads: int = 0  # CPU threads of the training; 0: torch's own choice.
    checkpoint_every: int = 100
    validate_every: int = 400
    validation_examples: int = 192  # Held-out examples of each kind.

    def __post_init__(self) -> None:
        in_range(self, "[1, inf)", "steps", "batch", "checkpoint_every", "validate_every", "validation_examples")
        in_range(self, "(0, inf)", "learning_rate")
        in_range(self, "[0, inf)", "weight_decay", "threads")
        in_range(self, "[0, 1)", "ema_decay")
