"""Hostile inputs through the real detector and the real fit: each ends as the expected row.

The README beside the files explains each of them. One run over all of them; the tests read its output.
"""

import io
import resource
from dataclasses import replace

import numpy as np
import pyarrow.compute as pc
import pytest
from rich.console import Console

from pipelines.extract.config import Settings, laptop
from pipelines.extract.frame_processor import FrameProcessor
from pipelines.extract.job import extract
from pipelines.extract.plan import units_of
from pipelines.extract.progress import Progress
from pipelines.extract.survey import Surveyor
from pipelines.telemetry.worker_process import WorkerProcess
from rigface.video.decode import read_frames
from tests.pipelines.conftest import faces_of, identities_of, inputs_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

# file -> status, frames at 6 a second, faces, words of the reason
EXPECTED = {
    "b01_zero_byte.mp4": ("error", 0, 0, "empty file"),
    "b02_truncated_no_moov.mp4": ("error", 0, 0, "unreadable container"),
    "b03_truncated_mdat.mp4": ("partial", 5, 5, "data ends early"),
    "b04_mp4_named_jpg.jpg": ("ok", 12, 12, None),
    "b05_text_named_mp4.mp4": ("error", 0, 0, "not a video"),
    "b06_no_face.mp4": ("no_face", 12, 0, None),
    "b07_single_frame.mp4": ("ok", 1, 1, None),
    "b08_variable_frame_rate.mp4": ("ok", 25, 25, None),
    "b09_rotated_metadata_90.mp4": ("ok", 12, 12, None),
    "b10_odd_size_173x251.mp4": ("ok", 12, 12, None),
    "b11_audio_only.mp4": ("error", 0, 0, "no video stream"),
    "b12_4k_tiny_face.jpg": ("ok", 1, 1, None),
    "b13_cmyk.jpg": ("ok", 1, 1, None),
    "b14_16bit.png": ("ok", 1, 1, None),
    "b15_grey.jpg": ("ok", 1, 1, None),
    "b16_bomb_400mp.png": ("error", 0, 0, "400 megapixels"),
    "b17_animated.gif": ("ok", 9, 9, None),
    "b18_exif_orientation_6.jpg": ("ok", 1, 1, None),
    "b19_corrupt_scan.jpg": ("ok", 1, 1, None),
    "b20_truncated.jpg": ("error", 0, 0, "truncated picture"),
    "b21 ünïcode имя 顔 (copy).mp4": ("ok", 12, 12, None),
    "b22_alpha_rgba.png": ("ok", 1, 1, None),
    "b23_dog_false_positive.jpg": ("ok", 1, 1, None),
    "b24_painting.jpg": ("ok", 1, 1, None),
    "b25_no_face_real.mp4": ("no_face", 24, 0, None),
    "b26_edit_list.mp4": ("ok", 13, 13, None),
}


@pytest.fixture(scope="module")
def bad(shared):
    return shared / "data" / "bad"


@pytest.fixture(scope="module")
def out(bad, tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile") / "out"
    config = laptop((str(bad),), str(folder))
    extract(replace(config, settings=Settings(fps=6), in_process="always"), Progress(Console(file=io.StringIO())))
    return folder


@pytest.fixture(scope="module")
def rows(out):
    return {row["uri"].rsplit("/", 1)[-1]: row for row in inputs_of(out).to_pylist()}


def faces(out, name):
    table = faces_of(out)
    return table.filter(pc.ends_with(table["uri"], "/" + name))


def test_every_file_has_a_row(bad, rows):
    assert rows.keys() == EXPECTED.keys() == {p.name for p in bad.iterdir() if p.name.startswith("b")}


@pytest.mark.parametrize("name", EXPECTED)
def test_row_of_hostile_input(rows, name):
    status, frames, count, words = EXPECTED[name]
    row = rows[name]
    assert (row["status"], row["frames"], row["faces"]) == (status, frames, count)
    if words is None:
        assert row["reason"] is row["stage"] is None
    else:
        assert words in row["reason"]
        assert row["stage"] == "decode"


def test_faces_have_no_errors(out):
    assert set(faces_of(out)["status"].to_pylist()) == {"ok"}


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("b09_rotated_metadata_90.mp4", (256, 320)),
        ("b18_exif_orientation_6.jpg", (410, 512)),
        ("b10_odd_size_173x251.mp4", (173, 251)),
    ],
)
def test_frames_are_upright(rows, out, name, size):
    assert (rows[name]["width"], rows[name]["height"]) == size
    table = faces(out, name)
    assert np.abs(table["roll_deg"].to_numpy()).max() < 20
    boxes = np.array(table["box"].to_pylist())
    assert boxes.min() > -20
    assert (boxes[:, 2:] < np.add(size, 20)).all()


@pytest.mark.parametrize(
    ("name", "frames", "steps"), [("b08_variable_frame_rate.mp4", 60, {1, 2, 5}), ("b26_edit_list.mp4", 55, None)]
)
def test_times_are_presentation_times(bad, out, name, frames, steps):
    times = np.array([frame.time_s for frame in read_frames(str(bad / name))])
    assert (len(times), times[0]) == (frames, 0)
    if steps:
        assert set(np.round(np.diff(times) * 15 * 1024 / 512).astype(int)) == steps
    read = faces(out, name)
    assert read["time_s"].to_pylist() == pytest.approx(times[read["frame_index"].to_numpy()].tolist())


def test_doubtful_faces_are_flagged(out):
    assert faces(out, "b12_4k_tiny_face.jpg")["is_tiny"].to_pylist() == [True]
    assert faces(out, "b23_dog_false_positive.jpg")["is_suspect"].to_pylist() == [True]
    assert faces(out, "b15_grey.jpg")["is_grey"].to_pylist() == [True]
    good = faces(out, "b13_cmyk.jpg")
    assert [good[n][0].as_py() for n in ("is_tiny", "is_suspect", "is_grey", "is_blurred")] == [False] * 4


def test_person_has_one_identity_in_several_files(out):
    files = ("b04_mp4_named_jpg.jpg", "b08_variable_frame_rate.mp4", "b21 ünïcode имя 顔 (copy).mp4")
    names = {key: name for key, name in identities_of(out).items() if key[0].endswith(files)}
    assert len(names) >= 3
    assert len(set(names.values())) == 1, names


class MeasuresMemory:
    """A frame processor that returns the growth of its process's peak memory, in bytes."""

    def __init__(self) -> None:
        self.process = FrameProcessor(Settings(fps="all"))

    def __call__(self, plan, begin):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        record, _ = self.process(plan, begin)
        return record, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024


def test_decompression_bomb_is_refused_without_memory_growth(bad, monkeypatch):
    import os

    monkeypatch.syspath_prepend(os.path.dirname(__file__))
    plan = Surveyor(Settings(fps="all"))(str(bad / "b16_bomb_400mp.png"), lambda step: None)
    child = WorkerProcess("test_hostile_inputs:MeasuresMemory", {}, silence_s=60)
    try:
        record, grown = child(next(units_of(plan, "config")))
    finally:
        child.close()
    assert "400 megapixels" in record.reason
    assert grown < 20e6  # its pixels are 1.2 GB
