"""Diffusion processes and the training loss, as pure functions of tensors.

Path: target latents -> `mix` with noise -> model -> `row_losses`; the samplers (sampling.py) use the same functions.

A process is a straight or curved line between the clean latents x0 and a start s:

    x_t = a(t) x0 + b(t) s

* `epsilon`, `v_prediction`, `sample`: s is noise; a = sqrt(abar), b = sqrt(1 - abar) of the scaled-linear schedule of
  Stable Diffusion (Ho et al. 2020; Rombach et al. 2022). The network predicts s, or a s - b x0 (Salimans and Ho 2022),
  or x0.
* `flow`: s is noise; a = 1 - t/T, b = t/T. It predicts s - x0, the constant velocity of the line (rectified flow: Liu
  et al. 2022, arXiv 2209.03003).
* `bridge`: the same line from the *preview's* latents plus a little noise (rectified flow between two pictures;
  image-to-image in the spirit of I2SB, arXiv 2302.05872). The noise lets one preview have several completions. The
  preview is the render condition, so a bridge wants a render style that is a whole picture (`texture`).

Losses are weighted by min-SNR (Hang et al. 2023, arXiv 2303.09556). A bridge's error is weighted as that of x0: near x0
its answer is only the render less its input, and unweighted that easy end is most of the loss, while sampling begins at
the other.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from rigface.model.latents import LatentConditions, LatentExample
from rigface.model.model_config import STRAIGHT, Process
from rigface.model.unets import DROPPABLE

Predict = Callable[..., Tensor]
"""`RigFaceModel.forward` or anything around it (DDP, autocast, compiled): what both loss and samplers call."""


def coefficients(process: Process, timestep: Tensor) -> tuple[Tensor, Tensor]:
    """a(t), b(t), each (B, 1, 1, 1) float32, for timesteps (B,), which may lie between two integers."""
    t = timestep.double()
    if process.kind in STRAIGHT:
        b = t / process.train_timesteps
        a = 1 - b
    else:
        abar = _alphas_cumprod(process).to(t.device)
        t = t.clamp(0, process.train_timesteps - 1)
        low = t.floor().long()
        mixed = torch.lerp(abar[low], abar[(low + 1).clamp(max=process.train_timesteps - 1)], t - low)
        a, b = mixed.sqrt(), (1 - mixed).sqrt()
    return a.float()[:, None, None, None], b.float()[:, None, None, None]


@lru_cache(maxsize=8)
def _alphas_cumprod(process: Process) -> Tensor:
    root = torch.linspace(process.beta_start**0.5, process.beta_end**0.5, process.train_timesteps, dtype=torch.float64)
    abar = torch.cumprod(1 - root**2, dim=0)
    if process.zero_terminal_snr:  # Lin et al. 2023, arXiv 2305.08891, algorithm 1
        a = abar.sqrt()
        abar = ((a - a[-1]) * a[0] / (a[0] - a[-1])).square()
    return abar


def start(process: Process, conditions: LatentConditions, noise: Tensor) -> Tensor:
    """The other end of the line, (B, 4, h, w): noise, or the noised preview for a bridge."""
    if process.kind == "bridge":
        return process.latent_scale * conditions.render + process.bridge_noise * noise
    return noise


def mix(process: Process, clean: Tensor, begin: Tensor, timestep: Tensor) -> Tensor:
    """x_t from x0 (B, 4, h, w), start (B, 4, h, w) and t (B,)."""
    a, b = coefficients(process, timestep)
    return a * clean + b * begin


def prediction_target(process: Process, clean: Tensor, begin: Tensor, timestep: Tensor) -> Tensor:
    """The network's training target at x_t."""
    if process.kind == "epsilon":
        return begin
    if process.kind == "sample":
        return clean
    if process.kind in STRAIGHT:
        return begin - clean
    a, b = coefficients(process, timestep)
    return a * begin - b * clean


def clean_estimate(process: Process, noisy: Tensor, answer: Tensor, timestep: Tensor) -> Tensor:
    """x0 as implied by the network's answer at x_t; the preview of an unfinished edit."""
    a, b = coefficients(process, timestep)
    if process.kind == "epsilon":
        return (noisy - b * answer) / a
    if process.kind == "sample":
        return answer
    if process.kind in STRAIGHT:
        return noisy - b * answer
    return a * noisy - b * answer


def velocity(process: Process, noisy: Tensor, answer: Tensor, timestep: Tensor) -> Tensor:
    """a s - b x0 from an x0 answer, as every scheduler supports it, while few support `sample`."""
    a, b = coefficients(process, timestep)
    return (a * noisy - answer) / b


def loss_weight(process: Process, timestep: Tensor, gamma: float) -> Tensor:
    """(B,) weight of the squared error of this process's answer: min-SNR; for a bridge 3 b(t)^2; ones for a flow, or
    if gamma is 0.
    """
    if gamma <= 0 or process.kind == "flow":
        return torch.ones(timestep.shape[0], device=timestep.device)
    a, b = (c.flatten() for c in coefficients(process, timestep))
    if process.kind == "bridge":
        return 3 * b**2  # 1 on average over t
    snr = (a / b) ** 2
    capped = snr.clamp(max=gamma)
    return {"sample": capped, "epsilon": capped / snr, "v_prediction": capped / (snr + 1)}[process.kind]


@dataclass(frozen=True)
class Dropout:
    """Probabilities with which conditions are dropped in training, for guidance.

    Each is drawn independently; `everything` drops all three at once.
    """

    identity: float = 0.05
    attributes: float = 0.05
    text: float = 0.1
    everything: float = 0.05


NO_DROPOUT = Dropout(0.0, 0.0, 0.0, 0.0)


@dataclass(frozen=True, eq=False)
class Draw:
    """The random part of one loss; the same draw gives comparable losses."""

    timestep: Tensor  # (B,) int64: integers, since FSDP's mixed precision would round floats to bfloat16
    noise: Tensor  # (B, 4, h, w)
    drop: Tensor | None  # (B, 3) bool in the order of `DROPPABLE`, or None


def draw(
    process: Process,
    like: Tensor,
    dropout: Dropout = NO_DROPOUT,
    generator: torch.Generator | None = None,
    noise_offset: float = 0.0,
) -> Draw:
    """Draw timesteps, noise and dropped conditions for latents `like` (B, 4, h, w).

    With `noise_offset` the noise of each channel has a mean of this standard deviation, so that a network learns to
    change the brightness of a whole picture (N. Guttenberg, "Diffusion with offset noise", 2023).

    Timesteps are stratified over the batch (Kingma et al. 2021, VDM): one uniform number, shifted by 1/B per row.
    Numbers come from the generator's device and move to that of `like`, so that a CPU generator repeats itself
    anywhere.
    """
    batch, device = like.shape[0], generator.device if generator is not None else torch.device("cpu")
    uniform = torch.rand((), generator=generator, device=device) + torch.arange(batch, device=device) / batch
    uniform = (uniform % 1)[torch.randperm(batch, generator=generator, device=device)]
    timestep = (uniform * process.train_timesteps).long().clamp(max=process.train_timesteps - 1)
    if process.kind in STRAIGHT:
        timestep += 1  # in 1 ... T: at 0 there is nothing to predict
    noise = torch.randn(like.shape, generator=generator, device=device)
    if noise_offset:
        noise = noise + noise_offset * torch.randn(*like.shape[:2], 1, 1, generator=generator, device=device)
    drop = None
    if dropout != NO_DROPOUT:
        rates = torch.tensor([getattr(dropout, name) for name in DROPPABLE] + [dropout.everything], device=device)
        lost = torch.rand(batch, 4, generator=generator, device=device) < rates
        drop = (lost[:, :3] | lost[:, 3:]).to(like.device)
    return Draw(timestep.to(like.device), noise.to(like.device), drop)


def predict(model: Predict, example: LatentExample, process: Process, drawn: Draw) -> tuple[Tensor, Tensor, Tensor]:
    """Ask the model for a draw: x_t, the start and the answer, each (B, 4, h, w) float32."""
    c = example.conditions
    begin = start(process, c, drawn.noise)
    noisy = mix(process, example.target.float(), begin, drawn.timestep)
    conditions = c.background, c.render, c.expression_code
    more = {} if c.hint is None else {"hint": c.hint}
    answer = model(noisy, drawn.timestep, *conditions, text=c.text, reference=c.reference, drop=drawn.drop, **more)
    return noisy, begin, answer.float()


def row_losses(model: Predict, example: LatentExample, process: Process, drawn: Draw, min_snr: float = 5.0) -> Tensor:
    """(B,) float32 weighted squared error of the model's answers, one per example."""
    _, begin, answer = predict(model, example, process, drawn)
    error = answer - prediction_target(process, example.target.float(), begin, drawn.timestep)
    squared = error.square() if example.weights is None else error.square() * example.weights
    return squared.mean(dim=(1, 2, 3)) * loss_weight(process, drawn.timestep, min_snr)
