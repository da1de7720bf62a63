"""A diffusion model for `Editor`, and checks that its weights fit the analyzer.

Path: RigFacePipeline -> `check_head` -> `ModelEditor` -> Editor, evaluation.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from rigface.edits import RegionPrompt
from rigface.errors import BadCheckpoint
from rigface.types import Conditions, HeadSpec

if TYPE_CHECKING:
    from rigface.model.pipeline import RigFacePipeline


class ModelEditor:
    """A pipeline as `EditModel`; caches the reference tokens of the last picture.

    `sampling` are options of `RigFacePipeline.begin` for every picture; BadEdit if this model's process cannot do them.
    With a folder of a `clip` model prompts guide the sampling (`model/clip_guidance.py`), also of models without text.
    """

    def __init__(
        self, pipe: RigFacePipeline, *, clip: str | Path | None = None, clip_scale: float = 1.0, **sampling: Any
    ) -> None:
        from rigface.model.clip_guidance import ClipGuidance
        from rigface.model.sampling import make_scheduler

        self.pipe, self._sampling, self._clip_scale = pipe, sampling, clip_scale
        self._clip = None if clip is None else ClipGuidance.load(clip, pipe.device)
        self.has_text_encoder = pipe.has_text_encoder or clip is not None  # so that it takes a prompt
        process = pipe.model_config.process
        make_scheduler(
            process,
            sampling.get("scheduler") or process.scheduler,
            process.steps if sampling.get("steps") is None else sampling["steps"],
        )
        self._last: tuple[bytes, object] | None = None

    def use_adapter(self, name: str | Path | None) -> None:
        """See `RigFacePipeline.use_adapter`."""
        self.pipe.use_adapter(name)
        self._last = None

    def __call__(
        self, conditions: Conditions, seed: int, prompt: str = "", regions: Sequence[RegionPrompt] = ()
    ) -> np.ndarray:
        """(S, S, 3) uint8, the same for the same conditions, seed and prompts; BadEdit for an unreadable prompt."""
        name = conditions.reference.tobytes()
        last = self._last  # read once: another thread may replace it
        if last is None or last[0] != name:
            last = self._last = (name, self.pipe.encode_reference(conditions.reference, conditions.identity))
        options = dict(self._sampling)
        if self.pipe.has_text_encoder:
            options |= {"prompt": prompt or None, "regions": regions}
        if self._clip is not None:
            from rigface.model.latents import decode  # imports diffusers

            options["guide"] = self._clip.guide(
                prompt, regions, conditions.render, partial(decode, self.pipe.vae), self._clip_scale
            )
        return self.pipe.edit(conditions, seed=seed, reference_tokens=last[1], **options)


def check_head(pipe: RigFacePipeline, head: HeadSpec) -> None:
    """BadCheckpoint if a model was trained with another head than conditions will show, or other codes."""
    trained, config = pipe.model_config.head, pipe.model_config
    if config.expression_field == "expression" and pipe.model.expression_size != head.expression:
        raise BadCheckpoint(
            f"these weights take {pipe.model.expression_size} expression coefficients, the head {head.name!r} has "
            f"{head.expression}. Use weights trained on this head"
        )
    if trained is None and config.profile.head not in ("open", head.name):  # the released weights record no head
        raise BadCheckpoint(
            f"these weights were trained on the head {config.profile.head!r}, and faces are fitted with {head.name!r}"
        )
    if trained is None or trained.name == "fake":  # not recorded, or random weights for a test
        return
    if trained.name != head.name:
        raise BadCheckpoint(
            f"these weights were trained on the head {trained.name!r}, and faces are fitted with {head.name!r}"
        )
    if trained.version != head.version:
        warnings.warn(
            f"these weights were trained on {trained.name} {trained.version}, faces are fitted with {head.version}; "
            "expressions may come out a little different",
            stacklevel=3,
        )


def refined(output: np.ndarray, preview: np.ndarray, fine: np.ndarray) -> np.ndarray:
    """Add a model's change of a small preview (S, S, 3) to the same preview at another size (T, T, 3), all uint8.

    Hair and skin stay as sharp as the photograph; only the model's change is as coarse as its pixels.
    """
    size = fine.shape[:2]
    change = output.astype(np.float32) - preview
    change = cv2.resize(change, size, interpolation=cv2.INTER_CUBIC if len(fine) > len(output) else cv2.INTER_AREA)
    result: np.ndarray = (fine + change + 0.5).clip(0, 255).astype(np.uint8)
    return result
