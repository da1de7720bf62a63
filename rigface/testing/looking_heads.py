"""Pictures of the open head with eyes that look in a known direction, to measure gaze and head angles by.

Eyeballs are drawn in the openings of the rendered mesh: a sphere behind the lids, with iris and pupil about the
direction of the gaze. The projection is parallel, as in the fit.
"""

from dataclasses import replace
from functools import lru_cache

import numpy as np
import torch

from rigface.face.geometry.rotation import to_matrix
from rigface.face.head.head_model import Head
from rigface.face.head.open_head import OpenHead
from rigface.face.preview.eye_mouth_openings import find_openings
from rigface.face.rendering.renderer import render
from rigface.image import linear_to_srgb
from rigface.types import CROP_PX, FaceParams

EYEBALL, IRIS, PUPIL = 0.012, 0.0059, 0.002  # radii, m
CENTRE = (0.0323, 0.0472, 0.0582)  # m, of the left eyeball in the mean open head
CORNERS = ((263, 362), (33, 133))  # left, right
SCLERA, IRIS_COLOUR, PUPIL_COLOUR = (0.62, 0.58, 0.55), (0.1, 0.07, 0.04), (0.008, 0.008, 0.008)  # linear
BACKGROUND = (0.25, 0.28, 0.3)
FOLLOW_DEG = 25.0  # eyes this far down or up move the lids by one blendshape in full


def direction(yaw_deg: float, pitch_deg: float) -> np.ndarray:
    """(3,) unit vector of a gaze; positive: to the person's own left, and down."""
    yaw, pitch = np.radians([yaw_deg, pitch_deg])
    return np.array([np.sin(yaw) * np.cos(pitch), -np.sin(pitch), np.cos(yaw) * np.cos(pitch)])


def lids_that_follow(pitch_deg: float) -> np.ndarray:
    """(E,) expression coefficients of the open head whose lids go with eyes that look down or up by this much."""
    names = OpenHead.load().spec.expression_names
    expression = np.zeros(len(names), np.float32)
    for side in ("Left", "Right"):
        expression[names.index(f"eyeLookDown{side}")] = max(pitch_deg, 0) / FOLLOW_DEG
        expression[names.index(f"eyeLookUp{side}")] = max(-pitch_deg, 0) / FOLLOW_DEG
        expression[names.index(f"eyeBlink{side}")] = max(pitch_deg, 0) / 60
    return expression


def picture(params: FaceParams, yaw_deg: float, pitch_deg: float) -> np.ndarray:
    """(512, 512, 3) uint8 RGB of a head of the open model, whose eyes look so in the head's own frame."""
    params = replace(params, expression=lids_that_follow(pitch_deg))
    head, is_eye = _head()
    drawn = render(head, params.map(lambda a: torch.from_numpy(np.array(a, np.float32))[None]))
    alpha = drawn.alpha[0, 0].numpy()[..., None]
    image = drawn.image[0].permute(1, 2, 0).numpy() * alpha + np.array(BACKGROUND) * (1 - alpha)
    face = drawn.fragments.face[0].numpy()
    rows, columns = np.nonzero((face >= 0) & is_eye[np.maximum(face, 0)])
    half = CROP_PX / 2
    scale, *shift = np.asarray(params.camera, np.float64)
    points = np.stack([(columns + 0.5) / half - 1, 1 - (rows + 0.5) / half], 1) / scale - shift
    turn = to_matrix(np.asarray(params.head_rotation, np.float64)[None])[0]
    for centre in eyeballs(params.shape):
        offset = (points - (turn @ centre)[:2]) / EYEBALL
        square = np.square(offset).sum(1)
        normal = np.concatenate([offset, np.sqrt(np.maximum(1 - square, 0))[:, None]], axis=1)
        colours = _eye_colours(normal, turn @ direction(yaw_deg, pitch_deg))
        image[rows[square < 1], columns[square < 1]] = colours[square < 1]
    return np.asarray(np.rint(255 * linear_to_srgb(np.clip(image, 0, 1))), np.uint8)


def eyeballs(shape: np.ndarray) -> np.ndarray:
    """(2, 3) centres of the left and the right eyeball of a person, m, head frame: they go with the eyes' corners."""
    model = OpenHead.load()
    moved = np.einsum("k,kvi->vi", np.asarray(shape, np.float64), model.shape)
    x, y, z = CENTRE
    sides = zip(((x, y, z), (-x, y, z)), CORNERS)
    return np.array([np.array(centre) + moved[list(corners)].mean(0) for centre, corners in sides])


def _eye_colours(normal: np.ndarray, gaze: np.ndarray) -> np.ndarray:
    """(P, 3) linear colours of points on an eyeball, by their normals (P, 3)."""
    angle = np.arccos(np.clip(normal @ gaze, -1, 1))
    colours = np.array(SCLERA) * (0.55 + 0.45 * normal[:, 2:])
    for radius, colour in ((IRIS, IRIS_COLOUR), (PUPIL, PUPIL_COLOUR)):
        share = np.clip((np.arcsin(radius / EYEBALL) + 0.02 - angle) / 0.04, 0, 1)[:, None]
        colours = colours * (1 - share) + np.array(colour) * share
    return np.asarray(colours)


@lru_cache(maxsize=1)
def _head() -> tuple[Head, np.ndarray]:
    """The open head, and (F,) bool its triangles that fill the openings of the eyes."""
    model = OpenHead.load()
    faces = model.subdivision()[1]
    is_eye = np.zeros(len(faces), bool)
    for opening in find_openings(model.control_faces, faces, len(model.template), 2):
        is_eye[opening.faces] |= not opening.is_mouth
    return model.head(), is_eye
