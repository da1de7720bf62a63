"""Memory and speed of training at the size of Stable Diffusion 1.5: a plan, computed, and a measurement on a GPU.

    python benchmarks/gpu_train.py plan              a minute on a CPU; nothing of the model is held in memory
    python benchmarks/gpu_train.py measure           under eight minutes on one GPU of 80 GB
    python benchmarks/gpu_train.py measure --toy --device cpu --batch 2      the same path in seconds, to try the script

`plan` counts the model's numbers, and the bytes that autograd keeps for the backward pass of an example at 512 px under
bfloat16, on fake tensors, which have shapes and no content; and prints the table of docs/training.md for 1, 8 and 64
GPUs.
`measure` times optimizer steps with random latents: DDP's way (one process), FSDP2's, with and without compilation and
channels-last; prints peak memory; and compares the loss with that of a CPU in float32, which has to agree to 1 %. With
`--toy` networks are small and their figures mean nothing.
"""

import argparse
import copy
import json
import os
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from pipelines.train.model_setup import compile_blocks
from rigface.model import number_format
from rigface.model.diffusion import Draw, row_losses
from rigface.model.latents import LatentConditions, LatentExample
from rigface.model.model_config import Process
from rigface.model.unets import RigFaceModel, build, network

EXPRESSION = 52
GIB = 2**30


@dataclass(frozen=True)
class Size:
    """Channels of the blocks, (tokens, channels) of the text, and the side of the latents."""

    widths: tuple[int, ...] = (320, 640, 1280, 1280)
    text: tuple[int, int] = (77, 768)
    side: int = 64


SD15, TOY = Size(), Size((32, 64), (2, 24), 8)  # Stable Diffusion 1.5 at 512 px; a size for tries


def model_of_size(size: Size) -> RigFaceModel:
    """Both networks on the current device."""
    return build(*network(size.widths, text_dim=size.text[1]), torch.zeros(size.text), EXPRESSION)


def random_example(size: Size, batch: int, device: Any = "cpu") -> tuple[LatentExample, Draw]:
    """Random latents and a draw."""
    random = torch.Generator().manual_seed(0)
    latents = [torch.randn(batch, 4, size.side, size.side, generator=random).to(device) for _ in range(5)]
    code = torch.randn(batch, EXPRESSION, generator=random).to(device)
    conditions = LatentConditions(latents[0], latents[1], code, reference=latents[2])
    times = torch.linspace(100, 900, batch).long().to(device)
    return LatentExample(conditions, latents[3]), Draw(times, latents[4], None)


def kept_bytes(batch: int) -> tuple[int, int]:
    """Numbers that are trained, and bytes that autograd keeps for a backward pass, weights and inputs left out."""
    with FakeTensorMode():
        model = model_of_size(SD15).train()
        example, drawn = random_example(SD15, batch)
        own = {p.untyped_storage()._cdata for p in model.parameters()}
        kept: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage._cdata not in own:
                kept[storage._cdata] = storage.nbytes()
            return tensor

        hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
        with torch.autocast("cpu", torch.bfloat16), hooks:
            c = example.conditions  # the forward alone: the loss caches its schedule, which would stay fake
            asked = (example.target, drawn.timestep, c.background, c.render, c.expression_code)
            loss = model(*asked, reference=c.reference).float().square().mean()
        del loss
        return sum(p.numel() for p in model.parameters() if p.requires_grad), sum(kept.values())


def plan() -> None:
    """Print the table. Sharded, the identity network's weights stay whole in bfloat16 from forward to backward."""
    trained, one = kept_bytes(1)
    each = kept_bytes(2)[1] - one
    state = {"weights": 4, "gradients": 4, "AdamW": 8, "weight average": 4}
    print(f"{trained:,} numbers are trained; {each / GIB:.2f} GiB of activations an example")
    print("| GPUs | sharding | " + " | ".join(state) + " | bfloat16 copies | together | 80 GB take | 24 GB take |")
    print("|---" * (len(state) + 6) + "|")
    for gpus, sharding, shards in ((1, "ddp", 1), (8, "fsdp", 8), (64, "fsdp", 64), (64, "hsdp", 8)):
        sizes = [trained * size / shards / GIB for size in state.values()]
        sizes.append(trained / GIB if shards > 1 else (one - each) / GIB)
        rooms = [max(0, int((0.9 * gpu * 1e9 / GIB - sum(sizes)) / (each / GIB))) for gpu in (80, 24)]
        cells = " | ".join(f"{size:.1f}" for size in sizes)
        print(f"| {gpus} | {sharding} | {cells} | {sum(sizes):.1f} | {rooms[0]} | {rooms[1]} |")


def half(device: torch.device, wanted: bool = True) -> AbstractContextManager[Any]:
    """Computation in bfloat16, where the device has it."""
    dtype = number_format.autocast_dtype("auto", device) if wanted else None
    return torch.autocast(device.type, dtype) if dtype else nullcontext()


def wait(device: torch.device) -> None:
    """Wait until a GPU has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def steps_of(
    model: Any, size: Size, batch: int, device: torch.device, autocast: bool, count: int = 8
) -> dict[str, float]:
    """Median seconds of a step, peak memory of a GPU and the first loss."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-5, fused=True)
    example, drawn = random_example(size, batch, device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    times, losses = [], []
    for _ in range(count):
        wait(device)
        began = time.perf_counter()
        with half(device, autocast):
            loss = row_losses(model, example, Process(), drawn).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        wait(device)
        times.append(time.perf_counter() - began)
        losses.append(loss.item())
    peak = {"peak_gib": torch.cuda.max_memory_allocated() / GIB} if device.type == "cuda" else {}
    return {"step_s": sorted(times[count // 2 :])[count // 4], **peak, "loss": losses[0]}


def measure(size: Size, batch: int, device: torch.device) -> None:
    """Print a line of JSON for each way to train."""
    torch.manual_seed(0)
    start = model_of_size(size)
    example, drawn = random_example(size, 2)
    with torch.no_grad():
        exact = row_losses(start, example, Process(), drawn).mean().item()
        there = copy.deepcopy(start).to(device)
        example, drawn = random_example(size, 2, device)
        with half(device):
            loss = row_losses(there, example, Process(), drawn).mean().item()
    compared = {"loss_cpu_float32": exact, f"loss_{device.type}": loss, "apart": abs(loss / exact - 1)}
    print(json.dumps(compared), flush=True)
    del there
    for name in ("ddp", "ddp, channels-last", "ddp, compiled", "fsdp", "fsdp, compiled"):
        if device.type == "cuda":
            torch.cuda.empty_cache()
        model = copy.deepcopy(start).to(device)
        if "channels-last" in name:
            model = model.to(memory_format=torch.channels_last)
        if "compiled" in name:
            compile_blocks(model, *(() if device.type == "cuda" else ("eager",)))
        if "fsdp" in name:
            model = sharded(model, device)
        figures = steps_of(model, size, batch, device, autocast="fsdp" not in name)
        print(json.dumps({"way": name, "batch": batch, **figures}), flush=True)
        del model


def sharded(model: RigFaceModel, device: torch.device) -> RigFaceModel:
    """FSDP2 in a group of one process."""
    if not torch.distributed.is_initialized():
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29531", "RANK": "0", "WORLD_SIZE": "1"}
        torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    mesh = init_device_mesh(device.type, (1,))
    policy = MixedPrecisionPolicy(param_dtype=number_format.autocast_dtype("auto", device), reduce_dtype=torch.float32)
    for unet in (model.identity, model.denoiser):
        for block in (*unet.down_blocks, unet.mid_block, *unet.up_blocks):
            fully_shard(block, mesh=mesh, mp_policy=policy, reshard_after_forward=unet is model.denoiser)
    fully_shard(model, mesh=mesh, mp_policy=policy)
    return model


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=("plan", "measure"))
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--device", type=torch.device, default=torch.device("cuda"))
    parser.add_argument("--toy", action="store_true", help="small networks, to try the script")
    options = parser.parse_args()
    if options.what == "measure":
        measure(TOY if options.toy else SD15, options.batch, options.device)
    else:
        plan()


if __name__ == "__main__":
    main()
