"""Closing an input: its tracks are those it would have in one piece, wherever it was cut."""

from dataclasses import replace

import av
import pytest

from pipelines.extract import plan
from pipelines.extract.config import debug
from pipelines.extract.finalize import finalize_input
from pipelines.extract.frame_processor import FrameProcessor
from pipelines.extract.stages import MaskAndScore, Reconstruct, Write
from pipelines.extract.unit import Unit, new_record
from rigface.face.detection.tracking import MAX_GAP
from rigface.testing import fakes

FPS = 12


def blinking(path, unseen: int):
    """Somebody who stays where they are: 10 frames there, `unseen` frames gone, 10 there again."""
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=FPS)
        stream.height, stream.width, stream.bit_rate = 96, 128, 2_000_000
        for i in range(20 + unseen):
            people = () if 10 <= i < 10 + unseen else (0.3,)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(fakes.picture(people), format="rgb24")))
        container.mux(stream.encode(None))
    return path


def tracks_of(video, out, chunk_frames: int, fps) -> int:
    """How many tracks there are, with chunks of so many frames; the whole way but for Ray."""
    settings = replace(debug().settings, chunk_frames=chunk_frames, fps=fps, identity="none")
    one = plan.Surveyor(settings)(str(video), lambda step: None)
    look = FrameProcessor(settings)
    rest = (Reconstruct(settings, "cpu"), MaskAndScore(settings), Write(str(out), fakes.HEAD, fakes.DETECTOR))
    for name, what in plan.units_of(one, "config"):
        record, blob = look((what, new_record(name, what)), lambda step: None)
        unit = Unit(name, what, record)
        unit.set_faces(blob)
        for stage in rest:
            if unit.has_faces or stage.name == "write":
                stage(unit)
    return finalize_input(str(out), one, "config")["tracks"]


@pytest.mark.parametrize("fps", ["all", 30.0], ids=["every frame", "more frames asked for than there are"])
@pytest.mark.parametrize("unseen", [MAX_GAP, MAX_GAP + 1])
def test_a_border_breaks_no_track_that_would_hold_in_one_piece(tmp_path, unseen, fps):
    video = blinking(tmp_path / "clip.mp4", unseen)  # the border falls among the frames without them
    whole = tracks_of(video, tmp_path / "whole", 100, fps)
    assert whole == (1 if unseen == MAX_GAP else 2)
    assert tracks_of(video, tmp_path / "cut", 17, fps) == whole
