"""Reconstructor on images with known light and skin."""

import numpy as np
import pytest
import torch

from rigface.colour import LUMINANCE, ita_deg
from rigface.face.geometry.rotation import from_degrees, to_degrees, to_matrix
from rigface.face.head.open_head import TONE_STD, TONES, OpenHead
from rigface.face.reconstruction.appearance import sample_colours
from rigface.face.reconstruction.landmark_fit import OUTER_EYES
from rigface.face.reconstruction.reconstructor import FitReconstructor, load_reconstructor
from rigface.face.reconstruction.skin_tone import PAPER
from rigface.face.rendering.lighting import harmonics
from rigface.image import linear_to_srgb, srgb8_to_linear

cv2 = pytest.importorskip("cv2")
SWAP = np.array([1, -1, 1, 1, -1, -1, 1, 1, 1], np.float32)[:, None]  # sign of each harmonic under x -> -x


@pytest.fixture(scope="module")
def model() -> OpenHead:
    return OpenHead.load()


def portrait(model: OpenHead, light: np.ndarray, albedo: np.ndarray, degrees=(10.0, 5.0, 0.0), scale=5.5):
    """A picture of the open head beside a sheet of paper, painted triangle by triangle: crop, landmarks, scores."""
    weights, faces = model.subdivision()
    scores = np.zeros(model.spec.expression, np.float32)
    scores[model.spec.expression_names.index("mouthSmileLeft")] = 0.4
    points = weights @ (model.template + np.einsum("k,kvi->vi", scores, model.expression))
    rotation = from_degrees(torch.tensor([degrees]))[0].numpy()
    camera = points @ rotation.T
    pixel = np.stack([(camera[:, 0] * scale + 1) * 256, (1 - camera[:, 1] * scale) * 256], -1)
    corners = camera[faces]
    facing = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals = np.zeros_like(camera)
    for k in range(3):
        np.add.at(normals, faces[:, k], facing)
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    skin = np.clip(model.albedo_mean + np.einsum("a,avi->vi", albedo, model.albedo_axes), 0, 1)
    colour = skin * (harmonics(torch.from_numpy(normals).float()).numpy() @ light)
    crop = np.full((512, 512, 3), 60, np.uint8)
    paper = PAPER * harmonics(torch.tensor([0.0, 0.0, 1.0])).numpy() @ light
    crop[:, :40] = (linear_to_srgb(np.clip(paper, 0, 1)) * 255).round()
    shown = (linear_to_srgb(np.clip(colour[faces].mean(1), 0, 1)) * 255).round()
    for f in np.argsort(corners[..., 2].mean(1)):
        cv2.fillConvexPoly(crop, np.round(pixel[faces[f]] * 8).astype(np.int32), shown[f].tolist(), shift=3)
    control = len(model.template)
    landmarks = np.concatenate([pixel[:control], -camera[:control, 2:] * scale * 256], 1)
    return crop, landmarks.astype(np.float32), scores


def lit_from(x: float, y: float, z: float, strength: float = 0.7) -> np.ndarray:
    light = np.zeros((9, 3), np.float32)
    light[0] = 3.0
    light[1], light[2], light[3] = x, y, z
    return light * strength


def angle(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a[1:4].mean(1), b[1:4].mean(1)
    return float(np.degrees(np.arccos(np.clip(a @ b / np.linalg.norm(a) / np.linalg.norm(b), -1, 1))))


def across(light: np.ndarray) -> float:
    """Direction of the light in the picture plane, degrees."""
    return float(np.degrees(np.arctan2(light[2].mean(), light[1].mean())))


def seen_shading(light: np.ndarray) -> np.ndarray:
    x, y = np.meshgrid(*[np.linspace(-0.7, 0.7, 15)] * 2)
    normals = np.stack([x, y, np.sqrt(1 - np.clip(x**2 + y**2, 0, 0.98))], -1).reshape(-1, 3)
    return harmonics(torch.from_numpy(normals).float()).numpy() @ light


def reconstruct(*portraits, tracks=None):
    crops, landmarks, scores = zip(*portraits)
    tracks = np.arange(len(crops)) if tracks is None else np.asarray(tracks)
    return FitReconstructor()(crops, np.stack(landmarks), np.stack(scores), tracks)


@pytest.fixture(scope="module")
def plain(model):
    return portrait(model, lit_from(0.9, 0.3, 0.5), np.zeros(model.spec.albedo))


def test_fit_recovers_known_coefficients(model, plain):
    skin = np.zeros(model.spec.albedo, np.float32)
    skin[:3] = (1.2, -0.8, 0.5)
    light = lit_from(-0.9, 0.4, 0.3)
    found = reconstruct(portrait(model, light, skin, degrees=(-15.0, 8.0, 6.0)))
    assert np.abs(to_degrees(to_matrix(found.params.head_rotation)) - [[-15, 8, 6]]).max() < 0.5
    # From the front, ambient light and light along the line of sight look alike, so lights are compared by what they
    # do to the normals a camera can see, and by their direction across the picture.
    assert np.abs(seen_shading(found.params.light[0]) / seen_shading(light) - 1).mean() < 0.1
    assert across(found.params.light[0]) == pytest.approx(across(light), abs=10)
    assert np.abs(found.params.albedo[0, :3] - skin[:3]).max() < 0.5
    assert found.photometric_residual[0] < 0.02
    assert found.occlusion[0] < 0.1


def test_camera_projects_the_head_onto_the_landmarks(model, plain):
    params = reconstruct(plain).params.map(lambda a: torch.from_numpy(a))
    points = model.head(steps=0).vertices(params.shape, params.expression, params.head_rotation)[0]
    scale, x, y = params.camera[0]
    projected = torch.stack(
        [(scale * (points[:, 0] + x) + 1) * 256, (1 - scale * (points[:, 1] + y)) * 256], -1
    ).numpy()
    eyes = np.linalg.norm(plain[1][OUTER_EYES[0]] - plain[1][OUTER_EYES[1]])
    assert np.linalg.norm(projected - plain[1][:, :2], axis=1).mean() < 0.006 * eyes


def test_half_exposure_gives_half_light_and_the_same_albedo(model, plain):
    half = linear_to_srgb(srgb8_to_linear(plain[0]) / 2)
    found = reconstruct(plain, ((half * 255).round().astype(np.uint8), *plain[1:])).params
    assert np.abs(found.albedo[0] - found.albedo[1]).max() < 0.1  # what 8-bit rounding of the darker picture stirs
    assert np.abs(found.light[1, 0] / found.light[0, 0] - 0.5).max() < 0.02
    assert angle(found.light[0], found.light[1]) < 2


def skin_of(model: OpenHead, luminance: float) -> np.ndarray:
    """Albedo coefficients of the mean skin, as dark or pale as this luminance says."""
    albedo = np.zeros(model.spec.albedo, np.float32)
    mean = model.skin_colour(albedo[None])[0] @ LUMINANCE
    albedo[-TONES:] = (luminance / mean - 1) / TONE_STD
    return albedo


@pytest.mark.parametrize("luminance", [0.08, 0.2, 0.45])
def test_dark_and_pale_skin_beside_white_paper_read_as_they_are(model, luminance):
    light = lit_from(0.9, 0.3, 0.5)
    found = reconstruct(portrait(model, light, skin_of(model, luminance))).params
    assert model.skin_colour(found.albedo)[0] @ LUMINANCE == pytest.approx(luminance, rel=0.15)
    assert np.abs(seen_shading(found.light[0]) / seen_shading(light) - 1).mean() < 0.2
    assert across(found.light[0]) == pytest.approx(across(light), abs=10)


def test_skin_is_the_same_in_different_lights(model):
    lights = (lit_from(0.9, 0.3, 0.5), lit_from(-0.9, 0.5, 0.2, strength=0.3), lit_from(0.0, 0.2, 0.5, strength=0.5))
    found = reconstruct(*(portrait(model, light, skin_of(model, 0.15)) for light in lights)).params
    assert np.ptp(ita_deg(model.skin_colour(found.albedo))) < 8


def test_mirrored_image_mirrors_the_light(model, plain):
    names = model.spec.expression_names
    swap = [names.index(n.replace("Left", "#").replace("Right", "Left").replace("#", "Right")) for n in names]
    crop, landmarks, scores = plain
    image = landmarks[model.mirror].copy()
    image[:, 0] = 512 - image[:, 0]
    found = reconstruct(plain, (np.ascontiguousarray(crop[:, ::-1]), image, scores[swap])).params
    assert np.abs(found.light[0] * SWAP - found.light[1]).max() < 0.1
    assert np.abs(found.albedo[0] - found.albedo[1]).max() < 0.25
    assert np.abs(found.expression[0, swap] - found.expression[1]).max() < 0.03


def test_albedo_is_shared_within_a_track_and_light_is_not(model):
    frames = [portrait(model, lit_from(x, 0.3, 0.4), np.zeros(model.spec.albedo)) for x in (-0.8, 0.8)]
    found = reconstruct(*frames, tracks=[7, 7]).params
    assert np.array_equal(found.albedo[0], found.albedo[1])
    assert np.array_equal(found.shape[0], found.shape[1])
    assert found.light[0, 1].mean() < -0.3
    assert found.light[1, 1].mean() > 0.3


def test_grey_image_is_reconstructed(plain):
    crop, landmarks, scores = plain
    grey = np.repeat(crop.mean(-1, keepdims=True), 3, -1).astype(np.uint8)
    found = reconstruct((grey, landmarks, scores))
    assert all(np.isfinite(a).all() for a in (found.params.light, found.params.albedo, found.photometric_residual))


@pytest.mark.parametrize("value", [0, 255])
def test_black_or_white_crop_gives_finite_numbers(plain, value):
    found = reconstruct((np.full((512, 512, 3), value, np.uint8), *plain[1:]))
    assert np.isfinite(found.params.light).all()
    assert np.isfinite(found.params.albedo).all()


def test_covered_face_raises_occlusion(model, plain):
    crop = plain[0].copy()
    crop[260:, :] = (20, 160, 40)
    free, covered = reconstruct(plain).occlusion[0], reconstruct((crop, *plain[1:])).occlusion[0]
    assert free < 0.1
    assert covered > 0.25


def test_no_faces_give_an_empty_batch(model):
    found = FitReconstructor()([], np.zeros((0, 478, 3), np.float32), np.zeros((0, 52), np.float32), np.zeros(0, int))
    assert found.params.batch == (0,)


def test_other_landmark_layouts_are_refused():
    with pytest.raises(ValueError, match="Use the mediapipe detector"):
        FitReconstructor()(
            [np.zeros((512, 512, 3), np.uint8)], np.zeros((1, 106, 3), np.float32), None, np.zeros(1, int)
        )


def test_unknown_reconstructor_is_named_in_the_error():
    with pytest.raises(ValueError, match="no reconstructor 'magic'"):
        load_reconstructor("magic")


def test_sample_colours_reads_the_given_points():
    crop = np.zeros((512, 512, 3), np.uint8)
    crop[:256, 256:] = 255  # the upper right quarter of the picture
    places = np.array([[[0.5, 0.5], [-0.5, 0.5], [0.5, -0.5], [2.0, 0.5]]], np.float32)
    colours, inside = sample_colours([crop], places)
    assert colours[0, :3, 0].tolist() == [1, 0, 0]
    assert inside[0].tolist() == [True, True, True, False]
