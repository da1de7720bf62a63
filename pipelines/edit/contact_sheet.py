"""What editing does, in one picture: somebody as they are, by the preview, and turned, smiling and in another light by the model.

Path: a picture, or a clip's first frame with a face -> Editor -> OUT.png, which `rigface inspect` shows where it lies in a
dataset as `edits.png`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipelines.edit.config import StripJob
from pipelines.edit.console import hints
from pipelines.edit.inputs import kind_of, picture
from pipelines.edit.job import load
from rigface.edits import EditSpec, LightEdit
from rigface.errors import BadInput, NoFace, PlanError

if TYPE_CHECKING:
    from rigface.editor import Editor
    from rigface.types import Face

STRIP = "edits.png"
PANEL_PX, GAP_PX, WORDS_PX = 256, 8, 44
LOOKED_AT_FPS, MOST_FRAMES = 2.0, 20  # frames of a clip that are searched for a face
TURN_DEG = 18.0


def write_strip(job: StripJob) -> tuple[str, ...]:
    """Make the picture and write it.

    Returns:
        Notes for the user.

    Raises:
        PlanError: OUT is no .png; IN is not there, or has no face.
    """
    from rigface.image import encode_png

    if job.out.suffix.lower() != ".png":
        raise PlanError(f"{job.out}: want a name that ends in .png")
    editor = load(job.engine)
    image, face = _somebody(job.source, editor)
    made = strip(editor, image, face, job.engine.seed)
    job.out.parent.mkdir(parents=True, exist_ok=True)
    job.out.write_bytes(encode_png(made))
    return hints(job.engine, editor)


def strip(editor: Editor, image: np.ndarray, face: Face, seed: int = 0) -> np.ndarray:
    """(H, W, 3) uint8: five panels with words below, what was asked and what was reached.

    Args:
        image: (H, W, 3) uint8, in which the face was seen.
    """
    from rigface.editor import Editor
    from rigface.face.geometry.rotation import to_degrees, to_matrix

    yaw = float(to_degrees(to_matrix(face.params.head_rotation[None]))[0, 0])
    turned = EditSpec(yaw_deg=TURN_DEG if yaw <= 0 else -TURN_DEG)
    preview = Editor(editor.see)
    wishes = [
        ("the preview, turned", preview, turned),
        ("turned", editor, turned),
        ("smiling", editor, EditSpec(expression={"smile": 0.9})),
        ("light from the right", editor, EditSpec(light=LightEdit(azimuth_deg=65, elevation_deg=25, intensity=1.0))),
    ]
    panels = [_panel(image, face, "as photographed", "")]
    for words, who, spec in wishes if editor.has_model else wishes[1:]:
        done = who.edit(image, spec, face="largest", seed=seed)
        panels.append(_panel(done.image, face, words, _numbers(done.asked[0], done.achieved[0])))
    gap = np.full((panels[0].shape[0], GAP_PX, 3), 255, np.uint8)
    return np.concatenate([part for panel in panels for part in (panel, gap)][:-1], axis=1)


def _somebody(source: Path, editor: Editor) -> tuple[np.ndarray, Face]:
    """A picture, and the largest face in it.

    Raises:
        PlanError: there is none.
    """
    from rigface.face.analyzer import choose_faces
    from rigface.video.decode import read_frames

    try:
        if kind_of(source) == "image":
            shown = iter([picture(source)])
        else:
            looked = read_frames(str(source), LOOKED_AT_FPS)
            shown = (frame.image for frame, _ in zip(looked, range(MOST_FRAMES)))
        for image in shown:
            try:
                return image, choose_faces(editor.see(image), "largest")[0]
            except NoFace:
                continue
    except BadInput as e:
        raise PlanError(f"{source}: {e.reason}") from e
    raise PlanError(f"{source}: no face was found in it")


def _numbers(asked: dict[str, float], achieved: dict[str, float] | None) -> str:
    """The one number that an edit is about."""
    name = next(n for n in ("yaw_deg", "smile", "light_azimuth_deg") if n in asked)
    digits, unit = (0, "°") if name.endswith("_deg") else (2, "")
    got = "no face found" if achieved is None else f"reached {achieved[name]:.{digits}f}{unit}"
    return f"asked {asked[name]:.{digits}f}{unit}, {got}"


def _panel(image: np.ndarray, face: Face, title: str, small: str) -> np.ndarray:
    """(PANEL_PX + WORDS_PX, PANEL_PX, 3): the face's square of a picture, and two lines of words."""
    from PIL import Image, ImageDraw, ImageFont

    from rigface.face.geometry import alignment

    crop = alignment.crop(image, face.frame_to_crop * (PANEL_PX / len(face.crop)), PANEL_PX)
    canvas = Image.new("RGB", (PANEL_PX, PANEL_PX + WORDS_PX), "white")
    canvas.paste(Image.fromarray(crop))
    draw = ImageDraw.Draw(canvas)
    draw.text((1, PANEL_PX + 5), title, fill=(28, 30, 31), font=ImageFont.load_default(15))
    draw.text((1, PANEL_PX + 24), small, fill=(102, 106, 105), font=ImageFont.load_default(13))
    return np.asarray(canvas)
