"""Presets fit together, settings name themselves, and slips are refused before any work."""

from dataclasses import asdict, replace

import pytest

from pipelines.extract.config import (
    PRESETS,
    STAGES,
    Extract,
    Pool,
    Settings,
    config_hash,
    differences,
    laptop,
    settings_of,
)
from rigface.errors import PlanError
from rigface.types import DetectorSpec, HeadSpec

HEAD = HeadSpec("h", "1", 2, 3, 4)
EYES = DetectorSpec("d", "1", 5)


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
def test_each_preset_runs_each_stage_once_and_in_order(preset):
    pools = preset(("in",), "out", workers=3).pools
    assert tuple(name for names, _ in pools for name in names) == STAGES


def test_shared_stages_run_in_the_actors_of_the_stage_before():
    config = Extract(("in",), "out", finish=Pool(shared=True), write=Pool(actors=3, cpus=0.5))
    assert [names for names, _ in config.pools] == [("look",), ("reconstruct", "finish"), ("write",)]
    assert config.cpus == 1 + 1 + 1.5


def test_workers_decide_how_many_look():
    assert laptop(("in",), "out", workers=7).look.actors == 7


@pytest.mark.parametrize(
    "change",
    [{"fps": 1.0}, {"small_faces": True}, {"head": "flame"}, {"chunk_frames": 7}, {"jpeg_quality": 80}],
    ids=str,
)
def test_every_setting_changes_the_hash(change):
    assert config_hash(Settings(**change), HEAD, EYES) != config_hash(Settings(), HEAD, EYES)


def test_head_and_detector_versions_change_the_hash():
    base = config_hash(Settings(), HEAD, EYES)
    assert config_hash(Settings(), replace(HEAD, version="2"), EYES) != base
    assert config_hash(Settings(), HEAD, replace(EYES, version="2")) != base


def test_five_is_five_point_zero():
    assert config_hash(Settings(fps=5), HEAD, EYES) == config_hash(Settings(fps=5.0), HEAD, EYES)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Settings(fps=0),
        lambda: Settings(chunk_frames=0),
        lambda: Settings(jpeg_quality=101),
        lambda: Pool(actors=0),
        lambda: Pool(actors=4, most=2),
        lambda: Extract((), "out"),
        lambda: Extract(("in",), "out", look=Pool(shared=True)),
        lambda: Extract(("in",), "out", look=Pool(gpus=1)),
    ],
)
def test_slips_are_refused_by_name(wrong):
    with pytest.raises(PlanError, match=r"want|nothing|look|CUDA|pool"):
        wrong()


def test_differences_are_said_in_words():
    now, before = asdict(Settings(fps=2)), asdict(Settings())
    assert differences(now, before) == ["fps: 5.0 -> 2.0"]
    assert differences(now, now) == []


def test_settings_come_back_from_json():
    assert settings_of({**asdict(Settings(fps="all")), "from_the_future": 1}) == Settings(fps="all")
