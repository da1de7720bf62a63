"""Exact checks of clips, with editors that write all frames, or all but one."""

from types import SimpleNamespace

import pytest

from pipelines.evaluate import clip_checks
from rigface.editor import Editor
from rigface.testing import fakes
from rigface.video_editor import EditedFrame


@pytest.fixture
def clip(tmp_path):
    return str(fakes.video(tmp_path / "clip.mp4", frames=8))


def checked(monkeypatch, clip, kept):
    def edited(editor, source, *_):
        return (EditedFrame(f.index, f.time_s, f.image, []) for f in source if kept(f.index))

    monkeypatch.setattr(clip_checks, "edited", edited)
    monkeypatch.setattr(Editor, "load", lambda *_: SimpleNamespace(has_model=False))
    return list(clip_checks.check_clips([clip], {"mine": "somewhere"}, "cpu"))


def test_clip_with_all_frames_is_exact(monkeypatch, clip):
    (note,) = checked(monkeypatch, clip, lambda index: True)
    assert note == "clip.mp4, edited whole by mine: frames, rate, times and sound are the clip's."


def test_missing_frame_is_said(monkeypatch, clip):
    (note,) = checked(monkeypatch, clip, lambda index: index != 3)
    assert "7 frames instead of 8" in note
