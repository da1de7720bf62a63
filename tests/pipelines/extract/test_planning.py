"""Planning: the memory of the driver is bounded, and Ray starts meanwhile."""

import threading
import tracemalloc
from dataclasses import replace

import pytest

from pipelines.extract import components, finalize, in_process, planning
from pipelines.extract.config import debug
from pipelines.extract.dataset import FaceDataset
from pipelines.extract.job import extract
from pipelines.extract.plan import Plan
from pipelines.extract.unit import Record
from pipelines.inputs import sources
from rigface.storage.store import Store
from rigface.testing import fakes
from rigface.video.decode import Chunk

CHUNKS = 10  # of a film
MAX_BYTES = 2e9  # of the driver
NAMES_BYTES = 4 * 12 * 10e6  # of four sets of ten million clips


@pytest.fixture
def peak(tmp_path, silent, monkeypatch):
    """The peak memory of a run on so many films, none of which is read, with so many units in a group."""
    chunks = tuple(Chunk(k, 300 * k, 300 * (k + 1), 60.0 * k, 1500 * k, 90_000 * k, 0) for k in range(CHUNKS))

    def survey(uris, *_):
        film = Plan("", "1 2", "video", sha256="0" * 64, rate=5.0, expected=(300,) * CHUNKS)
        return [replace(film, uri=uri, chunks=tuple(replace(chunk) for chunk in chunks)) for uri in uris]

    def run_shards(config, head, detector, shards, say):
        yield from ([Record.of(unit) for unit in units] for units in shards)

    monkeypatch.setattr(components, "specs", lambda settings: (fakes.HEAD, fakes.DETECTOR))
    monkeypatch.setattr(planning, "survey", survey)
    for module, limit in ((planning, "SLICE"), (planning, "FLUSH_ROWS"), (finalize, "FLUSH_ROWS")):
        monkeypatch.setattr(module, limit, 10)
    monkeypatch.setattr(in_process, "run_shards", run_shards)
    monkeypatch.setattr(FaceDataset, "records", lambda self, shard: [])

    def run(films: int, group: int) -> int:
        uris = [f"/films/{k:06}.mp4" for k in range(films)]
        monkeypatch.setattr(sources, "find_all", lambda *_: iter(uris))
        monkeypatch.setattr(planning, "GROUP_UNITS", group)
        config = replace(debug(("films",), str(tmp_path / f"{films} {group}")), in_process="always", identities=False)
        tracemalloc.start()
        summary = extract(config, silent)
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert summary.done["units"] == films * CHUNKS
        return size

    run(1, 50)  # imports
    return run


@pytest.mark.slow
def test_driver_of_many_films_holds_the_units_of_one_group(peak):
    at_most = planning.GROUP_UNITS
    few, many, larger_groups = peak(20, 50), peak(60, 50), peak(60, 500)
    assert many < 1.5 * few
    bytes_per_unit = (larger_groups - many) / (500 - 50)
    assert bytes_per_unit * at_most + NAMES_BYTES < MAX_BYTES


@pytest.mark.parametrize(
    ("change", "inputs", "wanted"),
    [({}, 3, False), ({}, 200, True), ({"in_process": "never"}, 3, True), ({"in_process": "always"}, 200, False)],
)
def test_ray_starts_while_inputs_are_surveyed_if_it_is_needed(tmp_path, monkeypatch, change, inputs, wanted):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    started, surveyed = threading.Event(), []

    def survey(uris, *_):
        surveyed.append(started.wait(10 if wanted else 0))
        return [Plan(uri, sha256="0") for uri in uris]

    monkeypatch.setattr(planning, "survey", survey)
    config = replace(debug(("clips",), str(tmp_path)), **change)
    dataset = FaceDataset(Store(config.out))
    planner = planning.Planner(config, dataset, "config", started.set, lambda text: None)
    (plans,) = planner.groups(iter([f"{k:03}.mp4" for k in range(inputs)]))
    assert len(plans) == inputs
    assert started.is_set() == wanted
    assert surveyed == [wanted] * len(surveyed)
