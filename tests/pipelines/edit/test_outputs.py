"""Outputs of the editing jobs: impossible ones are refused before work begins."""

from pathlib import Path

import pytest

from pipelines.edit.outputs import check_writable
from rigface.errors import PlanError


def test_impossible_output_is_refused_in_one_sentence(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(PlanError, match=r"file is a file, not a folder; choose another place"):
        check_writable(tmp_path / "file" / "a" / "out.png")
    with pytest.raises(PlanError, match="is a folder; give the name of a file in it"):
        check_writable(tmp_path)
    with pytest.raises(PlanError, match="a name has 304 bytes; choose one of at most 255"):
        check_writable(tmp_path / ("ü" * 150 + ".png"))
    monkeypatch.setattr("os.access", lambda path, mode: False)  # a read-only disk; root may write anywhere else
    with pytest.raises(PlanError, match="cannot be written to; choose another place"):
        check_writable(tmp_path / "out.png")


def test_output_in_new_folder_is_accepted(tmp_path):
    check_writable(tmp_path / "a" / "b" / "out.png")
    check_writable(Path("out.png"))
