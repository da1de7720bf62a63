"""Model FLOPs utilisation, and traces of steps by torch.profiler.

Path: loop -> `StepMeter.step` around each step -> `mfu` in the log, OUT/profile/worker-*.json.gz.
"""

import contextlib
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity
from torch.utils.flop_counter import FlopCounterMode

from pipelines.train.config import TrainConfig
from rigface.model import number_format
from rigface.storage.store import Store

# Dense bfloat16 TFLOP/s by the makers' data sheets, by words of the name that torch gives.
PEAK_TFLOPS = {
    "B200": 2250.0, "H200": 989.0, "H100 PCIe": 756.0, "H100": 989.0, "A100": 312.0, "A10": 125.0, "A10G": 70.0,
    "L40S": 362.0, "L40": 181.0, "L4": 121.0, "RTX 4090": 165.0, "RTX 3090": 71.0,
}  # fmt: skip
UNTRACED = 3  # steps before the trace: memory is allocated, code compiled


def peak_tflops(config: TrainConfig, device: torch.device) -> float:
    """Peak of a worker's device in the run's number format, TFLOP/s; 0 if it is not known."""
    if config.peak_tflops or device.type != "cuda":
        return config.peak_tflops
    if number_format.autocast_dtype(config.number_format, device) is not torch.bfloat16:
        return 0.0
    name = torch.cuda.get_device_name(device)
    return next((peak for words, peak in PEAK_TFLOPS.items() if re.search(rf"\b{words}\b", name)), 0.0)


class StepMeter:
    """Measurement of the steps of one worker."""

    def __init__(self, config: TrainConfig, device: torch.device, store: Store, rank: int) -> None:
        self._peak = peak_tflops(config, device)
        self._wanted, self._store, self._rank = config.profile, store, rank
        self._steps = self._flops = 0
        self._profiler: torch.profiler.profile | None = None

    @contextlib.contextmanager
    def step(self) -> Iterator[None]:
        """One step. The operations of the first are counted, those after `UNTRACED` traced if the run wants it."""
        if self._wanted and self._steps == UNTRACED:
            kinds = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * torch.cuda.is_available()
            self._profiler = torch.profiler.profile(activities=kinds, acc_events=True)
            self._profiler.start()
        self._steps += 1
        try:
            if self._peak and self._steps == 1:
                with FlopCounterMode(display=False) as counter:
                    yield
                self._flops = counter.get_total_flops()
            else:
                yield
        except BaseException:
            self.close()  # the steps before may say why
            raise
        if self._steps == UNTRACED + self._wanted:
            self.close()

    def mfu(self, seconds: float) -> dict[str, float]:
        """`mfu`: share of the peak in a step of `seconds`; empty without a known peak.

        Products of matrices and convolutions count, those that gradient checkpointing repeats too.
        """
        return {"mfu": self._flops / (seconds * self._peak * 1e12)} if self._flops else {}

    def close(self) -> None:
        """End the trace, if there is one, and publish it."""
        profiler, self._profiler = self._profiler, None
        if profiler is None:
            return
        profiler.stop()
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, f"worker-{self._rank:04d}.json.gz")
            profiler.export_chrome_trace(str(file))
            self._store.publish(f"profile/{file.name}", file.read_bytes())
