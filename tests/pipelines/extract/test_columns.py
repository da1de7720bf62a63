"""`--columns`: what nobody asked for is not computed, what is kept is the same."""

from dataclasses import replace

import numpy as np
import pytest

from pipelines.extract import components
from pipelines.extract.config import Settings, debug
from pipelines.extract.job import extract
from rigface import schema
from rigface.dataset.faces import Faces
from rigface.errors import PlanError
from rigface.testing import fakes
from tests.pipelines.conftest import faces_of


def some(zoo, out, columns):
    config = debug((str(zoo),), str(out))
    return replace(config, settings=replace(config.settings, columns=columns), in_process="always")


def test_kept_columns_are_those_of_the_whole_dataset(zoo, finished, tmp_path, silent, monkeypatch):
    monkeypatch.setattr(fakes, "fake_mask", lambda *_: 1 / 0)  # not called
    monkeypatch.setattr(components, "identity", lambda settings: None if settings.identity == "none" else 1 / 0)
    names = ("crop", "expression", "yaw_deg", "face_size_px")
    extract(some(zoo, tmp_path / "out", " ,".join(names)), silent)
    found = faces_of(tmp_path / "out")
    assert set(found.column_names) == {*schema.KEY, *names}
    assert found.equals(faces_of(finished).select(found.column_names).replace_schema_metadata(found.schema.metadata))
    assert not (tmp_path / "out" / "identities").exists()
    with pytest.raises(PlanError, match=r"no column light: it was extracted with other --columns"):
        next(Faces(str(tmp_path / "out")).batches(["light"]))
    with pytest.raises(PlanError, match="columns"):
        extract(some(zoo, tmp_path / "out", "crop"), silent)


def test_landmarks_alone_need_no_crop(zoo, finished, tmp_path, silent, monkeypatch):
    monkeypatch.setattr(fakes.FakeReconstructor, "__call__", lambda *_: 1 / 0)  # not called
    monkeypatch.setattr("pipelines.extract.frame_processor.encode_jpeg", None)
    extract(some(zoo, tmp_path / "out", "landmarks,blendshapes"), silent)
    found = faces_of(tmp_path / "out")
    assert found["landmarks"].equals(faces_of(finished)["landmarks"])
    assert set(found["status"].to_pylist()) == {"ok"}


def test_columns_in_another_order_are_the_same_setting():
    assert Settings(columns="crop, mask,") == Settings(columns="mask,crop")
    assert Settings(columns="mask").identity == "none"
    assert not Settings().kept


def test_unknown_column_is_named_with_those_that_there_are(zoo, tmp_path, silent):
    with pytest.raises(PlanError, match=r"--columns: no column lihgt; there are uri, .*light"):
        extract(some(zoo, tmp_path / "out", "lihgt,crop"), silent)


def test_no_fit_of_colours_changes_no_geometry(fixtures):
    from rigface.face.analyzer import FaceAnalyzer
    from rigface.face.reconstruction.reconstructor import load_reconstructor
    from rigface.video.decode import read_frames

    frame = next(read_frames(str(fixtures / "clip.mp4"))).image
    whole, geometry = load_reconstructor(), load_reconstructor(colours=False)
    (face,) = FaceAnalyzer.load().detector(frame)
    arguments = [frame], face.landmarks[None], face.blendshapes[None], np.array([0])
    a, b = whole(*arguments), geometry(*arguments)
    for name in ("shape", "expression", "head_rotation", "camera"):
        assert np.array_equal(getattr(a.params, name), getattr(b.params, name))
    assert np.isnan(b.occlusion).all()
