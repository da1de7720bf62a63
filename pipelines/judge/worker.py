"""The worker of `judge`: rows of the table in, measured edits of every editor and control out.

Path: a unit's AskedRows -> `Framing` -> `Edited` -> `measure_edits` -> OUT/rows/<unit>.parquet.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np

from pipelines.evaluate.worker import MeasuredWith
from pipelines.examples.layout import parquet_bytes
from pipelines.judge.asked_row import AskedRow, BadRow
from pipelines.judge.config import JudgeConfig
from pipelines.judge.framing import Framing
from pipelines.judge.table import BadRowOf
from rigface.evaluation import report
from rigface.evaluation.baselines import controls
from rigface.evaluation.card_page import PICTURE
from rigface.evaluation.gallery import ASKED
from rigface.evaluation.rows import Known, measure_edits
from rigface.evaluation.samples import Edited
from rigface.evaluation.strangers import extractors_of
from rigface.face.head.heads import load_head
from rigface.face.profile_networks import load_profile_detector
from rigface.image import encode_jpeg
from rigface.metrics.image import resized
from rigface.profile import OWN
from rigface.storage import lock
from rigface.storage.store import Store, sharded

ROWS = "rows"  # folder of the units' objects
BAD = b"rigface.bad_rows"  # key of a unit's rows that were not measured, JSON
JPEG_QUALITY = 92


class JudgeUnit:
    """Worker for units of rows, one per actor; crops are compared at `config.size` px."""

    def __init__(self, config: JudgeConfig) -> None:
        cv2.setNumThreads(1)
        self._out, self._size = lock.follow(Store(config.out)), config.size
        profile = OWN.adjusted(config.detector, config.parser)
        by = MeasuredWith(profile, config.identity, config.second_identity, config.lpips, config.inception)
        self._framing, self._estimator = Framing(load_profile_detector(profile)), by.estimator()
        self._head, self._networks, self._judges = load_head(profile.head), by.networks(), by.judges()
        self._known = Known()

    def __call__(self, unit: str, plan: Sequence[AskedRow]) -> dict[str, int]:
        """Measure one unit; counts of edits, and of rows that could not be measured."""
        edits: list[Edited] = []
        bad: list[BadRowOf] = []
        asked: Counter[tuple[str, str, str]] = Counter()
        for row in plan:
            try:
                edit = self._edited(row, asked[row.editor, row.name, row.key])
            except BadRow as error:
                output = "" if row.output is None else row.output.name
                bad.append(BadRowOf(row.place, row.editor, row.source.name, output, str(error)))
                continue
            asked[row.editor, row.name, row.key] += 1
            edits.append(edit)
            if row.output is None:
                reason = "no output: counted as a failure of the editor"
                bad.append(BadRowOf(row.place, row.editor, row.source.name, "", reason))
        measured, edits = len(edits), [*edits, *controls(edits)]
        rows = measure_edits(
            self._estimator,
            edits,
            head=self._head,
            judges=self._judges,
            networks=self._networks,
            size=self._size,
            known=self._known,
        )
        words = {(row.name, row.key): row.words for row in plan}
        for found, edit in zip(rows, edits):
            small = None if edit.output is None else resized(edit.output, self._size)
            found[ASKED] = words.get((edit.name, edit.key))
            found[PICTURE] = None if small is None else encode_jpeg(small, JPEG_QUALITY)
        table = report.rows_table(rows, self._estimator.extractors | extractors_of(self._judges))
        table = table.replace_schema_metadata(
            {**(table.schema.metadata or {}), BAD: json.dumps([asdict(b) for b in bad]).encode()}
        )
        self._out.publish(sharded(ROWS, unit, ".parquet"), parquet_bytes(table), replace=False)
        return {"edits": measured, "refused": len(plan) - measured}

    def _edited(self, row: AskedRow, seed: int) -> Edited:
        def framed(path: Path | None) -> np.ndarray | None:
            return None if path is None else self._framing.around_face_of(row.source, path)

        truth = framed(row.truth)
        copied = row.target is not None and row.target != row.truth
        return Edited(
            model=row.editor,
            name=row.name,
            key=row.key,
            person=row.person,
            source=self._framing.around_own_face(row.source),
            output=framed(row.output),
            edit=row.edit,
            target=self._framing.around_own_face(row.target) if copied and row.target is not None else truth,
            truth=truth,
            target_person=row.target_person,
            seed=seed,
            latency_s=row.seconds,
        )
