"""A small U-Net that corrects the preview of an edit: lips, teeth, lids, and what the photograph did not show.

Path: preview, photograph and geometry of a face, wanted and own expression -> `RefinerNetwork` -> the corrected crop.
Source: residual refinement by a U-Net (Ronneberger et al. 2015) with pixel-unshuffle at its ends (Shi et al. 2016). Its
answer has two parts. A flow moves what the preview shows to where it belongs, which costs no sharpness (as in Zhou et
al. 2016). A change of colour, times a learned confidence, adds what the preview lacks.

A model is a folder of config.json, written last, and model.safetensors. Neither diffusers nor transformers is imported.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rigface.errors import BadCheckpoint, MissingAsset
from rigface.model.checkpoint_folder import CONFIG, REFINER_FORMAT
from rigface.types import HeadSpec

VERSION = 2
WEIGHTS = "model.safetensors"
FLOW_SCALE = 0.1  # of half the crop's side, for one unit of the network's answer
PICTURE_CHANNELS = 9  # preview 3, photograph 3, geometry 3: x and y of the normals, and the share that is invented


@dataclass(frozen=True)
class RefinerConfig:
    """Settings that a refiner was trained with.

    Raises:
        ValueError: levels do not fit each other, or the size is no multiple of what they halve it to.
    """

    head: HeadSpec  # head model of the expressions and the geometry
    size: int = 128  # side of the crops, px
    widths: tuple[int, ...] = (32, 48, 96, 128)  # channels by level; the first has half the crop's side
    blocks: tuple[int, ...] = (1, 1, 2, 2)  # residual blocks by level, on either side

    def __post_init__(self) -> None:
        if len(self.widths) != len(self.blocks) or not self.widths:
            raise ValueError(f"want as many blocks as widths, got {self.blocks} and {self.widths}")
        if self.size % 2 ** len(self.widths):
            raise ValueError(f"size: want a multiple of {2 ** len(self.widths)} px, got {self.size}")

    def to_json(self) -> dict[str, Any]:
        """The content of `config.json`."""
        return {"format": REFINER_FORMAT, "version": VERSION, **asdict(self)}

    @staticmethod
    def from_json(content: dict[str, Any]) -> RefinerConfig:
        """The inverse of `to_json`; BadCheckpoint for another format, a newer version or unknown settings."""
        values = dict(content)
        if values.pop("format", None) != REFINER_FORMAT:
            raise BadCheckpoint(f"{CONFIG}: want format {REFINER_FORMAT!r}")
        if (version := values.pop("version", None)) != VERSION:
            raise BadCheckpoint(f"{CONFIG}: want version {VERSION}, got {version}")
        try:
            head, widths, blocks = HeadSpec(**values.pop("head")), values.pop("widths"), values.pop("blocks")
            return RefinerConfig(head, widths=tuple(widths), blocks=tuple(blocks), **values)
        except (KeyError, TypeError, ValueError) as error:
            raise BadCheckpoint(f"{CONFIG}: {error}") from error


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions beside the identity; the identity alone before training."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(8, width)
        self.first, self.second = (nn.Conv2d(width, width, 3, padding=1) for _ in range(2))
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.silu(self.first(F.silu(self.norm(x)))))  # type: ignore[no-any-return]


class Correction(NamedTuple):
    """What a refiner answers."""

    flow: Tensor  # (N, 2, S, S) right and down, from each pixel to where the preview shows it; half the side is 1
    change: Tensor  # (N, 3, S, S) colour to add after that, of a range of [-1, 1]

    def of(self, preview: Tensor) -> Tensor:
        """The corrected previews (N, 3, S, S), about [-1, 1]."""
        side = preview.shape[-1]
        steps = (torch.arange(side, device=preview.device) * 2 + 1) / side - 1
        places = torch.stack(torch.meshgrid(steps, steps, indexing="xy"), dim=-1) + self.flow.permute(0, 2, 3, 1)
        moved = F.grid_sample(preview, places, mode="bilinear", padding_mode="border", align_corners=False)
        return moved + self.change


class RefinerNetwork(nn.Module):
    """The U-Net. Before training it gives the preview back."""

    def __init__(self, config: RefinerConfig) -> None:
        super().__init__()
        widths, levels = config.widths, range(len(config.widths))
        pairs = [(widths[k], widths[k + 1]) for k in levels[:-1]]
        self.entry = nn.Conv2d(4 * PICTURE_CHANNELS, widths[0], 3, padding=1)
        self.encoder = nn.ModuleList(_stage(widths[k], config.blocks[k]) for k in levels)
        self.down = nn.ModuleList(nn.Conv2d(fine, coarse, 2, stride=2) for fine, coarse in pairs)
        self.code = nn.Sequential(nn.Linear(2 * config.head.expression, 128), nn.SiLU(), nn.Linear(128, widths[-1]))
        self.middle = ResidualBlock(widths[-1])
        self.up = nn.ModuleList(nn.Conv2d(coarse, fine, 1) for fine, coarse in reversed(pairs))
        self.join = nn.ModuleList(nn.Conv2d(2 * fine, fine, 1) for fine, _ in reversed(pairs))
        self.decoder = nn.ModuleList(_stage(widths[k], config.blocks[k]) for k in reversed(levels[:-1]))
        self.exit = nn.Conv2d(widths[0], 4 * 4, 3, padding=1)
        self.motion = nn.Conv2d(widths[0], 2, 3, padding=1)  # at half the crop's side, so that flows are smooth
        for layer in (self.exit, self.motion):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, pictures: Tensor, codes: Tensor) -> Correction:
        """The correction of previews.

        Args:
            pictures: (N, 9, S, S) in [-1, 1]: preview, photograph, geometry.
            codes: (N, 2 E) the wanted expression, then the photograph's own.
        """
        x = self.entry(F.pixel_unshuffle(pictures, 2))
        passed = []
        for k, stage in enumerate(self.encoder):
            x = stage(x)
            if k < len(self.down):
                passed.append(x)
                x = self.down[k](x)
        x = self.middle(x + self.code(codes)[:, :, None, None])
        for up, join, stage in zip(self.up, self.join, self.decoder):
            x = F.interpolate(up(x), scale_factor=2.0, mode="bilinear", align_corners=False)
            x = stage(join(torch.cat([x, passed.pop()], dim=1)))
        change = F.pixel_shuffle(self.exit(x), 2)
        flow = F.interpolate(self.motion(x), scale_factor=2.0, mode="bilinear", align_corners=False)
        return Correction(flow.float() * FLOW_SCALE, (change[:, :3] * torch.sigmoid(change[:, 3:])).float())


def _stage(width: int, blocks: int) -> nn.Sequential:
    return nn.Sequential(*(ResidualBlock(width) for _ in range(blocks)))


def save_refiner(folder: Path, network: RefinerNetwork, config: RefinerConfig) -> None:
    """Write a refiner's folder, in float16; config.json comes last."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().cpu().half().contiguous() for name, tensor in network.state_dict().items()}
    save_file(tensors, folder / WEIGHTS)
    (folder / CONFIG).write_text(json.dumps(config.to_json(), indent=2) + "\n")


def load_refiner(folder: Path) -> tuple[RefinerNetwork, RefinerConfig]:
    """Read a refiner, in float32.

    Raises:
        MissingAsset: a file is not there.
        BadCheckpoint: config and weights do not fit; the message names what differs.
    """
    if not (folder / CONFIG).is_file() or not (folder / WEIGHTS).is_file():
        raise MissingAsset(f"{folder} is no refiner: want {CONFIG} and {WEIGHTS}")
    config = RefinerConfig.from_json(json.loads((folder / CONFIG).read_bytes()))
    network = RefinerNetwork(config)
    try:
        network.load_state_dict({name: tensor.float() for name, tensor in load_file(folder / WEIGHTS).items()})
    except Exception as error:  # of safetensors, which has its own type, or keys and shapes that differ
        raise BadCheckpoint(f"{folder / WEIGHTS}: {error}") from error
    return network.eval(), config
