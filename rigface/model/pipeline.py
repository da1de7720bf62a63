"""Editing pipeline: images and coefficients in, image out, in the manner of diffusers.

Path: source, background, render, expression code -> encode -> sampling steps -> decode -> picture.

    pipe = RigFacePipeline.from_pretrained("weights/mini")
    image = pipe(source, background, render, code, seed=1).images[0]

As in diffusers: `from_pretrained`, `save_pretrained`, a call that takes pictures, arrays or tensors, `prompt` and
`prompt_embeds`, `generator`, any scheduler by name, and returns an output with `.images` (a list of PIL, or by
`output`: np, pt, latent). Its folders hold stock diffusers networks. Unlike there: it is no `DiffusionPipeline` (no
hub, no `model_index.json`, no `.to`: the device is an argument of loading); steps are `steps`, guidance is three
scales, a scheduler is named per call, and progress is `on_step` instead of `callback_on_step_end`.

A pipeline keeps no state between calls, so threads may share one. A service that batches calls the three parts itself:
`begin` (a state), `sampling_batch` (steps for many states), `pictures` (decode).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from rigface.errors import BadCheckpoint, BadEdit
from rigface.image import to_image, to_tensor
from rigface.model import checkpoint as checkpoints
from rigface.model import number_format
from rigface.model.adapters import Adapters
from rigface.model.attention import ReferenceTokens
from rigface.model.checkpoint_folder import folder_of
from rigface.model.gathered_conv import gather
from rigface.model.latents import LatentConditions, decode, encode, lost_detail, shrinkage
from rigface.model.model_config import ModelConfig
from rigface.model.recipes.protocol import Checkpoint
from rigface.model.sampling import Guidance, SamplingBatch, SamplingState, seeded
from rigface.types import Conditions

ENCODE_ROWS = 8  # pictures the VAE takes at once; bounds its memory

Pictures = Any
"""(H, W, 3) or (B, H, W, 3) uint8 array; (3, H, W) or (B, 3, H, W) float tensor in [0, 1]; a PIL image; a list of
them.
"""


@dataclass(frozen=True, eq=False)
class Progress:
    """Progress of an edit."""

    step: int  # steps done, from 1
    steps: int  # in all
    preview: Callable[[], np.ndarray]  # returns (B, H, W, 3) uint8, the edit if it ended here; costs a decoding


@dataclass(frozen=True, eq=False)
class RigFaceOutput:
    """Output of a call."""

    images: Any  # PIL images, (B, H, W, 3) uint8 ("np"), (B, 3, H, W) float in [0, 1] ("pt"), or the latents
    latents: Tensor  # (B, 4, h, w) float32, scaled


class RigFacePipeline:
    """A loaded model, ready to edit.

    Args:
        checkpoint: what `rigface.model.checkpoint` loads or makes.
        device: of the networks.
        autocast: run the networks in this type, usually `torch.bfloat16`; "auto" takes bfloat16 if the device
            computes in it; None stays in float32. Samplers, and the VAE as it decodes, always compute in float32.
        half_weights: keep the weights of linear and convolution layers in the autocast type as well. The same numbers
            as autocast alone, which converts them anew at each step; but the checkpoint given is changed in place, and
            what is saved from here is rounded. `from_pretrained` turns it on.
        channels_last: keep convolution weights in the layout that some devices prefer.
        compile: compile the denoiser at its first use (tens of seconds, then faster steps).
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        device: torch.device | str = "cpu",
        *,
        autocast: torch.dtype | str | None = None,
        half_weights: bool = False,
        channels_last: bool = False,
        compile: bool = False,
    ) -> None:
        self._checkpoint = checkpoint
        self.model, self.vae = checkpoint.model.eval(), checkpoint.vae.eval()
        networks: tuple[nn.Module, nn.Module] = self.model, self.vae
        for network in networks:
            network.to(device)
            if channels_last:
                network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if checkpoint.text_encoder is not None:
            checkpoint.text_encoder.model.to(device)
        self.device = torch.device(device)
        self._adapters = Adapters(self.model)
        self._dtype = number_format.autocast_dtype("auto", self.device) if autocast == "auto" else autocast
        if half_weights and self._dtype is not None:
            for layer in self.model.modules():
                if isinstance(layer, nn.Linear | nn.Conv2d):  # the layers that autocast runs in its type
                    layer.to(self._dtype)
        if self.device.type == "cpu":
            gather(self.model)
        if compile:
            self.model.denoiser.compile()

    @classmethod
    def from_pretrained(cls, name: str | Path, device: torch.device | str = "cpu", **options: Any) -> RigFacePipeline:
        """Load a checkpoint: a folder in the own or the released layout, `sd15:FOLDER`, or `tiny`.

        Options are those above (`half_weights` is on by default, and `channels_last` on CUDA, where it is faster), and
        those of `checkpoint.start`.
        """
        speed: dict[str, Any] = {"half_weights": True, "channels_last": torch.device(device).type == "cuda"}
        own = ("autocast", "half_weights", "channels_last", "compile")
        speed |= {key: options.pop(key) for key in own if key in options}
        return cls(checkpoints.start(str(name), **options), device, **speed)

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype | None = None) -> None:
        """Write a folder that `from_pretrained` reads, with the active adapter merged; `dtype` to store floats as."""
        checkpoints.save(folder, replace(self._checkpoint, model=self._adapters.merged()), dtype=dtype)

    def use_adapter(self, name: str | Path | None) -> None:
        """Switch to a LoRA adapter (a folder or s3:// prefix in peft's layout), read at first use; None: to none.

        It changes the model for all threads, and reference tokens made before do not fit: switch between edits.
        MissingAsset or BadCheckpoint if there is no adapter, or it belongs to another model; and as
        `model_cache.fetched`.
        """
        self._adapters.use(None if name is None else folder_of(str(name)))

    @property
    def config(self) -> ModelConfig:
        """Settings of the weights: process, head, render style, size."""
        return self._checkpoint.config

    @property
    def has_text_encoder(self) -> bool:
        """True if it has a text encoder, so that it takes a prompt."""
        return self._checkpoint.text_encoder is not None

    @torch.no_grad()
    def encode_prompt(self, prompts: str | Sequence[str]) -> Tensor:
        """Embeddings (B, L, D) of prompts, for `prompt_embeds`; BadEdit if the checkpoint has no text encoder."""
        if self._checkpoint.text_encoder is None:
            raise BadEdit("prompt: this checkpoint has no text encoder; leave it out, or give prompt_embeds")
        return self._checkpoint.text_encoder([prompts] if isinstance(prompts, str) else list(prompts))

    @torch.no_grad()
    def encode_reference(self, source: Pictures, identity: Any = None) -> ReferenceTokens:
        """Reference tokens of a person; they depend on the picture alone, and may be cached by its content.

        `identity` (V,) or (B, V) is the identity vector of the picture, for models whose config names a network.
        """
        if self.config.identity:
            return self.model.encode_reference(self._vectors(identity))
        (latents,) = self._encode(_tensor(source))
        with self._amp():
            return self.model.encode_reference(latents)

    def _vectors(self, identity: Any) -> Tensor:
        """(B, V) identity vectors on the device; ValueError if there are none."""
        if identity is None:
            raise ValueError(
                f"identity: this model reads identity vectors of {self.config.identity} in place of a picture; give "
                "them, as `Conditions.identity` has them"
            )
        vectors = torch.as_tensor(identity, dtype=torch.float32, device=self.device)
        return vectors[None] if vectors.ndim == 1 else vectors

    def sampling_batch(self) -> SamplingBatch:
        """An empty batch for states from `begin`."""
        return SamplingBatch(self._predict)

    @torch.no_grad()
    def begin(
        self,
        source: Pictures | None,
        background: Pictures,
        render: Pictures,
        expression_code: Any,
        *,
        prompt: str | Sequence[str] | None = None,
        prompt_embeds: Tensor | None = None,
        reference_tokens: ReferenceTokens | None = None,
        identity: Any = None,
        steps: int | None = None,
        scheduler: str | None = None,
        seed: int | Sequence[int] = 0,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        noise: Tensor | None = None,
        identity_scale: float = 1.0,
        attribute_scale: float = 1.0,
        text_scale: float = 1.0,
        strength: float = 1.0,
        guide: Callable[[Tensor], Tensor] | None = None,
    ) -> SamplingState:
        """Prepare an edit up to its first step; arguments as for a call."""
        if (source is None) == (reference_tokens is None):
            raise ValueError("give either source or reference_tokens: the person's picture, or its `encode_reference`")
        pictures = [_tensor(p) for p in (background, render) + (() if source is None else (source,))]
        code = torch.as_tensor(expression_code, dtype=torch.float32)
        code = code[None] if code.ndim == 1 else code
        batch = max(p.shape[0] for p in (pictures[0], pictures[1], code))
        self._check(pictures, code, batch)
        latents = self._encode(*pictures)
        if reference_tokens is None and self.config.identity:
            reference_tokens = self.model.encode_reference(self._vectors(identity))
        elif reference_tokens is None:
            with self._amp():
                reference_tokens = self.model.encode_reference(latents[2])
        reference_tokens = reference_tokens.map(lambda t: t.to(self.device))
        background_rows, render_rows, codes, text = (
            _rows(t.to(self.device), batch) for t in (*latents[:2], code, self._text(prompt, prompt_embeds))
        )
        conditions = LatentConditions(background_rows, render_rows, codes, text=text)
        shape = tuple(conditions.background.shape[1:])
        if generator is None:
            seeds = [seed] * batch if isinstance(seed, int | np.integer) else list(seed)
            if len(seeds) != batch:
                raise ValueError(f"seed: want one number, or {batch} for {batch} rows, got {len(seeds)}")
            drawn, generators = seeded(seeds, shape)
        else:
            generators = [generator] * batch if isinstance(generator, torch.Generator) else list(generator)
            drawn = torch.stack([torch.randn(shape, generator=g, device=g.device) for g in generators])
        state = SamplingState(
            self.config.process,
            conditions,
            (drawn if noise is None else _rows(noise, batch)).to(self.device, torch.float32),
            reference_tokens,
            scheduler=scheduler,
            steps=steps,
            guidance=Guidance(identity_scale, attribute_scale, text_scale),
            strength=strength,
            generators=generators,
        )
        state.guide = guide
        if self.config.detail:
            state.detail = lost_detail(self.vae, _rows(pictures[1].to(self.device), batch), render_rows)
        return state

    @torch.no_grad()
    def pictures(self, latents: Tensor, detail: Tensor | None = None) -> np.ndarray:
        """(B, H, W, 3) uint8 of scaled latents (B, 4, h, w) and their state's `detail`; BadCheckpoint if not finite."""
        return to_image(self._decode(latents, detail))

    def _decode(self, latents: Tensor, detail: Tensor | None) -> Tensor:
        decoded = torch.cat([decode(self.vae, rows) for rows in torch.split(latents, ENCODE_ROWS)])
        if not decoded.isfinite().all():
            raise BadCheckpoint(
                "the model's output is not finite, so there is no picture: its weights are damaged or its training "
                "diverged; use an earlier checkpoint"
            )
        return (decoded if detail is None else decoded + detail).clamp(0, 1)

    @torch.no_grad()
    def __call__(
        self,
        source: Pictures | None = None,
        background: Pictures = None,
        render: Pictures = None,
        expression_code: Any = (),
        *,
        on_step: Callable[[Progress], None] | None = None,
        output: str = "pil",
        **options: Any,
    ) -> RigFaceOutput:
        """Edit.

        Args:
            source: the person, or None with `reference_tokens`. One person serves a batch of the others.
            background, render: conditions as pictures of the same size, from a `Composer`.
            expression_code: (E,) or (B, E) floats, array or tensor.
            prompt, prompt_embeds: text, or (L, D) / (B, L, D); default: the checkpoint's default text.
            reference_tokens: from `encode_reference`.
            identity: identity vectors of the source, see `encode_reference`.
            steps, scheduler: default: the checkpoint's own; names in `sampling.NOISE_SCHEDULERS`.
            seed: one for all rows, or one per row. A row's output depends on its own seed and on no other row.
            generator, noise: instead of seeds; noise is (B, 4, h, w). One generator for several rows ties them
            together. identity_scale, attribute_scale, text_scale: guidance (see sampling.py); 1 is off.
            strength: below 1 begins from the render, partly noised.
            guide: see `SamplingState.guide` and `clip_guidance.py`.
            on_step: called after each step; an exception ends the edit.
            output: "pil", "np", "pt" or "latent".

        Raises:
            ValueError: inputs that do not fit each other or the model; the message names the argument.
        """
        if output not in ("pil", "np", "pt", "latent"):
            raise ValueError(f"output: want pil, np, pt or latent, got {output!r}")
        state = self.begin(source, background, render, expression_code, **options)
        batch = self.sampling_batch()
        batch.join(state)
        while not state.done:
            batch.step()
            if on_step is not None:
                on_step(Progress(state.index, state.steps, lambda: self.pictures(state.preview(), state.detail)))
        if output == "latent":
            return RigFaceOutput(state.latents, state.latents)
        if output == "pt":
            return RigFaceOutput(self._decode(state.latents, state.detail), state.latents)
        images: Any = self.pictures(state.latents, state.detail)
        if output == "pil":
            images = [Image.fromarray(image) for image in images]
        return RigFaceOutput(images, state.latents)

    def edit(self, conditions: Conditions, **options: Any) -> np.ndarray:
        """`Conditions` in, uint8 pictures out, with the same batch axes; options as for a call."""
        c = conditions
        flat = [t.reshape(-1, *t.shape[-3:]) for t in (c.reference, c.background, c.render)]
        code = c.expression_code.reshape(-1, c.expression_code.shape[-1])
        if c.identity is not None:
            options = {"identity": c.identity.reshape(-1, c.identity.shape[-1]), **options}
        images = self(
            None if "reference_tokens" in options else flat[0], flat[1], flat[2], code, output="np", **options
        ).images
        result: np.ndarray = images.reshape(*c.batch, *images.shape[1:])
        return result

    def _predict(self, *args: Any, **kwargs: Any) -> Tensor:
        with self._amp():
            result: Tensor = self.model(*args, **kwargs)
            return result

    def _amp(self) -> AbstractContextManager[Any]:
        return number_format.autocast(self._dtype, self.device)  # type: ignore[arg-type]

    def _encode(self, *pictures: Tensor) -> tuple[Tensor, ...]:
        stacked = torch.split(torch.cat(pictures), ENCODE_ROWS)
        # A bridge begins at the latents of the render, so that their rounding would show in its result.
        exact = self.config.process.kind == "bridge"
        with nullcontext() if exact else self._amp():
            latents = torch.cat([encode(self.vae, rows.to(self.device)).float() for rows in stacked])
        return torch.split(latents, [p.shape[0] for p in pictures])

    def _text(self, prompt: str | Sequence[str] | None, embeds: Tensor | None) -> Tensor:
        if prompt is not None and embeds is not None:
            raise ValueError("give prompt or prompt_embeds, not both")
        if prompt is not None:
            return self.encode_prompt(prompt)
        default = self.model.default_text
        text = default if embeds is None else embeds.to(default)
        text = text[None] if text.ndim == 2 else text
        if text.shape[1:] != default.shape:
            raise ValueError(
                f"prompt_embeds: want (B, {default.shape[0]}, {default.shape[1]}), got {tuple(text.shape)}"
            )
        return text

    def _check(self, pictures: list[Tensor], code: Tensor, batch: int) -> None:
        factor = shrinkage(self.vae) * self.model.latent_multiple
        height, width = pictures[0].shape[-2:]
        for name, picture in zip(("background", "render", "source"), pictures):
            if picture.shape[-2:] != (height, width):
                raise ValueError(
                    f"{name}: want {width} x {height} px like background, got {picture.shape[-1]} x {picture.shape[-2]}"
                )
            if picture.shape[0] not in (1, batch):
                raise ValueError(f"{name}: want 1 or {batch} rows, got {picture.shape[0]}")
        if height % factor or width % factor:
            raise ValueError(f"pictures: want sides that are multiples of {factor} px, got {width} x {height}")
        if code.ndim != 2 or code.shape[1] != self.model.expression_size:
            raise ValueError(f"expression_code: want (B, {self.model.expression_size}), got {tuple(code.shape)}")


def _tensor(pictures: Pictures) -> Tensor:
    """Convert `Pictures` to (B, 3, H, W) float32 in [0, 1]."""
    if isinstance(pictures, list | tuple):
        return torch.cat([_tensor(p) for p in pictures])
    if isinstance(pictures, Tensor) and pictures.is_floating_point():
        tensor = pictures.float()
    else:
        if hasattr(pictures, "convert"):  # PIL
            pictures = pictures.convert("RGB")
        tensor = to_tensor(np.asarray(pictures))
    return tensor[None] if tensor.ndim == 3 else tensor


def _rows(tensor: Tensor, batch: int) -> Tensor:
    return tensor if tensor.shape[0] == batch else tensor.expand(batch, *tensor.shape[1:])
