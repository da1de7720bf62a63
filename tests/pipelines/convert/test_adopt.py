"""Datasets whose uris are relative to a root: continued at another place, and made of absolute ones."""

import os
import shutil
from dataclasses import replace
from itertools import chain
from pathlib import Path

import pyarrow as pa
import pytest

from pipelines.convert import adopt
from pipelines.extract.config import debug
from pipelines.extract.dataset import FaceDataset
from pipelines.extract.frame_processor import FrameProcessor
from pipelines.extract.identities import identify
from pipelines.extract.job import extract
from pipelines.extract.plan import Plan, units_of
from pipelines.extract.survey import Surveyor
from rigface.errors import PlanError
from rigface.storage.store import Store
from rigface.testing import fakes
from tests.pipelines.conftest import faces_of, identities_of, inputs_of


@pytest.fixture
def dataset(finished, tmp_path) -> FaceDataset:
    """A copy of the finished dataset, with absolute uris."""
    shutil.copytree(finished, tmp_path / "out")
    return FaceDataset(Store(str(tmp_path / "out")))


def rooted(videos: Path, out: str, root: str | Path):
    config = debug((str(videos),), out)
    return replace(config, settings=replace(config.settings, root=str(root)))


def with_uris_from(table: pa.Table, root: Path) -> pa.Table:
    uris = [os.path.relpath(uri, root) for uri in table["uri"].to_pylist()]
    return table.set_column(table.schema.get_field_index("uri"), table.schema.field("uri"), pa.array(uris))


def assert_adopted(dataset: FaceDataset, finished: Path, root: Path) -> None:
    out = Path(dataset.store.uri)
    assert faces_of(out).equals(with_uris_from(faces_of(finished), root))
    assert inputs_of(out).equals(with_uris_from(inputs_of(finished), root))


@pytest.mark.slow
def test_adopted_dataset_continues_at_another_place_without_work(dataset, finished, zoo, silent, tmp_path):
    assert adopt.adopt(dataset.store, str(zoo) + "/") == 8
    assert_adopted(dataset, finished, zoo)
    moved = shutil.copytree(zoo, tmp_path / "moved")
    (moved / "short.mp4").touch()
    summary = extract(rooted(moved, dataset.store.uri, moved), silent)
    assert (summary.done["units"], sum(count.inputs for count in summary.outcomes.values())) == (0, 8)
    assert_adopted(dataset, finished, zoo)


def test_adopted_dataset_keeps_units_and_identities(dataset, zoo):
    before = sorted(dataset.parts()[0]), sorted(dataset.parts()[1])
    known = identities_of(Path(dataset.store.uri))
    adopt.adopt(dataset.store, str(zoo))
    assert (sorted(dataset.parts()[0]), sorted(dataset.parts()[1])) == before
    planned = {u.unit_id for p in dataset.plans.latest() for u in units_of(p, dataset.info()["config"])}
    records = dataset.units_in(chain(*before))
    assert planned == records.keys()
    assert not any(record.uri.startswith("/") for record in records.values())
    wanted = {(os.path.relpath(uri, zoo), track): name for (uri, track), name in known.items()}
    assert identities_of(Path(dataset.store.uri)) == wanted
    assert identify(dataset.store).added == 0


def test_killed_adoption_is_refused_by_extract_and_continued(dataset, finished, zoo, silent, monkeypatch):
    real, calls = adopt._rewrite_part, []

    def dies(*arguments):
        calls.append(arguments)
        if len(calls) > 1:
            raise KeyboardInterrupt
        real(*arguments)

    monkeypatch.setattr(adopt, "_rewrite_part", dies)
    with pytest.raises(KeyboardInterrupt):
        adopt.adopt(dataset.store, str(zoo))
    monkeypatch.undo()
    assert len(faces_of(Path(dataset.store.uri))) == len(faces_of(finished))
    with pytest.raises(PlanError, match="did not end; run it again"):
        extract(rooted(zoo, dataset.store.uri, zoo), silent)
    with pytest.raises(PlanError, match="`adopt` did not end"):
        adopt.adopt(dataset.store, "/elsewhere")
    adopt.adopt(dataset.store, str(zoo))
    assert_adopted(dataset, finished, zoo)


def test_inputs_outside_of_the_root_are_refused_and_nothing_is_written(dataset, finished, zoo):
    with pytest.raises(PlanError, match="does not lie below the root"):
        adopt.adopt(dataset.store, str(zoo / "sub"))
    assert dataset.info() == FaceDataset(Store(str(finished))).info()
    assert faces_of(Path(dataset.store.uri)).equals(faces_of(finished))


def test_runs_with_and_without_a_root_do_not_mix(dataset, zoo, silent):
    with pytest.raises(PlanError, match=r"absolute uris, .*`rigface adopt .*` rewrites them"):
        extract(rooted(zoo, dataset.store.uri, zoo), silent)
    adopt.adopt(dataset.store, str(zoo))
    with pytest.raises(PlanError, match="add --root with its present place"):
        extract(debug((str(zoo),), dataset.store.uri), silent)
    with pytest.raises(PlanError, match="give `extract --root`"):
        adopt.adopt(dataset.store, str(zoo))


def test_forgotten_input_of_an_adopted_dataset_loses_its_units(dataset, zoo):
    adopt.adopt(dataset.store, str(zoo))
    units = [u.unit_id for u in units_of(dataset.plans.load(["short.mp4"])["short.mp4"], dataset.info()["config"])]
    assert units[0] in dataset.units_in(chain(*dataset.parts()))
    dataset.forget(["short.mp4"])
    assert units[0] not in dataset.units_in(chain(*dataset.parts()))


def test_survey_and_decoding_find_an_input_by_its_path_from_the_root(tmp_path):
    (tmp_path / "a").mkdir()
    fakes.video(tmp_path / "a" / "b.mp4", (0.5,), frames=5)
    settings = replace(debug().settings, root=str(tmp_path))
    plan = Surveyor(settings)("a/b.mp4", print)
    assert (plan.uri, plan.status, plan.shown_frames) == ("a/b.mp4", "ok", 5)
    (unit,) = units_of(plan, "config")
    record, faces = FrameProcessor(settings)(unit, print)
    assert (record.uri, record.status, record.faces) == ("a/b.mp4", "ok", 5)
    assert faces is not None


def test_new_plan_of_an_adopted_input_names_its_units_as_before():
    adopted = Plan("a.mp4", sha256="s", chunks=(None,), expected=(1,), first_uri="/old/a.mp4")
    surveyed = replace(adopted, stamp="other", first_uri="").following(adopted)
    assert [*units_of(surveyed, "c")] == [*units_of(adopted, "c")]
    assert Plan.from_json(surveyed.to_json()) == surveyed
