"""Edits by the models of every recipe on the command line."""

from typing import get_args

import numpy as np
import pytest

from pipelines.cli.main import main
from rigface.face.analyzer import FaceAnalyzer
from rigface.image import decode
from rigface.model.model_config import READS_IDENTITY, RecipeName
from rigface.model.recipes.ip_adapter import IdentityModel
from rigface.testing.toy_start import write_recipes


@pytest.fixture(scope="module")
def recipes(tmp_path_factory):
    return write_recipes(tmp_path_factory.mktemp("recipes"))


@pytest.fixture(scope="module")
def seen(editor, folder):
    """The faces of the photograph, which every recipe edits."""
    return editor.analyzer(decode((folder / "photo.jpg").read_bytes()))


@pytest.mark.parametrize("name", get_args(RecipeName))
def test_recipe_edits_an_image(folder, recipes, seen, tmp_path, monkeypatch, name):
    monkeypatch.setattr(FaceAnalyzer, "__call__", lambda *image: seen)
    vectors, encode = [], IdentityModel.encode_reference
    monkeypatch.setattr(IdentityModel, "encode_reference", lambda *a: vectors.append(a[1]) or encode(*a))
    how = ("--checkpoint", recipes[name], "--quick", "--no-sign", "--steps", 1, "--prompt", "a b")
    words = ("edit", folder / "photo.jpg", tmp_path / "out.png", "--yaw", 5, *how)
    assert main(list(map(str, words))) == 0
    image, was = (decode(file.read_bytes()) for file in (tmp_path / "out.png", folder / "photo.jpg"))
    assert image.shape == was.shape
    assert np.abs(image.astype(int) - was).max() > 20
    assert len(vectors) == (name in READS_IDENTITY)
    assert all(v.shape == (1, 128) and 1.0 < v.norm() < 2.0 for v in vectors)  # as dlib's are
