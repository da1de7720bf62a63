"""Configuration of the extract job: presets, settings hash, refused values."""

from dataclasses import asdict, astuple, dataclass, replace

import pytest

from pipelines.extract.config import (
    PRESETS,
    STAGES,
    ExtractConfig,
    Pool,
    Settings,
    config_hash,
    differences,
    laptop,
)
from rigface.errors import PlanError
from rigface.types import DetectorSpec, HeadSpec

HEAD = HeadSpec("h", "1", 2, 3, 4)
DETECTOR = DetectorSpec("d", "1", 5)


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
def test_preset_runs_each_stage_once_and_in_order(preset):
    pools = preset(("in",), "out", workers=3).pools
    assert tuple(name for names, _ in pools for name in names) == STAGES


def test_pools_of_a_later_group_start_on_half_of_the_cluster_at_most():
    config = ExtractConfig(
        ("in",),
        "out",
        detect_faces=Pool(4, 64),
        reconstruct=Pool(1, 16),
        mask_and_score=Pool(shared=True),
        write=Pool(3),
    )
    large, small = {"CPU": 1000.0}, {"CPU": 80.0}

    def actors(*asked, **changed):
        return [pool.actors for _, pool in replace(config, **changed).grown(*asked).pools]

    assert actors(large, 10_000) == [64, 16, 3]
    assert actors(small, 10_000) == [32, 8, 3]
    assert actors(small, 10_000, shard="1/4") == [8, 2, 3]
    assert actors(large, 40) == [10, 10, 3]
    assert actors({}, 10_000) == [4, 1, 3]
    assert laptop().grown(large, 10_000) == laptop()


def test_shared_stage_runs_in_the_actors_of_the_stage_before():
    config = ExtractConfig(("in",), "out", mask_and_score=Pool(shared=True), write=Pool(actors=3, cpus=0.5))
    assert [names for names, _ in config.pools] == [("detect_faces",), ("reconstruct", "mask_and_score"), ("write",)]
    assert config.cpus == 1 + 1 + 1.5


def test_workers_is_the_number_of_detect_faces_actors():
    assert laptop(("in",), "out", workers=7).detect_faces.actors == 7


@pytest.mark.parametrize(
    "change",
    [{"fps": 1.0}, {"small_faces": True}, {"head": "flame"}, {"chunk_frames": 7}, {"jpeg_quality": 80}],
    ids=str,
)
def test_every_setting_changes_the_hash(change):
    assert config_hash(Settings(**change), HEAD, DETECTOR) != config_hash(Settings(), HEAD, DETECTOR)


def test_hash_of_stored_datasets_does_not_change():
    assert config_hash(Settings(), HEAD, DETECTOR) == "de64fcbf4ea562da"


def test_masks_of_datasets_are_by_colours_unless_chosen():
    """Rows of a dataset that is continued must not change when the masks of edits do."""
    assert Settings().parser == "colours"
    assert Settings(parser="selfie").parser == "selfie"
    assert Settings(profile="rigface").parser == "bisenet"


def test_folders_of_models_and_inputs_do_not_change_the_hash():
    mounted = Settings(detector_folder="/a", identity_folder="/b", parser_folder="/c", root="/d")
    assert config_hash(mounted, HEAD, DETECTOR) == config_hash(Settings(), HEAD, DETECTOR)


def test_field_added_later_does_not_change_the_hash_at_its_default():
    @dataclass(frozen=True)
    class Later(HeadSpec):
        teeth: int = 0

    assert config_hash(Settings(), Later(*astuple(HEAD)), DETECTOR) == config_hash(Settings(), HEAD, DETECTOR)
    assert config_hash(Settings(), Later(*astuple(HEAD), 2), DETECTOR) != config_hash(Settings(), HEAD, DETECTOR)


def test_head_and_detector_versions_change_the_hash():
    base = config_hash(Settings(), HEAD, DETECTOR)
    assert config_hash(Settings(), replace(HEAD, version="2"), DETECTOR) != base
    assert config_hash(Settings(), HEAD, replace(DETECTOR, version="2")) != base


def test_integer_and_float_fps_have_one_hash():
    assert config_hash(Settings(fps=5), HEAD, DETECTOR) == config_hash(Settings(fps=5.0), HEAD, DETECTOR)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Settings(fps=0),
        lambda: Settings(chunk_frames=0),
        lambda: Settings(jpeg_quality=101),
        lambda: Pool(actors=0),
        lambda: Pool(actors=4, max_actors=2),
        lambda: ExtractConfig((), "out"),
        lambda: ExtractConfig(("in",), "out", detect_faces=Pool(shared=True)),
        lambda: ExtractConfig(("in",), "out", Settings(detector="insightface"), detect_faces=Pool(gpus=1)),
    ],
)
def test_wrong_value_is_refused_by_name(wrong):
    with pytest.raises(PlanError, match=r"want|nothing|detect_faces|pool"):
        wrong()


def test_differences_name_field_and_both_values():
    now, before = asdict(Settings(fps=2)), asdict(Settings())
    assert differences(now, before) == ["fps: 5.0 -> 2.0"]
    assert differences(now, now) == []
