"""A stage whose decoder crashes on some files, or that reads half of some units, as hostile files and disks do."""

import ctypes
import errno
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pipelines.extract.frame_processor import FrameProcessor
from pipelines.extract.stages import DetectFaces
from pipelines.inputs import open_input
from pipelines.telemetry.worker_process import WorkerDied, WorkerProcess

READ = 3  # frames of a unit that is read in half


class PoisonedFrameProcessor(FrameProcessor):
    """SIGSEGV on every input named `poison`; each try leaves a line in the file `log`."""

    def __init__(self, settings, log: str) -> None:
        super().__init__(settings)
        self._log = log

    def __call__(self, plan, begin, file=None):
        if "poison" in Path(plan.uri).name:
            with open(self._log, "a") as f:
                f.write(plan.uri + "\n")
            begin("decode")
            self._crash()
        return super().__call__(plan, begin, file)

    def _crash(self) -> None:
        ctypes.string_at(0)


class DyingFrameProcessor(PoisonedFrameProcessor):
    """The same without a child process, whose death it reports: a new child for each crash takes a second."""

    def _crash(self) -> None:
        raise WorkerDied("SIGSEGV", "decode")


class HalfReadFrameProcessor(FrameProcessor):
    """EIO after the third frame of inputs named `0.mp4` or `1.mp4`; each leaves a line in the file `log`."""

    def __init__(self, settings, log: str) -> None:
        super().__init__(settings)
        self._log = log

    def _frames(self, plan, file) -> Iterator:
        with open_input.opened(plan.uri):
            for count, frame in enumerate(super()._frames(plan, file)):
                if count == READ and plan.uri.endswith(("0.mp4", "1.mp4")):
                    with open(self._log, "a") as f:
                        f.write(plan.uri + "\n")
                    raise OSError(errno.EIO, "Input/output error")
                yield frame


class NoChild:
    """A `WorkerProcess` without a process."""

    def __init__(self, worker: Callable[..., Any]) -> None:
        self._worker = worker

    def start(self) -> None:
        """Nothing to start."""

    def close(self) -> None:
        """Nothing to stop."""

    def __call__(self, argument: Any, *file: Any) -> Any:
        return self._worker(argument, lambda step: None, *file)


class ReplacedDetectFaces(DetectFaces):
    """`DetectFaces` with one of these in its child."""

    def __init__(
        self, settings, silence_s: float, out: str, remote: bool, part: str, device: str, processor: str, log: str
    ) -> None:
        arguments = {"settings": settings, "log": log}
        if processor == DyingFrameProcessor.__name__:
            self._replaced = NoChild(DyingFrameProcessor(**arguments))
        else:
            self._replaced = WorkerProcess(f"tests.drills.poison:{processor}", arguments, silence_s)
        super().__init__(settings, silence_s, out, remote, part, device)

    def _child(self, remote: bool) -> WorkerProcess | NoChild:
        return self._replaced


def poisoned(stage_arguments, log: Path, processor: type[FrameProcessor] = PoisonedFrameProcessor):
    """`dataflow.stage_arguments` with the replaced stage."""

    def arguments(*given):
        stages = stage_arguments(*given)
        name = DetectFaces.name
        more = {"processor": processor.__name__, "log": str(log)}
        return {**stages, name: (ReplacedDetectFaces, {**stages[name][1], **more})}

    return arguments
