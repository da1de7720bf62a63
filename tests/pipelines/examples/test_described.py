"""Captions from numbers: what each number says, in a mirror too, and that nothing else is said."""

from dataclasses import replace

import numpy as np
import pytest

from pipelines.examples.described import WORDS, caption_of
from rigface.edits import EditSpec, LightEdit
from rigface.face.controls.transfer import transfer
from rigface.face.head.open_head import OpenHead
from rigface.types import FaceParams

SPEC = OpenHead.load().spec
LAMP = LightEdit(azimuth_deg=50, elevation_deg=40, intensity=1.0, ambient=0.2)


@pytest.fixture(scope="module")
def calm() -> FaceParams:
    light = np.zeros((9, 3), np.float32)
    light[0] = 1.0
    return FaceParams(
        shape=np.zeros(SPEC.shape, np.float32), expression=np.zeros(SPEC.expression, np.float32),
        head_rotation=np.zeros(3, np.float32), jaw_rotation=np.zeros(3, np.float32),
        camera=np.float32([7.5, 0, 0]), albedo=np.zeros(SPEC.albedo, np.float32), light=light,
    )  # fmt: skip


def said(params, mirrored=False):
    """All that is said of a face in forty captions."""
    return [caption_of(params, SPEC, np.random.default_rng(k), mirrored) for k in range(40)]


@pytest.mark.parametrize(
    ("edit", "words", "mirrored"),
    [
        ({"yaw_deg": 15}, "15 degrees to their left", "15 degrees to their right"),
        ({"pitch_deg": 20}, "looking down", "looking down"),
        ({"roll_deg": 12}, "head tilted to their left", "head tilted to their right"),
        ({"expression": {"smile": 1.0}}, "smiling broadly", "smiling broadly"),
        ({"expression": {"blink_left": 0.7}}, "left eye", "right eye"),
        ({"light": LAMP}, "lit from the upper right", "lit from the upper left"),
        ({"light": replace(LAMP, azimuth_deg=180)}, "lit from behind", "lit from behind"),
        ({}, "in even light", "facing the camera"),
    ],
)
def test_number_is_said_and_its_mirror_image_too(calm, edit, words, mirrored):
    params = transfer(calm, EditSpec(**edit), SPEC)
    assert any(words in caption for caption in said(params))
    assert any(mirrored in caption for caption in said(params, mirrored=True))
    if words != mirrored and edit:
        assert not any(mirrored in caption for caption in said(params))


def test_captions_vary_and_repeat_for_the_same_draw(calm):
    params = transfer(calm, EditSpec(yaw_deg=15, expression={"smile": 0.5}, light=LAMP), SPEC)
    assert len(set(said(params))) > 10
    assert said(params) == said(params)


def test_words_are_of_pose_expression_and_light_only(calm):
    """No word of age, origin, gender or looks, whatever the shape and the colours of the skin are."""
    random, known = np.random.default_rng(0), set()
    for _ in range(3):
        shape, albedo = random.normal(0, 2, SPEC.shape), random.normal(0, 2, SPEC.albedo)
        edit = EditSpec(yaw_deg=float(random.uniform(-60, 60)), expression={str(random.choice(list(WORDS))): 0.9})
        same = transfer(replace(calm, light=random.normal(0, 1, (9, 3)).astype(np.float32)), edit, SPEC)
        other = replace(same, shape=shape.astype(np.float32), albedo=albedo.astype(np.float32))
        assert said(other) == said(same)
        known |= {word.strip(",") for caption in said(other) for word in caption.split()}
    assert not known & {"man", "woman", "boy", "girl", "old", "young", "beautiful", "dark", "white", "black", "bald"}
