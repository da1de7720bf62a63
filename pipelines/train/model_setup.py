"""Initial model of a training run, and its wrapping for several workers.

Path: config -> `load` -> a whole model -> `arrange` -> `wrap` -> the module that the loss calls.

* no wrapping: one worker.
* DDP: every worker holds everything, gradients are averaged.
* FSDP2 (`fully_shard`): every block of both networks is sharded on its own, so that one block's weights are whole at a
  time; over all workers, or over those of a node, with a copy on each node (HSDP).
"""

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import fields, replace
from typing import Any

import torch
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.nn.parallel import DistributedDataParallel

from pipelines.examples.layout import autoencoder_place
from pipelines.train.backend import Backend
from pipelines.train.config import TrainConfig
from rigface.errors import PlanError
from rigface.examples import IDENTITY_WIDTH, ExampleSpec, LatentSpec
from rigface.model import checkpoint as checkpoints
from rigface.model.checkpoint_folder import folder_of, is_sd15
from rigface.model.latents import shrinkage
from rigface.model.model_config import STRAIGHT, ModelConfig, Process, is_released
from rigface.model.number_format import autocast_dtype
from rigface.model.recipes.protocol import Checkpoint, ConditionedModel, RecipeOptions
from rigface.model.stable_diffusion import load_vae
from rigface.model.unets import build, network
from rigface.profile import FaceProfile

COMPILED = (BasicTransformerBlock, ResnetBlock2D)  # what networks of UNet blocks repeat
MAX_COMPILED = 256  # variants: blocks that differ in shape or name, in training and validation; torch's own 8 are few


def load(config: TrainConfig, spec: ExampleSpec | None = None) -> Checkpoint:
    """The model to start from, on the CPU; from scratch or Stable Diffusion it is built for examples of a spec.

    MissingAsset, BadCheckpoint, UnsafeFile: the start is missing, does not fit, or is unsafe to load.
    """
    if config.start == "scratch":
        return _scratch(config, spec)
    loaded = checkpoints.start(config.start, **_fitting(config, spec))
    if spec is not None and is_sd15(config.start):
        loaded.config = _described(loaded.config, spec)
    elif spec is not None and loaded.config.head is None:
        loaded.config = replace(loaded.config, head=spec.head)
    loaded.config = _with_process(loaded.config, config)
    return loaded


def _with_process(own: ModelConfig, config: TrainConfig) -> ModelConfig:
    """The config of a start with the process that is asked for; PlanError if it does not fit."""
    kind, before = config.process or own.process.kind, own.process
    if kind == before.kind and config.zero_terminal_snr == before.zero_terminal_snr:
        return own
    if kind == "bridge" and own.render_style != "texture":
        raise PlanError(
            f"process bridge: it begins at the render, which has to be a whole picture, and here it is "
            f"{own.render_style!r}: make examples with `rigface pair --style texture`"
        )
    is_straight = kind in STRAIGHT
    scheduler = before.scheduler if is_straight == (before.kind in STRAIGHT) else "euler" if is_straight else "dpm++"
    try:
        process = replace(before, kind=kind, zero_terminal_snr=config.zero_terminal_snr, scheduler=scheduler)
    except ValueError as error:
        raise PlanError(f"process: {error}") from error
    return replace(own, process=process, detail=kind == "bridge")


def options(config: TrainConfig, spec: ExampleSpec) -> RecipeOptions:
    """Settings of the recipe; MissingAsset, PlanError, StorageGone: see `folder_of`."""
    return RecipeOptions(
        rank=config.lora_rank,
        weights=folder_of(config.recipe_weights) if config.recipe_weights else None,
        identity=spec.identity,
        identity_width=IDENTITY_WIDTH.get(spec.identity, 0),
        prompt=config.prompt,
        token=config.token,
        token_rows=config.token_rows,
    )


def _fitting(config: TrainConfig, spec: ExampleSpec | None) -> dict[str, Any]:
    """Options for starts that are shaped by the data."""
    if spec is None:
        return {}
    if config.start == "tiny":
        return {"expression": spec.expression_size, "size": spec.size, "kind": config.networks.kind}
    # A released model keeps the layer of its own codes; on a head's own expressions it begins at zero.
    if is_sd15(config.start) or (is_released(config.start) and spec.expression_field == "expression"):
        return {"expression": spec.expression_size}
    return {}


def _described(config: ModelConfig, spec: ExampleSpec) -> ModelConfig:
    """The config of a model that has seen no faces yet: that of the examples. Its networks take any size."""
    return replace(
        config,
        head=spec.head,
        render_style=spec.style,
        expression_field=spec.expression_field,
        size=spec.size,
        profile=spec.profile,
    )


def _scratch(config: TrainConfig, spec: ExampleSpec | None) -> Checkpoint:
    vae = load_vae(autoencoder_place(config.autoencoder)).eval().requires_grad_(False)
    networks = config.networks
    size = vae.config["sample_size"] if spec is None else spec.size
    shapes = network(
        networks.channels,
        text_dim=networks.text[1],
        heads=networks.heads,
        layers=networks.layers,
        groups=networks.groups,
        latent_channels=vae.config["latent_channels"],
        sample_size=size // shrinkage(vae),
    )
    expression = 52 if spec is None else spec.expression_size
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = build(*shapes, torch.zeros(networks.text), expression)
    for parameter in model.denoiser.conv_out.parameters():
        nn.init.zeros_(parameter)  # before the first step a bridge returns the preview, not noise
    process = Process(
        kind=networks.kind,
        bridge_noise=networks.bridge_noise,
        latent_scale=vae.config["scaling_factor"],
        scheduler=networks.sampler,
        steps=networks.sampling_steps,
    )
    model_config = ModelConfig(process, render_style="texture", size=size, detail=networks.kind == "bridge")
    if spec is not None:
        model_config = _described(model_config, spec)
    model.eval()
    return Checkpoint(model, vae, model_config)


def check(loaded: Checkpoint, spec: ExampleSpec, latents: LatentSpec | None) -> None:
    """Check that a model and examples have the same conditions; PlanError names the differences."""
    own = loaded.config
    problems = []
    if spec.style != own.render_style:
        problems.append(f"renders in the style {spec.style!r}, the model knows {own.render_style!r}")
    if spec.expression_field != own.expression_field:
        problems.append(f"{spec.expression_field!r} as the expression code, the model takes {own.expression_field!r}")
    if spec.profile != own.profile:
        differ = [f.name for f in fields(FaceProfile) if getattr(spec.profile, f.name) != getattr(own.profile, f.name)]
        problems.append(f"faces of another profile ({', '.join(differ)} differ)")
    if spec.size != own.size:
        problems.append(f"pictures of {spec.size} px, the model makes {own.size} px")
    multiple = shrinkage(loaded.vae) * loaded.model.latent_multiple
    if spec.size % multiple:
        problems.append(f"pictures of {spec.size} px, the networks take multiples of {multiple} px")
    if spec.expression_size != loaded.model.expression_size:
        problems.append(f"expression codes of {spec.expression_size}, the model takes {loaded.model.expression_size}")
    if own.head is not None and (own.head.name, own.head.version) != (spec.head.name, spec.head.version):
        problems.append(
            f"the head {spec.head.name} {spec.head.version}, the model was made for {own.head.name} {own.head.version}"
        )
    if own.identity and own.identity != spec.identity:
        problems.append(
            f"identity vectors of {spec.identity!r}, the model reads {own.identity!r} (rigface pair --identity)"
        )
    if latents is not None:
        if latents.channels != loaded.model.latent_channels:
            problems.append(f"latents of {latents.channels} channels, the model has {loaded.model.latent_channels}")
        if not math.isclose(latents.scale, own.process.latent_scale, rel_tol=1e-4):
            problems.append(
                f"latents scaled by {latents.scale:g}, the model's autoencoder says {own.process.latent_scale:g}"
            )
    if problems:
        raise PlanError(f"the examples do not fit the model: they have {'; '.join(problems)}")


def wrap(model: ConditionedModel, config: TrainConfig, backend: Backend, device: torch.device) -> nn.Module:
    """The module that the loss calls. FSDP changes the model in place."""
    if config.sharding != "ddp":
        return _sharded(model, config, mesh_of(config, backend, device), device)
    if backend.world == 1:
        return model
    wrapped = DistributedDataParallel(
        model,
        device_ids=[device.index] if device.type == "cuda" and device.index is not None else None,
        broadcast_buffers=False,
        gradient_as_bucket_view=True,
    )
    if config.reduce_format == "bfloat16":
        wrapped.register_comm_hook(None, bf16_compress_hook)
    return wrapped


def arrange(model: ConditionedModel, config: TrainConfig) -> None:
    """Compile the blocks and lay out their numbers as the config says, before the model is wrapped."""
    if config.compile:
        compile_blocks(model)
    if config.channels_last and config.sharding == "ddp":
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    elif config.channels_last:  # FSDP takes contiguous weights alone
        for _, convolution in _inside(model, (nn.Conv2d,)):
            convolution.register_forward_pre_hook(_with_channels_last)


def compile_blocks(model: ConditionedModel, backend: str = "inductor") -> list[str]:
    """Compile each block of `COMPILED`, and return their names.

    They lie inside what FSDP shards, so that its hooks stay outside of compiled code.
    """
    chosen = list(_inside(model, COMPILED))
    for _, block in chosen:
        block.compile(backend=backend, dynamic=False, recompile_limit=MAX_COMPILED)
    return [name for name, _ in chosen]


def _inside(model: ConditionedModel, kinds: tuple[type[nn.Module], ...]) -> Iterator[tuple[str, nn.Module]]:
    """Modules of some kinds in the networks, with their names."""
    networks = {id(each) for each in model.networks}
    roots = [(name, each) for name, each in model.named_modules() if id(each) in networks]
    return ((f"{root}.{name}", m) for root, each in roots for name, m in each.named_modules() if isinstance(m, kinds))


def _with_channels_last(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (args[0].contiguous(memory_format=torch.channels_last), *args[1:])


def mesh_of(config: TrainConfig, backend: Backend, device: torch.device) -> DeviceMesh:
    """(workers,), or for HSDP (copies of the model, workers that share one); ranks of a node follow each other."""
    if config.sharding == "fsdp" or backend.world == 1:
        return init_device_mesh(device.type, (backend.world,))
    nodes = [0] * backend.world
    torch.distributed.all_gather_object(nodes, config.shard_workers or backend.node)
    share = nodes[0] if len(set(nodes)) == 1 and backend.world % nodes[0] == 0 else backend.world
    names = ("copies", "shares")
    return init_device_mesh(device.type, (backend.world // share, share), mesh_dim_names=names)


def _sharded(model: ConditionedModel, config: TrainConfig, mesh: DeviceMesh, device: torch.device) -> nn.Module:
    half = autocast_dtype(config.number_format, device)
    policy = MixedPrecisionPolicy(
        param_dtype=half or torch.float32,
        reduce_dtype=getattr(torch, config.reduce_format),
        cast_forward_inputs=half is not None,
    )
    for each in model.networks:
        for name in ("down_blocks", "mid_block", "up_blocks"):
            blocks: Any = getattr(each, name, None) or ()  # some networks have no middle
            for block in blocks if isinstance(blocks, nn.ModuleList) else (blocks,):
                # Gradients enter the identity network's blocks through the recorded tokens, in their middle, where FSDP
                # does not wait for them: its weights stay whole from forward to backward.
                fully_shard(block, mesh=mesh, mp_policy=policy, reshard_after_forward=each is model.denoiser)
    fully_shard(model, mesh=mesh, mp_policy=policy)
    return model


def synchronised(wrapped: nn.Module, last: bool) -> AbstractContextManager[None]:
    """Synchronise gradients between workers in the last pass of a step only."""
    if isinstance(wrapped, FSDPModule):
        wrapped.set_requires_gradient_sync(last)
    elif not last and isinstance(wrapped, DistributedDataParallel):
        return wrapped.no_sync()
    return nullcontext()
