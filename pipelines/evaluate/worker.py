"""The worker of `evaluate`: tasks in, judged edits of every model and every control out.

Path: items of a unit -> `Task` -> each `Candidate` -> `measure` -> OUT/rows/<unit>.parquet, a row per edit and its picture.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from pipelines.evaluate.tasks import Examples, Faces, Item, Style, Task
from rigface.evaluation import report
from rigface.evaluation.baselines import controls
from rigface.evaluation.estimator import FaceEstimator
from rigface.evaluation.rows import measure
from rigface.evaluation.samples import Edited
from rigface.image import encode_jpeg, to_image, to_tensor
from rigface.metrics.image import resized
from rigface.storage.store import Store, sharded

if TYPE_CHECKING:
    from rigface.editor import EditModel
    from rigface.model.pipeline import RigFacePipeline
    from rigface.types import HeadSpec

PREVIEW = "preview"
ROWS = "rows"
JPEG = 92


@dataclass(frozen=True, eq=False)
class Candidate:
    """An editor that takes part.

    Args:
        name: in the card. style: of its conditions.
        paint: conditions and a seed to a picture. seeds: how many it is asked with; 1 where chance plays no part.
    """

    name: str
    style: Style
    paint: EditModel
    seeds: int = 1


def contestant(name: str, place: str, seeds: int, device: str, size: int, head: HeadSpec) -> Candidate:
    """The preview, or a checkpoint.

    Args:
        place: `preview`, or what `RigFacePipeline.from_pretrained` takes.
        size: of the preview's pictures.
        head: of the faces.

    Raises:
        MissingAsset, BadCheckpoint: the weights are not there, or were trained on another head.
    """
    if place == PREVIEW:
        return Candidate(name, ("texture", size, "expression"), lambda conditions, _: conditions.render)
    from rigface.model.pipeline import RigFacePipeline
    from rigface.model_editor import ModelEditor, check_head

    pipe = RigFacePipeline.from_pretrained(place, device, autocast="auto")
    check_head(pipe, head)
    config, process = pipe.config, pipe.config.process
    style = (config.render_style, config.size, config.expression_field)
    certain = process.kind == "bridge" and not process.bridge_noise
    return Candidate(name, style, ModelEditor(pipe), 1 if certain else seeds)


def round_trip(pipe: RigFacePipeline, size: int) -> Callable[[np.ndarray], np.ndarray]:
    """A picture, reduced to `size`, through a model's autoencoder and back: what its latents can hold at best."""
    import torch

    from rigface.model.latents import decode, encode_target

    def there_and_back(picture: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            latents = encode_target(pipe.vae, to_tensor(resized(picture, size))[None].to(pipe.device))
            return to_image(decode(pipe.vae, latents).clamp(0, 1))[0]

    return there_and_back


class EvaluateUnit:
    """Does units of tasks. One per actor.

    Args:
        data, out: uris.
        places: name -> place of the contestants.
        size: side that pictures are compared at.
    """

    def __init__(
        self, data: str, out: str, places: dict[str, str], seeds: int, size: int, device: str, threads: int = 0
    ) -> None:
        import cv2
        import torch

        cv2.setNumThreads(1)
        if threads:
            torch.set_num_threads(threads)
        self._out, self._size = Store(out), size
        self._source = source_of(Store(data), size)
        head = self._source.head
        self._contestants = [contestant(n, p, seeds, device, size, head) for n, p in places.items()]
        models = [c.paint.pipe for c in self._contestants if hasattr(c.paint, "pipe")]
        self._round_trip = round_trip(models[0], size) if models else None
        self.judge = FaceEstimator.load()
        self._known: dict[bytes, Any] = {}

    def __call__(self, unit: str, plan: dict[str, Any]) -> dict[str, Any]:
        """Do one unit; how many edits were judged, how many tasks could not be, and what judged them."""
        items = [Item.of(values) for values in plan["items"]]
        tasks = [task for item in items if (task := self._source.task(item)) is not None]
        edits = [edit for task in tasks for edit in self._done(task)]
        edits += controls(edits, self._round_trip)
        rows = measure(self.judge, edits, size=self._size, known=self._known)
        by_key = {(task.item.name, task.item.key): task for task in tasks}
        for row, one in zip(rows, edits):
            task = by_key[one.name, one.key]
            row["kind"] = task.item.kind
            row["source_sha256"], row["target_sha256"] = _hash(task.source), _hash(task.target)
            row["picture"] = None if one.output is None else encode_jpeg(resized(one.output, self._size), JPEG)
        if rows:
            table = report.rows_table(rows, dict(self.judge.extractors))
            self._out.publish(sharded(ROWS, unit, ".parquet"), _bytes(table), replace=False)
        return {"edits": len(rows), "tasks": len(tasks), "refused": len(items) - len(tasks)}

    def _done(self, task: Task) -> list[Edited]:
        """A task as every contestant does it."""
        item, out = task.item, []
        for one in self._contestants:
            began = time.perf_counter()
            conditions = task.conditions(one.style)
            composed = time.perf_counter() - began
            for seed in range(one.seeds):
                began = time.perf_counter()
                picture = one.paint(conditions, seed)
                took = composed + time.perf_counter() - began
                out.append(
                    Edited(
                        model=one.name, name=item.name, key=item.key, person=item.person, source=task.source,
                        output=picture, edit=task.edit, target=task.target, truth=task.truth,
                        target_person=item.target_person, sweep=item.sweep, seed=seed,
                        clip=None if item.clip is None else (item.clip, task.time_s),
                        latency_s=None if item.example and one.name == PREVIEW else took,
                    )
                )  # fmt: skip
        return out


def source_of(data: Store, size: int = 0) -> Examples | Faces:
    """Tasks of what lies there: examples, or faces.

    Raises:
        PlanError: neither.
    """
    if next(iter(data.paths("examples", ".parquet")), None):
        return Examples(data)
    return Faces(data, size)


def _bytes(table: pa.Table) -> pa.Buffer:
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def _hash(picture: np.ndarray | None) -> str | None:
    return None if picture is None else hashlib.sha256(picture.tobytes()).hexdigest()[:32]
