"""`rigface assets check --reproduce`: ours against the intermediates of a clone."""

from dataclasses import replace
from itertools import islice

import numpy as np
import pytest

from pipelines.assets import reproduce
from pipelines.assets.adoption import adopt
from pipelines.cli.main import main
from rigface import assets
from rigface.conditions import Composer
from rigface.errors import PlanError
from rigface.face.analyzer import FaceAnalyzer
from rigface.face.steps import align
from rigface.image import encode_png
from rigface.model.model_config import RELEASED
from rigface.testing.official.downloads import write_downloads
from rigface.types import FaceParams
from rigface.video.decode import read_frames


def params(number):
    values = {"shape": 2, "expression": 2, "head_rotation": 3, "jaw_rotation": 3, "camera": 3, "albedo": 2}
    arrays = {name: np.full(size, number, np.float32) for name, size in values.items()}
    return FaceParams(**arrays, light=np.full((9, 3), number, np.float32), bfm_expression=np.full(64, number))


@pytest.mark.parametrize(
    ("mode", "base", "expression", "light"),
    [
        ("pose", 2, 1, 1),
        ("pose+exp", 2, 2, 1),
        ("pose+exp+light", 2, 2, 2),
        ("exp", 1, 2, 2),
        ("light", 1, 1, 1),
        ("exp+light", 1, 2, 1),
        ("sor", 1, 1, 2),
        ("tar", 1, 2, 2),
    ],
)
def test_traits_are_mixed_as_the_released_code_mixes_them(mode, base, expression, light):
    before, after = reproduce.as_released(mode, params(1), params(2))
    assert before.shape[0] == after.shape[0] == after.camera[0] == after.head_rotation[0] == after.albedo[0] == base
    assert after.expression[0] == after.jaw_rotation[0] == after.bfm_expression[0] == expression
    assert after.light[0, 0] == light


def test_folder_without_intermediates_is_a_plan_error(tmp_path):
    with pytest.raises(PlanError, match="has no pictures sor"):
        next(reproduce.reproduce(tmp_path))


def test_own_intermediates_agree_and_changed_ones_do_not(tmp_path, fixtures, monkeypatch, capsys):
    """The whole path on stand-ins: what our own conditions are is written as a clone would ship it."""
    monkeypatch.setenv(assets.FOLDER_VARIABLE, str(tmp_path / "assets"))
    adopt((write_downloads(tmp_path / "downloads"),), tmp_path / "assets")
    analyzer, composer = FaceAnalyzer.load(RELEASED.profile), Composer(RELEASED.conditions)
    monkeypatch.setattr(FaceAnalyzer, "load", lambda profile: analyzer)  # loaded once
    folder = tmp_path / "clone" / "utils" / "test_images" / "id1"
    folder.mkdir(parents=True)
    frames = [frame.image for frame in islice(read_frames(str(fixtures / "clip.mp4")), 30)]
    for stem, frame in (("sor", frames[0]), ("tar", frames[-1])):
        (folder / f"{stem}.png").write_bytes(encode_png(align([frame], analyzer.detector(frame)).crops[0]))
    source, target = (reproduce._face(analyzer, folder / f"{stem}.png") for stem in ("sor", "tar"))
    monkeypatch.setattr(reproduce, "_face", lambda _, path: source if path.stem == "sor" else target)
    before, after = reproduce.as_released("pose", source.params, target.params)
    drawn = composer(replace(source, params=before), after).conditions.render
    background = composer(source, source.params, target.mask).conditions.background
    (folder / "render_pose.png").write_bytes(encode_png(drawn))
    (folder / "bg_pose.png").write_bytes(encode_png(background))
    np.save(folder / "exp_pose.npy", after.bfm_expression)
    (folder / "render_exp.png").write_bytes(encode_png(drawn[:, ::-1]))
    (folder / "bg_exp.png").write_bytes(encode_png(source.crop))
    np.save(folder / "exp_exp.npy", after.bfm_expression + 0.1)
    assert main(["assets", "check", "--reproduce", str(tmp_path / "clone")]) == 1
    lines = capsys.readouterr().out.splitlines()
    passed = {line.split(": ")[0].rpartition("/")[2]: line.rpartition(" ")[2] for line in lines if line[:2] == "ok"}
    assert passed == {"exp_pose.npy": "0", "render_pose.png": "inf", "bg_pose.png": "1"}
    assert lines[-1] == "3 differ"
