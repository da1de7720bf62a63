"""Forecast of an extract job from a sample: time, bytes and cost on a described cluster.

Path: all inputs -> a sample surveyed (frames per input) -> some of its units run into a temporary folder (CPU
seconds, bytes and faces per frame) -> both ratios, scaled to all inputs -> ranges by bootstrap.

The sample is chosen by the hash of the name, so the same inputs give the same sample. Counted is the CPU time of the
stages plus Ray's share of 16 ms a shard (measured, two cores); starting nodes, pulling images and a slow network are
not.

At most `MAX_SURVEYED` inputs are surveyed, and only their units are run: of more than 20,000 clips that is less than
one percent. The result says how much was run, and the ranges show its precision.
"""

import contextlib
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain

import numpy as np

from pipelines.capacity.load import DRIVER_S as RAY_S
from pipelines.capacity.load import Load
from pipelines.cluster import session
from pipelines.extract import components, dataflow, in_process
from pipelines.extract.config import OPENING, ExtractConfig, config_hash
from pipelines.extract.plan import units_of
from pipelines.extract.survey import survey
from pipelines.formatting import bytes_text, duration, money, rounded
from pipelines.inputs import sources
from rigface.errors import PlanError

MAX_SURVEYED = 200
RESAMPLES = 1000
RANGE = (5, 95)  # percentiles


@dataclass(frozen=True)
class Forecast:
    """A sample, ready to be scaled."""

    inputs: int  # all of them
    frames: np.ndarray  # (P,) expected of each surveyed input
    shards: np.ndarray  # (P,) of each surveyed input; short ones are a fraction of one
    cost: np.ndarray  # (U, 4) of each unit run: frames, CPU seconds, bytes, faces
    wall_s: float
    share: float = 0.0  # of all units or frames, as requested
    seconds: Mapping[str, float] = field(default_factory=dict)  # by step of a stage, of all units run

    def totals(self) -> np.ndarray:
        """(3, 5): estimate, low and high of frames, CPU seconds, bytes, faces, shards for all inputs."""
        whole = len(self.frames) >= self.inputs  # then only the cost per frame is a guess
        random = np.random.default_rng(0)
        tries = [self._scaled(slice(None), slice(None))]
        for _ in range(RESAMPLES):
            some = slice(None) if whole else random.integers(len(self.frames), size=len(self.frames))
            tries.append(self._scaled(some, random.integers(len(self.cost), size=len(self.cost))))
        return np.stack([tries[0], *np.percentile(tries, RANGE, axis=0)])

    def _scaled(self, some: slice | np.ndarray, ran: slice | np.ndarray) -> np.ndarray:
        frames, shards = self.inputs * self.frames[some].mean(), self.inputs * self.shards[some].mean()
        cost = self.cost[ran].sum(0)
        per_frame = cost / max(cost[0], 1)
        return np.array([frames, frames * per_frame[1] + RAY_S * shards, *(frames * per_frame[2:]), shards])

    def load(self) -> Load:
        """All inputs, for a simulation: the processor time of the sample, shared among steps as the clock shared it."""
        frames, cpu, size, faces, shards = self.totals()[0]
        clock = sum(self.seconds.values()) or 1.0
        per_frame = (cpu - RAY_S * shards) / frames
        steps = {name: value / clock * per_frame for name, value in self.seconds.items()}
        return Load(self.inputs, max(1, round(shards)), frames, faces, size, steps)

    def describe(self, cpus: int, price: float, currency: str) -> str:
        """The forecast as text, for a cluster of `cpus` CPUs at `price` per CPU hour."""
        frames, seconds, size, faces, shards = self.totals().T
        share = self.cost[:, 0].sum() / max(frames[0], 1)
        ran = f"{100 * share:.2g} % of all"
        if share < 0.95 * self.share:
            ran += f"; {100 * self.share:g} % was requested, but only surveyed inputs are run"
        return "\n".join(
            [
                f"{self.inputs:,} inputs: {_about(frames, rounded)} frames, {_about(shards, rounded)} shards",
                f"sample: {len(self.frames):,} surveyed inputs, {len(self.cost):,} units with "
                f"{self.cost[:, 0].sum():,.0f} frames run here in {duration(self.wall_s)}, {ran}",
                f"on {cpus:,} CPUs: {_about(seconds / cpus, duration)}",
                f"cost: {_about(seconds / 3600 * price, money)} {currency} at {price:g} per CPU hour "
                f"({_about(seconds / 3600, money)} CPU hours)",
                f"written: {_about(size, bytes_text)} with {_about(faces, rounded)} faces",
                "in brackets: 90 % of resamples of the sample. Starting nodes and a slow network are not counted.",
            ]
        )


def forecast(config: ExtractConfig, share: float = 0.01, min_units: int = 8) -> Forecast:
    """Run a share of all units, at least `min_units` if there are so many; PlanError if no input can be read.

    `out` is not written to.
    """
    head, detector = components.specs(config.settings)
    uris, inputs = sources.sample(sources.find_all(config.videos, config.settings.root), MAX_SURVEYED)
    with tempfile.TemporaryDirectory(prefix="rigface-forecast-") as folder, contextlib.ExitStack() as stack:
        config = replace(config, out=folder)
        plans = survey(uris, config.settings, config.silence_s)
        units = [unit for plan in plans for unit in units_of(plan, config_hash(config.settings, head, detector))]
        if not units:
            raise PlanError(f"none of the {len(plans)} surveyed inputs can be read")
        count = max(min_units, round(share * len(units) * inputs / len(plans)))
        chosen = sorted(units, key=lambda unit: unit.unit_id)[:count]
        run_shards = in_process.run_shards
        if not in_process.is_chosen(config, chosen):
            stack.enter_context(session.connected(config.address, config.cpus, config.object_store_mb))
            run_shards = dataflow.run_shards
        began = time.monotonic()
        shards = [[replace(u, shard=u.unit_id)] for u in chosen]  # a few, of one unit each: they occupy all actors
        ran = list(chain.from_iterable(run_shards(config, head, detector, shards, lambda text: None)))
        wall = time.monotonic() - began
    return Forecast(
        inputs=inputs,
        frames=np.array([sum(plan.expected) for plan in plans], np.float64),
        shards=np.array(
            [sum(min(1.0, (OPENING + e) / config.shard_frames) for e in plan.expected) for plan in plans], np.float64
        ),
        cost=np.array([[r.frames, r.cpu_seconds, r.bytes, r.faces] for r in ran], np.float64),
        wall_s=wall,
        share=share,
        seconds={name: sum(r.seconds.get(name, 0.0) for r in ran) for r in ran for name in r.seconds},
    )


def _about(values: np.ndarray, say: Callable[[float], str]) -> str:
    middle, low, high = (say(float(v)) for v in values)
    return middle if low == high else f"{middle} ({low} to {high})"
