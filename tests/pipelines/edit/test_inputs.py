"""Images of the editing jobs: decoded apart from the command."""

import cv2
import numpy as np
import pytest

from pipelines.edit import inputs
from pipelines.edit.flags import EditFlags, parse_flags
from rigface.errors import PlanError
from rigface.image import encode_png
from rigface.video import sandbox


@pytest.fixture
def trapped(monkeypatch):
    """Decoders whose processes are `Trap`s."""
    real = sandbox.WorkerProcess
    monkeypatch.setattr(sandbox, "WorkerProcess", lambda _, *rest: real("tests.traps:Trap", *rest))
    inputs._decoders.cache_clear()
    yield
    inputs._decoders.cache_clear()


def test_image_that_kills_its_decoder_is_an_error_with_its_name(trapped, tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"crash")
    with pytest.raises(PlanError, match=r"a\.jpg: .*SIGSEGV"):
        inputs.read_image(tmp_path / "a.jpg")


def test_image_of_a_file_is_that_of_its_bytes(tmp_path):
    image = np.arange(36, dtype=np.uint8).reshape(3, 4, 3)
    (tmp_path / "a.png").write_bytes(encode_png(image))
    assert np.array_equal(inputs.read_image(tmp_path / "a.png"), image)


def test_panorama_that_kills_its_decoder_is_an_error_with_its_flag(trapped, tmp_path):
    (tmp_path / "sky.hdr").write_bytes(b"crash")
    with pytest.raises(PlanError, match=r"--hdr .*sky\.hdr: .*SIGSEGV"):
        parse_flags(EditFlags(hdr=tmp_path / "sky.hdr"))


def test_panorama_of_a_file_gives_light(tmp_path):
    (tmp_path / "sky.hdr").write_bytes(cv2.imencode(".hdr", np.full((8, 16, 3), 0.25, np.float32))[1].tobytes())
    assert np.shape(parse_flags(EditFlags(hdr=tmp_path / "sky.hdr"))[0].light.sh) == (9, 3)
