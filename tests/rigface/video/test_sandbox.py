"""Decoding in worker processes: equal results, crashes that fail one file, and room for pictures."""

import io
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from rigface.confinement import missing_parts
from rigface.errors import BadImage, BadVideo
from rigface.image import decode_linear, encode_png
from rigface.video import sandbox
from rigface.video.decode import probe_video, read_frames
from rigface.video.sandbox import DecoderDied, DecoderPool, JoinRequest


@pytest.fixture(scope="module")
def clip(fixtures):
    return str(fixtures / "clip.mp4")


@pytest.fixture(scope="module")
def decoders(clip):
    pool = DecoderPool()
    shutil.copy(clip, pool.folder)
    yield pool
    pool.close()


@pytest.fixture
def trap(clip, monkeypatch):
    """Decoders whose processes are `Trap`s."""
    real = sandbox.WorkerProcess
    monkeypatch.setattr(real, "kept", (*real.kept, "TRAP"))
    monkeypatch.setenv("TRAP_S", "0.05")
    monkeypatch.setattr(sandbox, "WorkerProcess", lambda _, *rest: real("tests.traps:Trap", *rest))
    pool = DecoderPool(memory_mb=1024, silence_s=0.5)
    shutil.copy(clip, pool.folder)
    yield pool
    pool.close()


def test_sandbox_equals_direct_decoding(decoders, clip):
    path = f"{decoders.folder}/clip.mp4"
    assert decoders.probe(path) == probe_video(clip)
    with open(clip, "rb") as file:
        data = file.read()
    there, here = list(decoders.frames(data, 5)), list(read_frames(clip, 5))
    assert [(f.index, f.time_s) for f in there] == [(f.index, f.time_s) for f in here]
    assert all(np.array_equal(a.image, b.image) for a, b in zip(there, here))
    with pytest.raises(BadVideo, match="not a video"):
        decoders.probe(b"nothing of the kind")
    one = next(iter(decoders.frames(path)))  # and leaves
    assert one.index == 0
    assert len(list(decoders.frames(path, 2))) == len(list(read_frames(clip, 2)))


def test_sandbox_joins_pieces_with_sound(decoders):
    import av

    from rigface.video.writer import VideoWriter

    size, pieces = (64, 48), []
    for number in range(2):
        pieces.append(f"{decoders.folder}/{number}.mp4")
        with VideoWriter(pieces[-1], size, 25, reorder=False) as film:
            for k in range(3):
                film.write(np.full((48, 64, 3), 60 * number + 10 * k, np.uint8), k / 25)
    out = f"{decoders.folder}/out.mp4"
    decoders.join(JoinRequest(out, size, 25, pieces, [[0, 0.04, 0.08], [0.12, 0.16, 0.2]], None))
    with av.open(out) as container:
        assert sum(1 for _ in container.decode(video=0)) == 6


def test_decoder_crash_fails_one_file_only(trap, clip):
    for file, says in ((b"crash", "SIGSEGV"), (b"hang", "no progress")):
        with pytest.raises(DecoderDied, match=says):
            list(trap.frames(file))
    with pytest.raises(BadVideo, match="too much memory"):
        list(trap.frames(b"greedy"))
    with pytest.raises(BadVideo, match=r"more than 0\.2 s"):
        list(trap.frames(f"{trap.folder}/clip.mp4", None, 0.2))
    assert len(list(trap.frames(f"{trap.folder}/clip.mp4", 2))) == len(list(read_frames(clip, 2)))


def test_decoder_has_no_network_and_starts_no_programs(trap):
    for file in (b"connect", b"start"):
        with pytest.raises(PermissionError):
            list(trap.frames(file))


@pytest.mark.skipif("Landlock" in missing_parts(), reason="needs Landlock, which this kernel lacks")
def test_decoder_opens_no_files_but_those_of_its_folder(decoders, clip, tmp_path):
    elsewhere = shutil.copy(clip, tmp_path)
    for path in (elsewhere, f"/proc/{os.getpid()}/environ"):
        with pytest.raises(PermissionError):
            decoders.probe(path)


def test_folder_of_a_pool_goes_with_it():
    pool = DecoderPool()
    folder = Path(pool.folder)
    assert folder.is_dir()
    del pool
    assert not folder.exists()


def test_picture_is_decoded_in_the_sandbox(decoders):
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    assert np.array_equal(decoders.picture(encode_png(image), 10_000), image)
    with pytest.raises(BadImage, match="too large"):
        decoders.picture(encode_png(image), 1000)
    with pytest.raises(BadImage, match="not a picture"):
        decoders.picture(b"nothing of the kind", 1000)


def test_picture_takes_little_more_memory_than_its_pixels():
    """8 megapixels with transparency, of 25 kB: 4 bytes a pixel in the decoder and 3 in the result."""
    pool = DecoderPool(memory_mb=110)
    data = encode_png(np.zeros((4000, 2000), np.uint8))
    out = io.BytesIO()
    Image.new("RGBA", (4000, 2000), (200, 30, 30, 100)).save(out, "PNG", compress_level=1)
    assert pool.picture(out.getvalue()).shape == (2000, 4000, 3)
    assert pool.picture(data).shape == (4000, 2000, 3)
    pool.close()


def test_panorama_is_decoded_in_the_sandbox(decoders):
    data = cv2.imencode(".hdr", np.full((8, 16, 3), 0.25, np.float32))[1].tobytes()
    assert np.array_equal(decoders.picture(data, linear=True), decode_linear(data))
    with pytest.raises(BadImage, match="too large"):
        decoders.picture(data, 100, linear=True)


def test_picture_that_kills_its_decoder_is_a_bad_image(trap):
    for data, says in ((b"crash", "SIGSEGV"), (b"hang", "no progress")):
        with pytest.raises(BadImage, match=says):
            trap.picture(data, 1000)
    with pytest.raises(BadImage, match=r"more than 0\.1 s"):
        trap.picture(b"hang", 1000, limit_s=0.1)


def test_pictures_wait_for_room(decoders, monkeypatch):
    monkeypatch.setattr(sandbox, "PICTURE_PIXELS", 3000)
    data, running, most = encode_png(np.zeros((40, 60, 3), np.uint8)), 0, []
    lent = decoders._lent

    @contextmanager
    def counted(limit_s):
        nonlocal running
        running += 1
        most.append(running)
        with lent(limit_s) as ask:
            yield ask
        running -= 1

    monkeypatch.setattr(decoders, "_lent", counted)
    with ThreadPoolExecutor(3) as threads:
        list(threads.map(lambda _: decoders.picture(data, 10_000), range(6)))
    assert most == [1] * 6


def test_pool_that_was_started_reads_with_that_process(clip):
    pool = DecoderPool()
    pool.start()
    pool.start()
    [process] = pool._idle
    assert process._process is not None
    pool.probe(clip)
    assert pool._idle == [process]
    pool.close()
