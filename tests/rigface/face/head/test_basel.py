"""Basel model: the reference figures of Deep3DFaceRecon's class, and files that must be refused."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy.io import loadmat, savemat

from rigface.errors import BadCheckpoint, MissingAsset
from rigface.face.geometry.camera import project
from rigface.face.geometry.rotation import to_matrix
from rigface.face.head.basel import FILE, load_basel, params_of_codes, project_perspective
from rigface.face.rendering.lighting import shade
from rigface.face.rendering.renderer import vertex_normals


@pytest.fixture(scope="module")
def folder(fixtures):
    return fixtures / "official" / "heads"


@pytest.fixture(scope="module")
def figures(folder):
    return load_file(folder / "basel_io.safetensors")


@pytest.fixture(scope="module")
def basel(folder):
    return load_basel(folder)


@pytest.fixture(scope="module")
def params(figures):
    return params_of_codes(figures["coefficients"])


def test_shape_and_pose_match_the_basel_class(basel, figures, params):
    decimetres = 10 * basel.neutral(params.shape, params.expression)
    assert torch.allclose(decimetres, figures["shape"], atol=1e-5)
    assert torch.allclose(to_matrix(params.head_rotation).mT, figures["rotation"], atol=1e-6)


def test_colours_match_the_basel_class(basel, figures, params):
    albedo = basel.albedo(params.albedo)
    normals = vertex_normals(basel.of(params), basel.faces, by_area=False)
    assert torch.allclose(albedo, figures["texture"], atol=1e-5)
    assert torch.allclose(albedo * shade(normals, params.light), figures["colour"], atol=1e-5)


def test_projection_matches_the_basel_class(basel, figures, params):
    unit = project_perspective(basel.of(params), figures["coefficients"][:, 254:257])
    pixels = (unit + 1) * 112
    assert torch.allclose(pixels, figures["projected_y_up"], atol=1e-3)
    assert torch.allclose(basel.landmarks.points(pixels), figures["landmarks68_y_up"], atol=1e-3)


def test_weak_camera_agrees_at_the_depth_of_the_origin(params, figures):
    points = torch.zeros(3, 1, 3)
    points[..., 0] = 0.05
    exact = project_perspective(points, figures["coefficients"][:, 254:257])
    assert torch.allclose(project(points, params.camera)[..., :2], exact, atol=1e-6)


def test_codes_of_both_networks_are_read(figures, params):
    without_pupils = params_of_codes(figures["coefficients"][:, :257])
    assert torch.equal(without_pupils.light, params.light)
    assert torch.equal(params.bfm_expression, figures["coefficients"][:, 80:144])
    with pytest.raises(ValueError, match=r"want \(N, 257\) of Deep3D or \(N, 261\)"):
        params_of_codes(torch.zeros(2, 236))


def test_wrong_file_is_refused(folder, tmp_path):
    with pytest.raises(MissingAsset, match=r"faces\.dmi\.unibas\.ch"):
        load_basel(tmp_path)
    path = tmp_path / FILE
    arrays = {k: v for k, v in loadmat(folder / FILE).items() if not k.startswith("__")}
    savemat(path, arrays | {"exBase": arrays["exBase"][:, :9]})
    with pytest.raises(BadCheckpoint, match=r"exBase has the shape \(1518, 9\)"):
        load_basel(path)
    savemat(path, {"lm": np.zeros((68, 3))})
    with pytest.raises(BadCheckpoint, match=r"it lacks exBase, idBase"):
        load_basel(path)
    path.write_bytes((folder / FILE).read_bytes()[:1000])
    with pytest.raises(BadCheckpoint, match="make it again"):
        load_basel(path)
