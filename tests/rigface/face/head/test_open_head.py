"""The open head as an asset and as a Head."""

import numpy as np
import pytest
import torch

from rigface.face.geometry.rotation import from_degrees, to_axis_angle
from rigface.face.head.open_head import SKIN_LUMINANCE, OpenHead


@pytest.fixture(scope="module")
def model() -> OpenHead:
    return OpenHead.load()


def flip(points: np.ndarray, mirror: np.ndarray) -> np.ndarray:
    return points[..., mirror, :] * np.array([-1, 1, 1], np.float32)


def test_array_sizes_match_the_spec(model):
    assert (model.spec.name, model.spec.shape, model.spec.expression) == ("open", 40, 52)
    assert len(model.spec.expression_names) == 52
    weights, faces = model.subdivision()
    assert weights.shape == (7257, 468)
    assert faces.shape == (14368, 3)


def test_asset_is_small_and_holds_no_pickle(model):
    from importlib.resources import files

    path = files("rigface") / "data" / "open_head.npz"
    assert len(path.read_bytes()) < 3 * 2**20
    with np.load(str(path), allow_pickle=False) as data:
        assert not any(data[name].dtype == object for name in data.files)


def test_open_head_is_mirror_symmetric(model):
    assert np.abs(flip(model.template, model.mirror) - model.template).max() < 1e-5
    for axis in model.shape[:10]:  # each is symmetric or antisymmetric
        image = flip(axis, model.mirror)
        same, opposite = np.abs(image - axis).max(), np.abs(image + axis).max()
        assert min(same, opposite) < 0.05 * np.abs(axis).max()


@pytest.mark.parametrize("name", ["mouthSmileLeft", "eyeBlinkLeft", "browDownLeft", "jawLeft"])
def test_left_and_right_expressions_mirror_each_other(model, name):
    names = model.spec.expression_names
    left, right = model.expression[names.index(name)], model.expression[names.index(name.replace("Left", "Right"))]
    assert np.abs(flip(left, model.mirror) - right).max() < 1e-4


def test_named_expressions_move_their_parts(model):
    names, points = model.spec.expression_names, model.template
    chin, lower_lip, upper_lip = 152, 14, 13
    jaw = model.expression[names.index("jawOpen")]
    assert jaw[chin, 1] < -0.005  # metres, down
    assert jaw[lower_lip, 1] - jaw[upper_lip, 1] < -0.005
    smile = model.expression[names.index("mouthSmileLeft")]
    corner = 291  # the person's left
    assert points[corner, 0] > 0
    assert smile[corner, 0] > 0.001
    assert smile[corner, 1] > 0
    blink = model.expression[names.index("eyeBlinkLeft")]
    upper_lid = 386
    assert blink[upper_lid, 1] < -0.002


def test_albedo_has_the_stated_mean_luminance(model):
    assert model.albedo_mean.min() >= 0
    assert model.albedo_mean.max() <= 1
    luminance = np.array([0.2126, 0.7152, 0.0722], np.float32)
    assert abs((model.albedo_mean[model.skin] @ luminance).mean() - SKIN_LUMINANCE) < 0.01
    assert np.abs((model.albedo[:, model.skin] @ luminance).mean(1)).max() < 0.01  # no axis is plain brightness


def test_open_head_works_as_a_head(model):
    head, spec = model.head(), model.spec
    quarter = to_axis_angle(from_degrees(torch.tensor([[90.0, 0.0, 0.0]])))
    points = head.vertices(torch.zeros(1, spec.shape), torch.zeros(1, spec.expression), quarter)[0]
    nose, template = 1, torch.from_numpy(model.template)
    assert torch.allclose(points[nose, 0], template[nose, 2], atol=1e-5)  # turned to the own left: z becomes x
    corners = head.template[head.faces]
    normals = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    assert (normals[:, 2] > 0).float().mean() > 0.95  # a face looks out of itself
