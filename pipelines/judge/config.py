"""The settings of `rigface judge`."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from pipelines.cluster.workers import Workers
from rigface.profile import DetectorName, ParserName
from rigface.ranges import in_range


@dataclass(frozen=True)
class JudgeConfig:
    """One judgement."""

    table: Annotated[Positional[str], arg(metavar="TABLE")]  # A .csv or .parquet file, or a folder of named pictures.
    out: Positional[str]  # Folder or s3:// prefix to write to.
    baseline: str = ""  # Editor that the others are compared with, pair by pair; empty: the first of the table.
    size: int = 256  # Side of the crops that are compared, px.
    detector: DetectorName | None = None
    """Detector of the measurement: mediapipe (default), or the SCRFD of an InsightFace pack."""
    parser: ParserName | None = None  # Segmentation of the measurement; it separates the background.
    identity: Literal["dlib", "arcface"] = "dlib"
    """Face recognition network of the measurement: dlib, or the ArcFace of an InsightFace pack."""
    second_identity: str = ""
    """ONNX file of a second face recognition network (ArcFace, MobileFaceNet); empty: without."""
    lpips: str = ""  # Folder of alexnet-owt-*.pth and LPIPS's alex.pth; empty: without LPIPS.
    inception: str = ""  # Folder of the TorchScript network inception-*.pt; empty: without FID and KID.
    page_tasks: int = 24  # Tasks on the page: best, median and worst of each edit.
    title: str = "Editors compared"
    dry_run: bool = False  # Print what would be measured and what is wrong with the table, and stop.
    pool: Annotated[Workers, arg(name="")] = field(default_factory=Workers)

    def __post_init__(self) -> None:
        in_range(self, "[32, 512]", "size")
        in_range(self, "[0, inf)", "page_tasks")
