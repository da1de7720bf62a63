"""Estimates: measured figures, loads, printed forecasts, tables of docs/scaling.md."""

import json
import re
from dataclasses import replace

import pytest

from pipelines.capacity import estimate, load
from pipelines.capacity.estimate import ClusterSpec
from pipelines.cli.main import main
from pipelines.cli.parser import parse
from pipelines.extract.config import Settings
from rigface.errors import PlanError
from tests.conftest import ROOT

RESULTS = ROOT / "benchmarks" / "results"


def result(name):
    return json.loads((RESULTS / f"{name}.json").read_text())


def test_figures_are_those_of_benchmark_results():
    measured = result("extract")
    largest = max((name for name in measured if name.startswith("x")), key=lambda name: int(name[1:]))
    assert measured[largest]["stage_ms_per_frame"] == load.STEP_MS
    assert (measured["fps"], measured["cores"]) == (pytest.approx(load.FPS, rel=1e-4), load.CORES)
    speed = {float(name.split()[0]): s["ratio"] for name, s in result("keyframes")["speed"].items() if "250" in name}
    assert speed == pytest.approx(load.SPARSE_RATIO, abs=0.01)
    cases = {(case["kind"], case["inputs"]): case for case in reversed(result("driver")["cases"])}
    planned, handed = cases["clips", 500_000], cases["shards", 52_500]
    per_shard = planned["cpu_s"] / planned["shards"] + handed["ms_a_shard"] / 1e3
    assert per_shard == pytest.approx(load.DRIVER_S, abs=1e-3)
    assert result("capacity")["dataset"]["bytes_per_face"] == pytest.approx(load.FACE_BYTES, rel=1e-3)


def test_core_seconds_sum_to_measured_throughput():
    assert sum(load.core_seconds().values()) == pytest.approx(load.CORES / load.FPS)


def test_more_frames_are_decoded_than_sampled():
    ask = ClusterSpec(clips=1000, clip_s=10, clip_fps=25)
    sampled, every_frame = (estimate.load_of(ask, Settings(fps=fps)) for fps in (1, "all"))
    assert (sampled.frames, sampled.shards, sampled.faces) == (10_000, 47, 10_000)  # 14 frames' work of 300 each
    assert (every_frame.frames, every_frame.shards) == (250_000, 847)
    ratio = load.SPARSE_RATIO[1.0]
    assert sampled.seconds["decode"] * sampled.frames * ratio == pytest.approx(
        every_frame.seconds["decode"] * every_frame.frames
    )
    assert sampled.seconds["detect"] == every_frame.seconds["detect"]
    assert sampled.core_hours < every_frame.core_hours / 3
    longer = estimate.load_of(replace(ask, clip_s=60), Settings(fps="all"))
    assert longer.shards == 5000  # 1500 frames, 300 a unit


def test_forecast_of_clips_is_printed(capsys):
    assert main(["forecast", "--clips", "1e5", "--fps", "1", "--nodes", "4", "--price", "0.05"]) == 0
    text = capsys.readouterr().out
    assert "100,000 inputs, 1.0 million sampled frames, 4,667 shards" in text
    assert "18 under each of 256 prefixes" in text
    assert "bottleneck: " in text
    assert main(["forecast", "--clips", "1e8", "--fps", "1", "--nodes", "1000"]) == 0
    assert "share them among drivers (--jobs)" in capsys.readouterr().out


def test_sample_gives_load_for_simulation():
    from tests.pipelines.capacity.test_sample_run import make

    sample = replace(make(inputs=5000), seconds={"decode": 3.0, "detect": 1.0, "write": 1.0})
    load = sample.load()
    assert (load.shards, load.frames) == (5000, pytest.approx(500_000))
    assert sum(load.seconds.values()) == pytest.approx(0.05)
    assert load.stages == {"detect_faces": pytest.approx(0.04), "reconstruct_to_write": pytest.approx(0.01)}
    text = estimate.describe(load, ClusterSpec(), 8, 0.05, "EUR")
    assert "EUR at 0.05" in text
    assert "detect_faces 80%" in text


@pytest.mark.parametrize("words", [["clips/", "--clips", "10"], [], ["--clips", "10", "--clip-s", "0"]])
def test_invalid_forecast_is_refused(words, capsys):
    with pytest.raises(PlanError):
        parse(["forecast", *words]).run()


def test_every_table_of_the_page_is_generated():
    """`tests/rigface/telemetry/test_json_logging.py` holds that what is generated is up to date."""
    text = (ROOT / "docs" / "scaling.md").read_text()
    by_hand = re.sub(r"<!-- (\w+) -->\n.*?<!-- /\1 -->", "", text, flags=re.S)
    assert not [line for line in by_hand.splitlines() if line.startswith("|")]
    assert text.count("<!-- /") == 7
