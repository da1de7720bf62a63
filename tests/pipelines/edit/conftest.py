"""An editor that is loaded once, and a folder of a photograph and a video with sound."""

from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from rigface.editor import Editor, usual_checkpoint
from rigface.face.analyzer import FaceAnalyzer
from rigface.image import encode_jpeg, encode_png
from rigface.video.decode import read_frames
from tests import remembered


@pytest.fixture(scope="module")
def editor() -> Editor:
    return Editor(remembered.analyzer())


@pytest.fixture(autouse=True)
def _loaded_once(editor, monkeypatch):
    """Models are loaded once for the file; a checkpoint is still loaded when one is named."""
    real = Editor.load
    monkeypatch.setattr(
        Editor,
        "load",
        lambda name=None, device="cpu", analyzer=None, **how: (
            editor if (name or usual_checkpoint()) == "preview" else real(name, device, editor.analyzer, **how)
        ),
    )
    monkeypatch.setattr(FaceAnalyzer, "load", lambda *a, **k: editor.analyzer)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, fixtures) -> Path:
    """A photograph, one of two people, and a clip of 4 frames with sound, of the real clip."""
    folder = tmp_path_factory.mktemp("in")
    shown = [f for f in read_frames(str(fixtures / "clip.mp4")) if f.index < 40]
    photo, smiling = shown[0].image, shown[36].image
    (folder / "photo.jpg").write_bytes(encode_jpeg(photo, 95))
    (folder / "smiling.png").write_bytes(encode_png(smiling))
    (folder / "two.png").write_bytes(encode_png(np.concatenate([photo[:, 150:450], photo[:, 140:460]], axis=1)))
    (folder / "wall.png").write_bytes(encode_png(np.full((100, 100, 3), 200, np.uint8)))
    with av.open(str(folder / "clip.mp4"), "w") as out:
        video = out.add_stream("libx264" if "libx264" in av.codecs_available else "mpeg4", rate=10)
        video.width, video.height, video.pix_fmt = 320, 180, "yuv420p"
        sound = out.add_stream("aac", rate=44_100, layout="mono")
        for i, frame in enumerate(shown[12:37:8]):
            small = cv2.resize(frame.image, (320, 180), interpolation=cv2.INTER_AREA)
            picture = av.VideoFrame.from_ndarray(small, format="rgb24")
            picture.pts = i
            out.mux(video.encode(picture))
        out.mux(video.encode(None))
        wave = np.sin(np.arange(44_100 * 4 // 10) / 20).astype(np.float32)[None]
        block = av.AudioFrame.from_ndarray(wave, format="fltp", layout="mono")
        block.sample_rate = 44_100
        out.mux(sound.encode(block))
        out.mux(sound.encode(None))
    return folder
