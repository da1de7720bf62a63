"""What a training loop asks of the place it runs in: who am I, where was I, keep this. Two answers: Ray Train, and this process.

Path: loop -> `Session.keep` -> OUT/checkpoints (this process) or OUT/ray (Ray Train) -> `Session.latest` of the next run.
A checkpoint is a folder that torch.distributed.checkpoint wrote; both places hold the same kind.
Writing to the output happens behind the loop's back; a folder counts when it is whole.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import pyarrow.fs as pafs
import torch

from rigface.storage import Store

CHECKPOINTS = "checkpoints"
DONE = "done"  # written last: without it a folder is half a checkpoint

Write = Callable[[Path], None]


class Session(Protocol):
    """The place a loop runs in."""

    rank: int
    world: int

    def device(self, gpu: bool) -> torch.device:
        """What this worker computes on."""
        ...

    def latest(self) -> contextlib.AbstractContextManager[Path | None]:
        """The newest checkpoint as a local folder, or None at the very beginning."""
        ...

    def keep(self, step: int, numbers: dict[str, Any], write: Write, last: bool) -> None:
        """Keep a checkpoint; every worker calls it. `write` fills a folder; `last` waits until it is safe."""
        ...


class Alone:
    """This process, without Ray.

    Args:
        keep: how many checkpoints stay.
    """

    rank, world = 0, 1

    def device(self, gpu: bool) -> torch.device:
        return torch.device("cuda", torch.cuda.current_device()) if gpu else torch.device("cpu")

    def __init__(self, store: Store, keep: int = 2) -> None:
        self._store, self._keep = store, keep
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None

    @contextlib.contextmanager
    def latest(self) -> Iterator[Path | None]:
        names = self.names()
        if not names:
            yield None
            return
        with tempfile.TemporaryDirectory() as folder:
            prefix = f"{CHECKPOINTS}/{names[-1]}/"
            for path in self._store.paths(prefix.rstrip("/")):
                (Path(folder) / path.removeprefix(prefix)).write_bytes(self._store.read(path))
            yield Path(folder)

    def names(self) -> list[str]:
        """Whole checkpoints, oldest first."""
        return sorted(p.split("/")[-2] for p in self._store.paths(CHECKPOINTS, f"/{DONE}"))

    def keep(self, step: int, numbers: dict[str, Any], write: Write, last: bool) -> None:
        folder = Path(tempfile.mkdtemp(prefix="rigface-checkpoint-"))
        write(folder)
        self.wait()
        self._pending = self._pool.submit(self._publish, folder, f"step-{step:08d}")
        if last:
            self.wait()

    def wait(self) -> None:
        """Until what was kept is safe; raises what went wrong."""
        if self._pending is not None:
            self._pending.result()
            self._pending = None

    def _publish(self, folder: Path, name: str) -> None:
        try:
            for file in sorted(p for p in folder.rglob("*") if p.is_file()):
                self._store.publish(f"{CHECKPOINTS}/{name}/{file.relative_to(folder)}", file.read_bytes())
            self._store.publish(f"{CHECKPOINTS}/{name}/{DONE}", b"")
            for old in self.names()[: -self._keep]:
                self._store.delete(f"{CHECKPOINTS}/{old}/{DONE}")  # first, so that half a folder never counts
                self._store.delete_folder(f"{CHECKPOINTS}/{old}")
        finally:
            shutil.rmtree(folder, ignore_errors=True)


class OnRay:
    """A worker of Ray Train. `report` is a barrier, and uploads behind the loop's back."""

    def __init__(self, out: str) -> None:
        import ray.train

        context = ray.train.get_context()
        self.rank, self.world = context.get_world_rank(), context.get_world_size()
        self._alone = Alone(Store(out))

    def device(self, gpu: bool) -> torch.device:
        from ray.train.torch import get_device

        return (
            get_device() if gpu else torch.device("cpu")
        )  # a node's workers see all of its GPUs; Ray says whose is whose

    @contextlib.contextmanager
    def latest(self) -> Iterator[Path | None]:
        import ray.train

        checkpoint = ray.train.get_checkpoint()
        if checkpoint is None:
            with self._alone.latest() as folder:  # a run that began without Ray goes on here
                yield folder
            return
        with checkpoint.as_directory() as folder:
            yield Path(folder)

    def keep(self, step: int, numbers: dict[str, Any], write: Write, last: bool) -> None:
        import ray.train
        from ray.train import Checkpoint, CheckpointUploadMode

        folder = Path(tempfile.mkdtemp(prefix="rigface-checkpoint-"))
        write(folder)
        ray.train.report(
            {"step": step, **numbers},
            checkpoint=Checkpoint(str(folder), pafs.LocalFileSystem()),
            checkpoint_dir_name=f"step-{step:08d}",
            checkpoint_upload_mode=CheckpointUploadMode.SYNC if last else CheckpointUploadMode.ASYNC,
            delete_local_checkpoint_after_upload=True,
        )
