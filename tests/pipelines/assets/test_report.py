"""`rigface assets`: tables, exit statuses, what a profile lacks."""

import shlex
from typing import get_args, get_type_hints

import pytest

from pipelines.assets.check import NEEDS, needs, statuses
from pipelines.cli.main import main
from pipelines.cli.parser import parse
from rigface import assets
from rigface.errors import PlanError
from rigface.profile import FaceProfile
from rigface.testing.official import diffusion, flame, networks


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv(assets.FOLDER_VARIABLE, str(tmp_path / "assets"))
    return tmp_path / "assets"


def test_adopt_prints_file_licence_and_command(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    networks.write_deca(tmp_path / "deca_model.tar")
    assert main(["assets", "adopt", str(tmp_path / "deca_model.tar")]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("deca/"))
    assert line.split("  ")[0] == "deca/deca_model.tar"
    assert "non-commercial research" in line
    assert "rigface extract" in line
    assert assets.find("deca").resolve() == tmp_path / "deca_model.tar"


def test_adopt_of_nothing_known_fails(folder, tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("none")
    assert main(["assets", "adopt", str(tmp_path)]) == 1
    assert main(["assets", "adopt", str(tmp_path / "nowhere")]) == 1
    assert "is neither a folder nor a file" in capsys.readouterr().err


def test_where_prints_the_path(folder, tmp_path, capsys):
    networks.write_bisenet(folder / "bisenet" / "79999_iter.pth")
    assert main(["assets", "where", "bisenet"]) == 0
    assert capsys.readouterr().out.strip() == str(folder / "bisenet" / "79999_iter.pth")
    assert main(["assets", "where", "deca"]) == 1
    assert "DECA's instructions" in capsys.readouterr().err


def test_list_names_every_asset(folder, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "250")
    assert main(["assets", "list"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in assets.ASSETS)


def test_check_of_a_profile_names_what_it_lacks_and_how_to_get_it(folder, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "1000")
    networks.write_bisenet(folder / "bisenet" / "79999_iter.pth")
    assert main(["assets", "check", "rigface"]) == 1
    printed = capsys.readouterr().out
    assert "lacks rigface, sd15, flame, deca, flame_texture, d3dfr, basel\n" in printed
    line = next(line for line in printed.splitlines() if line.startswith("flame:"))
    assert "Register at flame.is.tue.mpg.de" in line
    assert "Unlocks: rigface extract clip.mp4 OUT --head flame" in line


def test_needs_of_the_own_profile_are_in_the_package():
    assert sorted(needs("own")) == ["face_landmarker", "mini", "selfie_segmentation"]
    with pytest.raises(PlanError, match="want one of own, rigface"):
        needs("deca")


def test_every_network_of_a_profile_has_its_assets():
    built_in = {"fit", "open", "none", "colours"}
    fields = ("reconstructor", "head", "texture", "expression_codes", "parser", "detector")
    for field in fields:
        for value in set(get_args(get_type_hints(FaceProfile)[field])) - built_in:
            assert set(NEEDS[field][value]) <= set(assets.ASSETS)


def test_damaged_file_in_place_is_a_problem(folder):
    networks.write_bisenet(folder / "bisenet" / "79999_iter.pth")
    file = folder / "bisenet" / "79999_iter.pth"
    (status,) = statuses(["bisenet"])
    assert status.problem == ""
    file.write_bytes(file.read_bytes()[:2000])
    (status,) = statuses(["bisenet"])
    assert "79999_iter.pth: it is damaged" in status.problem


def test_damaged_network_in_a_folder_is_a_problem(folder):
    diffusion.write_rigface(folder / "rigface")
    assert [s.problem for s in statuses(["rigface"])] == [""]
    weights = folder / "rigface" / "unet_id" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert "it ends too early" in statuses(["rigface"])[0].problem


@pytest.mark.parametrize("name", [name for name, asset in assets.ASSETS.items() if asset.unlocks])
def test_command_that_an_asset_unlocks_parses(name):
    parse(shlex.split(assets.ASSETS[name].unlocks)[1:])


def test_flame_without_its_template_is_incomplete(folder):
    flame.write_flame(folder / "flame", steps=0, texture=False)
    assert [s.problem for s in statuses(["flame"])] == [""]
    (folder / "flame" / "head_template.obj").unlink()
    assert "head_template.obj is not beside it" in statuses(["flame"])[0].problem
