"""Backends of the training loop: rank, device and checkpoints, in Ray Train or in this process.

Path: loop -> `Backend.keep` -> OUT/checkpoints (this process) or OUT/ray (Ray Train) -> `Backend.latest` of the next
run. A checkpoint is a folder written by torch.distributed.checkpoint; both backends write the same kind, and a run goes
on from the newest of both. Training goes on as soon as the state is copied to memory: writing and upload are
asynchronous, one checkpoint at a time. A folder counts when it is complete: in OUT/checkpoints, when it has
`done`; in OUT/ray, when Ray Train's own list has it.
"""

import contextlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import pyarrow.fs as pafs
import torch

from rigface.errors import PlanError
from rigface.storage import lock
from rigface.storage.store import Store, local_path

CHECKPOINTS = "checkpoints"
RAY = "ray"
SNAPSHOT = f"{RAY}/checkpoint_manager_snapshot.json"  # written by Ray Train after a checkpoint is complete
COPY_BYTES = 2**24  # of a checkpoint in memory while it is fetched
DONE = "done"  # written last: a folder without it is incomplete

Write = Callable[[Path], Future[Any]]  # begins to fill a folder; the result comes when it is full


class Backend(Protocol):
    """The environment of a training loop."""

    rank: int
    world: int
    node: int  # workers on this one's node

    def device(self, gpu: bool) -> torch.device:
        """The device of this worker."""

    def latest(self) -> contextlib.AbstractContextManager[Path | None]:
        """The newest checkpoint as a local folder, or None if there is none."""

    def keep(self, step: int, numbers: dict[str, Any], write: Write, last: bool) -> None:
        """Keep a checkpoint, after the one before it; every worker calls it. `last` waits until it is stored."""

    def check(self) -> None:
        """Check the lock of the output before anything is written; OutputBusy if another run has taken it."""


class LocalBackend:
    """This process, without Ray. `keep` is the number of checkpoints kept, `check` that of the lock that is held."""

    rank, world, node = 0, 1, 1

    def device(self, gpu: bool) -> torch.device:
        return torch.device("cuda", torch.cuda.current_device()) if gpu else torch.device("cpu")

    def __init__(self, store: Store, keep: int = 2, check: Callable[[], None] = lambda: None) -> None:
        self._store, self._keep, self.check = store, keep, check
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None

    @contextlib.contextmanager
    def latest(self) -> Iterator[Path | None]:
        folders = [*(f"{CHECKPOINTS}/{name}" for name in self.names()), *_of_ray(self._store)]
        with _local(self._store, max(folders, key=_name, default=None)) as folder:
            yield folder

    def names(self) -> list[str]:
        """Complete checkpoints, oldest first."""
        return sorted(p.split("/")[-2] for p in self._store.paths(CHECKPOINTS, f"/{DONE}"))

    def keep(self, step: int, numbers: dict[str, Any], write: Write, last: bool) -> None:
        self.check()
        self.wait()
        folder, written = _begun(write)
        self._pending = self._pool.submit(self._publish, folder, written, f"step-{step:08d}")
        if last:
            self.wait()

    def wait(self) -> None:
        """Wait until the last checkpoint is stored; raises its error."""
        if self._pending is not None:
            self._pending.result()
            self._pending = None

    def _publish(self, folder: Path, written: Future[Any], name: str) -> None:
        try:
            written.result()
            for file in sorted(p for p in folder.rglob("*") if p.is_file()):
                self.check()  # another run that has taken over may write the same names
                self._store.publish(f"{CHECKPOINTS}/{name}/{file.relative_to(folder)}", file.read_bytes())
            self.check()
            self._store.publish(f"{CHECKPOINTS}/{name}/{DONE}", b"")
            for old in self.names()[: -self._keep]:
                self._store.delete(f"{CHECKPOINTS}/{old}/{DONE}")  # first, so that a partly deleted folder never counts
                self._store.delete_folder(f"{CHECKPOINTS}/{old}")
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _begun(write: Write) -> tuple[Path, Future[Any]]:
    """A temporary folder that is being filled; it is removed after an error."""
    folder = Path(tempfile.mkdtemp(prefix="rigface-checkpoint-"))
    try:
        return folder, write(folder)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _name(folder: str) -> str:
    """`step-...` of a checkpoint's folder; later steps sort later."""
    return folder.rsplit("/", 1)[-1]


def _of_ray(store: Store) -> list[str]:
    """Folders of the complete checkpoints that Ray Train wrote; PlanError if its list cannot be read."""
    try:
        snapshot = json.loads(store.read(SNAPSHOT))
        return [f"{RAY}/{result['checkpoint_dir_name']}" for result in snapshot["checkpoint_results"]]
    except FileNotFoundError:
        return []
    except (ValueError, KeyError, TypeError) as e:
        raise PlanError(
            f"{store.uri}/{SNAPSHOT}: unknown format of Ray Train's list of checkpoints ({e!r}); go on with --workers "
            "1 or more "
            "and the version of Ray that began the run"
        ) from e


@contextlib.contextmanager
def _local(store: Store, folder: str | None) -> Iterator[Path | None]:
    """A checkpoint's folder on this machine."""
    if folder is None or not store.is_s3:
        yield None if folder is None else Path(store.at(folder))
        return
    with tempfile.TemporaryDirectory(prefix="rigface-checkpoint-") as local:
        for path in store.paths(folder):
            name = path.removeprefix(f"{folder}/")
            with store.open(path) as source, open(local_path(Path(local), name, store.uri), "wb") as target:
                shutil.copyfileobj(source, target, COPY_BYTES)
        yield Path(local)


class RayBackend:
    """A worker of Ray Train. `report` is a barrier, and uploads asynchronously. `holder`: see `lock.holder`."""

    def __init__(self, out: str, holder: str = "") -> None:
        import ray.train

        context = ray.train.get_context()
        self.rank, self.world = context.get_world_rank(), context.get_world_size()
        self.node = context.get_local_world_size()
        self._store, self._holder = Store(out), holder
        self._pending: Future[Any] | None = None

    def device(self, gpu: bool) -> torch.device:
        from ray.train.torch import get_device

        # The workers of a node see all of its GPUs; Ray assigns them.
        return get_device() if gpu else torch.device("cpu")

    @contextlib.contextmanager
    def latest(self) -> Iterator[Path | None]:
        import ray.train

        checkpoint = ray.train.get_checkpoint()
        local = LocalBackend(self._store).names()  # of a run that began or went on without Ray
        if checkpoint is not None and _name(checkpoint.path) >= max(local, default=""):
            with checkpoint.as_directory() as folder:
                yield Path(folder)
            return
        with _local(self._store, f"{CHECKPOINTS}/{local[-1]}" if local else None) as folder:
            yield folder

    def check(self) -> None:
        if self.rank == 0:
            lock.check_holder(self._store, self._holder)

    def keep(self, step: int, numbers: dict[str, Any], write: Write, last: bool) -> None:
        import ray.train
        from ray.train import Checkpoint, CheckpointUploadMode

        self.check()
        if self._pending is not None:
            self._pending.result()
        folder, written = _begun(write)
        self._pending = written

        def upload(checkpoint: Checkpoint, name: str) -> Checkpoint:
            """What Ray Train does by itself, as soon as the folder is full."""
            written.result()
            target = f"{self._store.root}/{RAY}/{name}"
            self._store.fs.create_dir(target)
            pafs.copy_files(checkpoint.path, target, checkpoint.filesystem, self._store.fs)
            return Checkpoint(target, self._store.fs)

        ray.train.report(
            {"step": step, **numbers},
            checkpoint=Checkpoint(str(folder), pafs.LocalFileSystem()),
            checkpoint_dir_name=f"step-{step:08d}",
            checkpoint_upload_mode=CheckpointUploadMode.SYNC if last else CheckpointUploadMode.ASYNC,
            delete_local_checkpoint_after_upload=True,
            checkpoint_upload_fn=upload,
        )
