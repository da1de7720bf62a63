"""Guidance by a toy CLIP: where it leads, and what it refuses."""

import numpy as np
import pytest
import torch

from rigface.editor import Editor
from rigface.edits import EditSpec, RegionPrompt
from rigface.errors import BadEdit, MissingAsset
from rigface.model.clip_guidance import NEUTRAL, ClipGuidance
from rigface.testing.toy_start import write_clip, write_text
from rigface.video.decode import read_frames


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip")
    write_clip(folder)
    return folder


@pytest.fixture(scope="module")
def clip(folder) -> ClipGuidance:
    return ClipGuidance.load(folder)


@pytest.fixture
def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (32, 32, 3), np.uint8)


def decode(latents):
    """Latents that are the picture's first three channels, eight times smaller."""
    return torch.nn.functional.interpolate(latents[:, :3], scale_factor=8) / 4 + 0.5


def test_steps_lead_to_the_text(clip, picture):
    guide, latents = clip.towards("a smile", picture, decode), torch.randn(2, 4, 4, 4)
    wanted, neutral = clip._texts(["a smile", NEUTRAL])
    start = clip._pictures(torch.from_numpy(picture).permute(2, 0, 1)[None] / 255)

    def agreement():
        return torch.cosine_similarity(clip._pictures(decode(latents)) - start, (wanted - neutral)[None])

    before = agreement()
    for _ in range(8):
        move = guide(latents)
        assert move[:, :3].abs().mean() == pytest.approx(0.05 * 4 / 3, rel=0.01)
        assert not move[:, 3].any()  # the decoder does not read it
        latents = latents + move
    assert (agreement() > before + 0.05).all()


def test_regions_have_guides_of_their_own(clip, picture):
    left = np.zeros((64, 64), np.uint8)
    left[:, :32] = 255
    latents = torch.randn(1, 4, 4, 4)
    whole, other = (clip.towards(text, picture, decode)(latents) for text in ("a smile", "a frown"))
    move = clip.guide("a smile", [RegionPrompt("a frown", left)], picture, decode)(latents)
    torch.testing.assert_close(move, torch.cat([other[..., :2], whole[..., 2:]], dim=-1))
    assert clip.guide("", [], picture, decode) is None


def test_scale_zero_moves_nothing(clip, picture):
    assert not clip.towards("a smile", picture, decode, scale=0)(torch.randn(1, 4, 4, 4)).any()


def test_editor_follows_a_prompt_without_a_text_encoder(folder, fixtures):
    photo = next(read_frames(str(fixtures / "clip.mp4"))).image
    editor = Editor.load("tiny", clip=folder, steps=2)
    made = {p: editor.edit(photo, EditSpec(yaw_deg=5, prompt=p), measure=False).crops[0] for p in ("", "a b", "c d e")}
    assert not np.array_equal(made["a b"], made[""])
    assert not np.array_equal(made["a b"], made["c d e"])
    plain = Editor.load("tiny", analyzer=editor.analyzer, steps=2)
    assert np.array_equal(plain.edit(photo, EditSpec(yaw_deg=5), measure=False).crops[0], made[""])
    with pytest.raises(BadEdit, match="no CLIP model"):
        plain.edit(photo, EditSpec(prompt="a b"))


def test_folder_without_both_halves_is_refused_by_a_sentence(tmp_path):
    write_text(tmp_path / "sd")
    for place in (tmp_path / "sd" / "text_encoder", tmp_path / "nothing"):
        with pytest.raises(MissingAsset, match="CLIP model"):
            ClipGuidance.load(place)
