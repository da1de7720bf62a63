"""The open head in the layout of `BFM_model_front.mat`."""

import numpy as np
import pytest
from scipy.io import loadmat

from rigface.face.head.open_head import OpenHead
from rigface.testing.official.basel import write_basel


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return loadmat(write_basel(tmp_path_factory.mktemp("basel")) / "BFM_model_front.mat")


def test_arrays_have_the_published_shapes(model):
    shapes = {name: array.shape for name, array in model.items() if not name.startswith("_")}
    vertices, triangles = 468, 898
    assert shapes == {
        "meanshape": (1, 3 * vertices),
        "idBase": (3 * vertices, 80),
        "exBase": (3 * vertices, 64),
        "meantex": (1, 3 * vertices),
        "texBase": (3 * vertices, 80),
        "tri": (triangles, 3),
        "point_buf": (vertices, 8),
        "tri_mask2": (triangles, 3),
        "keypoints": (1, 68),
        "frontmask2_idx": (vertices, 1),
        "skinmask": (1, vertices),
    }


def test_coefficients_make_the_open_heads_faces_in_decimetres(model):
    own = OpenHead.load()
    shape = np.random.RandomState(0).standard_normal(80)
    vertices = (model["meanshape"][0] + model["idBase"] @ shape).reshape(-1, 3) / 10
    assert np.abs(vertices - own.template - np.einsum("s,svc->vc", shape[:40], own.shape)).max() < 1e-6


def test_triangles_around_a_vertex_hold_it(model):
    tri = np.concatenate([model["tri"], np.zeros((1, 3))]).astype(int)
    around = model["point_buf"].astype(int) - 1
    holds = (tri[around] == np.arange(1, 469)[:, None, None]).any(-1)
    assert (holds | (around == 898)).all()
    assert holds[:, 0].all()
