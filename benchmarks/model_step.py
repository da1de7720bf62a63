"""Speed of a denoising step, relative to a direct port of the released code with the same weights and inputs.

    python benchmarks/model_step.py small            seconds; for a look
    python benchmarks/model_step.py sd15             three minutes, 18 GB; the size of the released weights, at 256 px

The port does what the released pipeline does per step, on the same stock networks: the batch is doubled for a guidance
whose halves are equal, the identity's tokens are joined before the norm so that they are queries too, their half of the
attention's output is dropped, float32, contiguous. It uses SDPA, as diffusers 0.22 did on torch 2.
Ours is what the pipeline runs: one row, keys and values projected once per edit; under bfloat16 autocast with the
weights stored in bfloat16.

All variants are timed in one process, interleaved round by round; the ratio is the median over rounds of
port / ours, so that whatever disturbs the machine disturbs both. Beside the clock on the wall stands the process's own
time, which other processes disturb less; where the two ratios differ, the machine was not quiet. The once-per-edit part
(`encode_reference`, against the port's identity network) is timed too.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import harness
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rigface.model.attention import blocks, record
from rigface.model.checkpoint import ModelConfig, fresh
from rigface.model.number_format import autocast_dtype
from rigface.model.pipeline import RigFacePipeline
from rigface.model.unets import RigFaceModel


@dataclass(frozen=True)
class Size:
    """A network and a latent size."""

    channels: tuple[int, ...]
    text: tuple[int, int]
    latent: int
    expression: int = 64
    rounds: int = 5


LIMITS = {"ours": 2.0, "ours_bf16": 3.0}  # times the port's speed, at the released weights' size
SIZES = {
    "small": Size((64, 128, 256), (77, 256), latent=32, rounds=7),
    "sd15": Size((320, 640, 1280, 1280), (77, 768), latent=32, rounds=5),
    "sd15_512": Size((320, 640, 1280, 1280), (77, 768), latent=64, rounds=3),
}


class PortAttention:
    """The released code's self-attention: every joined token asks, and half of the answers are dropped."""

    def __init__(self, tokens: Callable[[], Tensor], norm: nn.Module) -> None:
        self.tokens = tokens
        self.norm = norm

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: None = None,
        attention_mask: None = None,
        reference_tokens: None = None,  # named, or diffusers warns of them, which takes time
        keep: None = None,
    ) -> Tensor:
        # The block hands over normalised tokens; the norm of the identity's half is part of the work as well.
        own = hidden_states.shape[1]
        joined = torch.cat([hidden_states, self.norm(self.tokens().expand(hidden_states.shape[0], -1, -1))], dim=1)
        query, key, value = (
            projected.unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            for projected in (attn.to_q(joined), attn.to_k(joined), attn.to_v(joined))
        )
        out = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        return attn.to_out[1](attn.to_out[0](out)).split(own, dim=1)[0]


class Port:
    """Upstream's step on our module's weights."""

    def __init__(self, model: RigFaceModel) -> None:
        self.model = model
        self.tokens: dict[str, Tensor] = {}

    def encode_reference(self, reference: Tensor, text: Tensor) -> None:
        """The part that upstream runs once per edit: the identity network, nothing projected."""
        self.tokens = {name: seen[0] for name, seen in record(self.model.identity, reference, text).blocks.items()}

    @contextmanager
    def installed(self) -> Any:
        """The denoiser with the port's attention in place of ours."""
        before = {name: block.attn1.processor for name, block in blocks(self.model.denoiser)}
        for name, block in blocks(self.model.denoiser):
            block.attn1.set_processor(PortAttention(lambda name=name: self.tokens[name], block.norm1))
        try:
            yield
        finally:
            for name, block in blocks(self.model.denoiser):
                block.attn1.set_processor(before[name])

    def step(self, q: dict[str, Tensor]) -> Tensor:
        """One guided prediction, of which upstream's guidance formula leaves the first half."""
        twice = {name: torch.cat([value] * 2) for name, value in q.items()}
        out = self.model(**twice)
        with_identity, without = out.chunk(2)
        return without + 1.5 * (with_identity - without)  # the halves are equal, and so this is either of them


def timed(run: Callable[[], Any]) -> tuple[float, float, Any]:
    """Seconds on the wall, seconds of this process on all cores, and what came out."""
    begin, busy = time.perf_counter(), time.process_time()
    out = run()
    return time.perf_counter() - begin, time.process_time() - busy, out


@torch.inference_mode()
def measure(size: Size, threads: int) -> dict[str, Any]:
    """All figures of one size."""
    torch.set_num_threads(threads)
    made = fresh(ModelConfig(), size.channels, (8, 16), expression=size.expression, text=size.text)
    model, random = made.model, torch.Generator().manual_seed(0)
    model.default_text.normal_(generator=random)
    shape = (1, 4, size.latent, size.latent)
    reference = torch.randn(shape, generator=random)
    q = {name: torch.randn(shape, generator=random) for name in ("latents", "background", "render")}
    q |= {"timestep": torch.tensor([500]), "expression_code": torch.randn(1, size.expression, generator=random)}
    q |= {"text": model.default_text[None].clone()}
    port, half = Port(model), autocast_dtype("auto", torch.device("cpu"))
    reference_tokens: dict[str, Any] = {}

    def ours(network: RigFaceModel, name: str, once: bool) -> Callable[[], Any]:
        def run() -> Any:
            with torch.autocast("cpu", torch.bfloat16, enabled=name == "ours_bf16"):
                return (
                    network.encode_reference(reference)
                    if once
                    else network(**q, reference_tokens=reference_tokens[name])
                )

        return run

    def ported() -> Tensor:
        with port.installed():
            return port.step(q)

    variants = {"port": (lambda: port.encode_reference(reference, q["text"]), ported)}
    if half is not None:  # first, because its copy shrinks
        light = RigFacePipeline.of(copy.deepcopy(made), autocast=half, half_weights=True).model
    plain = RigFacePipeline.of(copy.deepcopy(made)).model
    variants["ours"] = (ours(plain, "ours", True), ours(plain, "ours", False))
    if half is not None:
        variants["ours_bf16"] = (ours(light, "ours_bf16", True), ours(light, "ours_bf16", False))
    seconds: dict[str, dict[str, list[float]]] = {name: {"once": [], "step": [], "cpu": []} for name in variants}
    answers: dict[str, Tensor] = {}
    for turn in range(size.rounds + 1):  # the first is for warming up
        for name, (once, step) in variants.items():
            took, _, kept = timed(once)
            if kept is not None:
                reference_tokens[name] = kept
            step_took, step_cpu, answers[name] = timed(step)
            if turn:
                seconds[name]["once"].append(took)
                seconds[name]["step"].append(step_took)
                seconds[name]["cpu"].append(step_cpu)
    scale = answers["port"].abs().max().item()
    result: dict[str, Any] = {"parameters": sum(p.numel() for p in model.parameters()), "rounds": size.rounds}
    for name, parts in seconds.items():
        ratios = [a / b for a, b in zip(seconds["port"]["step"], parts["step"])]
        difference = (answers[name].float() - answers["port"]).abs().max().item()
        result[name] = {
            "step_s": statistics.median(parts["step"]),
            "step_s_range": [min(parts["step"]), max(parts["step"])],
            "once_s": statistics.median(parts["once"]),
            "times_faster": statistics.median(ratios),
            "times_faster_range": [min(ratios), max(ratios)],
            "times_less_cpu": statistics.median(a / b for a, b in zip(seconds["port"]["cpu"], parts["cpu"])),
            "difference_over_scale": difference / scale,
        }
    return result


def main() -> None:
    """Measure one size, print it, and put it into the results file beside the others."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("size", choices=SIZES, nargs="?", default="small")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, help="how often each variant is timed")
    args = parser.parse_args()
    size = SIZES[args.size]
    size = Size(size.channels, size.text, size.latent, size.expression, args.rounds or size.rounds)
    result = measure(size, args.threads)
    for name in ("port", "ours", "ours_bf16"):
        if name in result:
            r = result[name]
            print(
                f"{name:10} step {r['step_s'] * 1e3:8.1f} ms   {r['times_faster']:.2f}x the port's speed "
                f"({r['times_faster_range'][0]:.2f} to {r['times_faster_range'][1]:.2f}; "
                f"cpu {r['times_less_cpu']:.2f}x)   "
                f"once per edit {r['once_s'] * 1e3:8.1f} ms   differs by {r['difference_over_scale']:.1e} of the scale"
            )
    result |= {
        "limits": LIMITS,
        "threads": args.threads,
        "torch": torch.__version__,
        **harness.environment(),
    }
    harness.write("model_step", {**harness.read("model_step"), args.size: result})
    if result["ours"]["difference_over_scale"] > 1e-4:
        raise SystemExit("ours and the port do not agree to 1e-4")


if __name__ == "__main__":
    main()
