"""Expression codes in a mirror."""

import numpy as np
import pytest

from rigface.face.controls.mirror import code_mirror, mirror_matrix
from rigface.face.head.open_head import OpenHead
from rigface.testing.official.basel import write_basel


@pytest.fixture(autouse=True)
def _basel(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("assets")
    write_basel(folder / "basel")
    monkeypatch.setenv("RIGFACE_ASSETS", str(folder))


def test_named_axes_change_places_with_their_twins():
    spec = OpenHead.load().spec
    code = np.arange(spec.expression, dtype=np.float32)
    mirrored = code_mirror("expression", spec)(code)
    left, right = (spec.expression_names.index(f"mouthSmile{side}") for side in ("Left", "Right"))
    assert (mirrored[left], mirrored[right]) == (code[right], code[left])


def test_mirrored_motion_of_a_basel_code_is_the_motion_of_the_mirrored_code():
    from rigface.face.head.heads import load_head

    head = load_head("basel")
    matrix = mirror_matrix(head)
    basis = head.expression_basis.numpy().astype(np.float64)
    code = np.random.default_rng(0).normal(size=64) * (np.abs(basis).max((0, 1)) > 0)
    twice = code_mirror("bfm_expression", OpenHead.load().spec)(code_mirror("bfm_expression", head.spec)(code))
    moved, back = basis @ code, basis @ twice
    assert np.abs(back - moved).max() < 0.1 * np.abs(moved).max()  # axes of a real head are nearly symmetric
    twin = np.abs(head.template.numpy()[:, None] * [-1, 1, 1] - head.template.numpy()).sum(-1).argmin(1)
    flipped = moved[twin] * [-1, 1, 1]
    assert np.abs(basis @ (matrix @ code) - flipped).mean() < 0.5 * np.abs(flipped).mean()
