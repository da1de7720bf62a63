"""Exact checks of edited clips: every model edits a whole clip, and frames, rate, times and sound must be the clip's.

Path: `--videos` -> `check_clips` -> notes of the card. The frames' content is the business of the task `clip`.
"""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from rigface.editor import Editor
from rigface.edits import EditSpec, FaceEdit
from rigface.metrics.video import clip_of, differences
from rigface.video.decode import probe_video
from rigface.video.writer import VideoWriter
from rigface.video_editor import VideoOptions, VideoSource, edited

EDIT = EditSpec(yaw_deg=8.0, relative=True, expression={"smile": 0.5})  # of every frame


def check_clips(clips: Sequence[str], models: Mapping[str, str], device: str) -> Iterator[str]:
    """A sentence per model and clip (a file on this machine), in turns.

    Raises:
        BadVideo, NoFace: a clip cannot be read, or shows nobody.
    """
    for name, model in models.items() if clips else ():
        editor = Editor.load(model, device)
        for clip in clips:
            found = differences_of(clip, editor)
            text = ", ".join(found) if found else "frames, rate, times and sound are the clip's"
            yield f"{Path(clip).name}, edited whole by {name}: {text}."


def differences_of(clip: str, editor: Editor) -> list[str]:
    """Differences of a clip and the same clip edited, as sentences; none if they are exact."""
    info = probe_video(clip)
    options = VideoOptions(hold_boxes=editor.has_model)
    frames = edited(editor, VideoSource(clip, info.fps), [FaceEdit(edit=EDIT)], options)
    with tempfile.TemporaryDirectory(prefix="rigface-") as folder:
        out = Path(folder) / f"edited{Path(clip).suffix}"
        with VideoWriter(out, (info.width, info.height), info.fps, sound=clip) as writer:
            for frame in frames:
                assert frame.image is not None  # no frame is skipped here
                writer.write(frame.image, frame.time_s)
        return differences(clip_of(out), clip_of(clip))
