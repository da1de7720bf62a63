"""Decoding in worker processes: equal results, and crashes that fail one file."""

import numpy as np
import pytest

from rigface.errors import BadVideo
from rigface.video import sandbox
from rigface.video.decode import probe_video, read_frames
from rigface.video.sandbox import DecoderDied, DecoderPool, JoinRequest


@pytest.fixture(scope="module")
def clip(fixtures):
    return str(fixtures / "clip.mp4")


@pytest.fixture(scope="module")
def decoders():
    pool = DecoderPool()
    yield pool
    pool.close()


@pytest.fixture
def trap(monkeypatch):
    """Decoders whose processes are `Trap`s."""
    real = sandbox.WorkerProcess
    monkeypatch.setenv("TRAP_S", "0.05")
    monkeypatch.setattr(sandbox, "WorkerProcess", lambda _, *rest: real("tests.traps:Trap", *rest))
    pool = DecoderPool(memory_mb=1024, silence_s=0.5)
    yield pool
    pool.close()


def test_sandbox_equals_direct_decoding(decoders, clip, tmp_path):
    assert decoders.probe(clip) == probe_video(clip)
    with open(clip, "rb") as file:
        data = file.read()
    there, here = list(decoders.frames(data, 5)), list(read_frames(clip, 5))
    assert [(f.index, f.time_s) for f in there] == [(f.index, f.time_s) for f in here]
    assert all(np.array_equal(a.image, b.image) for a, b in zip(there, here))
    with pytest.raises(BadVideo, match="not a video"):
        decoders.probe(b"nothing of the kind")
    one = next(iter(decoders.frames(clip)))  # and leaves
    assert one.index == 0
    assert len(list(decoders.frames(clip, 2))) == len(list(read_frames(clip, 2)))


def test_sandbox_joins_pieces_with_sound(decoders, tmp_path):
    import av

    from rigface.video.writer import VideoWriter

    size, pieces = (64, 48), []
    for number in range(2):
        pieces.append(str(tmp_path / f"{number}.mp4"))
        with VideoWriter(pieces[-1], size, 25, reorder=False) as film:
            for k in range(3):
                film.write(np.full((48, 64, 3), 60 * number + 10 * k, np.uint8), k / 25)
    out = str(tmp_path / "out.mp4")
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
        list(trap.frames(clip, None, 0.2))
    assert len(list(trap.frames(clip, 2))) == len(list(read_frames(clip, 2)))
