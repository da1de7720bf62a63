"""Forecasts from a sample: scaling, ranges, printed share."""

from dataclasses import replace

import numpy as np
import pytest

from pipelines.capacity.load import DRIVER_S
from pipelines.capacity.sample_run import Forecast, forecast
from pipelines.extract.config import debug
from rigface.testing import fakes


def make(inputs=1000, looked=50, spread=0.0):
    random = np.random.default_rng(1)
    frames = 100 * (1 + spread * random.uniform(-1, 1, looked))
    ran = 10 * (1 + spread * random.uniform(-1, 1, 12))
    cost = np.stack([ran, 0.05 * ran * (1 + spread * random.uniform(-1, 1, 12)), 8e4 * ran, 1.5 * ran], axis=1)
    return Forecast(inputs, frames, np.ones(looked), cost, wall_s=3.0)


def test_totals_are_sample_scaled_to_all_inputs():
    frames, seconds, size, faces, units = make().totals()[0]
    assert (frames, units) == (100_000, 1000)
    assert seconds == pytest.approx(0.05 * 100_000 + DRIVER_S * 1000)
    assert (size, faces) == (pytest.approx(8e9), pytest.approx(150_000))


def test_range_grows_with_spread_of_sample():
    def width(sample):
        middle, low, high = sample.totals()[:, 1]
        return (high - low) / middle

    assert width(make()) == pytest.approx(0)
    assert 0 < width(make(spread=0.2)) < width(make(spread=0.8))


def test_frames_are_exact_if_all_inputs_are_surveyed():
    middle, low, high = make(inputs=50, looked=50, spread=0.5).totals()[:, 0]
    assert middle == low == high


def test_twice_the_cpus_take_half_the_time_at_same_cost():
    few, many = (make().describe(cpus, 0.5, "EUR") for cpus in (10, 20))
    assert "on 10 CPUs: 8 min" in few
    assert "on 20 CPUs: 4 min" in many
    assert [line for line in few.splitlines() if line.startswith("cost")] == [
        line for line in many.splitlines() if line.startswith("cost")
    ]


def test_share_of_run_frames_is_printed():
    text = replace(make(inputs=1000), share=0.001).describe(10, 1, "EUR")  # 120 of 100,000 frames
    assert "12 units with" in text
    assert "0.12 % of all\n" in text
    text = replace(make(inputs=10_000), share=0.01).describe(10, 1, "EUR")
    assert "0.012 % of all; 1 % was requested, but only surveyed inputs are run\n" in text


@pytest.mark.slow
def test_sample_is_run_and_leaves_no_output(tmp_path):
    for i in range(4):
        fakes.video(tmp_path / f"{i}.mp4", (0.2,), frames=8, seed=i)
    result = forecast(debug((str(tmp_path),), str(tmp_path / "out")), share=0.01, min_units=2)
    assert (result.inputs, len(result.cost)) == (4, 2)
    assert result.totals()[0][0] == 32
    assert result.cost[:, 0].tolist() == [8, 8]
    assert (result.cost[:, 1:] > 0).all()
    assert not (tmp_path / "out").exists()
