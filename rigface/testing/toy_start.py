"""A toy Stable Diffusion: random networks of a few thousand numbers in its layout, with a text encoder and a tokenizer.

Tests, and `rigface compare --size tiny`, start from it as full size does from `sd15:FOLDER`.
"""

import json
import string
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from rigface.examples import IDENTITY_WIDTH
from rigface.model import checkpoint
from rigface.model.model_config import READS_IDENTITY, READS_POINTS, RecipeName
from rigface.model.recipes.protocol import RecipeOptions, recipe_of
from rigface.model.text import TextEncoder
from rigface.model.unets import build, network
from rigface.profile import IdentityName

TOY: dict[str, Any] = {"heads": 4, "layers": 1, "groups": 4}  # as `checkpoint.tiny`


def write_text(folder: Path, length: int = 24, width: int = 24) -> TextEncoder:
    """Write a CLIP text model that spells: its words are characters. Prompts have up to `length` tokens."""
    characters = string.ascii_lowercase + string.digits + ".,<>'"
    words = ["<|startoftext|>", "<|endoftext|>", *characters, *(f"{c}</w>" for c in characters)]
    with tempfile.TemporaryDirectory() as place:
        vocabulary, merges = Path(place, "vocab.json"), Path(place, "merges.txt")
        vocabulary.write_text(json.dumps({w: i for i, w in enumerate(words)}))
        merges.write_text("#version: 0.2\n")
        tokenizer = CLIPTokenizer(str(vocabulary), str(merges))
    config = CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=width,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=length,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder = TextEncoder(CLIPTextModel(config), tokenizer)
    encoder.save(folder)
    return encoder


def write_clip(folder: Path) -> None:
    """Write a whole CLIP model, with the words of `write_text`, in transformers' layout."""
    with tempfile.TemporaryDirectory() as place:
        text = write_text(Path(place), length=24)
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config=text.model.config.to_dict(),
        vision_config={**vision, "image_size": 32, "patch_size": 8},
        projection_dim=16,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        CLIPModel(config).save_pretrained(folder, safe_serialization=True)
    assert text.tokenizer is not None
    text.tokenizer.save_pretrained(folder)


def write(folder: Path, shallow: bool = False) -> None:
    """Write the whole folder, for `sd15:FOLDER`; pictures of 32 px. `shallow` networks have few layers, as below."""
    width = write_text(folder).model.config.hidden_size
    config, _ = _few_layers(width, middle=True) if shallow else network((16, 32), text_dim=width, **TOY)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        UNet2DConditionModel(**{**config, "sample_size": 16}).save_pretrained(folder / "unet")
    checkpoint.tiny().vae.save_pretrained(folder / "vae")


def shallow(middle: bool = False, **process: Any) -> checkpoint.Checkpoint:
    """`checkpoint.tiny` with one block of attention, and one more if `middle`: training steps in a fifth of the time.

    For tests of training, whose steps and checkpoints cost what the number of tensors costs.
    """
    toy = checkpoint.tiny(**process)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        networks = _few_layers(toy.model.default_text.shape[1], middle)
        toy.model = build(*networks, toy.model.default_text, toy.model.expression_size)
    return toy


def _few_layers(text_dim: int, middle: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """As `network`: one level, with attention on the way up, and in the middle if there is one."""
    blocks = {
        "down_block_types": ["DownBlock2D"],
        "mid_block_type": "UNetMidBlock2DCrossAttn" if middle else None,
        "up_block_types": ["CrossAttnUpBlock2D"],
    }
    identity, denoiser = network((16,), text_dim=text_dim, **{**TOY, "layers": 0})
    return identity | blocks, denoiser | blocks


def write_recipes(folder: Path) -> dict[str, str]:
    """Write a toy checkpoint of every recipe, as it is before training, and its text encoder; folders by name."""
    text = write_text(folder / "text", length=7)
    places = {}
    for name in get_args(RecipeName):
        start = shallow(middle=True)
        start.text_encoder = text
        start.config = replace(start.config, render_style="points" if name in READS_POINTS else "albedo")
        identity: IdentityName = "dlib" if name in READS_IDENTITY else ""
        options = RecipeOptions(rank=2, identity=identity, identity_width=IDENTITY_WIDTH["dlib"], prompt="a {}")
        made = recipe_of(name).build(start, options)
        made.config = replace(made.config, recipe=name)
        checkpoint.save(folder / name, made)
        places[name] = str(folder / name)
    return places
