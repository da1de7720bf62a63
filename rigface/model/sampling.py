"""Sampling: any diffusers scheduler by name, guidance, and continuous batching of edits.

Path: `LatentConditions`, `ReferenceTokens` -> `SamplingState` -> `SamplingBatch.step` until done -> final latents ->
decode.

A `SamplingState` is an edit in progress. A scheduler is stateful (UniPC keeps past answers), so each state has its own,
and its own noise, steps and guidance. A `SamplingBatch` asks the network for all of its states in one batch; states
join and leave between steps, and no row of a batch changes another, so an output does not depend on its neighbours.

Guidance: with conditions c in {identity, attributes, text} and scales s_c,

    answer = f(all) + sum over c of (s_c - 1) (f(all) - f(all but c))

which is classifier-free guidance (Ho and Salimans 2022) for one c, adds up for several, and is f(all) alone, one
network evaluation, if every scale is 1. A scale below 1 weakens its condition; 0 ignores it.

A text of a region r with mask m_r (soft, 0 to 1) costs one row more, and is followed there from step to step:

    answer += m_r s_text (f(all, text r) - f(all))

(regions one by one, as the blended answers of MultiDiffusion: Bar-Tal et al. 2023, arXiv 2302.08113).
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import diffusers
import torch
from torch import Tensor

from rigface.errors import BadEdit
from rigface.model.attention import ReferenceTokens
from rigface.model.diffusion import Predict, clean_estimate, mix, start, velocity
from rigface.model.latents import LatentConditions
from rigface.model.model_config import STRAIGHT, Process
from rigface.model.unets import DROPPABLE

NOISE_SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {
    # Upstream's edits come from UniPC as diffusers 0.22 had it: it stopped at sigma_min, later versions stop at zero.
    "unipc": ("UniPCMultistepScheduler", {"final_sigmas_type": "sigma_min"}),
    "ddim": ("DDIMScheduler", {"clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1}),
    "ddpm": ("DDPMScheduler", {"clip_sample": False}),
    "dpm++": ("DPMSolverMultistepScheduler", {}),
    "dpm++_karras": ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
    "dpm++_sde": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler_a": ("EulerAncestralDiscreteScheduler", {}),
    "heun": ("HeunDiscreteScheduler", {}),
    "deis": ("DEISMultistepScheduler", {}),
    "lcm": ("LCMScheduler", {}),
}
FLOW_SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {
    "euler": ("FlowMatchEulerDiscreteScheduler", {}),
    "unipc": ("UniPCMultistepScheduler", {"prediction_type": "flow_prediction", "use_flow_sigmas": True}),
    "dpm++": ("DPMSolverMultistepScheduler", {"prediction_type": "flow_prediction", "use_flow_sigmas": True}),
}


@dataclass(frozen=True)
class Guidance:
    """Guidance scale of each condition; 1 is off and free, each other value costs one more row per edit."""

    identity: float = 1.0
    attributes: float = 1.0
    text: float = 1.0

    @property
    def terms(self) -> list[tuple[int, float]]:
        """(column of `drop`, scale - 1) of the conditions that are guided."""
        scales = [(i, getattr(self, name) - 1.0) for i, name in enumerate(DROPPABLE)]
        return [(i, excess) for i, excess in scales if excess != 0]


def make_scheduler(process: Process, which: Any, steps: int, device: torch.device | str = "cpu") -> Any:
    """A fresh diffusers scheduler for this process, its timesteps set.

    Args:
        which: a key of `NOISE_SCHEDULERS` (for straight lines, of `FLOW_SCHEDULERS`), for curved ones the name of any
            diffusers scheduler class; or a scheduler, of which another is made by its config.

    Raises:
        BadEdit: it does not run this process, or not in so many steps; names tell those that do.
    """
    if steps < 1:
        raise BadEdit(f"steps: want at least 1, got {steps}")
    fresh: Any = _named(process, which) if isinstance(which, str) else _like(process, which)
    name = which if isinstance(which, str) else type(which).__name__
    try:
        if type(fresh).__name__ == "FlowMatchEulerDiscreteScheduler":
            # By default the last of the steps would go from sigma 0.001 to 0: a wasted network evaluation.
            fresh.set_timesteps(sigmas=[1 - i / steps for i in range(steps)], device=device)
        else:
            fresh.set_timesteps(steps, device=device)
    except ValueError as error:  # the scheduler's own rule, such as no more steps than it was trained with
        raise BadEdit(f"scheduler: {name!r} does not take {steps} steps: {error}") from None
    return fresh


def _like(process: Process, scheduler: Any) -> Any:
    """Another scheduler of the same class and config; BadEdit if it takes answers of another kind than the model's."""
    answers = scheduler.config.get("prediction_type")
    wanted = (None, "flow_prediction") if process.kind in STRAIGHT else (_answers(process),)
    if answers not in wanted:
        raise BadEdit(
            f"scheduler: this {type(scheduler).__name__} takes answers of the kind {answers!r}, and the model's are "
            f"{wanted[-1]!r}; make it with `from_config(pipe.scheduler.config)`"
        )
    return type(scheduler).from_config(scheduler.config)


def _answers(process: Process) -> str:
    """The kind of answers that a scheduler of a curved process is given."""
    return "epsilon" if process.kind == "epsilon" else "v_prediction"


def _named(process: Process, name: str) -> Any:
    is_straight = process.kind in STRAIGHT
    known = FLOW_SCHEDULERS if is_straight else NOISE_SCHEDULERS
    class_name, settings = known.get(name, (name, {}))
    scheduler = getattr(diffusers, class_name, None) if class_name.endswith("Scheduler") else None
    accepted = set(inspect.signature(scheduler.__init__).parameters) if scheduler is not None else set()
    if is_straight:
        base: dict[str, Any] = {"num_train_timesteps": process.train_timesteps}
        fits = name in known
    else:
        base = {
            "num_train_timesteps": process.train_timesteps,
            "beta_start": process.beta_start,
            "beta_end": process.beta_end,
            "beta_schedule": "scaled_linear",
            "prediction_type": _answers(process),
        }
        if process.zero_terminal_snr:
            base |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
        fits = accepted >= set(base) and _has_plain_step(scheduler)
    if scheduler is None or not fits:
        names = ", ".join(known) + ("" if is_straight else ", or a diffusers scheduler class with betas")
        raise BadEdit(f"scheduler: {name!r} does not run the process {process.kind!r}; there are {names}")
    return scheduler(**base, **settings)


def _has_plain_step(kind: Any) -> bool:
    """True if a scheduler's step needs only the model's output, the time and the sample; one for video needs more."""
    needed = [p for p in inspect.signature(kind.step).parameters.values() if p.default is p.empty]
    return len([p for p in needed if p.kind is p.POSITIONAL_OR_KEYWORD]) == 4  # self is the first


class SamplingState:
    """An edit in progress, or a batch that shares its steps.

    Args:
        conditions: B rows; `reference` is not read, the person comes as `reference_tokens`.
        noise: (B, 4, h, w) standard normal.
        reference_tokens: of 1 or B people; None: no person.
        scheduler: name, or one of diffusers; None: the process's own. `steps` likewise.
        strength: in (0, 1]; below 1 a noise process begins at the render's latents, noised that far, and runs only
            the last part of its steps. A bridge always begins there.
        generators: one per row, for schedulers that add noise on the way.
        regions: text (B, L, D) and mask (1, 1, h, w), in [0, 1], of each region with a text of its own.

    Raises:
        BadEdit: a scheduler, steps or strength that do not fit. ValueError: a batch that does not.
    """

    def __init__(
        self,
        process: Process,
        conditions: LatentConditions,
        noise: Tensor,
        reference_tokens: ReferenceTokens | None = None,
        *,
        scheduler: Any = None,
        steps: int | None = None,
        guidance: Guidance = Guidance(),
        strength: float = 1.0,
        generators: Sequence[torch.Generator] | None = None,
        regions: Sequence[tuple[Tensor, Tensor]] = (),
    ) -> None:
        if not 0 < strength <= 1 or (strength < 1 and process.kind == "bridge"):
            raise BadEdit(f"strength: want it in (0, 1], and 1 for a bridge, got {strength}")
        self.process = process
        self._scheduler = make_scheduler(
            process, scheduler or process.scheduler, process.steps if steps is None else steps, noise.device
        )
        self._stochastic = {}
        if generators is not None and "generator" in inspect.signature(self._scheduler.step).parameters:
            self._stochastic = {"generator": list(generators)}
        times = self._scheduler.timesteps
        self._time_type = torch.int64 if torch.equal(times, times.round()) else torch.float32
        self.index = 0 if strength == 1 else len(times) - max(1, round(len(times) * strength))
        self.latents = self._start(conditions, noise, strength)
        self._terms = guidance.terms
        self._batch = conditions.batch
        self._text_scale, self._masks = guidance.text, [mask for _, mask in regions]
        rows = 1 + len(self._terms) + len(regions)
        self.conditions = LatentConditions(
            conditions.background, conditions.render, conditions.expression_code, None, conditions.text, conditions.hint
        ).map(lambda t: t.repeat(rows, *[1] * (t.ndim - 1)))
        if regions and self.conditions.text is not None:
            own = self.conditions.text[: -len(regions) * self._batch]
            self.conditions = replace(self.conditions, text=torch.cat([own, *(text for text, _ in regions)]))
        self.detail: Tensor | None = None  # (B, 3, S, S) for the decoder, if the checkpoint's config says so
        if reference_tokens is not None and reference_tokens.batch != 1:
            reference_tokens = ReferenceTokens.cat([reference_tokens.expand(self._batch)] * rows)
        self.reference_tokens = reference_tokens
        self.drop: Tensor | None = None
        if self._terms:
            self.drop = torch.zeros(rows, self._batch, 3, dtype=torch.bool, device=noise.device)
            for row, (column, _) in enumerate(self._terms, start=1):
                self.drop[row, :, column] = True
            self.drop = self.drop.flatten(0, 1)
        self._last: tuple[Tensor, Tensor, Tensor] | None = None
        self.failed: Exception | None = None  # error of its own scheduler, in a batch that went on
        self.guide: Callable[[Tensor], Tensor] | None = None  # clean estimate (B, 4, h, w) -> what a step adds to it

    @property
    def steps(self) -> int:
        """Network evaluations from beginning to end, were every step taken."""
        return len(self._scheduler.timesteps)

    @property
    def rows(self) -> int:
        """Rows this state has in the network's batch."""
        return self.conditions.batch

    @property
    def done(self) -> bool:
        """True once `latents` are clean."""
        return self.index >= self.steps

    @property
    def timestep(self) -> Tensor:
        """t of the step to come, a scalar."""
        result: Tensor = self._scheduler.timesteps[self.index]
        return result

    def model_inputs(self) -> tuple[Tensor, Tensor]:
        """The network's next inputs: latents (rows, 4, h, w) and timesteps (rows,)."""
        scaled = self.latents
        if hasattr(self._scheduler, "scale_model_input"):  # flow schedulers have none: nothing to scale
            scaled = self._scheduler.scale_model_input(scaled, self.timestep)
        return scaled.repeat(self.rows // self._batch, 1, 1, 1), self.timestep.to(self._time_type).expand(self.rows)

    def advance(self, latents: Tensor, answer: Tensor) -> None:
        """Take one step with the network's answer (rows, 4, h, w) to `latents`."""
        parts = torch.unflatten(answer.float(), 0, (-1, self._batch))
        guided, asked = parts[0], latents[: self._batch]
        for (_, excess), without in zip(self._terms, parts[1:]):
            guided = guided + excess * (parts[0] - without)
        for mask, there in zip(self._masks, parts[1 + len(self._terms) :]):
            guided = guided + mask * self._text_scale * (there - parts[0])
        t = self.timestep
        self._last = asked, guided, t.expand(self._batch)
        if self.process.kind == "sample":
            guided = velocity(self.process, asked, guided, t.expand(self._batch))
        self.latents = self._scheduler.step(guided, t, self.latents, return_dict=False, **self._stochastic)[0]
        self.index += 1
        if self.guide is not None and not self.done:
            self.latents = self.latents + self.guide(self.preview())

    def preview(self) -> Tensor:
        """(B, 4, h, w) clean latents as estimated by the last step; ValueError before the first step."""
        if self._last is None:
            raise ValueError("SamplingState.preview: no step was taken yet")
        asked, answer, timestep = self._last
        return clean_estimate(self.process, asked, answer, timestep)

    def _start(self, conditions: LatentConditions, noise: Tensor, strength: float) -> Tensor:
        result: Tensor
        if strength == 1 and self.process.kind in STRAIGHT:
            return start(self.process, conditions, noise)
        if strength == 1:
            result = noise * self._scheduler.init_noise_sigma
            return result
        if hasattr(self._scheduler, "set_begin_index"):
            self._scheduler.set_begin_index(self.index)
        at = self._scheduler.timesteps[self.index : self.index + 1].expand(noise.shape[0])
        if self.process.kind in STRAIGHT:
            return mix(self.process, self.process.latent_scale * conditions.render, noise, at)
        result = self._scheduler.add_noise(self.process.latent_scale * conditions.render, noise, at)
        return result


class SamplingBatch:
    """States that share the network's batch, a `RigFaceModel` or its like; they may join and leave between steps."""

    def __init__(self, predict: Predict) -> None:
        self._predict = predict
        self.states: list[SamplingState] = []
        self._joined: tuple[LatentConditions, ReferenceTokens | None, Tensor | None] | None = None

    def join(self, state: SamplingState) -> None:
        """Add a state from the next step on; ValueError if its latents, text or tokens are of another shape."""
        if self.states and _shape(state) != _shape(self.states[0]):
            raise ValueError(f"SamplingBatch: cannot batch {_shape(state)} with {_shape(self.states[0])}")
        self.states.append(state)
        self._joined = None

    def leave(self, state: SamplingState) -> None:
        """Take a state out before it is done; a state not in the batch is ignored."""
        self.states = [w for w in self.states if w is not state]
        self._joined = None

    @torch.no_grad()
    def step(self) -> list[SamplingState]:
        """One network evaluation for all states; returns and drops those that are done now.

        A state whose own scheduler fails leaves with the error in `failed`, and the others go on; if none is left, it
        is raised.
        """
        if not self.states:
            return []
        if self._joined is None:
            self._joined = _join(self.states)
        conditions, reference_tokens, drop = self._joined
        latents, timesteps = zip(*(state.model_inputs() for state in self.states))
        answers = torch.split(
            self._predict(
                torch.cat(latents),
                torch.cat(timesteps),
                conditions.background,
                conditions.render,
                conditions.expression_code,
                text=conditions.text,
                reference_tokens=reference_tokens,
                drop=drop,
                **({} if conditions.hint is None else {"hint": conditions.hint}),
            ),
            [state.rows for state in self.states],
        )
        for state, asked, answer in zip(self.states, latents, answers):
            try:
                state.advance(asked, answer)
            except Exception as error:
                state.failed = error
        broken = [state for state in self.states if state.failed is not None]
        for state in broken:
            self.leave(state)
        if broken and not self.states and broken[0].failed is not None:
            raise broken[0].failed
        finished = [state for state in self.states if state.done]
        for state in finished:
            self.leave(state)
        return finished


def _join(states: Sequence[SamplingState]) -> tuple[LatentConditions, ReferenceTokens | None, Tensor | None]:
    """Conditions, reference tokens and dropped conditions of all states, row by row."""
    conditions = LatentConditions.cat([state.conditions for state in states])
    parts = [state.reference_tokens for state in states if state.reference_tokens is not None]
    reference_tokens = parts[0] if len(states) == 1 and parts else None
    if len(states) > 1 and parts:
        reference_tokens = ReferenceTokens.cat([m.expand(state.rows) for m, state in zip(parts, states)])
    if all(state.drop is None for state in states):
        return conditions, reference_tokens, None
    nothing = [torch.zeros(w.rows, 3, dtype=torch.bool, device=w.latents.device) for w in states]
    return conditions, reference_tokens, torch.cat([n if w.drop is None else w.drop for w, n in zip(states, nothing)])


def _shape(state: SamplingState) -> tuple[Any, ...]:
    text = None if state.conditions.text is None else tuple(state.conditions.text.shape[1:])
    blocks = {} if state.reference_tokens is None else state.reference_tokens.blocks
    return tuple(state.latents.shape[1:]), text, [tuple(t.shape[1:]) for tensors in blocks.values() for t in tensors]


def seeded(seeds: Sequence[int], shape: tuple[int, ...]) -> tuple[Tensor, list[torch.Generator]]:
    """Noise (B, *shape) on the CPU, each row from its own seed, and the generators to go on with."""
    generators = [torch.Generator().manual_seed(int(seed)) for seed in seeds]
    return torch.stack([torch.randn(shape, generator=g) for g in generators]), generators
