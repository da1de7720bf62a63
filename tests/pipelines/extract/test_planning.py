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
NAMES_BYTES = (4 * 12 + 16) * 10e6  # of ten million clips: four sets of names, and the part of each one's plan
NEW_NAME_BYTES = 5 * 140  # of the first names of five sets, each of which begins a bucket


@pytest.fixture
def peak(tmp_path, silent, monkeypatch):
    """The peak memory of a run on so many films, none of which is read, with so many units in a group and in a film."""

    def survey(uris, *_):
        film = Plan("", "1 2", "video", sha256="0" * 64, rate=5.0)
        return [
            replace(film, uri=uri, expected=(300,) * len(made), chunks=made) for uri in uris for made in [chunks(uri)]
        ]

    def chunks(uri):
        parts = range(int(uri.partition("-")[0]))
        return tuple(Chunk(k, 300 * k, 300 * (k + 1), 60.0 * k, 1500 * k, 90_000 * k, 0) for k in parts)

    def run_shards(config, head, detector, shards, say):
        yield from ([Record.of(unit) for unit in units] for units in shards)

    monkeypatch.setattr(components, "specs", lambda settings: (fakes.HEAD, fakes.DETECTOR))
    monkeypatch.setattr(planning, "survey", survey)
    for module, limit, at_most in (
        (planning, "WINDOW", 50),
        (planning, "FLUSH_ROWS", 10),
        (finalize, "FLUSH_ROWS", 10),
    ):
        monkeypatch.setattr(module, limit, at_most)
    monkeypatch.setattr(in_process, "run_shards", run_shards)
    monkeypatch.setattr(FaceDataset, "records", lambda self, shard: [])

    def run(films: int, group: int, units: int = CHUNKS) -> int:
        uris = (f"{units}-{k % 16:x}-{k:06}.mp4" for k in range(films))  # not sorted
        monkeypatch.setattr(sources, "_expand", lambda named: ((uri, uri) for uri in uris))
        monkeypatch.setattr(planning, "GROUP_UNITS", group)
        out = str(tmp_path / f"{films} {group} {units}")
        config = replace(debug(("films",), out), in_process="always", identities=False)
        tracemalloc.start()
        summary = extract(config, silent)
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert summary.done["units"] == films * units
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


@pytest.mark.slow
def test_driver_of_many_clips_holds_their_hashes_alone(peak):
    few, many = peak(100, 50, 1), peak(400, 50, 1)
    assert (many - few) / 300 < NEW_NAME_BYTES, few


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
