"""Tight crops of a refiner, and its change pasted into previews of any size."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from rigface.errors import BadCheckpoint
from rigface.face.head.open_head import OpenHead
from rigface.face.preview.warp import Preview, Previewer
from rigface.refiner.network import FLOW_SCALE, Correction, RefinerConfig, RefinerNetwork
from rigface.refiner.preview_refiner import RATIO, PreviewRefiner, RefinerInputs, TightCrops
from rigface.refiner.regions import REGIONS
from rigface.types import FaceParams

SPEC = OpenHead.load().head(0).spec


def face(yaw: float = 0.0) -> FaceParams:
    light = np.zeros((9, 3), np.float32)
    light[0] = 1
    return FaceParams(
        shape=np.zeros(SPEC.shape, np.float32), expression=np.zeros(SPEC.expression, np.float32),
        head_rotation=np.float32([0, yaw, 0]), jaw_rotation=np.zeros(3, np.float32),
        camera=np.float32([6.0, 0.01, -0.01]), albedo=np.zeros(SPEC.albedo, np.float32), light=light,
    )  # fmt: skip


def photograph(size: int) -> np.ndarray:
    rows, columns = np.mgrid[:size, :size] * (12 / size)
    return (128 + 60 * np.dstack([np.sin(rows), np.cos(columns), np.sin(rows + columns)])).astype(np.uint8)


def network(brighter: float) -> tuple[RefinerNetwork, RefinerConfig]:
    """A network that adds a constant, of [-1, 1], to any crop."""
    config = RefinerConfig(SPEC, size=32, widths=(8, 16), blocks=(1, 1))
    made = RefinerNetwork(config)
    with torch.no_grad():
        made.exit.bias.fill_(brighter)  # of the residual's channels, and of the confidence before its sigmoid
    return made.eval(), config


def preview_of(crop: np.ndarray, wanted: FaceParams):
    return Previewer()(crop, face(), wanted, np.full(crop.shape[:2], 255, np.uint8))


def test_square_is_around_the_projected_face():
    crops = TightCrops(128)
    square = crops.square(face())
    points = OpenHead.load().head(1).of(face().map(lambda a: torch.from_numpy(a)[None]))[0].numpy()
    unit = 6.0 * (points[:, :2] + (0.01, -0.01))
    pixels = (unit * (1, -1) + 1) * 256 @ square[:, :2].T + square[:, 2]
    low, high = pixels.min(0), pixels.max(0)
    assert (high - low).max() == pytest.approx(128 / RATIO, rel=1e-4)
    np.testing.assert_allclose((low + high) / 2, 64, atol=1e-2)


@pytest.mark.parametrize("size", [256, 640])
def test_network_without_change_leaves_the_preview_of_any_size(size):
    wanted = face(yaw=0.2)
    crop = photograph(size)
    preview = preview_of(crop, wanted)
    refined = PreviewRefiner(*network(0.0))(crop, face(), wanted, preview)
    np.testing.assert_array_equal(refined, preview.image)


@pytest.mark.parametrize("size", [256, 640])
def test_change_is_added_in_the_mouth_and_skin_keeps_its_mean_colour(size):
    wanted = face(yaw=0.2)
    crop = photograph(size)
    preview = preview_of(crop, wanted)
    refined = PreviewRefiner(*network(0.2))(crop, face(), wanted, preview)
    change = refined.astype(int) - preview.image
    mouth, nose = (pixel_of(region, crop, wanted, preview) for region in ("mouth", "face"))
    expected = 0.2 / (1 + np.exp(-0.2)) * 127.5
    assert np.abs(change[mouth] - expected).max() <= 1
    assert np.abs(change[nose]).max() <= 1
    assert not change[:2].any()
    assert not change[:, :2].any()
    assert np.abs(np.diff(change[mouth[0], :, 0])).max() < expected / 2  # no edge


def test_mouth_that_opens_wider_than_in_any_example_is_the_previews():
    crop, jaw = photograph(256), SPEC.expression_names.index("jawOpen")
    changes = []
    for amount in (0.4, 0.8, 1.3):
        wanted = face(yaw=0.2)
        wanted.expression[jaw] = amount
        preview = preview_of(crop, wanted)
        refined = PreviewRefiner(*network(0.2))(crop, face(), wanted, preview)
        changes.append(np.abs(refined.astype(int) - preview.image).max())
    assert changes[0] > changes[1] > changes[2] == 0


def pixel_of(region: str, crop: np.ndarray, wanted: FaceParams, preview: Preview) -> tuple[int, int]:
    """Row and column of the middle of a region in the crop; the middle of the face is the nose."""
    crops, size = TightCrops(32), len(crop)
    square = crops.square(wanted)
    regions = crops.inputs(crop, face(), wanted, preview).regions
    middle = np.argwhere(regions == REGIONS.index(region)).mean(0)[::-1] + 0.5
    column, row = ((middle - square[:, 2]) / square[0, 0] * size / 512).astype(int)
    return row, column


def test_inputs_show_the_wanted_geometry_and_both_expressions():
    wanted = replace(face(yaw=0.3), expression=np.linspace(0, 1, SPEC.expression, dtype=np.float32))
    crop = photograph(512)
    inputs = TightCrops(64).inputs(crop, face(), wanted, preview_of(crop, wanted))
    assert inputs.preview.shape == inputs.photograph.shape == inputs.geometry.shape == (64, 64, 3)
    np.testing.assert_array_equal(inputs.code[: SPEC.expression], wanted.expression)
    assert not inputs.code[SPEC.expression :].any()
    horizontal = inputs.geometry[32, :, 0]
    assert horizontal[20] < 128 < horizontal[46]  # normals to the left and to the right
    assert inputs.geometry[0, 0, 0] == 0  # beside the face


def test_refiner_of_another_head_is_refused():
    _, config = network(0.0)
    other = replace(config, head=replace(SPEC, expression=5))
    with pytest.raises(BadCheckpoint, match="5 expressions"):
        PreviewRefiner(RefinerNetwork(other), other)


def test_flow_moves_the_mouth_at_the_size_of_the_preview_and_leaves_the_skin():
    wanted, crop = face(yaw=0.2), photograph(640)
    preview, crops = preview_of(crop, wanted), TightCrops(32)
    made, config = network(0.0)
    with torch.no_grad():
        made.motion.bias[0] = 2 / 16 / FLOW_SCALE  # two of 32 px to the right
    refined = PreviewRefiner(made, config)(crop, face(), wanted, preview)
    square = crops.square(wanted)
    zoom = 640 / 512 / square[0, 0]
    mouth = (
        np.argwhere(crops.inputs(crop, face(), wanted, preview).regions == REGIONS.index("mouth")).mean(0)[::-1] + 0.5
    )
    x, y = ((mouth - square[:, 2]) * zoom).astype(int)
    step = round(2 * zoom)
    at_mouth, skin = np.s_[y - 4 : y + 5, x - 4 : x + 5], np.s_[y - int(7 * zoom), x - 4 : x + 5]
    to_the_right = np.s_[y - 4 : y + 5, x - 4 + step : x + 5 + step]
    np.testing.assert_allclose(refined[at_mouth], preview.image[to_the_right], atol=4)
    assert np.abs(refined[at_mouth].astype(int) - preview.image[at_mouth]).max() > 10
    np.testing.assert_allclose(refined[skin], preview.image[skin], atol=4)
    assert np.array_equal(refined[:2], preview.image[:2])


def test_picture_without_colour_stays_without():
    wanted, crop = face(yaw=0.2), np.repeat(photograph(256)[..., :1], 3, axis=2)
    preview = preview_of(crop, wanted)
    made, config = network(0.0)
    with torch.no_grad():
        made.exit.bias[:4] = 0.3  # red alone
    refined = PreviewRefiner(made, config)(crop, face(), wanted, preview)
    assert np.abs(refined.astype(int) - preview.image).max() > 5
    assert not np.ptp(refined, axis=2).any()


def test_change_that_takes_detail_from_the_mouth_is_laid_on_by_its_low_frequencies():
    size = 64
    random = np.random.default_rng(0)
    picture = random.integers(0, 256, (size, size, 3), dtype=np.uint8)
    mouth, nothing = np.full((size, size), REGIONS.index("mouth"), np.uint8), np.zeros((size, size, 3), np.uint8)
    inputs = RefinerInputs(picture, picture, nothing, np.zeros(2 * SPEC.expression, np.float32), mouth)
    config = RefinerConfig(SPEC, size=size, widths=(8, 16), blocks=(1, 1))
    grey = torch.full((1, 3, size, size), 0.0)

    class Blurring(RefinerNetwork):
        def forward(self, pictures, codes):
            return Correction(torch.zeros(1, 2, size, size), grey - pictures[:, :3])

    refined = PreviewRefiner(Blurring(config), config).refine(inputs)
    assert refined.std() > 0.7 * picture.std()
