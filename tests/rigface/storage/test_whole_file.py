"""Files that are whole or absent, also on a full disk."""

import errno
import os

import pytest

from rigface.storage.store import Store
from rigface.storage.whole_file import write_whole


def test_file_is_replaced_with_the_rights_asked_for(tmp_path):
    path = tmp_path / "folder" / "keys.jsonl"
    write_whole(path, b"old", 0o600)
    write_whole(path, b"new", 0o600)
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"new", 0o600)
    assert os.listdir(path.parent) == [path.name]


def test_full_disk_keeps_the_old_file_and_leaves_nothing(tmp_path, no_room):
    path = tmp_path / "edit.json"
    write_whole(path, b"old")
    with no_room(10), pytest.raises(OSError, match="File too large") as error:
        write_whole(path, bytes(100))
    assert (error.value.errno, error.value.filename) == (errno.EFBIG, str(path))
    assert (path.read_bytes(), os.listdir(tmp_path)) == (b"old", ["edit.json"])


@pytest.mark.parametrize("replace", [False, True])
def test_object_that_cannot_be_stored_is_named_and_leaves_nothing(tmp_path, no_room, replace):
    store = Store(str(tmp_path))
    with no_room(10), pytest.raises(OSError, match="File too large") as error:
        store.publish("faces/a.parquet", bytes(100), replace=replace)
    assert error.value.filename == str(tmp_path / "faces" / "a.parquet")
    assert not [name for _, _, names in os.walk(tmp_path) for name in names]


def test_name_taken_by_a_folder_leaves_nothing(tmp_path):
    (tmp_path / "faces").mkdir()
    with pytest.raises(IsADirectoryError, match="faces"):
        Store(str(tmp_path)).publish("faces", b"a")
    assert not [name for _, _, names in os.walk(tmp_path) for name in names]


def test_longest_name_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    out = tmp_path / "new" / ("n" * 251 + ".png")
    write_whole(out, b"data")
    assert out.read_bytes() == b"data"
    monkeypatch.setattr("os.replace", lambda *paths: int("full"))
    with pytest.raises(ValueError, match="full"):
        write_whole(out, b"other")
    assert [p.name for p in out.parent.iterdir()] == [out.name]
    assert out.read_bytes() == b"data"
