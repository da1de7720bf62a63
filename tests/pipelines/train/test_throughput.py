"""Model FLOPs utilisation: counted operations over the peak."""

from dataclasses import replace

import pytest
import torch

from pipelines.train.config import debug
from pipelines.train.throughput import UNTRACED, StepMeter, peak_tflops
from rigface.storage.store import Store


def test_mfu_is_counted_products_over_the_peak(tmp_path):
    meter = StepMeter(replace(debug(), peak_tflops=1e-6), torch.device("cpu"), Store(str(tmp_path)), rank=0)
    layer = torch.nn.Linear(8, 16)
    for _ in range(2):
        with meter.step():
            layer(torch.ones(4, 8)).sum().backward()  # two products of 2 x 4 x 8 x 16: output, gradient of weights
    assert meter.mfu(2.0)["mfu"] == pytest.approx(2 * 2 * 4 * 8 * 16 / 2e6)


def test_trace_of_a_run_that_raises_is_kept(tmp_path):
    meter = StepMeter(replace(debug(), profile=10), torch.device("cpu"), Store(str(tmp_path)), rank=0)
    for _ in range(UNTRACED + 1):
        with meter.step():
            torch.ones(2).sum()
    with pytest.raises(ZeroDivisionError), meter.step():
        1 / 0  # noqa: B018
    assert (tmp_path / "profile" / "worker-0000.json.gz").stat().st_size


@pytest.mark.parametrize(
    ("name", "peak"), [("NVIDIA H100 80GB HBM3", 989), ("NVIDIA H100 PCIe", 756), ("NVIDIA A10G", 70), ("Other", 0)]
)
def test_peak_is_that_of_the_gpu_in_bfloat16(name, peak, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    config, device = replace(debug(), number_format="bfloat16"), torch.device("cuda")
    assert peak_tflops(config, device) == peak
    assert peak_tflops(replace(config, number_format="float32"), device) == 0
