"""Named axes on a head without names: a head with a known solution, and FLAME's file format."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from rigface.edits import EditSpec
from rigface.errors import BadEdit
from rigface.face.controls.blendshape_transfer import INNER, _motion, fit_named_axes
from rigface.face.controls.local_blendshapes import region_weights
from rigface.face.controls.transfer import expression_amount, transfer
from rigface.face.head.head_model import Head
from rigface.face.head.open_head import OpenHead
from rigface.types import FaceParams, HeadSpec

SIZE = 1.3


@pytest.fixture(scope="module")
def stranger() -> Head:
    """The open head in disguise: larger, turned and moved, its vertices in another order, its axes mixed, and with a
    jaw."""
    rng, model = np.random.default_rng(0), OpenHead.load()
    fine, weights = model.head(1), model.subdivision(1)[0]
    order = rng.permutation(len(fine.template))
    place = np.argsort(order)
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    turn *= np.sign(np.linalg.det(turn))
    moves = np.stack([weights @ _motion(model, k) for k in range(model.spec.expression)], -1)[order]
    mixed = np.linalg.qr(rng.normal(size=(moves.shape[2],) * 2))[0]
    hinge = region_weights("jawOpen", fine.template.numpy()[order])
    return Head.from_arrays(
        HeadSpec("flame", "disguised", 40, moves.shape[2], 0),
        template=SIZE * fine.template.numpy()[order] @ turn.T + (0.1, 0.2, -0.1),
        shape_basis=SIZE * np.einsum("ij,vjs->vis", turn, fine.shape_basis.numpy()[order]),
        expression_basis=SIZE * np.einsum("ij,vjk->vik", turn, moves @ mixed),
        faces=place[fine.faces.numpy()],
        parents=(-1, 0),
        joint_regressor=np.full((2, len(order)), 1 / len(order)),
        skinning=np.stack([1 - hinge, hinge], 1),
        jaw=1,
        landmarks=np.array([0] * 17 + [int(place[i]) for i in INNER]),
    )


@pytest.fixture(scope="module")
def named(stranger):
    return fit_named_axes(stranger)


def test_fit_named_axes_recovers_motions_of_the_open_head(named):
    moves = np.linalg.norm(OpenHead.load().expression, axis=2).max(1) > 0.003  # 3 mm
    assert moves.sum() > 20
    assert named.reached[moves].min() > 0.8
    assert np.median(named.reached[moves]) > 0.95
    assert named.reached.max() <= 1


def test_rigid_head_reaches_no_named_axis(stranger):
    stiff = replace(stranger, expression_basis=torch.zeros_like(stranger.expression_basis), jaw=None)
    found = fit_named_axes(stiff)
    assert np.abs(found.reached).max() < 1e-6
    assert not found.jaw.any()


def face(rng: np.random.Generator | None = None) -> FaceParams:
    """A face of the stranger: neutral, or of any expression."""
    sizes = {"shape": 40, "expression": 52, "head_rotation": 3, "jaw_rotation": 3, "camera": 3, "albedo": 0}
    values = {name: np.zeros(size, np.float32) for name, size in (sizes | {"bfm_expression": 64}).items()}
    if rng is not None:
        values["expression"] = rng.normal(size=52).astype(np.float32)
        values["jaw_rotation"] = np.array([0.1, 0, 0], np.float32)
    return FaceParams(**values, light=np.zeros((9, 3), np.float32))


def test_named_value_is_set_not_added(named):
    source = face(np.random.default_rng(1))
    asked = [({"jawOpen": 1.0}, 0.5), ({"mouthSmileLeft": 1.25, "mouthDimpleLeft": 0.4}, 0.8)]
    once = named.set(source, asked)
    twice = named.set(once, asked)
    np.testing.assert_allclose(once.expression, twice.expression, atol=1e-5)
    np.testing.assert_allclose(once.jaw_rotation, twice.jaw_rotation, atol=1e-6)
    still = named.set(face(), [({"browInnerUp": 1.0}, 1.0)])
    np.testing.assert_allclose(still.expression, named.expression[named.names.index("browInnerUp")], atol=1e-5)
    assert named.amount(still, {"browInnerUp": 1.0}) == pytest.approx(1, abs=1e-5)
    with pytest.raises(BadEdit, match=r"expression\.grin"):
        named.set(source, [({"grin": 1.0}, 1.0)])


def test_expression_code_moves_with_the_coefficients(named):
    coded = replace(named, bfm_expression=np.random.default_rng(0).normal(size=(len(named.names), 64)))
    smile = coded.names.index("mouthSmileLeft")
    half = coded.set(face(), [({"mouthSmileLeft": 1.0}, 0.5)])
    np.testing.assert_allclose(half.bfm_expression, 0.5 * coded.bfm_expression[smile], atol=1e-5)
    assert not named.set(face(), [({"mouthSmileLeft": 1.0}, 0.5)]).bfm_expression.any()


def test_named_edit_moves_flame_like_the_open_head(stranger, named, monkeypatch):
    """A smile: both corners of the mouth go up and out, the eyes stay."""
    monkeypatch.setattr("rigface.face.controls.transfer.named_axes", lambda head: named)
    spec, source = stranger.spec, face()
    out = transfer(source, EditSpec(expression={"smile": 1.0}), spec)

    def inner(params: FaceParams) -> np.ndarray:
        names = ("shape", "expression", "head_rotation", "jaw_rotation")
        surface = stranger.vertices(*(torch.from_numpy(getattr(params, name))[None] for name in names))
        return stranger.landmarks.points(surface)[0, 17:].numpy()

    moved = np.linalg.norm(inner(out) - inner(source), axis=1) / SIZE
    corners, eyes = [INNER.index(61), INNER.index(291)], [INNER.index(i) for i in (33, 133, 362, 263)]
    assert moved[corners].min() > 0.003
    assert moved[eyes].max() < 0.001
    assert expression_amount(out, "smile", spec) == pytest.approx(1, abs=1e-4)
    with pytest.raises(BadEdit, match="region"):
        transfer(source, EditSpec(expression={"smile": 1.0}, region="mouth"), spec)


def test_head_without_landmarks_is_refused(stranger):
    few = replace(stranger, landmarks=OpenHead.load().head(0).landmarks)
    with pytest.raises(ValueError, match="51 inner"):
        fit_named_axes(few)
