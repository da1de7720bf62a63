"""Report card on known editors: gains, identity, failures, leaks, groups."""

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rigface.edits import EditSpec
from rigface.evaluation import report
from rigface.evaluation.baselines import COPY_SOURCE, COPY_TARGET, FLOOR, controls
from rigface.evaluation.fairness import fairness
from rigface.evaluation.metric_registry import METRICS
from rigface.evaluation.report_card import compare, make_card
from rigface.evaluation.rows import measure_edits
from rigface.evaluation.samples import Edited

from .conftest import Painted, paint

PEOPLE = range(10, 130, 10)
BLACK = np.zeros((64, 64, 3), np.uint8)


def asked(take="pose", **more):
    """One edit per person, towards a target of someone else, turned by 21 to 32 degrees."""
    out = []
    for k, person in enumerate(PEOPLE):
        target = paint(person + 120, yaw=11 + k, smile=0.7, azimuth=30)
        given = dict(person=str(person), target_person=str(person + 120), target=target, edit=EditSpec(take={take}))
        out.append(
            Edited(
                model="", name=take, key=str(k), source=paint(person, yaw=-10, smile=0.1), output=None, **given, **more
            )
        )
    return out


def done(model, share=1.0, smile=0.1, azimuth=0.0, fails=0, thief=False, edits=None):
    """The pose edits as an editor does them that goes `share` of the way, and may spoil other traits."""
    out = []
    for k, one in enumerate(asked() if edits is None else edits):
        person = int(one.person) + (120 if thief else 0)
        picture = paint(person, yaw=-10 + share * (21 + k), smile=smile, azimuth=azimuth)
        out.append(replace(one, model=model, output=BLACK if k >= len(PEOPLE) - fails else picture))
    return out


@pytest.fixture(scope="module")
def rows():
    made = [
        *done("good"), *done("half", 0.5), *done("leaky", azimuth=25.0), *done("thief", thief=True),
        *done("frail", fails=3), *controls(asked(), round_trip=lambda p: p),
    ]  # fmt: skip
    return measure_edits(Painted(), made)


@pytest.fixture(scope="module")
def made(rows):
    return make_card(rows, Painted().extractors, title="Painted", baseline="half", draws=200)


def test_models_first_controls_last(made):
    assert [r.model for r in made.rows][:5] == ["good", "half", "leaky", "thief", "frail"]
    assert [r.control for r in made.rows] == [False] * 5 + [True] * 4


@pytest.mark.parametrize(("model", "gain"), [("good", 1.0), ("half", 0.5), (COPY_SOURCE, 0.0), (COPY_TARGET, 1.0)])
def test_gain_is_the_achieved_share_on_both_tracks(made, model, gain):
    cells = made.row(model, "pose").cells
    assert cells["gain_pose"].value == pytest.approx(gain, abs=0.02)
    assert cells["gain_pose_mp"].value == pytest.approx(gain, abs=0.02)
    assert "gain_light" not in cells  # nobody asked for light


def test_lazy_gain_is_noise_and_copied_target_is_another_person(made):
    assert "gain_pose" in made.row(COPY_SOURCE, "pose").noise
    assert not made.row("half", "pose").noise
    assert made.row(COPY_SOURCE, "pose").cells["same_person"].value == 1
    assert made.row("thief", "pose").cells["same_person"].value <= 0.1
    assert made.row("thief", "pose").identity_p10 < made.threshold < made.row("good", "pose").identity_p10


def test_threshold_comes_from_the_impostors_of_the_set(made):
    photographs = 2 * len(PEOPLE)
    assert made.impostors == photographs * (photographs - 1) // 2
    assert abs(made.impostor_mean) < 0.05
    assert any("pairs of strangers" in note for note in made.notes)


def test_failures_are_counted_and_cost(made):
    frail, good = made.row("frail", "pose"), made.row("good", "pose")
    assert frail.fail_share == pytest.approx(3 / 12)
    same = frail.cells["identity"]
    assert same.value == pytest.approx(1)
    assert same.with_failures == pytest.approx(9 / 12)
    assert frail.identity_p10 == 0
    pose = frail.cells["pose_deg"]
    assert pose.with_failures > 2 > pose.value  # the 95th percentile of all models' errors, not of its own
    assert frail.cells["gain_pose"].with_failures < frail.cells["gain_pose"].value - 0.1
    assert good.cells["identity"].with_failures == good.cells["identity"].value


def test_leaks_are_listed_in_floors(made):
    assert made.row("leaky", "pose").leaks[0][0] == "light"
    assert made.row("leaky", "pose").leaks[0][1] > 5
    assert made.row("good", "pose").leaks[0][1] < 1
    matrix = made.leakage["half"]
    assert matrix.values[0, matrix.columns.index("pose")] == pytest.approx(0.5, abs=0.02)
    assert FLOOR not in made.leakage


def test_floor_is_small_and_not_zero(made):
    floor = made.row(FLOOR, "pose").cells
    assert 0 < floor["pose_deg"].value < 1
    assert 0.9 < floor["identity"].value < 1


def test_frechet_of_copied_targets_is_large(made):
    assert made.row("good", "pose").frechet == pytest.approx(0, abs=1e-6)
    assert made.row("thief", "pose").frechet > 10


def test_better_and_worse_than_the_baseline_are_clear(made):
    assert made.against["good", "pose"]["pose_deg"].high < 0
    assert made.against["good", "pose"]["gain_pose"].low > 0
    assert ("half", "pose") not in made.against
    assert made.against["frail", "pose"]["pose_deg"].pairs == 9


def test_difference_needs_pairs(rows):
    assert compare(rows[:12], [], METRICS) == {}


def test_worst_group_comes_first():
    frontal, turned = done("biased")[:6], done("biased")[6:]
    turned = [replace(e, source=paint(int(e.person), yaw=-50), output=paint(int(e.person), yaw=-50)) for e in turned]
    table = {(f.metric, f.by): f for f in fairness("biased", measure_edits(Painted(), [*frontal, *turned]))}
    by_yaw = table["pose_deg", "yaw"]
    assert by_yaw.groups[0].name == "45-60°"
    assert by_yaw.gap == pytest.approx(by_yaw.groups[0].mean, abs=0.1)
    assert by_yaw.groups[0].mean > 60


def test_identity_is_binned_by_the_turn_with_the_pose_error_beside_it(made):
    good = [t for t in made.turns if t[0] == "good"]
    assert sum(t[2] for t in good) == 12
    assert {t[1] for t in good} == {"20-30°", "30-45°"}
    assert all(t[4] < 1 for t in good)


def test_seeds_have_a_spread():
    twice = [*done("m"), *(replace(e, seed=1) for e in done("m", 0.9))]
    got = make_card(measure_edits(Painted(), twice), {}, draws=50).row("m", "pose").cells["gain_pose"]
    assert got.spread == pytest.approx(0.1 / np.sqrt(2), abs=0.01)
    assert any("estimator-floor" in n for n in make_card(measure_edits(Painted(), twice), {}, draws=50).notes)


def test_sweep_becomes_a_slope():
    steps = np.linspace(-20, 20, 9)
    made = [
        Edited("m", "yaw sweep", f"{p} {y}", str(p), paint(p), paint(p, yaw=y / 2), EditSpec(yaw_deg=float(y)),
               sweep=(str(p), "yaw_deg"))
        for p in (10, 40) for y in steps
    ]  # fmt: skip
    got = make_card(measure_edits(Painted(), made), {}, draws=50).linearity["m", "yaw_deg"]
    assert (got.sweeps, got.slope, got.rho) == (2, pytest.approx(0.5, abs=0.01), pytest.approx(1))
    assert got.reach == pytest.approx(40)


def test_json_has_no_gaps_in_its_sources(made):
    got = json.loads(report.to_json(made))
    assert got["version"] == report.VERSION
    cells = [c for row in got["rows"] for c in row["cells"].values()]
    assert all(c["extractor"] and c["unit"] for c in cells)
    assert {c["extractor"] for c in cells} >= {"painted 1", "painted 2", "painted 3"}
    assert "NaN" not in report.to_json(made)


def test_every_form_has_every_row_and_the_extractors(made):
    text, page = report.to_markdown(made), report.to_html(made)
    for form in (text, page):
        for row in made.rows:
            assert row.model in form
        assert "painted 3" in form
        assert "Worst group first" in form
    main = text.split(f"## {report.ALL}")[1].split("## ")[0]
    widths = {len(line.split(" | ")) for line in main.splitlines() if line.startswith("|")}
    assert len(widths) == 1
    assert "<script" not in page
    assert "http" not in page.replace("http-equiv", "")


def test_names_cannot_break_the_page():
    odd = [replace(e, model="<b>a|b</b>") for e in done("x")]
    got = make_card(measure_edits(Painted(), odd), {}, draws=20)
    assert "<b>a" not in report.to_html(got)
    assert "a\\|b" in report.to_markdown(got)


def test_card_is_made_again_from_its_parquet(rows, made):
    files = report.files(made, rows)
    table = pq.read_table(pa.BufferReader(files["rows.parquet"]))
    assert table.schema.metadata[b"rigface.schema"] == report.VERSION.encode()
    again = make_card(table.to_pylist(), Painted().extractors, title="Painted", baseline="half", draws=200)
    assert report.to_json(again) == report.to_json(made) == files["card.json"].decode()
    long = pq.read_table(pa.BufferReader(files["card.parquet"])).to_pylist()
    assert {(r["model"], r["metric"]) for r in long} >= {("good", "gain_pose"), (FLOOR, "identity")}
    assert files["card.html"].startswith(b"<!doctype html>")
