"""Environment maps against skies with known irradiance."""

import numpy as np
import pytest
import torch

from rigface.errors import BadImage
from rigface.face.rendering.environment_map import harmonics_of, read_environment_map
from rigface.face.rendering.lighting import lamp_harmonics, shade
from rigface.image import encode_png

DIRECTIONS = {
    "up": (0, 1, 0), "down": (0, -1, 0), "camera": (0, 0, 1),
    "back": (0, 0, -1), "right": (1, 0, 0), "left": (-1, 0, 0),
}  # fmt: skip


def shades(light: np.ndarray, **directions) -> dict[str, float]:
    """Shading of white surfaces that look that way; right and left are the viewer's."""
    normals = torch.tensor(list(DIRECTIONS.values()), dtype=torch.float32)[None]
    return dict(zip(DIRECTIONS, shade(normals, torch.from_numpy(light)[None])[0, :, 0].tolist()))


def grid(height: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """Latitude (H, 1) and longitude (1, W) of pixel centres, radians."""
    return (
        (np.pi / 2 - (np.arange(height) + 0.5) / height * np.pi)[:, None],
        (((np.arange(2 * height) + 0.5) / (2 * height) - 0.5) * 2 * np.pi)[None],
    )


def picture(radiance: np.ndarray) -> np.ndarray:
    return np.repeat(np.broadcast_to(radiance, (64, 128))[..., None], 3, -1).astype(np.float32)


def test_uniform_sky_shades_to_one():
    assert all(v == pytest.approx(1, abs=2e-3) for v in shades(harmonics_of(np.ones((64, 128, 3)))).values())


def test_half_sky_is_exact():
    """Light from above the horizon only: irradiance over pi is (1 + n_y) / 2, which nine harmonics hold exactly."""
    latitude, _ = grid()
    out = shades(harmonics_of(picture(latitude > 0)))
    assert out == pytest.approx({"up": 1, "down": 0, "camera": 0.5, "back": 0.5, "right": 0.5, "left": 0.5}, abs=2e-3)


def test_cosine_sky_is_exact():
    """Radiance (1 + sin latitude): irradiance over pi is 1 + 2/3 n_y."""
    latitude, _ = grid()
    out = shades(harmonics_of(picture(1 + np.sin(latitude))))
    assert out["up"] == pytest.approx(5 / 3, abs=1e-3)
    assert out["down"] == pytest.approx(1 / 3, abs=1e-3)
    assert out["left"] == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(("longitude_deg", "brightest"), [(0, "camera"), (90, "left"), (-90, "right"), (179, "back")])
def test_lamp_in_the_panorama_lights_its_side(longitude_deg, brightest):
    latitude, longitude = grid()
    away = np.abs((longitude - np.radians(longitude_deg) + np.pi) % (2 * np.pi) - np.pi)
    out = shades(harmonics_of(picture((away < 0.2) & (np.abs(latitude) < 0.2))))
    assert max(out, key=out.get) == brightest


def test_small_sun_equals_lamp_harmonics():
    latitude, longitude = grid()
    sun = (np.abs(latitude - 0.5) < 0.03) & (np.abs(longitude + 0.8) < 0.03)
    got = harmonics_of(picture(sun))[:, 0]
    towards = torch.tensor([-np.cos(0.5) * np.sin(-0.8), np.sin(0.5), np.cos(0.5) * np.cos(-0.8)])
    want = lamp_harmonics(towards).numpy()
    assert got @ want / np.linalg.norm(got) / np.linalg.norm(want) > 0.999


def test_turn_moves_lamps_to_the_viewers_right():
    latitude, longitude = grid()
    front = picture((np.abs(longitude) < 0.2) & (np.abs(latitude) < 0.2))
    out = shades(harmonics_of(front, turn_deg=90))
    assert max(out, key=out.get) == "right"


def test_harmonics_do_not_depend_on_resolution():
    rng = np.random.default_rng(0)
    small = rng.random((16, 32, 3)).astype(np.float32)
    large = small.repeat(40, 0).repeat(40, 1)
    assert np.allclose(harmonics_of(small), harmonics_of(large), atol=0.02)


def test_colour_channels_are_independent():
    red = np.zeros((16, 32, 3), np.float32)
    red[..., 0] = 1
    out = harmonics_of(red)
    assert out[0, 0] > 1
    assert not out[:, 1:].any()


def test_radiance_file_keeps_values_above_one(tmp_path):
    import cv2

    bright = np.full((16, 32, 3), 0.25, np.float32)
    bright[4:6, 10:14] = (40.0, 20.0, 10.0)
    cv2.imwrite(str(tmp_path / "sky.hdr"), bright[..., ::-1])
    assert np.allclose(read_environment_map(tmp_path / "sky.hdr"), bright, rtol=0.02)


def test_plain_image_is_read_as_srgb(tmp_path):
    (tmp_path / "sky.png").write_bytes(encode_png(np.full((16, 32, 3), 188, np.uint8)))
    assert read_environment_map(tmp_path / "sky.png").mean() == pytest.approx(0.503, abs=0.01)


@pytest.mark.parametrize("content", [b"#?RADIANCE\n\n-Y 9999999 +X 9999999\n", b"#?RADIANCE\nnothing", b"text"])
def test_unreadable_file_is_refused(tmp_path, content):
    (tmp_path / "sky.hdr").write_bytes(content)
    with pytest.raises(BadImage):
        read_environment_map(tmp_path / "sky.hdr")


def test_image_that_is_not_two_to_one_is_refused(tmp_path):
    (tmp_path / "a.png").write_bytes(encode_png(np.zeros((30, 40, 3), np.uint8)))
    with pytest.raises(BadImage, match="twice as wide as high"):
        read_environment_map(tmp_path / "a.png")


@pytest.mark.parametrize("bad", [np.full((4, 8, 3), np.nan), -np.ones((4, 8, 3)), np.ones((4, 8))])
def test_invalid_radiance_is_refused(bad):
    with pytest.raises(ValueError, match="panorama"):
        harmonics_of(bad)
