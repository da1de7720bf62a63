"""A stage whose decoder crashes on some files, as a hostile file crashes a decoder."""

import ctypes
from pathlib import Path

from pipelines.extract.frame_processor import FrameProcessor
from pipelines.extract.stages import DetectFaces
from pipelines.telemetry.worker_process import WorkerProcess


class PoisonedFrameProcessor(FrameProcessor):
    """SIGSEGV on every input named `poison`; each try leaves a line in `tries`."""

    def __init__(self, settings, tries: str) -> None:
        super().__init__(settings)
        self._tries = tries

    def __call__(self, plan, begin, file=None):
        if "poison" in Path(plan.uri).name:
            with open(self._tries, "a") as f:
                f.write(plan.uri + "\n")
            begin("decode")
            ctypes.string_at(0)
        return super().__call__(plan, begin, file)


class PoisonedDetectFaces(DetectFaces):
    """`DetectFaces` with that child."""

    def __init__(self, settings, silence_s: float, out: str, remote: bool, tries: str) -> None:
        self._poisoned = WorkerProcess(
            "tests.drills.poison:PoisonedFrameProcessor", {"settings": settings, "tries": tries}, silence_s
        )
        super().__init__(settings, silence_s, out, remote)

    def _child(self, remote: bool) -> WorkerProcess:
        return self._poisoned


def poisoned(stage_arguments, tries: Path):
    """`dataflow.stage_arguments` with the poisoned stage."""

    def arguments(*given):
        stages = stage_arguments(*given)
        name = DetectFaces.name
        return {**stages, name: (PoisonedDetectFaces, {**stages[name][1], "tries": str(tries)})}

    return arguments
