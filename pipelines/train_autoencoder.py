"""Train a small autoencoder on face crops: the pictures' side of a model that is made from nothing (`mini`).

Path: OUT/faces of `extract` -> crops -> `AutoencoderKL` -> OUT/vae, which `encode` and `train` read.
Models that start from Stable Diffusion bring their autoencoder along and never come here.

One process, because the whole thing is 3 M parameters and minutes. Loss: absolute error of the picture and of three levels
of its Laplacian pyramid (edges count as much as areas; no licensed perceptual network). Nothing here ever samples the
encoder's distribution, so its mode is trained alone, with noise in proportion to its spread, so that near latents decode to near
pictures; with the distribution's own noise, which begins at 1, the first thousand steps are lost. Most steps see windows of the crops at a quarter of the cost, the
others whole crops. Some pictures get a flat hole, as the background condition has one.

A run is a function of (settings, seed): step k draws its batch from (seed, k), so a resumed run goes on with the same
numbers. State is published whole every `save_every` steps.
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor

from pipelines.autoencoder_data import AutoencoderConfig, batch, crops
from pipelines.output import git_commit
from rigface.errors import PlanError
from rigface.model.ema import Average
from rigface.model.picture_loss import picture_loss
from rigface.model.weights import WEIGHTS, write_safetensors
from rigface.storage import Store

STATE = "autoencoder/state.pt"
LOG = "autoencoder/log.jsonl"


@dataclass
class _State:
    vae: AutoencoderKL
    optimizer: torch.optim.Optimizer
    average: Average
    step: int = 0
    log: list[dict[str, float]] = field(default_factory=list)


def train_autoencoder(
    faces: str, out: str, config: AutoencoderConfig, say: Callable[[str], None] = print
) -> AutoencoderKL:
    """Train, or go on training; the folder `vae` below `out` is there when it ends.

    Args:
        faces: a dataset of `extract`. out: folder or s3:// prefix.

    Raises:
        PlanError: there are no faces, or `out` holds an autoencoder of another shape.
    """
    store = Store(out)
    pictures, held = crops(faces, config)
    say(f"{len(pictures)} crops to learn from, {len(held)} of other people to measure on")
    state = _resumed(store, config)
    began, first = time.monotonic(), state.step
    for step in range(state.step + 1, config.steps + 1):
        loss = _step(state, batch(pictures, config, step), config, step)
        state.step = step
        if step % 10 == 0:
            state.log.append({"step": step, "loss": loss})
        late = bool(config.stop_after_s) and time.monotonic() - began > config.stop_after_s
        if step % config.save_every == 0 or step == config.steps or late:
            with state.average.swapped():
                psnr = measure(state.vae, held if len(held) else pictures[:16])
            state.log.append({"step": step, "psnr": psnr})
            pace = (time.monotonic() - began) / (step - first)
            say(f"step {step}/{config.steps}  loss {loss:.4f}  held-out PSNR {psnr:.2f} dB  {pace:.2f} s a step")
            _save(store, state, config)
        if late:
            break
    with state.average.swapped():
        scale = 1.0 / float(_latent_spread(state.vae, pictures))
        state.vae.register_to_config(scaling_factor=round(scale, 5))
        _publish(store, state.vae)
    return load(store)


def load(store: Store) -> AutoencoderKL:
    """The finished autoencoder of an output.

    Raises:
        MissingAsset: it is not finished.
    """
    import tempfile

    from rigface.errors import MissingAsset

    with tempfile.TemporaryDirectory() as folder:
        for name in ("config.json", f"{WEIGHTS}.safetensors"):
            try:
                (Path(folder) / name).write_bytes(store.read(f"vae/{name}"))
            except FileNotFoundError:
                raise MissingAsset(f"{store.uri}/vae/{name} is not there; `rigface autoencoder` makes it") from None
        return AutoencoderKL.from_pretrained(folder, use_safetensors=True).eval().requires_grad_(False)


def _step(state: _State, pictures: Tensor, config: AutoencoderConfig, step: int) -> float:
    pictures = pictures.to(memory_format=torch.channels_last)
    progress = step / max(config.steps, 1)
    rate = config.learning_rate * min(1.0, step / max(config.warmup, 1)) * 0.5 * (1 + np.cos(np.pi * min(progress, 1)))
    for group in state.optimizer.param_groups:
        group["lr"] = max(float(rate), 1e-6)
    generator = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
    with torch.autocast("cpu", torch.bfloat16, enabled=config.bf16):
        mode = state.vae.encode(pictures).latent_dist.mode()
        noise = torch.randn(mode.shape, generator=generator)
        shaken = mode + config.shake * mode.detach().float().std() * noise
        made = state.vae.decode(shaken).sample
    loss = picture_loss(made.float(), pictures) + config.tether * mode.float().square().mean()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(state.vae.parameters(), 1.0)
    state.optimizer.step()
    state.optimizer.zero_grad(set_to_none=True)
    state.average.update()
    return loss.item()


@torch.no_grad()
def measure(vae: AutoencoderKL, pictures: np.ndarray) -> float:
    """PSNR in dB of (N, S, S, 3) uint8 pictures after a round trip through the mode of their latents; mean over pictures."""
    values = []
    for start in range(0, len(pictures), 8):
        wanted = torch.from_numpy(pictures[start : start + 8]).permute(0, 3, 1, 2).float() / 127.5 - 1
        made = vae.decode(vae.encode(wanted).latent_dist.mode()).sample.clamp(-1, 1)
        error = ((made - wanted) / 2).square().mean((1, 2, 3)).clamp_min(1e-8)
        values += (-10 * error.log10()).tolist()
    return float(np.mean(values))


@torch.no_grad()
def _latent_spread(vae: AutoencoderKL, pictures: np.ndarray) -> Tensor:
    chosen = pictures[np.linspace(0, len(pictures) - 1, min(64, len(pictures))).astype(int)]
    tensor = torch.from_numpy(chosen).permute(0, 3, 1, 2).float() / 127.5 - 1
    return torch.cat([vae.encode(t).latent_dist.mode() for t in tensor.split(8)]).std()


def _fresh(config: AutoencoderConfig) -> _State:
    count = len(config.channels)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * count,
            up_block_types=("UpDecoderBlock2D",) * count,
            block_out_channels=config.channels,
            layers_per_block=config.layers,
            latent_channels=config.latent_channels,
            norm_num_groups=min(8, *config.channels),
            sample_size=config.size,
            scaling_factor=1.0,
        )
    for block in vae.modules():
        if isinstance(block, ResnetBlock2D):  # begin as a shallow linear network: twice as good after a hundred steps
            torch.nn.init.zeros_(block.conv2.weight)
    vae.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=config.learning_rate, betas=(0.9, 0.99), weight_decay=1e-4)
    return _State(vae, optimizer, Average(vae, config.decay))


def _resumed(store: Store, config: AutoencoderConfig) -> _State:
    state = _fresh(config)
    try:
        data = store.read(STATE)
    except FileNotFoundError:
        return state
    kept = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    shape = ("channels", "latent_channels", "layers", "size", "seed")
    if odd := [n for n in shape if json.dumps(kept["config"][n]) != json.dumps(asdict(config)[n])]:
        raise PlanError(f"{store.uri}: holds an autoencoder with other {', '.join(odd)}; choose another OUT")
    state.vae.load_state_dict(kept["vae"])
    state.optimizer.load_state_dict(kept["optimizer"])
    state.average.load(kept["average"])
    state.step, state.log = kept["step"], kept["log"]
    return state


def _save(store: Store, state: _State, config: AutoencoderConfig) -> None:
    sink = io.BytesIO()
    kept = {
        "config": json.loads(json.dumps({**asdict(config), "commit": git_commit()})),
        "vae": state.vae.state_dict(),
        "optimizer": state.optimizer.state_dict(),
        "average": state.average.state(),
        "step": state.step,
        "log": state.log,
    }
    torch.save(kept, sink)
    store.publish(STATE, sink.getvalue())
    store.publish(LOG, "".join(json.dumps(line) + "\n" for line in state.log).encode())


def _publish(store: Store, vae: AutoencoderKL) -> None:
    """The folder diffusers reads; weights first, so that a config means it is whole."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"{WEIGHTS}.safetensors"
        write_safetensors(file, vae.state_dict())
        vae.save_config(folder)
        store.publish(f"vae/{file.name}", file.read_bytes())
        store.publish("vae/config.json", (Path(folder) / "config.json").read_bytes())
