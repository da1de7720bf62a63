"""Captions from coefficients: what the numbers say of pose, expression and light, by template, with variations.

Path: coefficients of one face -> `caption_of` -> "a person turned 15 degrees to their left, smiling, lit from the upper
right" -> column `caption` of examples/ (`pair --describe`), unless the user's own table has one.

Nothing else is said: no age, origin, gender or looks, which the numbers do not have. Left and right of a pose are the
person's, those of a light the viewer's. An expression counts from `SHOWN` on; what lies between it and `NONE` is not
mentioned, nor said to be absent.
"""

from __future__ import annotations

import numpy as np

from rigface.edits import NAMED_EXPRESSIONS
from rigface.face.controls.transfer import axis_names, expression_amount
from rigface.face.geometry.rotation import to_degrees, to_matrix
from rigface.metrics.light import describe_light
from rigface.types import FaceParams, HeadSpec

SUBJECTS = ("a person", "a photo of a person", "a portrait of a person", "a face", "a picture of someone")
TURNED_DEG, FRONTAL_DEG = 6.0, 4.0  # from here on a turn is said; and up to here none is
SHOWN, STRONG, NONE = 0.35, 0.75, 0.15  # amounts of an expression
WORDS: dict[str, tuple[str, ...]] = {
    "smile": ("smiling", "with a smile"), "frown": ("frowning", "with the corners of the mouth down"),
    "jaw_open": ("mouth open", "with an open mouth"), "pucker": ("lips puckered", "with pursed lips"),
    "blink": ("eyes closed", "with closed eyes"), "blink_left": ("left eye closed", "winking with the left eye"),
    "blink_right": ("right eye closed", "winking with the right eye"),
    "eyes_wide": ("eyes wide open", "with wide eyes"), "squint": ("squinting", "with narrowed eyes"),
    "brows_up": ("eyebrows raised", "with raised eyebrows"), "brows_down": ("eyebrows lowered", "with lowered brows"),
}  # fmt: skip
STRONGER = {"smile": "smiling broadly", "jaw_open": "mouth wide open"}
OTHER_SIDE = {"left": "right", "right": "left"}
EVEN = 0.25  # share of the lamp in all light, below which the light has no direction
ASIDE_DEG, BEHIND_DEG, ABOVE_DEG, BELOW_DEG = 20.0, 110.0, 25.0, -15.0  # azimuth, and elevation, of a lamp


def caption_of(params: FaceParams, head: HeadSpec, random: np.random.Generator, mirrored: bool = False) -> str:
    """A caption of one face, numpy; the same for the same state of `random`.

    `mirrored`: of the picture of this face in a mirror.
    """
    pose = _pose(params, random, -1.0 if mirrored else 1.0)
    said = [*pose, *_expression(params, head, random, mirrored), *_light(params, -1.0 if mirrored else 1.0)]
    return f"{_one(SUBJECTS, random)}{' ' if pose else ', '}{', '.join(said)}"


def _one(words: tuple[str, ...], random: np.random.Generator) -> str:
    return words[int(random.integers(len(words)))]


def _pose(params: FaceParams, random: np.random.Generator, side: float) -> list[str]:
    yaw, pitch, roll = (float(v) for v in to_degrees(to_matrix(np.asarray(params.head_rotation)[None]))[0])
    out = []
    if abs(yaw) >= TURNED_DEG:
        to, degrees = "left" if side * yaw > 0 else "right", f"{abs(yaw):.0f} degrees"
        out.append(_one((f"turned {degrees} to their {to}", f"looking {degrees} to their {to}"), random))
        if random.random() < 0.3:  # also learn the words without numbers
            out = [f"turned {_size(abs(yaw))}to their {to}"]
    elif abs(yaw) < FRONTAL_DEG and abs(pitch) < TURNED_DEG:
        out.append(_one(("facing the camera", "seen from the front"), random))
    if abs(pitch) >= TURNED_DEG:
        out.append(f"looking {_size(abs(pitch))}{'down' if pitch > 0 else 'up'}")
    if abs(roll) >= TURNED_DEG:
        out.append(f"head tilted to their {'left' if side * roll > 0 else 'right'}")
    return out


def _size(degrees: float) -> str:
    return "slightly " if degrees < 15 else "far " if degrees > 40 else ""


def _expression(params: FaceParams, head: HeadSpec, random: np.random.Generator, mirrored: bool) -> list[str]:
    known = set(axis_names(head))
    named = [name for name in WORDS if set(NAMED_EXPRESSIONS[name]) <= known]
    amounts = {name: expression_amount(params, name, head) for name in named}
    if amounts.get("blink", 0) >= SHOWN:  # both eyes, not one and the other
        amounts = {name: v for name, v in amounts.items() if name not in ("blink_left", "blink_right")}
    shown = sorted((name for name, v in amounts.items() if v >= SHOWN), key=lambda name: -amounts[name])
    if not shown:
        calm = amounts and max(amounts.values()) < NONE
        return [_one(("with a neutral expression", "with a calm face"), random)] if calm else []
    out = []
    for name in shown[:3]:
        strong = amounts[name] >= STRONG and name in STRONGER
        words = STRONGER[name] if strong else _one(WORDS[name], random)
        out.append(_exchanged(words) if mirrored else words)
    return out


def _exchanged(words: str) -> str:
    return " ".join(OTHER_SIDE.get(word, word) for word in words.split(" "))


def _light(params: FaceParams, side: float) -> list[str]:
    light = describe_light(params.light)
    lamp, around = max(light["intensity"], 0.0), max(light["ambient"], 0.0)
    if lamp < EVEN * (lamp + around):
        return ["in even light"]
    azimuth, elevation = side * light["azimuth_deg"], light["elevation_deg"]
    high = "upper " if elevation > ABOVE_DEG else "lower " if elevation < BELOW_DEG else ""
    if abs(azimuth) > BEHIND_DEG:
        return ["lit from behind"]
    if abs(azimuth) < ASIDE_DEG:
        return [{"upper ": "lit from above", "lower ": "lit from below", "": "lit from the front"}[high]]
    return [f"lit from the {high}{'right' if azimuth > 0 else 'left'}"]
