"""Datasets of faces as readers see them: identities joined, inputs put together from any objects and row groups."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rigface import schema
from rigface.dataset.faces import Faces
from rigface.dataset.identities import Identities
from rigface.errors import PlanError
from rigface.testing.fakes import DETECTOR, HEAD

PARTS = {  # object -> row groups -> (uri, track) of their rows
    "aa/aa1": [[("/long", 0), ("/long", 1)], [("/long", 0)]],
    "bb/bb1": [[("/short", 0)], [("/other", 0), ("/mixed", 3)]],
    "cc/cc1": [[("/long", 1)]],
}
NAMES = {("/long", 0): "ann", ("/long", 1): "ben", ("/short", 0): "ann"}


@pytest.fixture
def out(tmp_path):
    frame = iter(range(99))
    for name, groups in PARTS.items():
        path = tmp_path / "faces" / f"{name}.parquet"
        path.parent.mkdir(parents=True)
        wanted = schema.faces_schema(HEAD, DETECTOR)
        with pq.ParquetWriter(path, wanted) as writer:
            for rows in groups:
                uris, tracks = zip(*rows)
                columns = {"uri": list(uris), "track": list(tracks), "frame_index": [next(frame) for _ in rows]}
                writer.write_table(schema.table_of(columns, wanted))
    (tmp_path / "identities").mkdir()
    columns = {"uri": [u for u, _ in NAMES], "track": [t for _, t in NAMES], "identity": list(NAMES.values())}
    pq.write_table(pa.table(columns), tmp_path / "identities" / "some.parquet")
    return tmp_path


def test_identity_is_joined_by_input_and_track(out):
    faces = Faces(str(out))
    for part in faces.parts:
        for row in faces.table(part, ["identity", "track", "uri"]).to_pylist():
            assert row["identity"] == NAMES.get((row["uri"], row["track"]))
    assert faces.table(faces.parts[0]).column_names == faces.schema.names
    assert (faces.head, faces.detector) == (HEAD, DETECTOR)


def test_batches_hold_every_row_at_its_place(out):
    faces = Faces(str(out))
    batches = list(faces.batches(["identity", "frame_index"], rows=2))
    assert [(part[-11:-8], first, len(rows)) for part, first, rows in batches] == [
        ("aa1", 0, 2), ("aa1", 2, 1), ("bb1", 0, 2), ("bb1", 2, 1), ("cc1", 0, 1),
    ]  # fmt: skip
    assert batches[0].rows["identity"].to_pylist() == ["ann", "ben"]


@pytest.mark.parametrize("window", [1, 100])
def test_an_input_comes_once_with_all_its_rows_and_their_places(out, monkeypatch, window):
    monkeypatch.setattr("rigface.dataset.faces.BATCH_ROWS", window)
    faces = Faces(str(out))
    found = {uri: table.to_pydict() for uri, table in faces.by_input(["track", "identity", "frame_index"])}
    assert list(found) == ["/long", "/short", "/other", "/mixed"]
    long = found["/long"]
    assert (long["track"], long["part"], long["row"]) == ([0, 1, 0, 1], [0, 0, 0, 2], [0, 1, 2, 0])
    assert (long["identity"], long["frame_index"]) == (["ann", "ben", "ann", "ben"], [0, 1, 2, 6])
    assert (found["/mixed"]["track"], found["/mixed"]["part"], found["/mixed"]["row"]) == ([3], [1], [2])


def test_only_wanted_inputs_are_read(out):
    assert [uri for uri, _ in Faces(str(out)).by_input(["track"], {"/mixed"}.__contains__)] == ["/mixed"]


def test_identities_of_older_datasets_are_their_column(tmp_path):
    (tmp_path / "faces").mkdir()
    rows = {"uri": ["/a", "/a"], "track": [0, 1], "identity": ["p000000", None]}
    pq.write_table(pa.table(rows), tmp_path / "faces" / "old.parquet")
    assert Faces(str(tmp_path)).table("faces/old.parquet").to_pydict() == rows


def test_folder_without_faces_is_named(tmp_path):
    with pytest.raises(PlanError, match="no faces/ here"):
        _ = Faces(str(tmp_path)).parts


def test_first_person_of_a_track_counts():
    tables = [pa.table({"uri": ["/a"], "track": [0], "identity": [name]}) for name in ("ann", "ben", None)]
    assert Identities(tables).of(pa.array(["/a", "/b"]), pa.array([0, 0]).to_numpy()).to_pylist() == ["ann", None]
