"""Commands of datasets of faces: `extract`, `status`, `inspect`, `identities`, `forecast`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from pipelines.capacity.estimate import ClusterSpec
from pipelines.extract.config import PRESETS, ExtractConfig, laptop
from rigface.errors import PlanError


@dataclass(frozen=True)
class ExtractCommand:
    """Videos in, a dataset out: OUT/faces (a row per face and looked-at frame) and OUT/inputs (a row per input).

    Stopped or killed, run the same command again: it goes on where it was, and nothing is done twice. More videos in the
    folder: run it again, too. A bad file never ends the job; it becomes a row of OUT/inputs with stage and reason.

      rigface extract clips/ out/faces
      rigface extract 'clips/**/*.mp4' portraits/ out/faces --fps 2 --small-faces
      rigface extract s3://bucket/videos/ s3://bucket/faces --preset cluster --workers 200
    """

    paths: Annotated[Positional[tuple[str, ...]], arg(metavar="VIDEOS... OUT")] = ()
    """Folders, files, globs, list files (.txt) or s3:// prefixes; the last one is the folder or s3:// prefix to write to."""
    preset: Literal["laptop", "cluster", "debug"] = "laptop"
    """Where the other defaults come from: this machine, a Ray cluster that grows, or a run of fakes."""
    workers: int = 0
    """How many look at videos at a time, and the other pools in proportion; 0: as the preset says."""
    dry_run: bool = False
    """Say what would be done, and stop."""
    log_format: Literal["text", "json"] = "text"
    """json: one line per event on standard error, for whatever collects logs, instead of the display and the tables."""
    job: Annotated[ExtractConfig, arg(name="")] = laptop()

    def run(self) -> int:
        from pipelines.extract.job import extract
        from pipelines.extract.progress import report

        if len(self.paths) < 2:
            raise PlanError(
                "want VIDEOS... OUT: what to read, then where to write. `rigface extract --help` has examples"
            )
        config = replace(self.job, videos=self.paths[:-1], out=self.paths[-1])
        if self.dry_run:
            from pipelines.extract.dry_run import preview

            print(preview(config))
            return 0
        if self.log_format == "json":
            from pipelines.extract import json_progress

            json_progress.end(extract(config, json_progress.JsonProgress()))
        else:
            report(extract(config), config.out)
        return 0


@dataclass(frozen=True)
class StatusCommand:
    """How far a dataset is: inputs by status, units, and who is writing."""

    out: Positional[str]
    """The dataset."""

    def run(self) -> int:
        from pipelines.extract.dry_run import status

        print(status(self.out))
        return 0


@dataclass(frozen=True)
class InspectCommand:
    """Make a page to look at a dataset: faces with what was fitted to them, distributions, failures, time by stage."""

    out: Positional[str]
    """The dataset."""

    def run(self) -> int:
        from pipelines.inspect import job as inspect

        print(inspect.write(self.out))
        return 0


@dataclass(frozen=True)
class IdentitiesCommand:
    """Say who is who across inputs: cluster the tracks' identity vectors and write the column `identity`.

    `extract` does it at its end. People keep their names when videos are added later.
    """

    out: Positional[str]
    """The dataset."""
    threshold: float = 0.0
    """Largest distance within one person; 0: the usual one (0.8 for dlib's vectors, 1.1 for ArcFace's). Smaller splits people,
    larger merges them."""

    def run(self) -> int:
        from pipelines.extract.identities import identify
        from rigface.storage import lock
        from rigface.storage.store import Store

        store = Store(self.out)
        with lock.hold(store):
            print(identify(store, self.threshold or None))
        return 0


@dataclass(frozen=True)
class ForecastCommand:
    """Run one percent and say what all of it would take: time, bytes and cost on a cluster you describe.

    At most 200 inputs are looked into, and only their units are run; the answer says how much of all that was.

    With --simulate the cluster is gone through event by event: machines that start, queues, the driver, spot. With --clips
    nothing is run: so many clips, at what was measured on two cores.

      rigface forecast s3://bucket/videos/ --cpus 256 --price 0.04
      rigface forecast s3://bucket/videos/ --simulate --nodes 100 --life-h 12
      rigface forecast --clips 10e6 --fps 1 --nodes 200 --jobs 16
    """

    videos: Positional[tuple[str, ...]] = ()
    """As for `extract`."""
    preset: Literal["laptop", "cluster", "debug"] = "laptop"
    """As for `extract`; about this run, not about the cluster that is asked about."""
    workers: int = 0
    """As for `extract`."""
    share: float = 0.01
    """Share of the units of work to run, as far as 200 inputs have so many."""
    least: int = 8
    """Units of work to run at least."""
    cpus: int = 64
    """CPUs of the cluster that is asked about."""
    price: float = 0.05
    """What a CPU costs there per hour."""
    currency: str = "USD"
    simulate: bool = False
    """Go through the cluster event by event, too."""
    cluster: Annotated[ClusterSpec, arg(name="")] = ClusterSpec()
    job: Annotated[ExtractConfig, arg(name="")] = laptop()

    def run(self) -> int:
        from pipelines.capacity import estimate
        from pipelines.capacity.sample_run import forecast

        nodes = self.cluster.nodes or max(1, self.cpus // self.cluster.node_cpus)
        if self.cluster.clips:
            if self.videos:
                raise PlanError("want VIDEOS... or --clips, not both: a sample is run, or nothing is")
            load = estimate.load_of(self.cluster, self.job.settings)
        elif not self.videos:
            raise PlanError("want VIDEOS...: what would be read, or --clips. `rigface forecast --help` has examples")
        else:
            sample = forecast(replace(self.job, videos=self.videos), self.share, self.least)
            print(sample.on(self.cpus, self.price, self.currency))
            if not self.simulate:
                return 0
            load = sample.load()
        print(estimate.described(load, self.cluster, nodes, self.price, self.currency))
        return 0


COMMANDS = {
    "extract": ExtractCommand,
    "status": StatusCommand,
    "inspect": InspectCommand,
    "identities": IdentitiesCommand,
    "forecast": ForecastCommand,
}


def default_of(name: str, words: Sequence[str]) -> dict[str, Any]:
    """For tyro: a command whose defaults are those of the preset and the number of workers in `words`."""
    if name not in ("extract", "forecast"):
        return {}
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--preset", default="laptop")
    first.add_argument("--workers", type=int, default=0)
    chosen, _ = first.parse_known_args(words)
    job = PRESETS.get(chosen.preset, laptop)(workers=chosen.workers)  # tyro refuses an unknown preset, by name
    return {"default": COMMANDS[name](job=job)}
