"""Statistics of a dataset: independent of files and batches, equal to numpy."""

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.inspect import cards
from pipelines.inspect.inputs import TABLE_ROWS, InputStatistics
from pipelines.inspect.people import RowPosition
from pipelines.inspect.statistics import LIGHT_RINGS_DEG, FaceStatistics, Histogram, light_slope
from rigface import schema
from rigface.face.rendering.lighting import shade


@settings(max_examples=10, deadline=None)
@given(batch_rows=st.integers(1, 60))
def test_statistics_do_not_depend_on_batch_size(make, batch_rows):
    table = make.faces(60, pictures=False)
    whole, pieces = make.statistics(table), make.statistics(table, batch_rows=batch_rows)
    for field in ("pose", "light", "expression"):
        assert np.array_equal(getattr(whole, field), getattr(pieces, field))
    assert whole.people.most_seen(99) == pieces.people.most_seen(99)
    assert len(whole.people) == 7
    assert whole.least_trusted(5) == pieces.least_trusted(5)


def test_candidates_depend_only_on_seed(make):
    first = make.faces(400, seed=1, pictures=False)
    second = make.faces(400, seed=4, pictures=False, uri=["other.mp4"] * 400)
    forward, backward = make.statistics(first, second, keep=2), make.statistics(second, first, keep=2, batch_rows=7)
    hashes = {c.priority for c in forward.candidates()}
    assert hashes == {c.priority for c in backward.candidates()}
    assert len(hashes) < 400
    assert hashes != {c.priority for c in make.statistics(first, second, keep=2, seed=9).candidates()}


def test_statistics_agree_with_numpy(make):
    table = make.faces(200, pictures=False)
    statistics = make.statistics(table)
    yaw, pitch = (table[name].to_numpy() for name in ("yaw_deg", "pitch_deg"))
    assert statistics.pose[12, 18] == ((yaw >= 0) & (yaw < 5) & (pitch >= 0) & (pitch < 5)).sum()
    assert statistics.pose.sum() == 200
    confidence = table["confidence"].to_numpy()
    assert statistics.numbers["confidence"].quantile(0.5) == pytest.approx(np.median(confidence), abs=0.03)
    jaw = table["expression"].combine_chunks().flatten().to_numpy().reshape(200, 4)[:, 0]
    assert cards.quantiles(statistics.expression[0])[2] == pytest.approx(np.median(jaw), abs=0.02)
    lowest = int(np.argmin(confidence))
    assert statistics.least_trusted(1) == [RowPosition(0, lowest)]


def test_statistics_read_no_pictures():
    assert not {"crop", "mask", "landmarks", "identity_vector"} & set(FaceStatistics.columns())


def test_missing_numbers_are_skipped(make):
    table = make.faces(6, pictures=False, yaw_deg=pa.array([10, None, float("nan"), 1, 2, 3], pa.float32()))
    statistics = make.statistics(table)
    assert statistics.pose.sum() == 4
    assert statistics.ok == 6


@pytest.mark.parametrize(
    ("toward", "ring", "quadrant"),
    [((1, 1, 0.5), 4, 0), ((-1, 1, 0.5), 4, 1), ((-1, -1, 0.5), 4, 2), ((0.01, 0.01, 1), 0, 0)],
)
def test_light_is_counted_by_its_direction(make, toward, ring, quadrant):
    light = np.zeros((1, 9, 3), np.float32)
    light[0, 0], light[0, 1:4] = 3.0, np.array(toward, np.float32)[:, None]
    statistics = make.statistics(make.faces(1, pictures=False, light=schema.column(light, 27)))
    rings, sectors = np.nonzero(statistics.light)
    assert rings.tolist() == [ring]
    assert sectors[0] // 6 == quadrant  # counter-clockwise from the right, up is up
    assert len(statistics.light) == len(LIGHT_RINGS_DEG) - 1


def test_light_slope_is_fitted_to_the_visible_side():
    random = np.random.default_rng(0)
    light = random.normal(size=(5, 9, 3))
    balls = random.normal(size=(200_000, 3))
    balls /= np.linalg.norm(balls, axis=1, keepdims=True)
    balls = balls[balls[:, 2] > 0]
    shading = shade(torch.tensor(balls).expand(5, -1, -1), torch.tensor(light)).numpy() @ [0.2126, 0.7152, 0.0722]
    area = np.sqrt(balls[:, 2:])  # what a piece of the ball takes up in the picture
    plane = np.linalg.lstsq(area * np.c_[np.ones(len(balls)), balls], area * shading.T, rcond=None)[0]
    slope, mean = light_slope(light)
    assert np.allclose(slope, plane[1:].T, atol=0.03)
    assert np.allclose(mean, (shading * balls[:, 2]).sum(1) / balls[:, 2].sum(), atol=0.01)


def test_even_light_has_no_direction(make):
    light = np.zeros((1, 9, 3), np.float32)
    light[0, 0], light[0, 1] = 3.0, 0.01
    statistics = make.statistics(make.faces(1, pictures=False, light=schema.column(light, 27)))
    assert statistics.light.sum() == 0
    assert statistics.light_flat == 1


def test_table_keeps_failed_inputs(make):
    statistics = InputStatistics()
    rows = [{"uri": f"{i:05d}.mp4", "status": "ok" if i % 100 else "error"} for i in range(3 * TABLE_ROWS)]
    for at in range(0, len(rows), 500):
        statistics.add(make.inputs(*rows[at : at + 500]).to_batches()[0])
    kept = statistics.rows()
    assert len(kept) == TABLE_ROWS
    assert sum(row["status"] == "error" for row in kept) == 60
    assert [row["status"] for row in kept[:60]] == ["error"] * 60
    assert statistics.count == 3 * TABLE_ROWS


@given(st.lists(st.floats(-2, 2), min_size=1), st.floats(0, 1))
def test_quantiles_lie_within_the_edges(values, q):
    histogram = Histogram(np.linspace(-1, 1, 9))
    histogram.add(np.array(values))
    assert histogram.total == len(values)
    assert -1 <= histogram.quantile(q) <= 1
