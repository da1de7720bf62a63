"""Files as strangers have them, through `extract` and `edit`: each becomes what its README says.

The README beside the files explains each of them. One run of `extract` over all; the tests read its output.
"""

import io
from dataclasses import replace
from itertools import islice

import av
import numpy as np
import pyarrow.compute as pc
import pytest
from PIL import Image, ImageCms
from rich.console import Console

from pipelines.cli.main import main
from pipelines.extract.config import Settings, laptop
from pipelines.extract.job import extract
from pipelines.extract.progress import Progress
from rigface.colour import lab
from rigface.image import decode, srgb8_to_linear
from rigface.video.decode import read_frames
from rigface.video_editor import VideoSource
from tests.pipelines.conftest import faces_of, inputs_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

# file -> kind, status, frames in the file, frames read at 6 a second
EXPECTED = {
    "hlg.mov": ("video", "ok", 30, 6),
    "sdr.mp4": ("video", "ok", 30, 6),  # named by list_utf16.txt
    "size_change.webm": ("video", "ok", 60, 12),
    "pcm_stereo.avi": ("video", "ok", 45, 9),
    "dropped_frames.avi": ("video", "ok", 47, 10),
    "play_once.gif": ("video", "ok", 3, 2),
    "midpacket.ts": ("video", "ok", 30, 6),
    "alpha_vp9.webm": ("video", "ok", 30, 6),
    "grey.jpg": ("image", "ok", 1, 1),
    "display_p3.jpg": ("image", "ok", 1, 1),
    "side.jpg": ("image", "ok", 1, 1),
    "photo.avif": ("image", "ok", 1, 1),
}


@pytest.fixture(scope="module")
def field(shared):
    return shared / "data" / "field"


@pytest.fixture(scope="module")
def out(field, tmp_path_factory):
    folder = tmp_path_factory.mktemp("field") / "out"
    inputs = ["list_utf16.txt" if name == "sdr.mp4" else name for name in EXPECTED]
    config = laptop(tuple(str(field / name) for name in inputs), str(folder))
    extract(replace(config, settings=Settings(fps=6), in_process="always"), Progress(Console(file=io.StringIO())))
    return folder


def faces(out, name):
    table = faces_of(out)
    return table.filter(pc.ends_with(table["uri"], "/" + name))


def mean(out, name, column):
    return pc.mean(faces(out, name)[column]).as_py()


def edited(source, target, *flags):
    """Edit a file by the preview, without a signature."""
    words = ("edit", source, target, *flags, "--checkpoint", "preview", "--quick", "--no-sign")
    assert main([str(word) for word in words]) == 0
    return target


@pytest.fixture
def every_fifth(monkeypatch):
    """Of a video only every fifth frame is edited."""
    every = VideoSource.__iter__
    monkeypatch.setattr(VideoSource, "__iter__", lambda self: islice(every(self), None, None, 5))


def sound_s(path):
    """Seconds of sound, of all packets together."""
    with av.open(str(path)) as container:
        return sum(float(frame.samples / frame.sample_rate) for frame in container.decode(audio=0))


def test_each_file_is_read(out):
    rows = {row["uri"].rsplit("/", 1)[-1]: row for row in inputs_of(out).to_pylist()}
    in_file = {
        name: sum(1 for _ in read_frames(row["uri"])) if row["kind"] == "video" else 1 for name, row in rows.items()
    }
    found = {name: (row["kind"], row["status"], in_file[name], row["frames"]) for name, row in rows.items()}
    assert found == EXPECTED
    assert all(len(faces(out, name)) >= read for name, (*_, read) in EXPECTED.items())


def test_hdr_has_the_skin_and_the_exposure_of_its_twin(out):
    tone = {name: mean(out, name, "skin_tone_ita_deg") for name in ("hlg.mov", "sdr.mp4")}
    light = {name: mean(out, name, "exposure") for name in ("hlg.mov", "sdr.mp4")}
    assert (tone["sdr.mp4"], light["sdr.mp4"]) == (pytest.approx(26.4, abs=1.5), pytest.approx(0.273, abs=0.01))
    assert tone["hlg.mov"] == pytest.approx(tone["sdr.mp4"], abs=5)
    assert light["hlg.mov"] == pytest.approx(light["sdr.mp4"], rel=0.05)


def test_edited_hdr_is_as_bright_as_its_twin(field, tmp_path, monkeypatch):
    every = VideoSource.__iter__
    monkeypatch.setattr(VideoSource, "__iter__", lambda self: islice(every(self), 2))
    brightness = [
        np.mean([f.image.mean() for f in read_frames(str(edited(field / name, tmp_path / f"{name}.mp4", "--yaw", 10)))])
        for name in ("hlg.mov", "sdr.mp4")
    ]
    assert brightness[0] == pytest.approx(brightness[1], rel=0.05)


@pytest.mark.usefixtures("every_fifth")
def test_frames_that_change_their_size_are_edited_in_one_size(field, tmp_path):
    frames = list(read_frames(str(edited(field / "size_change.webm", tmp_path / "out.mp4", "--yaw", 10))))
    assert len(frames) == 60 / 5
    assert len({frame.image.shape for frame in frames}) == 1


@pytest.mark.usefixtures("every_fifth")
def test_sound_without_a_channel_layout_is_kept(field, tmp_path):
    source = field / "pcm_stereo.avi"
    target = edited(source, tmp_path / "out.mp4", "--yaw", 10)
    assert sound_s(target) == pytest.approx(sound_s(source), abs=0.05)
    assert len(list(read_frames(str(target)))) == 45 / 5


@pytest.mark.usefixtures("every_fifth")
def test_dropped_frames_leave_picture_and_sound_together(field, out, tmp_path):
    source = field / "dropped_frames.avi"
    times = [frame.time_s for frame in read_frames(str(source))]
    assert len(times) == 47
    assert times[15] == pytest.approx(1.333, abs=0.001)
    read = faces(out, source.name)
    assert read["time_s"].to_pylist() == pytest.approx([times[i] for i in read["frame_index"].to_pylist()])
    target = edited(source, tmp_path / "out.mp4", "--yaw", 10)
    assert [frame.time_s for frame in read_frames(str(target))] == pytest.approx(times[::5], abs=0.001)
    assert sound_s(target) == pytest.approx(sound_s(source), abs=0.05)


def test_transparency_is_white(field):
    for frame in read_frames(str(field / "alpha_vp9.webm")):
        corners = frame.image[[0, 0, -1, -1], [0, -1, 0, -1]]
        assert corners.min() > 250
        assert frame.image[110:130, 110:130].mean() < 240


def test_grey_stays_grey(field, tmp_path):
    image = decode(edited(field / "grey.jpg", tmp_path / "out.png", "--yaw", 15, "--light-azimuth", 60).read_bytes())
    assert np.ptp(image, axis=-1).max() == 0


def test_display_p3_looks_the_same_where_it_is_not_edited(field, tmp_path):
    source = Image.open(field / "display_p3.jpg")
    profile = ImageCms.ImageCmsProfile(io.BytesIO(source.info["icc_profile"]))
    wanted = np.asarray(ImageCms.profileToProfile(source, profile, ImageCms.createProfile("sRGB"), outputMode="RGB"))
    assert np.abs(wanted.astype(int) - np.asarray(source)).mean() > 1  # the profile matters
    image = decode(edited(field / "display_p3.jpg", tmp_path / "out.png", "--smile", 0.6).read_bytes())
    differences = np.linalg.norm(lab(srgb8_to_linear(image)) - lab(srgb8_to_linear(wanted)), axis=-1)
    assert np.median(differences) < 0.5


def test_face_on_its_side_is_found_and_said(field, out, tmp_path, capsys):
    assert abs(faces(out, "side.jpg")["roll_deg"][0].as_py()) == pytest.approx(90, abs=10)
    edited(field / "side.jpg", tmp_path / "out.png", "--yaw", 10)
    assert "is rolled by" in capsys.readouterr().out


def test_avif_is_edited(field, tmp_path):
    assert decode(edited(field / "photo.avif", tmp_path / "out.png", "--yaw", 10).read_bytes()).shape[-1] == 3
