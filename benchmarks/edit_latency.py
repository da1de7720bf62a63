"""Latency of a whole edit, relative to a direct port of the released code: same weights, same pictures, one process.

    python benchmarks/edit_latency.py small            under three minutes on two cores
    python benchmarks/edit_latency.py sd15             the size the released weights have, at 256 px; ten minutes, 16 GB

The port does what the released pipeline does for one edit: encodes the three pictures, runs the identity network, takes
50 UniPC steps of `benchmarks/model_step.py`'s step (doubled batch, joined queries, contiguous fp32), decodes. Ours is
`RigFacePipeline` with a checkpoint's default sampler and steps, under bfloat16 autocast where the processor has it.

Pictures are compared twice. Ours with upstream's sampler, steps and type must give the port's picture: the arithmetic
is the same. Ours as it ships takes other steps of the same path; how far its picture lies from the port's is reported.
Weights are random, so that says how well few steps follow many on a path nobody trained, and nothing of how pictures
look.

Rounds are interleaved; the ratio is the median over rounds of port / ours.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from typing import Any

import harness
import numpy as np
import torch
from model_step import Port

from rigface.metrics.image import psnr
from rigface.model.checkpoint import Checkpoint, ModelConfig, fresh
from rigface.model.number_format import autocast_dtype
from rigface.model.pipeline import RigFacePipeline
from rigface.model.sampling import make_scheduler

LIMIT = 6.0  # times the port's speed
PORT_STEPS, PORT_SAMPLER = 50, "unipc"
SIZES: dict[str, dict[str, Any]] = {
    "small": {"channels": (64, 128, 256), "vae": (32, 64, 64, 64), "text": (77, 256), "px": 256, "rounds": 3},
    "sd15": {
        "channels": (320, 640, 1280, 1280),
        "vae": (128, 256, 512, 512),
        "text": (77, 768),
        "px": 256,
        "rounds": 1,
    },
}


@torch.inference_mode()
def port_edit(
    pipe: RigFacePipeline, port: Port, pictures: dict[str, np.ndarray], code: np.ndarray, noise: torch.Tensor
) -> np.ndarray:
    """One edit as the released pipeline does it; (S, S, 3) uint8."""
    reference, background, render = pipe._encode(*(_picture(pictures[n]) for n in ("source", "background", "render")))
    text = pipe.model.default_text[None]
    port.encode_reference(reference, text)
    scheduler = make_scheduler(pipe.model_config.process, PORT_SAMPLER, PORT_STEPS)
    latents = noise * scheduler.init_noise_sigma
    question = {
        "background": background,
        "render": render,
        "expression_code": torch.from_numpy(code)[None],
        "text": text,
    }
    with port.installed():
        for t in scheduler.timesteps:
            scaled = scheduler.scale_model_input(latents, t)
            answer = port.step({"latents": scaled, "timestep": t.expand(1), **question})
            latents = scheduler.step(answer, t, latents, return_dict=False)[0]
    return pipe.pictures(latents)[0]


def _picture(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255


def measure(name: str, threads: int, rounds: int = 0) -> dict[str, Any]:
    """All figures of one size."""
    torch.set_num_threads(threads)
    size = SIZES[name]
    made = fresh(ModelConfig(), size["channels"], size["vae"], expression=64, text=size["text"])
    random = np.random.default_rng(0)
    shape = (size["px"], size["px"], 3)
    pictures = {n: random.integers(0, 256, shape, dtype=np.uint8) for n in ("source", "background", "render")}
    code = random.normal(size=64).astype(np.float32)
    latent = size["px"] // 2 ** (len(size["vae"]) - 1)
    noise = torch.randn((1, 4, latent, latent), generator=torch.Generator().manual_seed(0))
    plain, shipped = RigFacePipeline.of(made), _shipped(made)
    port = Port(made.model)

    def ours(pipe: RigFacePipeline, **options: Any) -> np.ndarray:
        return pipe(**pictures, expression_code=code, noise=noise, output_type="np", **options).images[0]

    seconds: dict[str, list[float]] = {"port": [], "ours": []}
    pictures_of: dict[str, np.ndarray] = {}
    for _ in range(rounds or size["rounds"]):
        for who, run in (
            ("port", lambda: port_edit(plain, port, pictures, code, noise)),
            ("ours", lambda: ours(shipped)),
        ):
            began = time.perf_counter()
            pictures_of[who] = run()
            seconds[who].append(time.perf_counter() - began)
    same = ours(plain, scheduler=PORT_SAMPLER, num_inference_steps=PORT_STEPS)
    ratios = [a / b for a, b in zip(seconds["port"], seconds["ours"])]
    process = made.config.process
    dtype = "float32" if autocast_dtype("auto", torch.device("cpu")) is None else "bfloat16"
    return {
        "px": size["px"],
        "rounds": len(ratios),
        "port_s": statistics.median(seconds["port"]),
        "ours_s": statistics.median(seconds["ours"]),
        "ours_sampler": f"{process.scheduler}, {process.steps} steps, {dtype}",
        "times_faster": statistics.median(ratios),
        "times_faster_range": [min(ratios), max(ratios)],
        "limit": LIMIT,
        "same_steps_largest_difference": int(np.abs(same.astype(int) - pictures_of["port"]).max()),
        "as_shipped_psnr_db": round(psnr(pictures_of["ours"], pictures_of["port"]), 2),
        "parameters": sum(p.numel() for p in made.model.parameters()),
    }


def _shipped(made: Checkpoint) -> RigFacePipeline:
    """As `from_pretrained(..., autocast="auto")` has it, on a copy: half weights change the checkpoint."""
    return RigFacePipeline.of(copy.deepcopy(made), autocast="auto", half_weights=True)


def main() -> None:
    """Measure one size, print it, and put it into the results file beside the others."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("size", choices=SIZES, nargs="?", default="small")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=0, help="how often each is timed")
    args = parser.parse_args()
    result = measure(args.size, args.threads, args.rounds)
    result |= {"threads": args.threads, "torch": torch.__version__, **harness.environment()}
    print(json.dumps(result, indent=1))
    harness.write("edit_latency", {**harness.read("edit_latency"), args.size: result})
    if result["same_steps_largest_difference"] > 1:
        raise SystemExit("with the same sampler and steps, ours and the port do not make the same picture")


if __name__ == "__main__":
    main()
