"""Whites of frame and face: exposure cancels, skin and light change by opposite factors."""

from dataclasses import fields, replace

import numpy as np
import pytest

from rigface.colour import LUMINANCE
from rigface.face.head.open_head import OpenHead
from rigface.face.reconstruction.frame_white import RANGE, brighter, in_frame, thinned
from rigface.face.reconstruction.protocol import Fit
from rigface.image import linear_to_srgb, srgb8_to_linear
from rigface.testing.fakes import HEAD as PLAIN_HEAD
from rigface.types import FaceParams

HEAD = OpenHead.load().spec
FACE = np.array([[128, 128, 0], [384, 128, 0], [384, 384, 0], [128, 384, 0]], np.float32)


def frame(shirt: int = 60, teeth: int = 90) -> np.ndarray:
    """A dark face before a dark wall, 512 px; the crop is its upper half."""
    out = np.full((512, 512, 3), 60, np.uint8)
    out[100:200, 150:350] = 90
    out[150:180, 200:300] = teeth
    out[300:, :] = shirt
    return out


def crop_of(image: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(image[:256, 128:384].repeat(2, 0).repeat(2, 1))


def ratio(image: np.ndarray) -> float:
    return float(brighter([image], [crop_of(image)], FACE[None])[0])


@pytest.mark.parametrize(("shape", "step"), [((720, 1280), 2), ((1081, 1923), 4), ((512, 512), 1)])
def test_thinned_picture_has_every_so_many_pixels(shape, step):
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    whole = image[: shape[0] // step * step, : shape[1] // step * step]
    assert np.array_equal(thinned(image, step), whole[::step, ::step])


def test_white_outside_the_crop_counts_and_the_crop_alone_is_its_own():
    assert ratio(frame()) == pytest.approx(1, abs=0.02)
    assert ratio(frame(shirt=250)) > 2
    assert ratio(frame(shirt=250, teeth=250)) < 1.1  # the crop shows a white itself


def test_exposure_cancels():
    bright = frame(shirt=250, teeth=200)
    dim = (linear_to_srgb(srgb8_to_linear(bright) / 2) * 255).round().astype(np.uint8)
    assert ratio(dim) == pytest.approx(ratio(bright), rel=0.02)


def test_frames_of_several_faces_are_read_once_each():
    images = [frame(shirt=250)] * 2 + [frame()]
    found = brighter(images, [crop_of(image) for image in images], np.stack([FACE] * 3))
    assert found.dtype == np.float32
    assert found[0] == found[1] > found[2]


@pytest.fixture
def fit() -> Fit:
    sizes = {f.name: f.metadata["shape"] for f in fields(FaceParams) if not f.metadata["optional"]}
    random = np.random.default_rng(0)
    params = FaceParams(
        **{
            name: random.normal(0, 0.2, (3, *(HEAD.size(a) for a in shape))).astype(np.float32)
            for name, shape in sizes.items()
        }
    )
    zero = np.zeros(3, np.float32)
    return Fit(params, zero, zero, zero)


def skin(fit: Fit) -> np.ndarray:
    return OpenHead.load().skin_colour(fit.params.albedo)


def test_skin_and_light_change_by_opposite_factors(fit):
    out = in_frame(fit, HEAD, np.array([1, 2, 1], np.float32), np.arange(3))
    change = skin(out) / skin(fit)
    assert np.allclose(change, change[:, :1], rtol=1e-4)  # its hue stays
    assert change[1, 0] < 0.6 * change[0, 0]
    assert np.allclose(out.params.light * change[:, :1, None], fit.params.light, rtol=1e-4)
    assert np.array_equal(out.params.shape, fit.params.shape)


def test_skin_stays_in_the_range_of_human_skin(fit):
    out = in_frame(fit, HEAD, np.array([1e-4, 1, 1e4], np.float32), np.arange(3))
    assert skin(out)[[0, 2]] @ LUMINANCE == pytest.approx(RANGE[::-1], rel=1e-3)


def test_faces_of_one_track_keep_one_albedo(fit):
    same = replace(fit, params=replace(fit.params, albedo=fit.params.albedo[[0, 0, 0]]))
    out = in_frame(same, HEAD, np.array([1, 4, 1], np.float32), np.array([7, 7, 9])).params.albedo
    assert np.array_equal(out[0], out[1])
    assert not np.array_equal(out[0], out[2])


def test_head_without_tone_is_left_alone(fit):
    assert in_frame(fit, PLAIN_HEAD, np.ones(3, np.float32), np.arange(3)) is fit
