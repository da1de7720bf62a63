"""Finalized inputs: tracks do not depend on the chunk borders."""

from dataclasses import replace

import av
import pytest

from pipelines.extract.config import debug
from pipelines.extract.finalize import finalize_input
from pipelines.extract.frame_processor import FrameProcessor
from pipelines.extract.plan import units_of, with_shards
from pipelines.extract.stages import MaskAndScore, Reconstruct, Write
from pipelines.extract.survey import Surveyor
from pipelines.extract.unit import Shard, Unit
from rigface.face.detection.tracking import MAX_GAP
from rigface.testing import fakes

FPS = 12


def blinking(path, unseen: int):
    """A video of one still face: 10 frames with it, `unseen` frames without, 10 with it again."""
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=FPS)
        stream.height, stream.width, stream.bit_rate = 96, 128, 2_000_000
        for i in range(20 + unseen):
            people = () if 10 <= i < 10 + unseen else (0.3,)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(fakes.picture(people), format="rgb24")))
        container.mux(stream.encode(None))
    return path


def tracks_of(video, out, chunk_frames: int, fps, shard_frames: int = 1) -> int:
    """The number of tracks with chunks and shards of so many frames; the whole path except Ray."""
    settings = replace(debug().settings, chunk_frames=chunk_frames, fps=fps, identity="none")
    (plan,) = with_shards([Surveyor(settings)(str(video), lambda step: None)], "config", shard_frames)
    process, write = FrameProcessor(settings), Write(str(out), fakes.HEAD, fakes.DETECTOR)
    shards: dict[str, list[Unit]] = {}
    for unit_plan in units_of(plan, "config"):
        unit = Unit(unit_plan, *process(unit_plan, lambda step: None))
        for stage in (Reconstruct(settings, "cpu"), MaskAndScore(settings)) if unit.has_faces else ():
            stage(unit)
        shards.setdefault(unit_plan.shard, []).append(unit)
    for units in shards.values():
        write(Shard(units))
    return finalize_input(str(out), plan, "config").tracks


@pytest.mark.parametrize("fps", ["all", 30.0], ids=["every frame", "more frames than the video has"])
@pytest.mark.parametrize("unseen", [MAX_GAP, MAX_GAP + 1])
def test_chunk_border_does_not_break_a_track(tmp_path, unseen, fps):
    video = blinking(tmp_path / "clip.mp4", unseen)  # the border falls among the frames without the face
    whole = tracks_of(video, tmp_path / "whole", 100, fps)
    assert whole == (1 if unseen == MAX_GAP else 2)
    assert tracks_of(video, tmp_path / "cut", 17, fps) == whole
    assert tracks_of(video, tmp_path / "one shard", 17, fps, 300) == whole
