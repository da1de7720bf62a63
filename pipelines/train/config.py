"""Settings of training. A preset is a function that returns a whole config, one per kind of machine.

`rigface train one_gpu EXAMPLES OUT --steps 200` takes the preset `one_gpu` and changes one field. The text beside or
under a field is its help. Nodes, images and quotas are in infra/.
"""

import math
from dataclasses import dataclass, field, replace
from typing import Literal

from tyro.conf import Suppress

from rigface.errors import PlanError
from rigface.model.model_config import PROMPT, RecipeName
from rigface.ranges import in_range

RATE, RATE_EXAMPLES = 1e-5, 16  # learning rate of `one_gpu` and its examples a step, which others are scaled from


@dataclass(frozen=True)
class Networks:
    """The networks of a model trained from scratch (`start=scratch`)."""

    channels: tuple[int, ...] = (96, 160)  # Of the UNets' levels, both networks alike.
    heads: tuple[int, ...] = (4, 4)  # Of attention, level by level.
    layers: int = 1
    groups: int = 32
    text: tuple[int, int] = (2, 64)  # Tokens and channels of the constant text embedding; there is no text encoder.
    kind: Literal["bridge", "flow", "epsilon", "v_prediction", "sample"] = "bridge"
    """The process; `bridge` goes from the preview to the picture."""
    bridge_noise: float = 0.0
    """Standard deviation of the noise on the preview's latents; 0: the result is deterministic."""
    sampler: str = "euler"
    sampling_steps: int = 1

    def __post_init__(self) -> None:
        in_range(self, "[1, inf)", "channels", "heads", "layers", "groups", "text", "sampling_steps")
        in_range(self, "[0, inf)", "bridge_noise")


@dataclass(frozen=True)
class RegionWeights:
    """Weights of the loss by region of the target, against each other: only their ratios count."""

    background: float = 1.0
    person: float = 1.0  # Hair and neck, beside the face.
    face: float = 1.0
    rim: float = 1.0  # Both sides of the person's edge.
    features: float = 1.0  # Eyes and mouth.

    def __post_init__(self) -> None:
        in_range(self, "[0, inf)", "background", "person", "face", "rim", "features")


@dataclass(frozen=True)
class TrainConfig:
    """Fine-tune both networks on examples, or train a model from scratch."""

    examples: Suppress[str] = "EXAMPLES"  # Folder or s3:// prefix that `pair` or `encode` wrote.
    more_examples: Suppress[tuple[str, ...]] = ()  # Further folders, with the same head, size and form.
    weights: tuple[float, ...] = ()
    """Of several folders of examples: the share that each has of every step, such as 3 1; none: that of its examples
    among all."""
    out: Suppress[str] = "OUT"  # Folder of checkpoints, logs and the model; a rerun with the same folder goes on.
    start: str = "sd15"
    """A checkpoint folder, `sd15` (Stable Diffusion 1.5, adopted or a folder of this name), `sd15:FOLDER` or
    `sd15:FILE`, `tiny` (for tests), or `scratch` (see networks)."""
    autoencoder: str = ""  # For `scratch`: folder of the autoencoder, made by `rigface autoencoder`.
    networks: Networks = field(default_factory=Networks)
    process: Literal["", "epsilon", "v_prediction", "sample", "flow", "bridge"] = ""
    """The process to train, for any start; empty: that of the start. flow goes from noise along a straight line, bridge
    from the preview, which wants examples of `pair --style texture`."""
    zero_terminal_snr: bool = False
    """Let the noise schedule end in pure noise, for v_prediction and sample (Lin et al. 2023)."""
    noise_offset: float = 0.0  # Standard deviation of the mean of each channel's noise, such as 0.05; 0: none.
    recipe: RecipeName = "rigface"
    """The way to personalise the model (docs/recipes.md): what is trained, which conditions it sees, how it is stored.

    rigface: all of both networks; frozen: the inputs alone (`conv_in` and the layer of expression codes); attention:
    those and the attention layers; lora: those and low-rank layers. Beside a frozen denoiser: controlnet, t2i (render
    and background), ip_adapter (an identity vector), instantid (that and five points).
    One person as a word: dreambooth (all of the denoiser), dreambooth_lora (low-rank layers of it),
    textual_inversion (rows of the token table)."""
    recipe_weights: str = ""
    """Folder or file in the recipe's own format to begin from, such as an IP-Adapter FaceID; empty: begin anew."""
    lora_rank: int = 16  # Of low-rank layers.
    subject: str = ""
    """For dreambooth, dreambooth_lora and textual_inversion: the person to learn, by the column `identity`; empty: the
    one with most examples."""
    prompt: str = PROMPT  # For these: the prompt; {} stands for what is learned.
    token: str = "sks"  # For these: the rare word before "person", or the name of the learned token.
    token_rows: int = 1  # For textual_inversion: rows of the token table that are learned.

    steps: int = 70_000
    batch: int = 4  # Examples per micro-batch.
    micro_batches: int = 1
    """Micro-batches per step, shared by the workers: a step has batch x micro_batches examples for any number of
    workers. 0: one for each of the most workers that there may be."""
    optimizer: Literal["adamw", "adam8bit"] = "adamw"
    """adam8bit: AdamW with its two averages in 8 bits, 6 bytes less per trained number, for GPUs of 24 to 48 GB; needs
    the package bitsandbytes and CUDA."""
    learning_rate: float = 1e-5
    """0: 1e-5 x sqrt(examples of a step / 16), the square-root rule of Adam (Malladi et al. 2022)."""
    lr_groups: tuple[str, ...] = ()
    """Factors of the learning rate by name of parameter, such as 'identity.*=0.1' 'denoiser.conv_in.*=2'; the first
    pattern that a name matches counts. --dry-run shows the groups."""
    warmup_steps: int = 500
    schedule: Literal["constant", "cosine"] = "constant"
    weight_decay: float = 1e-2
    decay: Literal["all", "matrices"] = "all"  # With weight decay: all parameters, or all but norms and biases.
    max_grad_norm: float = 1.0  # Largest norm of the gradient.
    min_snr_gamma: float = 5.0  # Gamma of min-SNR weighting; 0: none. A bridge needs none.
    start_step_fraction: float = 0.0
    """Fraction of a bridge's examples trained at its first timestep, where sampling begins.

    Without bridge noise, later timesteps give the answer away: then set this to 1, and sample in one step."""
    pixel_loss_weight: float = 0.0
    """Weight of the error of decoded pictures, added to that of latents; for small autoencoders, whose latents
    mislead."""
    region_weights: RegionWeights = field(default_factory=RegionWeights)
    """Weights of the loss by region; need examples of a `pair` that writes regions."""
    augment: bool = False
    """Change colours and shift each example by a few pixels each time. Needs examples as pictures, as `pair` writes
    them."""
    condition_dropout: float = 0.05
    """Probability of dropping each of identity, attributes, text, and all at once; guidance needs it."""
    output_scale: float = 1.0
    """Scale of the output layer in the exported model, in (0, 1]; for a bridge only.

    Below 1 if trained on few people, to generalise to others."""
    ema_decay: float = 0.9999  # Decay of the weight average that is validated and exported.
    seed: int = 0

    workers: int = 1  # Ray Train workers; 0: this process, without Ray.
    max_workers: int = 0
    """Elastic: as many workers as the cluster has room for, from `workers` to this; 0: exactly `workers`."""
    gpu: bool = True
    cpus: float = 1.0  # Ray CPUs per worker.
    threads: int = 0  # CPU threads per worker; 0: torch's own choice.
    sharding: Literal["ddp", "fsdp", "hsdp"] = "ddp"
    """ddp: every worker holds the whole model; fsdp: all share one (FSDP2); hsdp: the workers of a node share one, so
    that weights travel inside nodes only, and between them gradients alone."""
    shard_workers: int = 0
    """For hsdp: workers that share one model; 0: those of a node. Where nodes differ, or this does not divide the
    workers, all share one."""
    reduce_format: Literal["float32", "bfloat16"] = "float32"
    """Of gradients as they are averaged between workers; bfloat16 halves the traffic, and rounds."""
    number_format: Literal["auto", "bfloat16", "float32"] = "auto"
    """Of the networks' arithmetic; weights, optimizer and loss stay float32. auto: bfloat16 if the device has hardware
    for it."""
    gradient_checkpointing: bool = False  # Recompute activations in the backward pass instead of storing them.
    compile: bool = False
    """Compile the residual and transformer blocks of the networks, each alone (torch.compile): minutes before the
    first step, then faster ones."""
    channels_last: bool = False  # Compute convolutions with channels last, as tensor cores read them.
    reader: Literal["ray", "thread"] = "ray"
    """Read examples ahead by Ray Data, on any node, or by a thread of the worker."""
    shuffle_window: int = 64  # Steps within which examples are shuffled; they are read ahead at once.
    max_failures: int = 3  # Lost workers after which the run ends.
    address: str = ""  # Ray cluster to join; empty: the one in RAY_ADDRESS, else one is started here.

    checkpoint_every: int = 1000
    keep_checkpoints: int = 3  # Latest checkpoints kept; two, as the newest may be of a run that diverges.
    validate_every: int = 1000
    validation_examples: int = 32
    validate_faces: bool = True  # Also measure faces in validation outputs: pose, expression, light and identity.
    log_every: int = 10
    track: tuple[Literal["tensorboard", "wandb", "mlflow"], ...] = ("tensorboard",)
    """Trackers that show the curves, beside OUT/index.html: tensorboard (in OUT), wandb, mlflow, or several. The last
    two are packages of their own; their environment variables name servers and projects."""
    log_format: Literal["text", "json"] = "text"
    """json: the first worker also writes each logged step as a line to standard error, for a log collector."""
    peak_tflops: float = 0.0
    """Peak of one device in the number format, for `mfu` in the log; 0: that of well-known GPUs in bfloat16."""
    profile: int = 0
    """Steps to trace after the first three, into OUT/profile, for Perfetto or chrome://tracing; 0: none."""
    stop_after_s: float = 0.0  # Write a checkpoint and stop after this time; 0: when all steps are done.

    @property
    def lr_scales(self) -> dict[str, float]:
        """`lr_groups` by pattern, in their order; PlanError if one is no pattern with a factor."""
        scales = {}
        for group in self.lr_groups:
            pattern, _, factor = group.rpartition("=")
            try:
                scales[pattern] = float(factor)
            except ValueError:
                scales[pattern] = math.nan
            if not pattern or not 0 <= scales[pattern] < math.inf:
                raise PlanError(f"--lr-groups: want PATTERN=FACTOR, such as 'identity.*=0.1', got {group!r}")
        return scales

    @property
    def folders(self) -> tuple[str, ...]:
        """All folders of examples."""
        return self.examples, *self.more_examples

    def __post_init__(self) -> None:
        in_range(self, "[1, inf)", "steps", "batch", "lora_rank", "token_rows", "shuffle_window")
        in_range(self, "[1, inf)", "log_every")
        in_range(self, "[1, inf)", "checkpoint_every", "validate_every")
        in_range(self, "[2, inf)", "keep_checkpoints")
        in_range(self, "[0, inf)", "noise_offset", "micro_batches", "learning_rate", "shard_workers", "peak_tflops")
        in_range(self, "[0, 100]", "profile")
        in_range(self, "[0, inf)", "warmup_steps", "weight_decay", "min_snr_gamma", "pixel_loss_weight")
        in_range(self, "[0, inf)", "workers", "max_workers", "cpus", "threads", "validation_examples")
        in_range(self, "[0, inf)", "max_failures", "stop_after_s")
        in_range(self, "(0, inf)", "weights", "max_grad_norm")
        in_range(self, "[0, 1]", "start_step_fraction", "condition_dropout")
        in_range(self, "[0, 1)", "ema_decay")
        in_range(self, "(0, 1]", "output_scale")
        in_range(self, "[0, 4294967296)", "seed")  # the generators' seeds are products of it with 64 bits
        _ = self.lr_scales  # refused at once
        if 0 < self.micro_batches < self.most_workers:
            raise PlanError(
                f"{self.most_workers} workers share {self.micro_batches} micro-batches: some would be idle; "
                "set micro_batches to a multiple of the workers, or to 0 for one each"
            )
        if self.sharding != "ddp" and not self.workers:
            raise PlanError(f"sharding {self.sharding} needs workers: set workers to 1 or more")

    @property
    def most_workers(self) -> int:
        """Workers that there may be; 1 in this process."""
        return max(self.workers, self.max_workers, 1)

    def scaled(self) -> "TrainConfig":
        """With the numbers that are left to the number of workers."""
        micro_batches = self.micro_batches or self.most_workers
        rate = self.learning_rate or RATE * math.sqrt(self.batch * micro_batches / RATE_EXAMPLES)
        return replace(self, micro_batches=micro_batches, learning_rate=rate)

    def scale(self) -> str:
        """Batch, learning rate and workers in words."""
        c = self.scaled()
        share = f"{c.shard_workers} share one model" if c.shard_workers else "those of a node share one model"
        shares = {"ddp": "each holds the model", "fsdp": "all share one model", "hsdp": share}
        count = f"{c.workers} to {c.max_workers}" if c.max_workers > c.workers else c.workers
        return (
            f"{c.micro_batches} x {c.batch} = {c.micro_batches * c.batch} examples a step, learning rate "
            f"{c.learning_rate:.3g}, " + (f"{count} workers, {shares[c.sharding]}" if c.workers else "in this process")
        )


def debug() -> TrainConfig:
    """Twenty steps of toy networks in this process, for CI."""
    return TrainConfig(
        start="tiny", workers=0, gpu=False, number_format="float32", batch=2, steps=20, learning_rate=1e-3,
        warmup_steps=2, shuffle_window=4,
        checkpoint_every=20, validate_every=20, validation_examples=2, validate_faces=False, log_every=1,
        reader="thread",
        ema_decay=0.9, threads=1,
    )  # fmt: skip


def mini_cpu() -> TrainConfig:
    """The small model on one or two CPU cores, in this process; can be stopped and restarted at any time."""
    return TrainConfig(
        start="scratch", networks=Networks(channels=(64, 96)), workers=0, gpu=False, batch=32, steps=60,
        learning_rate=1e-3,
        warmup_steps=20, schedule="cosine", condition_dropout=0.02, pixel_loss_weight=20.0, start_step_fraction=1.0,
        augment=True, ema_decay=0.99,
        weight_decay=1e-3, checkpoint_every=20, validate_every=30, validation_examples=24,
        shuffle_window=128, reader="thread", threads=1, keep_checkpoints=2,
    )  # fmt: skip


def one_gpu() -> TrainConfig:
    """One GPU of 80 GB, Stable Diffusion's size at 512 px from latents."""
    return TrainConfig(batch=8, micro_batches=2, gradient_checkpointing=False, cpus=4)


def eight_gpus() -> TrainConfig:
    """One node of eight: the recipe of `one_gpu` eight times as wide, shared by FSDP2."""
    return replace(one_gpu(), workers=8, micro_batches=16, sharding="fsdp", learning_rate=3e-5, cpus=8)


def cluster() -> TrainConfig:
    """Several nodes: 8 to 32 GPUs, elastic, or `--workers 64`; batch and learning rate follow the most there may be."""
    return replace(
        eight_gpus(), max_workers=32, micro_batches=0, learning_rate=0.0, sharding="hsdp", address="auto",
        max_failures=20,
    )  # fmt: skip


PRESETS = {preset.__name__: preset for preset in (debug, mini_cpu, one_gpu, eight_gpus, cluster)}
