"""Demo: one edit of a video through HTTP, and its report."""

import pytest

from rigface.errors import PlanError
from rigface.image import decode
from serve.api.routes import Services
from serve.demo import show
from serve.inference.diffusion_worker import DiffusionWorker
from serve.local import free_port
from tests.serve.conftest import listening


@pytest.fixture(scope="module")
def url(face_worker):
    """A service without a checkpoint, as a newcomer has it."""
    with listening(Services(face_worker, DiffusionWorker.load({}))) as url:
        yield url


def test_demo_edits_a_video_frame_and_reports_the_model(url, fixtures, tmp_path):
    report = show(url, fixtures / "clip.mp4", tmp_path)
    assert decode((tmp_path / "edited.png").read_bytes()).shape == (360, 640, 3)
    assert "by the instant preview" in report
    assert "No trained model is loaded; start the service with --checkpoint FOLDER" in report
    assert report.endswith(f"The editor: {url}/")
    assert "asked  achieved\n  turn                  14.0" in report


def test_demo_of_an_image_without_a_face_is_refused(url, flat, tmp_path):
    (tmp_path / "flat.jpg").write_bytes(flat)
    with pytest.raises(PlanError, match="no face found"):
        show(url, tmp_path / "flat.jpg", tmp_path)


def test_used_port_is_refused(url):
    port = int(url.rpartition(":")[2])
    with pytest.raises(ValueError, match=f"--port {port}"):
        free_port("127.0.0.1", port)
    assert free_port("127.0.0.1", 0) > 1023
