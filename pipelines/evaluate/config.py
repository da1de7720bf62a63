"""The settings of an evaluation."""

from dataclasses import dataclass, field
from typing import Annotated, Literal, get_args

from tyro.conf import Positional, arg

from pipelines.cluster.workers import Workers
from rigface.errors import PlanError
from rigface.profile import DetectorName, ParserName
from rigface.ranges import SEED, in_range

TaskKind = Literal["self", "cross", "sweep", "clip"]
TASK_KINDS: tuple[TaskKind, ...] = get_args(TaskKind)


@dataclass(frozen=True)
class EvaluateConfig:
    """One evaluation."""

    data: Annotated[Positional[str], arg(metavar="FACES")]  # The dataset of faces.
    out: Positional[str]  # Folder or s3:// prefix to write to.
    models: tuple[str, ...] = ()
    """`preview`, `refiner`, `mini`, folders of checkpoints (NAME=FOLDER names one); none: the preview, and those of
    `refiner` and `mini` that are installed."""
    tasks: tuple[TaskKind, ...] = ()
    """Of self (two frames of one person), cross (a trait of another person), sweep (one number), clip; none: all
    that the data can give."""
    min_confidence: float = 0.4  # Of a face's fit, to be used.
    limit: int = 96  # Self-edits, and as many cross-identity edits.
    sweeps: int = 4  # People whose numbers are swept.
    clips: int = 4
    clip_frames: int = 12
    seeds: int = 3  # Of each model whose result depends on chance.
    size: int = 256  # Side of the crops that are compared, px; edits are made at 512.
    detector: DetectorName | None = None
    """Detector of the measurement: mediapipe, or the SCRFD of an InsightFace pack. Default: that of the models."""
    parser: ParserName | None = None  # Segmentation of the measurement. Default: that of the models.
    identity: Literal["dlib", "arcface"] = "dlib"
    """Face recognition network of the measurement: dlib, or the ArcFace of an InsightFace pack."""
    second_identity: str = ""
    """ONNX file of a second face recognition network (ArcFace, MobileFaceNet), outside the loop; empty: without."""
    lpips: str = ""  # Folder of alexnet-owt-*.pth and LPIPS's alex.pth; empty: without LPIPS.
    inception: str = ""  # Folder of the TorchScript network inception-*.pt; empty: without FID and KID.
    videos: tuple[str, ...] = ()
    """Clips that every model edits whole; frames, rate, times and sound are compared exactly."""
    against: str = ""  # OUT of an earlier evaluation of these faces: the card says what changed beyond noise.
    all_people: bool = False  # Evaluate on all people, if no model was trained on this dataset.
    page_tasks: int = 24  # Tasks on the page: best, median and worst of each edit.
    title: str = "Evaluation"
    threads: int = 0  # CPU threads of diffusion models, per worker; 0: torch's own choice. All else takes one.
    seed: int = 0  # Of the choice of tasks.
    dry_run: bool = False  # Print what would be done, and stop.
    pool: Annotated[Workers, arg(name="")] = field(default_factory=Workers)

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.tasks) - set(TASK_KINDS)):
            raise PlanError(f"--tasks: want some of {', '.join(TASK_KINDS)}, got {', '.join(unknown)}")
        in_range(self, "[1, inf)", "limit", "seeds", "clip_frames")
        in_range(self, "[0, inf)", "sweeps", "clips", "page_tasks", "threads")
        in_range(self, "[0, 1]", "min_confidence")
        in_range(self, "[32, 512]", "size")
        in_range(self, SEED, "seed")
