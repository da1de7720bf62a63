"""The method of the paper: an identity network beside the denoiser, and all parameters trained.

    unet_id/  unet_denoise/     config.json, diffusion_pytorch_model.safetensors: diffusers reads each on its own

`frozen`, `attention` and `lora` train less of the same two networks and are stored in the same way.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from rigface.errors import BadCheckpoint, PlanError
from rigface.model import finetuning
from rigface.model.checkpoint_folder import read_json
from rigface.model.model_config import ModelConfig
from rigface.model.recipes.protocol import Checkpoint, RecipeOptions
from rigface.model.text import TextEncoder
from rigface.model.unets import RigFaceModel, build
from rigface.model.weights import fill, read_weights, write_network
from rigface.types import BFM_EXPRESSION


class RigFaceRecipe:
    """Both networks, of which `trainable` (see `finetuning.select`) is trained."""

    personal = prior = False

    def __init__(self, trainable: str = "all") -> None:
        self.trainable = trainable

    def build(self, start: Checkpoint, options: RecipeOptions) -> Checkpoint:
        """The start itself; PlanError if it is of a recipe without an identity network."""
        finetuning.select(rigface_model(start), self.trainable, options.rank)
        return start

    def write(
        self, folder: Path, checkpoint: Checkpoint, state: Mapping[str, Tensor], dtype: torch.dtype | None
    ) -> None:
        model = rigface_model(checkpoint)
        write_network(folder / "unet_id", model.identity, state, "identity.", dtype)
        write_network(folder / "unet_denoise", model.denoiser, state, "denoiser.", dtype)

    def read(
        self, folder: Path, config: ModelConfig, default_text: Tensor, encoder: TextEncoder | None
    ) -> RigFaceModel:
        return read_networks(folder, default_text)


def rigface_model(start: Checkpoint) -> RigFaceModel:
    """The model of a checkpoint with an identity network; PlanError for one without."""
    if not isinstance(start.model, RigFaceModel):
        raise PlanError(
            f"the start was trained by the recipe {start.config.recipe!r} and has no identity network; start from a "
            "model of the recipe 'rigface', or from sd15"
        )
    return start.model


def read_networks(folder: Path, default_text: Tensor, new_expression: int | None = None) -> RigFaceModel:
    """Both networks of a folder in the own or the released layout.

    With `new_expression` the layer of expression codes begins at zero, for codes of this size.

    Raises:
        MissingAsset, UnsafeFile, BadCheckpoint: as `weights.read_weights`.
    """
    places = {name: _network_folder(folder, name) for name in ("unet_id", "unet_denoise")}
    configs = {name: read_json(place / "config.json") for name, place in places.items()}
    weights = {name: read_weights(place) for name, place in places.items()}
    denoiser = {n.replace("au_aug_mlp.", "class_embedding."): w for n, w in weights["unet_denoise"].items()}
    linear = denoiser.get("class_embedding.weight")
    if new_expression is not None and linear is not None:
        linear = denoiser["class_embedding.weight"] = torch.zeros(len(linear), new_expression)
    expression = BFM_EXPRESSION if linear is None else linear.shape[1]  # if it lacks, `fill` says so
    try:
        with torch.device("meta"):
            model = build(configs["unet_id"], configs["unet_denoise"], default_text.to("meta"), expression)
    except (TypeError, ValueError) as error:
        raise BadCheckpoint(f"{folder}: {error}") from error
    fill(model.identity, weights["unet_id"], str(places["unet_id"]))
    fill(model.denoiser, denoiser, str(places["unet_denoise"]))
    model.default_text = default_text
    return model


def _network_folder(folder: Path, name: str) -> Path:
    below = sorted((folder / name).glob("checkpoint-*/config.json"), key=lambda p: int(p.parent.name.split("-")[1]))
    return below[-1].parent if below and not (folder / name / "config.json").is_file() else folder / name


RECIPE = RigFaceRecipe()
