"""A looker whose decoder dies of one file, as a hostile file makes a decoder die; and the stage that has it."""

import ctypes
from pathlib import Path

from pipelines.extract.frame_processor import FrameProcessor
from pipelines.extract.stages import DetectFaces
from pipelines.telemetry.worker_process import WorkerProcess


class PoisonedLooker(FrameProcessor):
    """SIGSEGV on every input named `poison`; each try leaves a line in `tries`."""

    def __init__(self, settings, tries: str) -> None:
        super().__init__(settings)
        self._tries = tries

    def __call__(self, job, begin):
        if "poison" in Path(job[0]["uri"]).name:
            with open(self._tries, "a") as f:
                f.write(job[0]["uri"] + "\n")
            begin("decode")
            ctypes.string_at(0)
        return super().__call__(job, begin)


class PoisonedLook(DetectFaces):
    """`DetectFaces` with that child."""

    def __init__(self, settings, silence_s: float, out: str, tries: str) -> None:
        super().__init__(settings, silence_s, out)
        self._child.close()
        self._child = WorkerProcess(
            "tests.drills.poison:PoisonedLooker", {"settings": settings, "tries": tries}, silence_s
        )
        self._child.start()
