"""Preview: identity for an empty edit, and the effect of each kind of edit."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from rigface.edits import EditSpec, LightEdit
from rigface.face.controls.transfer import transfer
from rigface.face.geometry.camera import project, to_crop_px
from rigface.face.geometry.rotation import to_matrix
from rigface.face.head.open_head import OpenHead
from rigface.face.preview import warp
from rigface.face.preview.inpainting import hole_of
from rigface.face.preview.surround_mesh import frontality, surround_mesh
from rigface.face.preview.warp import Previewer
from rigface.face.rendering.renderer import vertex_normals
from rigface.types import FaceParams


@pytest.fixture(scope="module")
def preview() -> Previewer:
    return Previewer()


@pytest.fixture(scope="module")
def source() -> FaceParams:
    spec = OpenHead.load().spec
    light = np.zeros((9, 3), np.float32)
    light[0] = 3.0
    return FaceParams(
        shape=np.zeros(spec.shape, np.float32), expression=np.zeros(spec.expression, np.float32),
        head_rotation=np.array([0.05, 0.1, 0.02], np.float32), jaw_rotation=np.zeros(3, np.float32),
        camera=np.array([5.0, 0, 0], np.float32), albedo=np.zeros(spec.albedo, np.float32), light=light,
    )  # fmt: skip


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    """Smooth colours that name their place, so that a move can be read off."""
    y, x = np.mgrid[0:256, 0:256]
    return np.stack([x, y, 120 + 60 * np.sin(x / 20) * np.cos(y / 20)], -1).astype(np.uint8)


def edited(source: FaceParams, **asked) -> FaceParams:
    return transfer(source, EditSpec(**asked), OpenHead.load().spec)


def test_empty_edit_gives_the_source_exactly(preview, source, picture):
    out = preview(picture, source, source, mask=picture[..., 0])
    assert np.array_equal(out.image, picture)
    assert np.array_equal(out.mask, picture[..., 0])
    assert out.invented.max() < 1e-3


@pytest.mark.parametrize("degrees", [-30, 30])
def test_yaw_moves_the_middle_of_the_face(preview, source, picture, degrees):
    out = preview(picture, source, edited(source, yaw_deg=degrees))
    # Red holds the column a pixel came from: what is now left of the middle came from the middle, or the reverse.
    came_from = out.image[120:140, 120:136, 0].mean()
    assert np.sign(128 - came_from) == np.sign(degrees)


def test_distant_background_stays(preview, source, picture):
    out = preview(picture, source, edited(source, yaw_deg=30, expression={"jaw_open": 1.0}))
    for corner in (np.s_[:12, :12], np.s_[:12, -12:], np.s_[-12:, :12], np.s_[-12:, -12:]):
        assert np.array_equal(out.image[corner], picture[corner])


def test_side_light_brightens_its_side(preview, source):
    grey = np.full((256, 256, 3), 110, np.uint8)
    mask = np.zeros((256, 256), np.uint8)
    mask[40:216, 40:216] = 255
    out = preview(grey, source, edited(source, light=LightEdit(azimuth_deg=80, elevation_deg=0)), mask=mask)
    right, left = out.image[110:150, 160:172].mean(), out.image[110:150, 84:96].mean()  # the viewer's right
    assert right > left + 25
    assert np.array_equal(out.image[:30], grey[:30])  # light stays off the background


def test_opening_mouth_is_dark_and_marked_invented(preview, source):
    grey = np.full((256, 256, 3), 150, np.uint8)
    out = preview(grey, source, edited(source, expression={"jaw_open": 1.0}))
    dark = out.image.mean(-1) < 100
    assert 100 < dark.sum() < 3000
    assert out.invented[dark].min() > 0.3
    assert out.invented[dark].mean() > 0.8


def test_preview_works_at_any_size(preview, source):
    small = np.full((128, 128, 3), 90, np.uint8)
    assert preview(small, source, edited(source, yaw_deg=20)).image.shape == (128, 128, 3)


def test_edits_keep_a_flat_image_flat(preview, source):
    grey = np.full((256, 256, 3), 133, np.uint8)
    out = preview(grey, source, edited(source, yaw_deg=35, pitch_deg=10, expression={"brows_up": 1.0}))
    assert np.abs(out.image.astype(int) - 133).max() <= 1


def test_masked_background_keeps_its_lines_when_the_head_turns(preview, source):
    stripes = np.zeros((256, 256, 3), np.uint8)
    stripes[::8] = stripes[1::8] = 200
    mask = np.zeros((256, 256), np.uint8)
    mask[70:190, 75:180] = 255
    masked = preview(stripes, source, edited(source, roll_deg=25), mask)
    bent = preview(stripes, source, edited(source, roll_deg=25))
    around = np.zeros((256, 256), bool)
    around[60:200, 30:55] = True  # beside the person, inside the ring that moves
    change = lambda out: np.abs(out.image.astype(int) - stripes)[around].mean()  # noqa: E731
    assert change(bent) > 20
    assert change(masked) < change(bent) / 3
    beside = np.maximum(hole_of(mask), cv2.dilate(masked.mask, np.ones((5, 5)))) > 0
    assert np.array_equal(masked.image[~beside], stripes[~beside])  # nothing that the head passes: to the bit


def test_threads_draw_the_same_picture(preview, source, picture, monkeypatch):
    turned = edited(source, yaw_deg=20)
    outs = []
    for threads in (1, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        outs.append(preview(picture, source, turned, picture[..., 0]))
    assert np.array_equal(outs[0].image, outs[1].image)
    assert np.array_equal(outs[0].mask, outs[1].mask)


def test_uncovered_background_is_inpainted_and_marked_invented(preview, source):
    image = np.full((256, 256, 3), 40, np.uint8)
    mask = np.zeros((256, 256), np.uint8)
    mask[50:200, 60:196] = 255
    image[mask > 0] = 200
    out = preview(image, source, edited(source, roll_deg=30), mask)
    left_behind = (mask > 0) & (out.mask < 10)
    assert left_behind.sum() > 500
    assert np.median(out.image[left_behind]) < 60
    assert np.median(out.invented[left_behind]) > 0.9


def test_soft_edges_of_the_person_carry_no_old_background_along(preview, source):
    mask = np.zeros((256, 256), np.uint8)
    mask[50:200, 60:196] = 255
    mask = cv2.GaussianBlur(mask, (0, 0), 3)
    share = mask[..., None] / np.float32(255)
    image = (30 * share + 200 * (1 - share) + 0.5).astype(np.uint8).repeat(3, 2)
    out = preview(image, source, edited(source, roll_deg=30), mask)
    share = out.mask / 255
    edge = (share > 0.2) & (share < 0.8) & (out.invented > 0.15)
    assert edge.sum() > 300
    assert np.abs(out.image[edge].mean(1) - (30 * share + 200 * (1 - share))[edge]).mean() < 15


def test_edge_of_the_person_stays_sharp_where_its_surroundings_are_stretched(preview, source):
    mask = np.zeros((256, 256), np.uint8)
    cv2.fillConvexPoly(mask, outline(source, 1.08), 255)
    mask = cv2.blur(mask, (3, 3))
    out = preview(np.dstack([mask] * 3), source, edited(source, yaw_deg=30), mask)
    soft = lambda mask: int(((mask > 20) & (mask < 235)).sum())  # noqa: E731
    assert soft(out.mask) < 0.7 * soft(mask)


def test_hair_is_either_itself_or_mirrored(preview, source):
    turned, grey = edited(source, yaw_deg=-20), np.full((256, 256, 3), 90, np.uint8)
    invented = preview(grey, turned, edited(source, yaw_deg=20), np.full((256, 256), 255, np.uint8)).invented
    face = np.zeros((256, 256), np.uint8)
    cv2.fillConvexPoly(face, outline(edited(source, yaw_deg=20), 1.03), 1)
    assert (invented[face == 0] > 0.8).sum() > 400
    assert ((invented > 0.2) & (invented < 0.8))[face == 0].sum() < 1700


def test_nose_leaves_no_outline_on_the_cheek_that_it_hid(preview, source):
    turned = edited(source, yaw_deg=35)
    straight = edited(turned, yaw_deg=0)
    nose = np.array([1, 2, 4, 5, 6, 19, 45, 48, 94, 98, 168, 195, 197, 275, 278, 327])  # landmarks
    picture, allowed = np.full((256, 256, 3), 120, np.uint8), np.zeros((256, 256), np.uint8)
    for image, params, colour in ((picture, turned, (250, 120, 120)), (allowed, straight, 1)):
        hull = cv2.convexHull(points_of(params)[nose, :2].astype(np.float32))
        cv2.fillConvexPoly(image, hull.astype(np.int32), colour)
    out = preview(picture, turned, straight).image
    beside = cv2.dilate(allowed, np.ones((5, 5))) == 0
    assert (out[..., 0] > 170)[beside].sum() < 5
    assert (out[..., 0] > 185)[allowed > 0].mean() > 0.5


def test_closing_eyes_do_not_squash_the_iris(preview, source):
    points = points_of(source)
    (x0, _), (x1, _) = points[[33, 133], :2]
    lower, upper = points[145, 1], points[159, 1]
    image = np.full((256, 256, 3), 180, np.uint8)
    iris = slice(round(float(lower) - 3), round(float(lower) - 1))  # a line just above the lower lid
    image[iris, int(x0) + 4 : int(x1) - 4] = 20
    half = preview(image, source, edited(source, expression={"blink": 0.3})).image
    middle = int((x0 + x1) / 2)
    dark = np.flatnonzero(half[int(upper) - 2 : int(lower) + 4, middle, 0] < 100)
    assert 1 <= len(dark) <= 4  # as thick as it was


def test_one_eye_closes_alone(preview, source):
    closed = points_of(edited(source, expression={"blink_left": 1.0}))
    was = points_of(source)
    gap = lambda p, upper, lower: float(p[lower, 1] - p[upper, 1])  # noqa: E731
    assert gap(closed, 386, 374) < 0.35 * gap(was, 386, 374)
    assert gap(closed, 159, 145) > 0.5 * gap(was, 159, 145)


def points_of(params: FaceParams) -> np.ndarray:
    """(V, 3) the fitted mesh, px of a crop of 256."""
    head = OpenHead.load().head(1)
    one = params.map(lambda a: torch.from_numpy(np.ascontiguousarray(a))[None])
    return to_crop_px(project(head.of(one), one.camera), 256)[0].numpy()


def test_expression_does_not_move_the_skull(preview, source):
    was, now = points_of(source), points_of(edited(source, expression={"jaw_open": 1.0}))
    forehead, chin = [10, 109, 338, 168], 17
    eyes = np.linalg.norm(was[33, :2] - was[263, :2])
    assert np.abs(now - was)[forehead, :2].max() < 0.03 * eyes
    assert (now - was)[chin, 1] > 0.12 * eyes


def test_moved_skin_keeps_its_fine_detail(preview, source):
    noise = np.random.default_rng(0).normal(0, 30, (256, 256)).astype(np.float32)
    picture = (128 + cv2.GaussianBlur(noise, (0, 0), 0.8)).clip(0, 255).astype(np.uint8)
    shifted = replace(source, camera=source.camera + np.array([0, 2.5, 2.5], np.float32) / 128 / source.camera[0])
    out = preview(np.dstack([picture] * 3), source, shifted).image[..., 0]
    energy = lambda image: np.diff(image[110:150, 110:150].astype(float)).var()  # noqa: E731
    assert energy(out) > 0.7 * energy(picture)  # half a pixel in both directions is the worst; read bilinearly: 0.5


def test_black_and_white_picture_stays_without_colour(preview, source):
    red, dim = np.zeros((2, 9, 3), np.float32)
    red[0], dim[0], red[3, 0] = (3.0, 2.5, 2.0), (1.0, 1.5, 2.0), 1.0
    grey = np.repeat(np.random.default_rng(0).integers(60, 200, (64, 64, 1), np.uint8), 3, axis=2)
    grey = cv2.resize(grey, (256, 256), interpolation=cv2.INTER_CUBIC)
    lit = replace(edited(source, yaw_deg=25, expression={"jaw_open": 1.0}), light=dim)
    out = preview(grey, replace(source, light=red), lit).image
    assert np.ptp(out.astype(int), axis=2).max() <= 1
    assert np.abs(out.astype(int) - grey).mean() > 5


def test_skin_at_the_outline_of_a_turned_head_is_read_from_the_other_cheek(preview, source):
    turned = edited(source, yaw_deg=-30)
    straight = edited(turned, yaw_deg=0)
    # The photograph's outline lies within the fitted one, so white background shows there.
    picture = np.full((256, 256, 3), 255, np.uint8)
    cv2.fillConvexPoly(picture, outline(turned, 0.92), (110, 90, 80))
    face = np.zeros((256, 256), np.uint8)
    cv2.fillConvexPoly(face, outline(straight, 0.8), 1)
    assert preview(picture, turned, straight).image[face > 0, 0].max() < 150


def outline(params: FaceParams, share: float) -> np.ndarray:
    """(N, 2) int32 the outline of the fitted face in a crop of 256, shrunk to a share."""
    points = points_of(params)[:, :2]
    hull, middle = cv2.convexHull(points.astype(np.float32)), points.mean(0)
    return (middle + (hull - middle) * share).astype(np.int32)


def test_rings_begin_where_the_cheek_ends_that_hides_the_rim():
    head, rim = OpenHead.load().head(1), warp._mesh(OpenHead.load()).rim

    def beyond(turn: float, moved: bool) -> float:
        """How far the face reaches over its rim, as a share of its radius."""
        vertices = head.template @ to_matrix(torch.tensor([[0.0, turn, 0.0]]))[0].mT
        points, facing = vertices[:, :2].numpy(), vertex_normals(vertices[None], head.faces)[0, :, 2].numpy()
        ends = warp._unhidden(points, facing, rim) if moved else points[rim]
        hull = cv2.convexHull(ends)
        return max(-cv2.pointPolygonTest(hull, p.tolist(), True) for p in points) / np.ptp(ends, axis=0).max()

    assert beyond(0.5, moved=False) > 0.05
    assert beyond(0.5, moved=True) < 0.02
    assert beyond(0.0, moved=True) == pytest.approx(beyond(0.0, moved=False), abs=0.005)


@pytest.mark.parametrize("degrees", [-30, 30])
def test_rings_stay_inside_the_one_that_stays(source, degrees):
    head, rim = OpenHead.load().head(1), warp._mesh(OpenHead.load()).rim
    both = warp._pair(edited(source, yaw_deg=degrees), edited(source, yaw_deg=0))
    vertices = torch.as_tensor(head.template) @ to_matrix(both.head_rotation).mT
    rim_px = to_crop_px(project(vertices, both.camera), 512)[0, rim].numpy()
    outer, still = surround_mesh(head.template[rim], rim_px, both, 512).after.reshape(3, -1, 3)[1:, :, :2]
    assert frontality(both.head_rotation)[1] == 1
    assert frontality(edited(source, yaw_deg=55).map(lambda a: torch.from_numpy(a)[None]).head_rotation) == 0
    polygon = still.astype(np.float32)
    assert min(cv2.pointPolygonTest(polygon, p.tolist(), True) for p in outer) > 0
