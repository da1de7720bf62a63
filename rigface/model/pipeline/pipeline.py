"""Editing pipeline: images and coefficients in, image out; a `DiffusionPipeline` of diffusers.

Path: source, background, render, expression code -> encode -> sampling steps -> decode -> picture.

    pipe = RigFacePipeline.from_pretrained("weights/mini")
    image = pipe(source, background, render, code, seed=1).images[0]

As in diffusers: `from_pretrained`, `save_pretrained`, `push_to_hub`, `.to`, `.components`, a `.scheduler` to replace,
and a call with `num_inference_steps`, `generator`, `prompt`, `prompt_embeds`, `output_type` and `callback_on_step_end`
that returns an output with `.images`. Unlike there, guidance is three scales (identity, attributes, text), and a type
given to `.to` or `from_pretrained` is the one that the denoiser computes in: samplers and the decoder stay in float32.
Folders are read by `checkpoint.py` alone: no pickle is opened, and nothing is fetched unasked (`hub/repository.py`).

A pipeline keeps no state between calls, so threads may share one. A service that batches calls the three parts itself:
`begin` (a state), `sampling_batch` (steps for many states), `pictures` (decode).
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from PIL import Image
from torch import Tensor, nn

from rigface.edits import RegionPrompt
from rigface.errors import BadCheckpoint, BadEdit
from rigface.image import to_image
from rigface.model import checkpoint as checkpoints
from rigface.model import number_format
from rigface.model.adapters import Adapters
from rigface.model.attention import ReferenceTokens
from rigface.model.checkpoint_folder import folder_of
from rigface.model.gathered_conv import gather
from rigface.model.hub import repository
from rigface.model.latents import LatentConditions, decode, encode, latent_mask, lost_detail, shrinkage
from rigface.model.model_config import ModelConfig
from rigface.model.pipeline.inputs import Pictures, as_rows, as_tensor, check_code, check_pictures, checked_text, drawn
from rigface.model.recipes.protocol import Checkpoint, ConditionedModel
from rigface.model.sampling import Guidance, SamplingBatch, SamplingState, make_scheduler
from rigface.model.text import TextEncoder
from rigface.types import Conditions

DEFAULT_CONFIG = ModelConfig()
ENCODE_ROWS = 8  # pictures the VAE takes at once; bounds its memory

StepEnd = Callable[["RigFacePipeline", int, Tensor, dict[str, Tensor]], dict[str, Tensor]]
"""(pipeline, index of the step, its time, tensors) -> tensors to go on with; an exception ends the edit."""


@dataclass(frozen=True, eq=False)
class RigFaceOutput:
    """Output of a call."""

    images: Any  # PIL images, (B, H, W, 3) uint8 ("np"), (B, 3, H, W) float in [0, 1] ("pt"), or the latents
    latents: Tensor  # (B, 4, h, w) float32, scaled


class RigFacePipeline(DiffusionPipeline):
    """A loaded model, ready to edit.

    Args:
        model: the networks of a recipe, with their conditions.
        scheduler: diffusers' sampler; each call goes on with one of its own, made from this one's config.
        text_encoder, tokenizer: transformers' CLIP, where there is one.
        model_config: settings of the weights: process, head, render style, size.
        autocast: run the networks in this type, usually `torch.bfloat16`; "auto" takes bfloat16 if the device
            computes in it; None stays in float32. Samplers, and the VAE as it decodes, always compute in float32.
        half_weights: keep the weights of linear and convolution layers in the autocast type as well. The same numbers
            as autocast alone, which converts them anew at each step; but the model given is changed in place, and
            what is saved from here is rounded. `from_pretrained` turns it on.
        channels_last: keep convolution weights in the layout that some devices prefer.
        compile: compile the denoiser at its first use (tens of seconds, then faster steps).
    """

    model_cpu_offload_seq: Any = "text_encoder->model->vae"
    _optional_components = ["text_encoder", "tokenizer"]  # noqa: RUF012  # diffusers' own list

    model: ConditionedModel

    def __init__(
        self,
        model: ConditionedModel,
        vae: AutoencoderKL,
        scheduler: Any,
        text_encoder: Any = None,
        tokenizer: Any = None,
        model_config: ModelConfig = DEFAULT_CONFIG,
        device: torch.device | str = "cpu",
        autocast: torch.dtype | str | None = None,
        half_weights: bool = False,
        channels_last: bool = False,
        compile: bool = False,
    ) -> None:
        register: Any = self.register_modules  # of diffusers, without types
        register(
            model=model.eval(), vae=vae.eval(), scheduler=scheduler, text_encoder=text_encoder, tokenizer=tokenizer
        )
        self.model_config = model_config
        self._adapters, self._half_weights = Adapters(model), half_weights
        networks: tuple[nn.Module, nn.Module] = model, vae
        for network in networks if channels_last else ():
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        auto = autocast == "auto"
        self._dtype: Any = number_format.autocast_dtype("auto", torch.device(device)) if auto else autocast
        self.to(device, self._dtype)
        if compile:
            model.denoiser.compile()

    @classmethod
    def of(cls, checkpoint: Checkpoint, device: torch.device | str = "cpu", **speed: Any) -> Self:
        """A pipeline of what `rigface.model.checkpoint` loads or makes; `speed`: autocast and further of the class."""
        process, text = checkpoint.config.process, checkpoint.text_encoder
        scheduler = make_scheduler(process, process.scheduler, process.steps)
        words = (None, None) if text is None else (text.model, text.tokenizer)
        model, vae, config = checkpoint.model, checkpoint.vae, checkpoint.config
        return cls(model, vae, scheduler, words[0], words[1], config, device, **speed)

    @classmethod
    def from_pretrained(  # type: ignore[override]  # whose options are those of its own reader
        cls, name: str | Path, device: torch.device | str = "cpu", **options: Any
    ) -> Self:
        """Load a checkpoint: a folder in the own or the released layout, `sd15:FOLDER`, a hub id, or `tiny`.

        Options are those above (`half_weights` is on by default, and `channels_last` on CUDA, where it is faster), and
        those of `checkpoint.start`. `torch_dtype` and `dtype` are diffusers' names of `autocast`.
        """
        speed: dict[str, Any] = {"half_weights": True, "channels_last": torch.device(device).type == "cuda"}
        for theirs in [name for name in ("torch_dtype", "dtype") if name in options]:
            options["autocast"] = options.pop(theirs)
        speed |= {k: options.pop(k) for k in options.keys() & {"autocast", "half_weights", "channels_last", "compile"}}
        return cls.of(checkpoints.start(str(name), **options), device, **speed)

    def save_pretrained(  # type: ignore[override]
        self, save_directory: str | Path, dtype: torch.dtype | None = None
    ) -> None:
        """Write a folder that `from_pretrained` reads, with the active adapter merged; `dtype` to store floats as."""
        text = None if self.text_encoder is None else TextEncoder(self.text_encoder, self.tokenizer)
        made = Checkpoint(self._adapters.merged(), self.vae, self.model_config, text)
        checkpoints.save(save_directory, made, dtype=dtype)

    def push_to_hub(self, repo_id: str, **options: Any) -> str:  # type: ignore[override]
        """Upload the saved folder; returns its address. See `hub.repository.push` for options and errors."""
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            return repository.push(Path(folder), repo_id, **options)

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Move to a device, and choose the type that the networks compute in, as `autocast` does."""
        given = [*args, kwargs.get("device"), kwargs.get("dtype")]
        dtype = next((value for value in given if isinstance(value, torch.dtype)), None)
        place = next((value for value in given if value is not None and not isinstance(value, torch.dtype)), None)
        if dtype is not None:
            self._dtype = None if dtype == torch.float32 else dtype
            networks = self.model.networks if self._half_weights else ()  # a text encoder runs without autocast
            for layer in (layer for network in networks for layer in network.modules()):
                if isinstance(layer, nn.Linear | nn.Conv2d):  # the layers that autocast runs in its type
                    layer.to(dtype)
        if place is not None:
            super().to(place)
        if self.device.type == "cpu":
            gather(self.model)
        return self

    device = property(lambda self: next(self.model.parameters()).device)  # diffusers' own looks for hooks: 10 ms

    def use_adapter(self, name: str | Path | None) -> None:
        """Switch to a LoRA adapter (a folder or s3:// prefix in peft's layout), read at first use; None: to none.

        It changes the model for all threads, and reference tokens made before do not fit: switch between edits.
        MissingAsset or BadCheckpoint if there is no adapter, or it belongs to another model; and as
        `model_cache.fetched`.
        """
        self._adapters.use(None if name is None else folder_of(str(name)))

    @property
    def has_text_encoder(self) -> bool:
        """True if it has a text encoder, so that it takes a prompt."""
        return self.text_encoder is not None

    @torch.no_grad()
    def encode_prompt(self, prompts: str | Sequence[str]) -> Tensor:
        """Embeddings (B, L, D) of prompts, for `prompt_embeds`; BadEdit if the checkpoint has no text encoder."""
        if self.text_encoder is None:
            raise BadEdit("prompt: this checkpoint has no text encoder; leave it out, or give prompt_embeds")
        encoder = TextEncoder(self.text_encoder, self.tokenizer)
        return encoder([prompts] if isinstance(prompts, str) else list(prompts))

    @torch.no_grad()
    def encode_reference(self, source: Pictures, identity: Any = None) -> ReferenceTokens:
        """Reference tokens of a person; they depend on the picture alone, and may be cached by its content.

        `identity` (V,) or (B, V) is the identity vector of the picture, for models whose config names a network.
        """
        if self.model_config.identity:
            return self.model.encode_reference(self._vectors(identity))
        (latents,) = self._encode(as_tensor(source))
        with self._amp():
            return self.model.encode_reference(latents)

    def _vectors(self, identity: Any) -> Tensor:
        """(B, V) identity vectors on the device; ValueError if there are none."""
        if identity is None:
            raise ValueError(
                f"identity: this model reads identity vectors of {self.model_config.identity} in place of a picture; "
                "give them, as `Conditions.identity` has them"
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
        scheduler: Any = None,
        seed: int | Sequence[int] = 0,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        noise: Tensor | None = None,
        identity_scale: float = 1.0,
        attribute_scale: float = 1.0,
        text_scale: float = 1.0,
        strength: float = 1.0,
        guide: Callable[[Tensor], Tensor] | None = None,
        regions: Sequence[RegionPrompt] = (),
    ) -> SamplingState:
        """Prepare an edit up to its first step; arguments as for a call."""
        if (source is None) == (reference_tokens is None):
            raise ValueError("give either source or reference_tokens: the person's picture, or its `encode_reference`")
        pictures = [as_tensor(p) for p in (background, render) + (() if source is None else (source,))]
        code = torch.as_tensor(expression_code, dtype=torch.float32)
        code = code[None] if code.ndim == 1 else code
        batch = max(p.shape[0] for p in (pictures[0], pictures[1], code))
        check_pictures(pictures, batch, shrinkage(self.vae) * self.model.latent_multiple)
        check_code(code, self.model.expression_size)
        latents = self._encode(*pictures)
        if reference_tokens is None and self.model_config.identity:
            reference_tokens = self.model.encode_reference(self._vectors(identity))
        elif reference_tokens is None:
            with self._amp():
                reference_tokens = self.model.encode_reference(latents[2])
        reference_tokens = reference_tokens.map(lambda t: t.to(self.device))
        background_rows, render_rows, codes, text = (
            as_rows(t.to(self.device), batch) for t in (*latents[:2], code, self._text(prompt, prompt_embeds))
        )
        both = torch.cat([as_rows(pictures[k], batch).to(self.device) for k in (1, 0)], dim=1)
        conditions = LatentConditions(
            background_rows, render_rows, codes, text=text, hint=both if self.model.reads_pixels else None
        )
        start, generators = drawn(seed, generator, batch, tuple(conditions.background.shape[1:]))
        state = SamplingState(
            self.model_config.process,
            conditions,
            (start if noise is None else as_rows(noise, batch)).to(self.device, torch.float32),
            reference_tokens,
            scheduler=self.scheduler if scheduler is None else scheduler,
            steps=steps,
            guidance=Guidance(identity_scale, attribute_scale, text_scale),
            strength=strength,
            generators=generators,
            regions=[
                (as_rows(self.encode_prompt(one.text).to(text), batch), latent_mask(one.mask, render_rows))
                for one in regions
            ],
        )
        state.guide = guide
        if self.model_config.detail:
            state.detail = lost_detail(self.vae, as_rows(pictures[1].to(self.device), batch), render_rows)
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
        num_inference_steps: int | None = None,
        output_type: str = "pil",
        callback_on_step_end: StepEnd | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        **options: Any,
    ) -> RigFaceOutput:
        """Edit.

        Args:
            source: the person, or None with `reference_tokens`. One person serves a batch of the others.
            background, render: conditions as pictures of the same size, from a `Composer`.
            expression_code: (E,) or (B, E) floats, array or tensor.
            num_inference_steps: default: the checkpoint's own.
            output_type: "pil", "np", "pt" or "latent".
            callback_on_step_end: see `StepEnd`; returned `latents` replace the step's.
            callback_on_step_end_tensor_inputs: `latents`, and `clean`: the same as they would end here, for `pictures`.
            prompt, prompt_embeds: text, or (L, D) / (B, L, D); default: the checkpoint's default text.
            reference_tokens: from `encode_reference`.
            identity: identity vectors of the source, see `encode_reference`.
            scheduler: a name in `sampling.NOISE_SCHEDULERS`, or one of diffusers; default: `self.scheduler`.
            seed: one for all rows, or one per row. A row's output depends on its own seed and on no other row.
            generator, noise: instead of seeds; noise is (B, 4, h, w). One generator for several rows ties them
            together. identity_scale, attribute_scale, text_scale: guidance (see sampling.py); 1 is off.
            strength: below 1 begins from the render, partly noised. guide: see `clip_guidance.py`. regions: texts that
            hold in parts of the picture, each one row more.

        Raises:
            ValueError: inputs that do not fit each other or the model; the message names the argument.
        """
        if output_type not in ("pil", "np", "pt", "latent"):
            raise ValueError(f"output_type: want pil, np, pt or latent, got {output_type!r}")
        if unknown := sorted(set(callback_on_step_end_tensor_inputs) - {"latents", "clean"}):
            raise ValueError(f"callback_on_step_end_tensor_inputs: want latents or clean, got {unknown[0]!r}")
        if num_inference_steps is not None:
            options["steps"] = num_inference_steps
        state = self.begin(source, background, render, expression_code, **options)
        batch = self.sampling_batch()
        batch.join(state)
        while not state.done:
            index, time = state.index, state.timestep
            batch.step()
            if callback_on_step_end is not None:
                at_hand = {"latents": lambda: state.latents, "clean": state.preview}
                tensors = {name: at_hand[name]() for name in callback_on_step_end_tensor_inputs}
                state.latents = callback_on_step_end(self, index, time, tensors).get("latents", state.latents)
        images: Any = state.latents
        if output_type == "pt":
            images = self._decode(state.latents, state.detail)
        elif output_type != "latent":
            images = self.pictures(state.latents, state.detail)
        if output_type == "pil":
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
            None if "reference_tokens" in options else flat[0], flat[1], flat[2], code, output_type="np", **options
        ).images
        return np.asarray(images.reshape(*c.batch, *images.shape[1:]))

    def _predict(self, *args: Any, **kwargs: Any) -> Tensor:
        with self._amp():
            result: Tensor = self.model(*args, **kwargs)
            return result

    def _amp(self) -> AbstractContextManager[Any]:
        return number_format.autocast(self._dtype, self.device)

    def _encode(self, *pictures: Tensor) -> tuple[Tensor, ...]:
        stacked = torch.split(torch.cat(pictures), ENCODE_ROWS)
        # A bridge begins at the latents of the render, so that their rounding would show in its result.
        exact = self.model_config.process.kind == "bridge"
        with nullcontext() if exact else self._amp():
            latents = torch.cat([encode(self.vae, rows.to(self.device)).float() for rows in stacked])
        return torch.split(latents, [p.shape[0] for p in pictures])

    def _text(self, prompt: str | Sequence[str] | None, embeds: Tensor | None) -> Tensor:
        if prompt is not None and embeds is not None:
            raise ValueError("give prompt or prompt_embeds, not both")
        if prompt is not None:
            return self.encode_prompt(prompt)
        return checked_text(embeds, self.model.default_text)
