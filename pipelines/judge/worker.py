"""The worker of `judge`: rows of the table in, measured edits of every editor and control out.

Path: a unit's AskedRows -> `Framing` -> `Edited` -> `Measurer` -> OUT/rows/<unit>.parquet.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np

from pipelines.evaluate.measurer import MeasuredWith, Measurer
from pipelines.judge.asked_row import AskedRow, BadRow
from pipelines.judge.config import JudgeConfig
from pipelines.judge.framing import Framing
from pipelines.judge.table import BadRowOf
from rigface.evaluation.baselines import controls
from rigface.evaluation.gallery import ASKED
from rigface.evaluation.samples import Edited
from rigface.face.profile_networks import load_profile_detector
from rigface.profile import OWN

BAD = b"rigface.bad_rows"  # key of a unit's rows that were not measured, JSON


class JudgeUnit:
    """Worker for units of rows, one per actor; crops are compared at `config.size` px."""

    def __init__(self, config: JudgeConfig) -> None:
        cv2.setNumThreads(1)
        profile = OWN.adjusted(config.detector, config.parser)
        by = MeasuredWith(profile, config.identity, config.second_identity, config.lpips, config.inception)
        self._framing, self._measure = Framing(load_profile_detector(profile)), Measurer(by, config.out, config.size)

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
        rows = self._measure(edits)
        words = {(row.name, row.key): row.words for row in plan}
        for found, edit in zip(rows, edits):
            found[ASKED] = words.get((edit.name, edit.key))
        self._measure.publish(unit, rows, {BAD: json.dumps([asdict(b) for b in bad]).encode()})
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
