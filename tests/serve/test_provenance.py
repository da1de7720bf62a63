"""A picture made here is known again, by its manifest and by its pixels; the audit log shows what was done to it."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from rigface.edits import EditSpec
from rigface.image import decode, encode_jpeg, encode_png
from serve import watermark
from serve.api import Wish, Wrap
from serve.audit import Audit, check
from serve.provenance import Sealer
from tests.serve.conftest import photo

WISH = Wish("sha256:" + "0" * 64, EditSpec(yaw_deg=5))
BITS = 0xC0FFEE11


def textured(seed: int, side: int = 384) -> np.ndarray:
    """A picture with grain, as photographs have."""
    grain = np.random.default_rng(seed).normal(0, 6, (side, side, 1))
    return np.clip(photo(seed, (side, side)) + grain, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def sealer(tmp_path_factory):
    return Sealer(tmp_path_factory.mktemp("seal"))


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_what_was_sealed_here_is_known_and_says_how_it_was_made(sealer, kind):
    sealed = sealer(textured(1), WISH, Wrap(kind, {"mark": f"{BITS:08x}", "seed": 7, "model": "tiny"}))
    found = sealer.verify(sealed)
    assert (found.made_here, found.manifest, found.watermark, found.mark) == (True, "trusted", True, f"{BITS:08x}")
    assert found.record["edit"] == {"yaw_deg": 5}
    assert (found.record["seed"], found.record["source"]) == (7, WISH.picture)
    assert decode(sealed).shape == (384, 384, 3)


def test_another_services_picture_is_foreign_and_a_changed_one_invalid(sealer, tmp_path):
    other = Sealer(tmp_path)
    sealed = other(textured(2), WISH, Wrap("png", {"mark": "1"}))
    assert sealer.verify(sealed).manifest == "foreign"
    assert not sealer.verify(sealed).made_here
    record = sealed.index(b'"yaw_deg"') if b'"yaw_deg"' in sealed else sealed.index(b"yaw_deg")
    changed = sealed[: record + 1] + b"x" + sealed[record + 2 :]
    with pytest.raises(Exception, match=r"."):  # a PNG whose chunk does not fit its checksum is no picture at all
        decode(changed)
    jpeg = bytearray(other(textured(2), WISH, Wrap("jpeg", {"mark": "1"})))
    jpeg[jpeg.index(b"yaw_deg")] ^= 1
    assert other.verify(bytes(jpeg)).manifest == "invalid"


def test_the_mark_survives_jpeg_when_the_manifest_is_gone(sealer):
    sealed = sealer(textured(3), WISH, Wrap("png", {"mark": f"{BITS:08x}"}))
    for quality in (90, 75):
        found = sealer.verify(encode_jpeg(decode(sealed), quality))
        assert (found.manifest, found.made_here, found.mark) == ("none", True, f"{BITS:08x}")


def test_the_mark_is_not_seen_and_not_imagined():
    secret = b"secret"
    for seed in range(6):
        image = textured(seed)
        marked = watermark.embed(image, BITS, secret)
        error = np.mean((marked.astype(float) - image) ** 2)
        assert 10 * np.log10(255**2 / error) > 40  # dB
        assert not watermark.read(image, secret).found
        assert not watermark.read(marked, b"another").found
        assert watermark.read(marked, secret).bits == BITS
    assert not watermark.read(np.zeros((4, 4, 3), np.uint8), secret).found


def test_any_piece_of_a_clip_is_known_again(fixtures, sealer, tmp_path):
    from rigface.face.film import Film
    from rigface.face.video import frames

    def filmed(images, name, **options):
        height, width = images[0].shape[:2]
        with Film(tmp_path / name, (width, height), 25, **options) as film:
            for number, image in enumerate(images):
                film.write(image, number / 25)
        return [frame.image for frame in frames(str(tmp_path / name))]

    plain = [frame.image for frame in frames(str(fixtures / "clip.mp4"))][:48]
    marked = filmed([sealer.mark(image, BITS) for image in plain], "marked.mp4", reorder=False)
    for begin in (0, 9, 31):
        found = watermark.read_clip(marked[begin : begin + 16], sealer._secret)
        assert found.found, (begin, found)
        assert (found.bits ^ BITS).bit_count() <= 1, (begin, found)
    assert watermark.read_clip(marked, sealer._secret).bits == BITS
    filmed(marked[11:], "again.mp4")
    again = sealer.verify((tmp_path / "again.mp4").read_bytes())
    assert (again.manifest, again.made_here) == ("none", True)
    assert (int(again.mark, 16) ^ BITS).bit_count() <= 1
    stranger = watermark.read_clip(plain, sealer._secret)
    assert not stranger.found
    assert stranger.score < 80
    assert watermark.read_clip([], sealer._secret) == watermark.Mark(False, 0, 0.0)


def test_two_replicas_share_a_seal(tmp_path):
    sealed = Sealer(tmp_path)(textured(4), WISH, Wrap("jpeg", {"mark": "1"}))
    assert Sealer(tmp_path).verify(sealed).manifest == "trusted"
    assert (tmp_path / "seal.pem").stat().st_mode & 0o077 == 0


def test_over_http(house, sealer, tmp_path):
    from starlette.testclient import TestClient

    from serve.door import make_api
    from serve.eye import Eye

    house.eye, house.audit = Eye(house.eye.see, seal=sealer), Audit(tmp_path / "audit.jsonl")
    client = TestClient(make_api(house))
    files = {"picture": ("a.png", encode_png(textured(5))), "request": (None, '{"edit": {"yaw_deg": 9}}')}
    made = client.post("/v1/edits", files=files, headers={"Accept": "image/png"})
    assert made.status_code == 200, made.text
    found = client.post("/v1/verify", files={"picture": ("b.png", made.content)}).json()
    (line,) = (tmp_path / "audit.jsonl").read_text().splitlines()
    assert found["made_here"]
    assert json.loads(line)["mark"] == found["mark"] == found["record"]["mark"]
    assert json.loads(line)["edit"] == {"yaw_deg": 9}
    stranger = client.post("/v1/verify", files={"picture": files["picture"]}).json()
    assert (stranger["made_here"], stranger["manifest"]) == (False, "none")
    assert Image.open(io.BytesIO(made.content)).size == (384, 384)


def test_a_log_that_was_changed_is_noticed(tmp_path):
    path = tmp_path / "audit.jsonl"
    for number in range(3):
        Audit(path)({"edit": number})
    assert check(path) == 3
    lines = path.read_text().splitlines(keepends=True)
    path.write_text(lines[0] + lines[2])
    with pytest.raises(ValueError, match="before line 2"):
        check(path)
