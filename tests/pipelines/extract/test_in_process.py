"""Small jobs without Ray: the same rows, and no import that they do not need."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pipelines.cli import datasets
from pipelines.cli.parser import parse
from pipelines.extract import in_process
from pipelines.extract.config import Pool, Settings, cluster, debug, laptop
from pipelines.extract.job import extract
from pipelines.extract.layout import part_path
from pipelines.extract.plan import UnitPlan
from pipelines.extract.stages import Write
from rigface.errors import StorageGone
from tests.pipelines.conftest import faces_of, inputs_of

CLIP = Path(__file__).parents[2] / "fixtures" / "clip.mp4"


@pytest.mark.slow
def test_rows_are_those_of_ray_to_the_last_bit(ray_cluster, silent, tmp_path):
    """The real detector, fit and masks; this process may use several threads, an actor has one."""
    here, on_ray = (laptop((str(CLIP),), str(tmp_path / name), workers=1) for name in ("here", "on ray"))
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        extract(here, silent)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    extract(replace(on_ray, in_process="never"), silent)
    assert len(faces_of(tmp_path / "here")) == 12
    assert faces_of(tmp_path / "here").equals(faces_of(tmp_path / "on ray"))
    assert inputs_of(tmp_path / "here").equals(inputs_of(tmp_path / "on ray"))


@pytest.mark.slow
def test_job_in_this_process_imports_no_ray(zoo, tmp_path):
    """And torch is not in the process that starts it on Ray, nor in one whose models are fakes."""
    words = ["extract", str(zoo / "short.mp4"), str(tmp_path / "out"), "--preset", "debug", "--log-format", "json"]
    code = f"""
import sys
from pipelines.cli.main import main
import pipelines.extract.job
assert not {{"torch", "ray"}} & sys.modules.keys()
assert main({words!r}) == 0
assert not {{"torch", "ray", "diffusers", "transformers", "mediapipe"}} & sys.modules.keys()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(faces_of(tmp_path / "out")) == 5


def units(count: int, frames: int) -> list[UnitPlan]:
    return [UnitPlan(f"{k}", "a.mp4", k, count, None, frames) for k in range(count)]


@pytest.mark.parametrize(
    ("work", "change", "chosen"),
    [
        (units(1, 1), {}, True),  # a photo
        (units(1, 300), {}, True),  # a minute of video
        (units(200, 1), {}, False),
        (units(2, 300), {}, False),
        (units(1, 300), {"settings": Settings(small_faces=True)}, False),
        (units(1, 300), {"settings": Settings(parser="bisenet")}, False),
        (units(1, 1), {"address": "auto"}, False),
        (units(1, 1), {"reconstruct": Pool(gpus=1)}, False),
        (units(1, 1), {"in_process": "never"}, False),
        (units(99, 300), {"in_process": "always"}, True),
    ],
)
def test_few_seconds_of_work_are_done_in_this_process(work, change, chosen, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert in_process.is_chosen(replace(laptop(), **change), work) == chosen


def test_named_cluster_is_used(monkeypatch):
    assert not in_process.is_chosen(cluster(), units(1, 1))
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert not in_process.is_chosen(laptop(), units(1, 1))


@pytest.mark.parametrize(
    ("flags", "wanted"),
    [([], "auto"), (["--workers", "2"], "never"), (["--workers", "2", "--in-process", "always"], "always")],
)
def test_named_workers_are_started(flags, wanted, monkeypatch):
    ran = []
    monkeypatch.setattr("pipelines.extract.job.extract", lambda config, display: ran.append(config))
    monkeypatch.setattr("pipelines.extract.progress.report", lambda summary, out: None)
    command = parse(["extract", "clips", "out", *flags])
    assert isinstance(command, datasets.ExtractCommand)
    command.run()
    assert [config.in_process for config in ran] == [wanted]


@pytest.mark.slow
def test_output_that_cannot_be_written_is_one_sentence(zoo, silent, tmp_path, monkeypatch):
    def full(self, shard):
        raise OSError(28, "No space left on device", part_path(shard.name))

    monkeypatch.setattr(Write, "__call__", full)
    with pytest.raises(StorageGone, match=r"No space left on device; make room .* run the same command again"):
        extract(debug((str(zoo / "short.mp4"),), str(tmp_path / "out")), silent)
    monkeypatch.undo()
    extract(debug((str(zoo / "short.mp4"),), str(tmp_path / "out")), silent)
    assert len(faces_of(tmp_path / "out")) == 5
