"""Simulation of a cluster: against results by hand and measured runs."""

import json
from dataclasses import replace

import pytest

from pipelines.capacity.simulation import Machines, Stage, Work, simulate
from rigface.errors import PlanError
from tests.conftest import ROOT

EXACT = {"spread": 0.0, "driver_s": 0.0, "actor_s": 0.0}
RESULTS = ROOT / "benchmarks" / "results"


def result(name):
    return json.loads((RESULTS / f"{name}.json").read_text())


def test_single_stage_takes_its_rounds():
    done = simulate(Work(10, 5.0, **EXACT), (Stage("look", 0.2, 1, 4, 4),), Machines(4, price=3600))
    assert done.wall_s == pytest.approx(3.0, rel=0.01)  # three rounds of one second
    assert done.cost == pytest.approx(done.wall_s * 3600 / 3600, rel=0.01)
    assert done.busy["look"] == pytest.approx(10 / 12, rel=0.02)


def test_slowest_stage_sets_the_pace():
    stages = (Stage("a", 0.1, 1, 2, 2), Stage("b", 0.2, 1, 1, 1), Stage("c", 0.01, 1, 1, 1))
    done = simulate(Work(200, 1.0, **EXACT), stages, Machines(4))
    assert done.wall_s == pytest.approx(200 * 0.2 + 0.11, rel=0.01)
    assert done.bottleneck == "b"
    assert done.busy["a"] == pytest.approx(0.25, rel=0.1)


def test_driver_can_be_bottleneck_and_jobs_share_it():
    work = Work(1000, 1.0, spread=0.0, driver_s=0.1, actor_s=0.0)
    alone = simulate(work, (Stage("a", 0.1, 1, 8, 8),), Machines(8))
    four = simulate(replace(work, jobs=4), (Stage("a", 0.1, 1, 8, 8),), Machines(8))
    assert alone.bottleneck == "driver"
    assert alone.wall_s == pytest.approx(100, rel=0.02)
    assert four.wall_s == pytest.approx(25, rel=0.05)


def test_cluster_grows_only_as_needed():
    stages = (Stage("a", 1.0, 1, 1, 64), Stage("b", 0.1, 1, 1, 64))
    small, large = (simulate(Work(12_000, 1.0, driver_s=0.0), stages, Machines(8, 1, n, start_s=30)) for n in (1, 8))
    assert (small.peak_nodes, large.peak_nodes) == (1, 8)
    assert small.wall_s > 4 * large.wall_s
    assert large.wall_s > 12_000 * 1.1 / 64
    few = simulate(Work(4, 1.0, driver_s=0.0), stages, Machines(8, 1, 8, start_s=30))
    assert few.peak_nodes == 1


def test_lost_machines_cost_time_but_no_unit():
    stages = (Stage("a", 1.0, 1, 8, 32), Stage("b", 0.2, 1, 2, 8))
    kept, lost = (simulate(Work(3000, 1.0), stages, Machines(8, 2, 4, start_s=20, spot_hours=h)) for h in (0, 0.05))
    assert (kept.lost_nodes, kept.redone) == (0, 0)
    assert lost.lost_nodes > 2
    assert 0 < lost.redone < 0.2
    assert lost.wall_s > kept.wall_s


def test_time_is_proportional_to_units():
    stages = (Stage("a", 0.05, 1, 8, 8), Stage("b", 0.02, 1, 4, 4))
    few, many = (simulate(Work(n, 10.0, driver_s=0.0), stages, Machines(12)) for n in (10_000, 200_000))
    assert many.wall_s / few.wall_s == pytest.approx(20, rel=0.03)


def test_same_seed_gives_same_result():
    ask = Work(500, 3.0), (Stage("a", 0.1, 1, 2, 9), Stage("b", 0.1, 1, 2, 9)), Machines(4, 1, 4, spot_hours=0.1)
    assert simulate(*ask, seed=3) == simulate(*ask, seed=3)


@pytest.mark.parametrize(
    ("stages", "machines"),
    [((Stage("a", 1.0, cpus=5),), Machines(4)), ((Stage("a", 1.0, 1, 5, 5),), Machines(4)), ((), Machines(4))],
)
def test_impossible_cluster_is_refused(stages, machines):
    with pytest.raises(PlanError):
        simulate(Work(0 if not stages else 9), stages, machines)


def measured(run):
    """The job of benchmarks/extract.py as a simulation: its stages at the clock they had, three processes on
    two cores."""
    ms = run["stage_ms_per_frame"]
    look = sum(ms[name] for name in ("decode", "detect", "track", "align", "identity")) / 1e3
    return Stage("look", look, 0.5, 2, 2), Stage("finish", sum(ms.values()) / 1e3 - look, 0.5, 1, 1)


@pytest.mark.parametrize("times", [1, 4, 16])
def test_measured_runs_are_simulated_within_a_tenth(times):
    """Start and stages are taken from the run; how they add up to its end is the simulation's."""
    results = result("extract")
    run = results[f"x{times}"]
    units = tuple(n for _ in range(times) for n in (218, 177, 177, 282, 199))  # of the four clips it names
    assert (len(units), sum(units)) == (run["units"], run["frames"])
    done = simulate(Work(len(units), units, actor_s=results["start_s"]), measured(run), Machines(2))
    assert done.wall_s == pytest.approx(run["wall_s"], rel=0.10)
    assert done.bottleneck == "look"


def test_smallest_run_predicts_largest_within_a_fifth():
    """Start and stages are those of the smallest run, the clock that of sixteen times as much."""
    results = result("extract")
    units = tuple(n for _ in range(16) for n in (218, 177, 177, 282, 199))
    done = simulate(Work(len(units), units, actor_s=results["start_s"]), measured(results["x1"]), Machines(2))
    assert done.wall_s == pytest.approx(results["x16"]["wall_s"], rel=0.20)
