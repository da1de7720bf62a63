"""Contact sheet of edits: a face as photographed, turned, smiling and in another light.

Path: an image, or a video's first frame with a face -> Editor -> OUT.png. `rigface inspect` shows a dataset's
`edits.png`.
"""

from contextlib import suppress
from itertools import islice

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pipelines.edit.config import StripConfig
from pipelines.edit.inputs import errors_named, kind_of, read_image
from pipelines.edit.job import load_editor
from pipelines.edit.outputs import check_writable
from pipelines.edit.report import hints
from rigface.editor import Editor
from rigface.edits import EditSpec, LightEdit
from rigface.errors import NoFace, PlanError
from rigface.face.analyzer import choose_faces
from rigface.face.geometry import alignment
from rigface.face.geometry.rotation import to_degrees, to_matrix
from rigface.image import encode_png
from rigface.storage.whole_file import write_whole
from rigface.types import Face
from rigface.video.decode import read_frames

PANEL_PX, GAP_PX, TEXT_PX = 256, 8, 44
SEARCH_FPS, MAX_FRAMES = 2.0, 20  # frames of a video that are searched for a face
TURN_DEG = 18.0


def write_strip(config: StripConfig) -> tuple[str, ...]:
    """Make the contact sheet and write it; hints for the user. PlanError if OUT is no .png, or IN shows no face."""
    if config.out.suffix.lower() != ".png":
        raise PlanError(f"{config.out}: choose a name that ends in .png")
    check_writable(config.out)
    editor = load_editor(config.engine)
    image, face = _first_face(config, editor)
    write_whole(config.out, encode_png(strip(editor, image, face, config.engine.seed)))
    return hints(config.engine, editor)


def strip(editor: Editor, image: np.ndarray, face: Face, seed: int = 0) -> np.ndarray:
    """(H, W, 3) uint8: up to five panels of a face in an image, their asked and achieved numbers below."""
    yaw = float(to_degrees(to_matrix(face.params.head_rotation[None]))[0, 0])
    turned = EditSpec(yaw_deg=TURN_DEG if yaw <= 0 else -TURN_DEG)
    edits = [
        ("turned", editor, turned),
        ("smiling", editor, EditSpec(expression={"smile": 0.9})),
        ("light from the right", editor, EditSpec(light=LightEdit(azimuth_deg=65, elevation_deg=25, intensity=1.0))),
    ]
    if editor.has_model and editor.analyzer.head.name == "open":  # the head of the preview
        edits.insert(0, ("the preview, turned", Editor(editor.analyzer), turned))
    panels = [_panel(image, face, "as photographed", "")]
    for title, each, spec in edits:
        edited = each.edit(image, spec, face="largest", seed=seed)
        panels.append(_panel(edited.image, face, title, _numbers(edited.asked[0], edited.achieved[0])))
    gap = np.full((panels[0].shape[0], GAP_PX, 3), 255, np.uint8)
    return np.concatenate([part for panel in panels for part in (panel, gap)][:-1], axis=1)


def _first_face(config: StripConfig, editor: Editor) -> tuple[np.ndarray, Face]:
    """An image and its largest face, of a video the first frame with a face; PlanError if there is none."""
    source = config.source
    is_image = kind_of(source) == "image"
    with errors_named(source):
        frames = islice(read_frames(str(source), SEARCH_FPS), MAX_FRAMES)
        for image in [read_image(source)] if is_image else (frame.image for frame in frames):
            with suppress(NoFace):
                return image, choose_faces(editor.analyzer(image), "largest")[0]
    raise PlanError(f"{source}: no face was found")


def _numbers(asked: dict[str, float], achieved: dict[str, float] | None) -> str:
    """The asked and the achieved value of the number that an edit changes."""
    name = next(n for n in ("yaw_deg", "smile", "light_azimuth_deg") if n in asked)
    digits, unit = (0, "°") if name.endswith("_deg") else (2, "")
    result = "no face found" if achieved is None else f"achieved {achieved[name]:.{digits}f}{unit}"
    return f"asked {asked[name]:.{digits}f}{unit}, {result}"


def _panel(image: np.ndarray, face: Face, title: str, small: str) -> np.ndarray:
    """(PANEL_PX + TEXT_PX, PANEL_PX, 3): the square of the face, and two lines of text below."""
    crop = alignment.crop(image, face.frame_to_crop * (PANEL_PX / len(face.crop)), PANEL_PX)
    canvas = Image.new("RGB", (PANEL_PX, PANEL_PX + TEXT_PX), "white")
    canvas.paste(Image.fromarray(crop))
    draw = ImageDraw.Draw(canvas)
    draw.text((1, PANEL_PX + 5), title, fill=(28, 30, 31), font=ImageFont.load_default(15))
    draw.text((1, PANEL_PX + 24), small, fill=(102, 106, 105), font=ImageFont.load_default(13))
    return np.asarray(canvas)
