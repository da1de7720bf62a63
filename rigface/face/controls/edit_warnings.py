"""Warnings of an edit that asks for more than one photograph can give.

Path: the analysed face, the edit, the coefficients to draw -> `edit_warnings` -> CLI, HTTP, editor page.

Thresholds were set by eye on 37 portraits, each turned by 20 and 35 degrees to both sides, and counted on 37 others;
figures stand beside them.
"""

from __future__ import annotations

import math

import numpy as np

from rigface.edits import EditSpec, EditWarning
from rigface.face.controls.named_curves import reach
from rigface.face.controls.transfer import asked_amount, expression_amount
from rigface.face.geometry import alignment
from rigface.face.geometry.rotation import to_degrees, to_matrix
from rigface.face.reconstruction.quality import is_grey
from rigface.types import CROP_PX, Face, FaceParams, HeadSpec

# Yaw of the photograph, degrees, and how far a head may turn back from there before its hidden side shows too much.
# Of 23 turns beyond it 15 looked wrong (a second ear, a patch for a cheek); of 125 within it 2, a hand over the face.
TURNS_BACK_DEG = ((0, 3, 6, 33, 45), (45, 40, 27, 27, 12))
MAX_YAW_DEG, MAX_TURN_DEG = 75.0, 45.0  # beyond this yaw a profile has no second eye to draw; and of any turn
TURNED_DEG = 8.0  # a smaller turn shows nothing new
CUT_OFF = 1.0  # of the face's width: so much of the head may end at the picture's edge; of 5 beyond, 4 showed a smear
# Of `types.Quality`: below, a mask, a hand or dark glasses cover the face, or it is hardly seen. 4 of 5 looked wrong.
MIN_CONFIDENCE = 0.36
LOOKS_UP_DEG = -20.0  # pitch from which the crown is hidden; of 24 people 2 were beyond it, and both hair and cap tore
# Height over width of the opening of a mouth that shows teeth, with so much of a smile, and how far such a jaw may open
# more: teeth are stretched with the lips. Of 24 people 2 did, and both looked wrong.
BARED, SMILING, BARED_REACH = 0.12, 0.5, 0.3
SLACK = 0.1  # beyond the reach of a number, where hardly less is seen than asked
CHIN, SIDES = 152, (234, 454)
INNER_LIPS, MOUTH_CORNERS = (13, 14), (61, 291)


def edit_warnings(
    face: Face, drawn: FaceParams, edit: EditSpec, head: HeadSpec, size: tuple[int, int], donor: Face | None = None
) -> list[EditWarning]:
    """Warnings for the edit of one face, the worst first; empty if it should look well.

    Args:
        face: before the edit.
        drawn: its coefficients after it.
        size: height and width of the whole picture, px.
        donor: of a swap.
    """
    if edit.is_nothing:
        return []
    found = [
        *([] if donor is None else _of_donor(donor, drawn)),
        *_unseen(face.params, drawn),
        *_looks_up(face.params, drawn),
        *_cut_off(face, drawn, size),
        *_uncertain(face),
        *_too_much(face, drawn, edit, head),
        *_bared(face, drawn, edit, head),
    ]
    tinted = edit.light is not None and edit.light.sh is None and len(set(edit.light.colour)) > 1
    if tinted and is_grey(face.crop):
        found.append(EditWarning("no-colour", "The photograph has no colours, so the lamp's colour is left out."))
    return found


def _unseen(source: FaceParams, drawn: FaceParams) -> list[EditWarning]:
    before, after = (to_degrees(to_matrix(np.asarray(p.head_rotation)[None]))[0] for p in (source, drawn))
    yaw, wanted = float(before[0]), float(after[0])
    back = float(np.interp(abs(yaw), *TURNS_BACK_DEG))
    side = -1.0 if yaw < 0 else 1.0
    away = max(min(MAX_YAW_DEG, abs(yaw) + MAX_TURN_DEG), abs(yaw))
    bounds = sorted(round(x, 2) for x in (yaw - side * back, side * away))
    if bounds[0] <= round(wanted, 2) <= bounds[1] or abs(wanted - yaw) < TURNED_DEG:
        return []
    text = "This turn shows a side of the head that the photograph hides, and what it invents there may look wrong."
    return [EditWarning("unseen-side", text, {"yaw_deg": (float(math.ceil(bounds[0])), float(math.floor(bounds[1])))})]


def _looks_up(source: FaceParams, drawn: FaceParams) -> list[EditWarning]:
    pitch = float(to_degrees(to_matrix(np.asarray(source.head_rotation)[None]))[0, 1])
    if pitch > LOOKS_UP_DEG or _turn_deg(source, drawn) < TURNED_DEG:
        return []
    return [EditWarning("unseen-side", "The head looks up and hides its crown, so a turn may tear hair or a hat.")]


def _of_donor(donor: Face, drawn: FaceParams) -> list[EditWarning]:
    out = []
    if _unseen(donor.params, drawn):
        text = "The other photograph hides a side of the face that shows here, and what is invented may look wrong."
        out.append(EditWarning("unseen-side", text))
    if _uncertain(donor):
        text = "The face of the other photograph is covered, small, dark or hard to read, so the swap may look wrong."
        out.append(EditWarning("uncertain-face", text))
    return out


def _cut_off(face: Face, drawn: FaceParams, size: tuple[int, int]) -> list[EditWarning]:
    if _turn_deg(face.params, drawn) < TURNED_DEG or cut_off_share(face, size) <= CUT_OFF:
        return []
    return [EditWarning("cut-off", "The picture's edge cuts the head, so a turn may leave a hole at the edge.")]


def cut_off_share(face: Face, size: tuple[int, int]) -> float:
    """Length of the person above the chin at the picture's edge, in widths of the face."""
    height, width = size
    corners = alignment.apply(face.frame_to_crop, np.array([[0, 0], [width, height]], np.float32))
    (left, top), (right, _) = np.rint(corners).astype(int)
    points = np.asarray(face.landmarks)
    chin = int(np.clip(points[CHIN, 1], 0, CROP_PX))
    person = np.asarray(face.mask) > 127
    lines = [person[: max(chin, 0), x] for x in (left + 1, right - 2) if 0 <= x < CROP_PX]
    if 0 <= top + 1 < CROP_PX:
        lines.append(person[top + 1])
    return sum(int(line.sum()) for line in lines) / max(float(np.ptp(points[list(SIDES), 0])), 1.0)


def _uncertain(face: Face) -> list[EditWarning]:
    if not face.confidence < MIN_CONFIDENCE:  # NaN: it was not measured
        return []
    text = "The face is covered, small, dark or hard to read, so the edit may look wrong."
    return [EditWarning("uncertain-face", text)]


def _too_much(face: Face, drawn: FaceParams, edit: EditSpec, head: HeadSpec) -> list[EditWarning]:
    out = []
    for name in edit.expression:
        least, most = reach(name, head)
        own = expression_amount(face.params, name, head)
        asked = asked_amount(face.params, drawn, name, edit, head) - own
        if not least - SLACK <= asked <= most + SLACK:
            limits = (round(own + least, 2), round(own + most, 2))
            text = f"More than {limits[1]:.1f} of {name} would deform this face, so less is drawn than asked."
            if asked < 0:
                text = f"Less than {limits[0]:.1f} of {name} would deform this face, so more is drawn than asked."
            out.append(EditWarning("too-much", text, {name: limits}))
    return out


def _bared(face: Face, drawn: FaceParams, edit: EditSpec, head: HeadSpec) -> list[EditWarning]:
    if "jaw_open" not in edit.expression or expression_amount(face.params, "smile", head) < SMILING:
        return []
    height, width = (_distance(face, pair) for pair in (INNER_LIPS, MOUTH_CORNERS))
    own = expression_amount(face.params, "jaw_open", head)
    asked = asked_amount(face.params, drawn, "jaw_open", edit, head)
    if height < BARED * width or asked <= own + BARED_REACH:
        return []
    text = "This mouth shows its teeth, and a jaw that opens so much further stretches them."
    limits = (round(own + reach("jaw_open", head)[0], 2), round(own + BARED_REACH, 2))
    return [EditWarning("too-much", text, {"jaw_open": limits})]


def _distance(face: Face, pair: tuple[int, int]) -> float:
    first, second = np.asarray(face.landmarks)[list(pair), :2]
    return float(np.linalg.norm(first - second))


def _turn_deg(source: FaceParams, drawn: FaceParams) -> float:
    turn = to_matrix(np.asarray(drawn.head_rotation)[None]) @ to_matrix(
        np.asarray(source.head_rotation)[None]
    ).swapaxes(-1, -2)
    return float(np.degrees(np.arccos(np.clip((np.trace(turn[0]) - 1) / 2, -1, 1))))
