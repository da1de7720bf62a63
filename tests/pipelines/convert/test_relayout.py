"""Datasets of the layout before shards: refused by `extract`, converted, and then continued without work."""

import json
from dataclasses import asdict, replace
from itertools import chain
from pathlib import Path

import pyarrow as pa
import pytest

from pipelines import run_info
from pipelines.cli.main import main
from pipelines.convert import relayout
from pipelines.extract.config import debug
from pipelines.extract.dataset import FaceDataset
from pipelines.extract.job import extract
from pipelines.extract.layout import error_path, parquet, part_path, rows_of
from rigface.errors import PlanError
from rigface.storage.store import Store
from tests.pipelines.conftest import faces_of, identities_of, inputs_of


@pytest.fixture
def before(finished, tmp_path) -> Store:
    """The finished dataset in the layout before: an object and a record per unit, and a column `identity`."""
    dataset, store = FaceDataset(Store(str(finished))), Store(str(tmp_path / "before"))
    for path in chain(dataset.store.paths("inputs"), ["faces/schema.parquet"]):
        store.publish(path, dataset.store.read(path))
    FaceDataset(store).plans.add([replace(plan, shards=()) for plan in dataset.plans.latest()])
    people = identities_of(finished)
    with_faces, without = dataset.parts()
    for shard in with_faces:
        records = dataset.records(shard)
        for rows, record in zip(rows_of(dataset.store.table(part_path(shard)), records), records):
            if record.faces:
                names = [people[key] for key in zip(*(rows[n].to_pylist() for n in ("uri", "track")))]
                rows = rows.append_column("identity", pa.array(names))
                about = rows.schema.metadata | {relayout.RECORD_KEY: json.dumps(asdict(record)).encode()}
                about.pop(b"rigface.units")
                store.publish(part_path(record.unit_id), parquet(rows.replace_schema_metadata(about)))
            else:
                store.publish(error_path(record.unit_id), json.dumps(asdict(record)).encode())
    for record in chain.from_iterable(map(dataset.records, without)):
        store.publish(error_path(record.unit_id), json.dumps(asdict(record)).encode())
    run_info.write(store, dataset.info() | {"schema": [relayout.BEFORE, "inputs/1"]})
    return store


def test_converted_dataset_has_the_same_rows_and_people_and_is_continued(before, finished, zoo, silent, tmp_path):
    with pytest.raises(PlanError, match=r"`rigface convert .* NEW`"):
        extract(debug((str(zoo),), before.uri), silent)
    out = tmp_path / "new"
    assert main(["convert", before.uri, str(out)]) == 0
    assert len(list((out / "faces").rglob("*.parquet"))) < len(list(Path(before.uri, "faces").rglob("*.parquet")))
    assert faces_of(out).equals(faces_of(finished))
    assert inputs_of(out).equals(inputs_of(finished))
    assert identities_of(out) == identities_of(finished)
    assert extract(debug((str(zoo),), str(out)), silent).done["units"] == 0


def test_killed_conversion_is_refused_by_extract_and_continued(before, finished, zoo, silent, tmp_path, monkeypatch):
    out = tmp_path / "new"
    monkeypatch.setattr(run_info, "write", lambda *_: pytest.fail("killed"))
    with pytest.raises(pytest.fail.Exception):
        relayout.relayout(before, Store(str(out)), print)
    with pytest.raises(PlanError, match=r"no rigface\.json"):
        extract(debug((str(zoo),), str(out)), silent)
    monkeypatch.undo()
    assert relayout.relayout(before, Store(str(out)), print)["shards"] == 0
    assert faces_of(out).equals(faces_of(finished))


@pytest.mark.slow
def test_unit_that_was_not_done_is_left_to_extract(before, finished, zoo, silent, tmp_path):
    path = next(path for path in before.paths("faces", ".parquet") if not path.endswith("schema.parquet"))
    uri = before.table(path, ["uri"])["uri"][0].as_py()
    before.delete(path)
    FaceDataset(before).reopen([uri])
    out = tmp_path / "new"
    relayout.relayout(before, Store(str(out)), print)
    assert extract(debug((str(zoo),), str(out)), silent).done["units"] == 1
    assert faces_of(out).equals(faces_of(finished))


def test_other_data_is_not_converted_and_not_overwritten(before, finished, tmp_path):
    with pytest.raises(PlanError, match="has the layout faces/2 already"):
        relayout.relayout(Store(str(finished)), Store(str(tmp_path / "new")), print)
    with pytest.raises(PlanError, match="holds data already"):
        relayout.relayout(before, Store(str(finished)), print)
