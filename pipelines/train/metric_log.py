"""JSONL and TensorBoard logs of a training run, in objects of a thousand steps.

Path: loop -> OUT/log/<first step>.jsonl, OUT/tensorboard -> `report.py`.

On resume, entries after the restored checkpoint are dropped.
"""

import json
import tempfile
import time
from pathlib import Path
from typing import Any

from pipelines.telemetry import log_events
from rigface.extras import extra
from rigface.image import encode_png
from rigface.storage.store import Store

FOLDER = "log"
STEPS_PER_OBJECT = 1000
FLUSH_S = 15.0


class MetricLog:
    """Writes on the first worker, is silent on the others; lines of an earlier run after `step` are dropped."""

    def __init__(self, store: Store, writes: bool, step: int, to_stderr: bool = False) -> None:
        self._store, self._writes = store, writes
        self._emit = log_events.training() if to_stderr and writes else None
        self._open: dict[int, list[dict[str, Any]]] = {}
        self._flushed = time.monotonic()
        self._board: Any = None
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
        with extra("train"):
            from torch.utils.tensorboard import SummaryWriter

        self._temporary = tempfile.TemporaryDirectory(prefix="rigface-board-") if store.is_s3 else None
        self._place = self._temporary.name if self._temporary else store.at("tensorboard")
        self._board = SummaryWriter(self._place, purge_step=step + 1)

    def add(self, numbers: dict[str, Any], step: int, every: int = 1) -> None:
        """Log numbers, if this step is logged."""
        if not self._writes or (step % every and step != 1):
            return
        line = {**{name: _short(value) for name, value in numbers.items()}, "step": step, "time": round(time.time(), 1)}
        self._open.setdefault(_first(step), []).append(line)
        if self._emit is not None:
            self._emit("step" if "loss" in numbers else "validation", step, numbers)
        for name, value in line.items():
            if isinstance(value, int | float) and name not in ("step", "time"):
                self._board.add_scalar(name, value, step)
        if time.monotonic() - self._flushed > FLUSH_S:
            self.flush()

    def picture(self, name: str, image: Any, step: int) -> None:
        """A picture (H, W, 3) uint8 for TensorBoard and OUT/log/pictures."""
        if not self._writes:
            return
        self._board.add_image(name, image, step, dataformats="HWC")
        self._store.publish(f"{FOLDER}/pictures/{name}-{step:08d}.png", encode_png(image))

    def flush(self, board: bool = False) -> None:
        """Publish everything logged so far; `board`: TensorBoard's file too, whole, if it is not on this disk."""
        for first in list(self._open):
            self._publish(first)
        newest = max(self._open, default=0)
        self._open = {first: lines for first, lines in self._open.items() if first == newest}
        self._flushed = time.monotonic()
        if self._board is not None:
            self._board.flush()
            if board and self._store.is_s3:
                for file in sorted(Path(self._place).iterdir()):
                    self._store.publish(f"tensorboard/{file.name}", file.read_bytes())

    def close(self) -> None:
        """Flush and end."""
        self.flush(board=True)
        if self._board is not None:
            self._board.close()
            if self._temporary:
                self._temporary.cleanup()

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
