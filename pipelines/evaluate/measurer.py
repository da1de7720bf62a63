"""Measuring a unit's edits, with the rows' pictures, as workers of `evaluate` and `judge` do it.

Path: [Edited] -> `measure_edits` on one thread -> rows with a JPEG each -> OUT/rows/<unit>.parquet.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipelines.cluster.threads import torch_threads
from pipelines.examples.layout import parquet_bytes
from rigface.errors import MissingAsset
from rigface.evaluation import report
from rigface.evaluation.card_page import PICTURE
from rigface.evaluation.estimator import FaceEstimator
from rigface.evaluation.measurements import Networks
from rigface.evaluation.metric_registry import Row
from rigface.evaluation.rows import Known, measure_edits
from rigface.evaluation.samples import Edited
from rigface.evaluation.strangers import extractors_of
from rigface.face.head.heads import load_head
from rigface.image import encode_jpeg
from rigface.judges.panel import Judges
from rigface.metrics.image import resized
from rigface.metrics.perceptual import InceptionFeatures, Lpips
from rigface.profile import FaceProfile
from rigface.storage import lock
from rigface.storage.store import Store, sharded

ROWS = "rows"  # folder of the units' objects
JPEG_QUALITY = 92


@dataclass(frozen=True)
class MeasuredWith:
    """Networks of the measurement; of those that may be left out, their files."""

    profile: FaceProfile
    identity: str = "dlib"
    second_identity: str = ""  # ONNX file
    lpips: str = ""  # folder
    inception: str = ""  # folder

    def networks(self) -> Networks:
        """LPIPS and Inception from their folders; MissingAsset without their files."""
        lpips = self.lpips and Lpips(_file(self.lpips, "alexnet-owt-*.pth"), _file(self.lpips, "alex.pth"))
        return Networks(lpips or None, InceptionFeatures(_file(self.inception, "*.pt")) if self.inception else None)


def _file(folder: str, pattern: str) -> Path:
    found = sorted(Path(folder).glob(pattern))
    if not found:
        raise MissingAsset(f"{folder}: want a file {pattern}; see docs/evaluation.md")
    return found[0]


class Measurer:
    """Measures edits at `size` px, writes their rows below `out`. MissingAsset without the files of its networks."""

    def __init__(self, by: MeasuredWith, out: str, size: int) -> None:
        self._out, self._size, self._networks = lock.follow(Store(out)), size, by.networks()
        self._estimator = FaceEstimator.load(by.profile, by.identity)
        self._judges = Judges.load(by.second_identity or None)  # those that are installed
        self._head, self._known = load_head(self._estimator.head.name), Known()

    def __call__(self, edits: Sequence[Edited]) -> list[Row]:
        """A row for each edit, in their order, with the output as JPEG."""
        with torch_threads():
            rows = measure_edits(
                self._estimator,
                edits,
                head=self._head,
                judges=self._judges,
                networks=self._networks,
                size=self._size,
                known=self._known,
            )
        for row, edit in zip(rows, edits):
            row[PICTURE] = None if edit.output is None else encode_jpeg(resized(edit.output, self._size), JPEG_QUALITY)
        return rows

    def publish(self, unit: str, rows: Sequence[Row], metadata: Mapping[bytes, bytes] | None = None) -> None:
        """Commit the rows of a unit, with more entries of the table's metadata."""
        table = report.rows_table(rows, self._estimator.extractors | extractors_of(self._judges))
        table = table.replace_schema_metadata({**(table.schema.metadata or {}), **(metadata or {})})
        self._out.publish(sharded(ROWS, unit, ".parquet"), parquet_bytes(table), replace=False)
