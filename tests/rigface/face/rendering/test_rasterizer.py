"""Rasterizer: the pixel rule, and agreement with PyTorch3D."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from scipy.spatial import Delaunay

from rigface.face.geometry.camera import to_crop_px
from rigface.face.head.safe_pickle import load_pickle
from rigface.face.rendering import rasterizer
from rigface.face.rendering.jit import compiled
from rigface.face.rendering.rasterizer import rasterize, rasterize_pytorch3d

SQUARE = torch.tensor([[0, 2, 1], [0, 3, 2]])  # anticlockwise to the eye, with y down in pixels


def square(x0, y0, x1, y1, z=0.0):
    return torch.tensor([[[x0, y0, z], [x1, y0, z], [x1, y1, z], [x0, y1, z]]])


def drawn(fragments):
    return (fragments.face[0] >= 0).int().tolist()


@pytest.fixture(scope="module")
def heads(fixtures):
    """Four posed heads of 162 vertices at 96 px, and their triangles."""
    unit = load_file(fixtures / "flame" / "io.safetensors")["projected_vertices"] * torch.tensor([1.0, -1, -1])
    faces = load_pickle(fixtures / "flame" / "generic_model.pkl")["f"].astype(np.int64)
    return to_crop_px(unit, 96), torch.from_numpy(faces)


def test_pixel_shows_the_triangle_at_its_centre():
    assert drawn(rasterize(square(1.0, 1.0, 3.0, 2.0), SQUARE, (3, 4))) == [[0, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0]]
    assert drawn(rasterize(square(0.6, 0.6, 1.4, 1.4), SQUARE, 2)) == [[0, 0], [0, 0]]


def test_edge_pixels_follow_the_top_left_rule():
    assert drawn(rasterize(square(0.5, 0.5, 2.5, 1.5), SQUARE, 3)) == [[1, 1, 0], [0, 0, 0], [0, 0, 0]]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.booleans())
def test_shared_edges_leave_no_gap_and_no_overlap(seed, on_grid):
    rng = np.random.default_rng(seed)
    inner = rng.uniform(0, 16, (12, 2))
    if on_grid:
        inner = np.floor(inner) + 0.5  # corners and many edges on pixel centres
    corners = np.array([[-1, -1], [17, -1], [17, 17], [-1, 17]])
    flat = np.unique(np.concatenate([inner, corners]), axis=0)
    faces = Delaunay(flat).simplices
    points = torch.tensor(np.concatenate([flat, np.zeros((len(flat), 1))], 1), dtype=torch.float32)[None]
    times = sum((rasterize(points, torch.tensor(f[None]), 16).face[0] >= 0).int() for f in faces)
    assert torch.equal(times, torch.ones(16, 16, dtype=torch.int32))


def test_barycentrics_reproduce_position_and_depth(heads):
    points, faces = heads
    out = rasterize(points, faces, 96)
    n, row, column = (out.face >= 0).nonzero(as_tuple=True)
    corners = points[n[:, None], faces[out.face[n, row, column].long()]]
    at = (corners * out.barycentrics[n, row, column][..., None]).sum(1)
    assert torch.allclose(at[:, 0], column + 0.5, atol=1e-3)
    assert torch.allclose(at[:, 1], row + 0.5, atol=1e-3)
    assert torch.allclose(at[:, 2], out.depth[n, row, column], atol=1e-3)
    assert out.barycentrics[n, row, column].min() > -1e-6
    empty = out.face < 0
    assert out.depth[empty].eq(math.inf).all()
    assert out.barycentrics[empty].eq(0).all()


def test_nearest_triangle_wins_and_first_of_equals():
    points = torch.cat([square(0, 0, 4, 4, z=2.0), square(0, 0, 2, 4, z=1.0), square(0, 0, 4, 4, z=2.0)], 1)
    out = rasterize(points, torch.cat([SQUARE, SQUARE + 4, SQUARE + 8]), 4)
    assert set(out.face[0, :, :2].flatten().tolist()) == {2, 3}
    assert set(out.face[0, :, 2:].flatten().tolist()) == {0, 1}


@pytest.mark.parametrize("draw", [rasterize, rasterize_pytorch3d])
def test_culling_drops_back_faces(draw):
    points = torch.cat([square(0.1, 0.1, 3.9, 3.8, z=1.0), square(0.1, 0.1, 3.9, 3.8, z=2.0)], 1)
    faces = torch.cat([SQUARE.flip(1), SQUARE + 4])
    assert draw(points, faces, (4, 4)).face.max() < 2
    assert draw(points, faces, (4, 4), cull=True).face.min() >= 2


def test_batch_equals_its_images_on_any_number_of_threads(heads):
    points, faces = heads
    whole = rasterize(points, faces, 96, threads=3)
    for n in range(len(points)):
        alone = rasterize(points[n : n + 1], faces, 96, threads=1)
        assert torch.equal(alone.face[0], whole.face[n])
        assert torch.equal(alone.barycentrics[0], whole.barycentrics[n])


def test_invalid_vertices_affect_only_their_triangles():
    bad = square(0, 0, 4, 4)
    bad[0, 1, 0] = math.nan  # only the first triangle has this corner
    assert (rasterize(bad, SQUARE, 4).face[0] >= 0).tolist() == (rasterize(bad, SQUARE[1:], 4).face[0] >= 0).tolist()
    huge = rasterize(square(-1e6, -2e6, 3e6, 2e6), SQUARE, (5, 3))
    assert (huge.face >= 0).all()
    assert (rasterize(square(50, 50, 60, 60), SQUARE, 4).face < 0).all()
    assert rasterize(torch.zeros(0, 4, 3), SQUARE, 4).face.shape == (0, 4, 4)


def test_rasterizer_agrees_with_pytorch3d(heads):
    """Over four heads, 96 px, 320 triangles: all pixels show the same triangle but those whose centre is on an edge."""
    points, faces = heads
    own, reference = rasterize(points, faces, 96), rasterize_pytorch3d(points, faces, (96, 96))
    same = own.face == reference.face
    assert (~same).sum() <= 2  # 0 of 36,864 where this was written
    drawn = same & (own.face >= 0)
    assert drawn.sum() > 10_000
    assert (own.depth - reference.depth)[drawn].abs().max() < 1e-2  # px, of a head 80 px deep
    apart = (own.barycentrics - reference.barycentrics)[drawn].abs().amax(-1)
    assert apart.max() < 2e-2  # PyTorch3D's, on slivers of a tenth of a pixel
    assert (apart > 1e-4).float().mean() < 0.01


def test_rectangular_image_agrees_with_pytorch3d(heads):
    points, faces = heads
    own, reference = rasterize(points[:1], faces, (64, 90)), rasterize_pytorch3d(points[:1], faces, (64, 90))
    assert (own.face != reference.face).sum() <= 2


def test_face_index_out_of_range_is_refused():
    with pytest.raises(ValueError, match=r"vertices in 0\.\.3, got 0\.\.4"):
        rasterize(square(0, 0, 1, 1), torch.tensor([[0, 1, 4]]), 4)
    with pytest.raises(ValueError, match=r"got \(4, 3\)"):
        rasterize(square(0, 0, 1, 1)[0], SQUARE, 4)


def test_unwritable_cache_is_tolerated(monkeypatch):
    monkeypatch.setattr("numba.core.caching.CacheImpl._locator_classes", [])
    kernel = compiled.__wrapped__(rasterizer._draw)  # numba's own, without a lock
    out = torch.full((2, 2), -1, dtype=torch.int32)
    kernel.py_func(  # the same loop, uncompiled
        square(0, 0, 2, 2)[0].double().numpy(),
        SQUARE.int().numpy(),
        False,
        out.numpy(),
        np.zeros((2, 2, 3)),
        np.full((2, 2), np.inf),
    )
    assert (out >= 0).all()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_gpu_matches_cpu(heads):
    points, faces = heads
    cpu, gpu = rasterize(points, faces, 96), rasterize(points.cuda(), faces.cuda(), 96)
    assert (cpu.face != gpu.face.cpu()).sum() <= 8
