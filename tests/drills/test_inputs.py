"""Drills: inputs that crash their decoder, that are read in half, and sources that are away."""

import shutil
from collections import Counter
from dataclasses import replace
from itertools import chain
from pathlib import Path

import pytest

from pipelines.extract import dataflow
from pipelines.extract.config import debug
from pipelines.extract.dataset import FaceDataset
from pipelines.extract.job import extract
from rigface.errors import JobBroken
from rigface.storage.store import Store
from rigface.testing import fakes
from tests.drills.count import inputs
from tests.drills.poison import HalfReadFrameProcessor, poisoned

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def test_poisoned_inputs(clips, silent, nothing_lost, tmp_path, monkeypatch):
    """Two files that crash the decoder, in shards with good ones: two tries and a row each, and the others' rows."""
    folder, out, tries = tmp_path / "clips", tmp_path / "out", tmp_path / "tries"
    shutil.copytree(clips, folder)
    for i in range(2):
        fakes.video(folder / f"poison {i}.mp4", (0.5,), frames=6, seed=i)
    monkeypatch.setattr(dataflow, "stage_arguments", poisoned(dataflow.stage_arguments, tries))
    summary = extract(debug((str(folder),), str(out)), silent)
    assert Counter(tries.read_text().splitlines()) == {str(folder / f"poison {i}.mp4"): 2 for i in range(2)}
    dataset = FaceDataset(Store(str(out)))
    shards = [{Path(record.uri).name for record in dataset.records(shard)} for shard in chain(*dataset.parts())]
    assert any("poison 0.mp4" in names and len(names) > 1 for names in shards), "it had no neighbours"
    quarantined = {name: rows[0] for name, rows in inputs(str(out)).items() if "poison" in name}
    assert len(quarantined) == 2
    for row in quarantined.values():
        assert (row["status"], row["stage"]) == ("error", "decode")
        assert row["reason"] == "decode crashed 2 times on it: SIGSEGV"
    monkeypatch.undo()
    assert extract(debug((str(folder),), str(out)), silent).done["units"] == 0  # not tried again without --retry-errors
    assert summary.inputs == len(list(Path(folder).iterdir()))
    without(out, "poison")
    nothing_lost(str(out), quarantined=len(quarantined))


def test_half_read_units_are_repaired(clips, silent, nothing_lost, tmp_path, monkeypatch):
    """A disk that fails in the middle of four files: what was read counts as unfinished, and `--retry-errors` repairs
    it.
    """
    out, log = tmp_path / "out", tmp_path / "log"
    config = debug((str(clips),), str(out))
    monkeypatch.setattr(dataflow, "stage_arguments", poisoned(dataflow.stage_arguments, log, HalfReadFrameProcessor))
    extract(replace(config, identities=False), silent)
    monkeypatch.undo()
    read = log.read_text().splitlines()
    broken = {name for name, (row, *_) in inputs(str(out)).items() if row["stage"] == "decode" and row["faces"]}
    assert len(broken) >= 4
    assert all(inputs(str(out))[name][0]["status"] == "partial" for name in broken)
    assert extract(replace(config, identities=False), silent).done["units"] == 0  # not without --retry-errors
    assert extract(replace(config, retry_errors=True), silent).done["units"] >= len(read)
    nothing_lost(str(out), half_read=len(read))


def test_sources_that_are_away(clips, silent, nothing_lost, tmp_path):
    """All sources away stop the job; some away are reported; both times every row stays."""
    folder, away, out = tmp_path / "clips", tmp_path / "away", tmp_path / "out"
    shutil.copytree(clips, folder)
    paths = sorted(folder.iterdir())
    (tmp_path / "list.txt").write_text("\n".join(map(str, paths)))
    config = debug((str(tmp_path / "list.txt"),), str(out))
    extract(config, silent)
    folder.rename(away)
    with pytest.raises(JobBroken, match="mount the disk"):
        extract(config, silent)
    away.rename(folder)
    paths[0].unlink()
    summary = extract(config, silent)
    assert (summary.done["units"], summary.outcomes["unreachable", ""].inputs) == (0, 1)
    nothing_lost(str(out), unreachable=1)


def without(out: Path, word: str) -> None:
    """Remove the rows of some inputs from inputs/, to compare the others."""
    output = FaceDataset(Store(str(out)))
    output.reopen([uri for uri in output.inputs()["uri"].to_pylist() if word in uri.rpartition("/")[2]])
