"""JSON lines of a training run, in objects of a thousand steps, and what its trackers are told.

Path: loop -> OUT/log/<first step>.jsonl -> `report.py`; and `Trackers` (TensorBoard, W&B, MLflow).

On resume, entries after the restored checkpoint are dropped.
"""

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.telemetry import log_events
from pipelines.telemetry.trackers import Trackers
from rigface.image import encode_png
from rigface.storage.store import Store

FOLDER = "log"
STEPS_PER_OBJECT = 1000
FLUSH_S = 15.0


class MetricLog:
    """Writes on the first worker, is silent on the others; lines of an earlier run after `step` are dropped."""

    def __init__(
        self,
        store: Store,
        writes: bool,
        step: int,
        to_stderr: bool = False,
        track: Sequence[str] = ("tensorboard",),
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self._store = store
        self._emit = log_events.training() if to_stderr and writes else None
        self._open: dict[int, list[dict[str, Any]]] = {}
        self._flushed = time.monotonic()
        self._trackers: Trackers | None = None
        if not writes:
            return
        for path in list(store.paths(FOLDER, ".jsonl")):
            first = int(path.rsplit("/", 1)[-1].removesuffix(".jsonl"))
            lines = [line for line in _lines(store, path) if line["step"] <= step]
            if first > step or not lines:
                store.delete(path)
            elif first == _first(step):
                self._open[first] = lines
                self._publish(first)
        self._trackers = Trackers(track, store, settings, step)

    def add(self, numbers: dict[str, Any], step: int, every: int = 1) -> None:
        """Log numbers, if this step is logged."""
        if self._trackers is None or (step % every and step != 1):
            return
        line = {**{name: _short(value) for name, value in numbers.items()}, "step": step, "time": round(time.time(), 1)}
        self._open.setdefault(_first(step), []).append(line)
        if self._emit is not None:
            self._emit("step" if "loss" in numbers else "validation", step, numbers)
        shown = {n: v for n, v in line.items() if isinstance(v, int | float) and n not in ("step", "time")}
        self._trackers.log(shown, step)
        if time.monotonic() - self._flushed > FLUSH_S:
            self.flush()

    def picture(self, name: str, image: Any, step: int) -> None:
        """A picture (H, W, 3) uint8 for the trackers and OUT/log/pictures."""
        if self._trackers is None:
            return
        self._trackers.picture(name, image, step)
        self._store.publish(f"{FOLDER}/pictures/{name}-{step:08d}.png", encode_png(image))

    def flush(self, board: bool = False) -> None:
        """Publish everything logged so far; `board`: what trackers have, too."""
        for first in list(self._open):
            self._publish(first)
        newest = max(self._open, default=0)
        self._open = {first: lines for first, lines in self._open.items() if first == newest}
        self._flushed = time.monotonic()
        if self._trackers is not None and board:
            self._trackers.flush()

    def close(self, failed: bool = False) -> None:
        """Flush and end."""
        self.flush()
        if self._trackers is not None:
            self._trackers.finish(failed)

    def _publish(self, first: int) -> None:
        lines = self._open[first]
        data = "".join(json.dumps(line) + "\n" for line in lines).encode()
        self._store.publish(f"{FOLDER}/{first:08d}.jsonl", data)


def lines(store: Store) -> list[dict[str, Any]]:
    """All logged lines, by step."""
    logged = [line for path in store.paths(FOLDER, ".jsonl") for line in _lines(store, path)]
    return sorted(logged, key=lambda line: line["step"])


def _lines(store: Store, path: str) -> list[dict[str, Any]]:
    return [json.loads(text) for text in store.read(path).decode().splitlines()]


def _first(step: int) -> int:
    return (step - 1) // STEPS_PER_OBJECT * STEPS_PER_OBJECT + 1 if step > 0 else 0


def _short(value: Any) -> Any:
    return float(f"{value:.6g}") if isinstance(value, float) else value
