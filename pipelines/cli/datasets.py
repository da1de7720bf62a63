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
    """Extract faces from videos and images: OUT/faces (a row per face and sampled frame) and OUT/inputs (a row per
    input).

    After an interruption, or with more videos in the folder, run the same command again: it continues and does
    nothing twice. A bad file never ends the job; it becomes a row of OUT/inputs with stage and reason.

      rigface extract clips/ out/faces
      rigface extract 'clips/**/*.mp4' portraits/ out/faces --fps 2 --small-faces
      rigface extract s3://bucket/videos/ s3://bucket/faces --preset cluster --workers 200
    """

    paths: Annotated[Positional[tuple[str, ...]], arg(metavar="VIDEOS... OUT")] = ()
    """Folders, files, globs, list files (.txt) or s3:// prefixes; the last one is the folder or s3:// prefix to write to."""
    preset: Literal["laptop", "cluster", "debug"] = "laptop"
    """Defaults of the other flags: for this machine, for a Ray cluster that autoscales, or for a run with fake models."""
    workers: int = 0
    """Maximum of detect_faces actors; the other pools follow in proportion. 0: as the preset says."""
    dry_run: bool = False
    """Print the work to do and stop."""
    log_format: Literal["text", "json"] = "text"
    """json: one line per event on standard error, for log collectors, instead of the display and the tables."""
    job: Annotated[ExtractConfig, arg(name="")] = laptop()

    def run(self) -> int:
        from pipelines.extract.job import extract
        from pipelines.extract.progress import report

        if len(self.paths) < 2:
            raise PlanError("want VIDEOS... OUT: the inputs, then the output. `rigface extract --help` has examples")
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
    """Show the progress of a dataset: inputs by status, units, and the run that is writing."""

    out: Positional[str]
    """The dataset."""

    def run(self) -> int:
        from pipelines.extract.dry_run import status

        print(status(self.out))
        return 0


@dataclass(frozen=True)
class InspectCommand:
    """Write a page about a dataset: faces with their fits, distributions, failures, time by step."""

    out: Positional[str]
    """The dataset."""

    def run(self) -> int:
        from pipelines.inspect import job as inspect

        print(inspect.write(self.out))
        return 0


@dataclass(frozen=True)
class IdentitiesCommand:
    """Cluster identities across inputs by the tracks' identity vectors and write the column `identity`.

    `extract` does it at its end. People keep their names when videos are added later.
    """

    out: Positional[str]
    """The dataset."""
    threshold: float = 0.0
    """Maximum distance within a person; 0: the default (0.8 for dlib, 1.1 for ArcFace). A smaller one splits people, a larger one
    merges them."""

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
    """Run one percent and estimate time, bytes and cost of the whole job on a cluster that you describe.

    At most 200 inputs are surveyed, and only their units are run; the result says which share of all that was.

    With --simulate the cluster is simulated event by event: starting machines, queues, the driver, spot. With --clips
    nothing is run: the estimate is for so many clips, from measurements on two cores.

      rigface forecast s3://bucket/videos/ --cpus 256 --price 0.04
      rigface forecast s3://bucket/videos/ --simulate --nodes 100 --spot-hours 12
      rigface forecast --clips 10e6 --fps 1 --nodes 200 --jobs 16
    """

    videos: Positional[tuple[str, ...]] = ()
    """As for `extract`."""
    preset: Literal["laptop", "cluster", "debug"] = "laptop"
    """As for `extract`; for this run, not for the described cluster."""
    workers: int = 0
    """As for `extract`."""
    share: float = 0.01
<<<<<<< HEAD
    """Share of the units of work to run, if 200 inputs have so many."""
    min_units: int = 8
    """Minimum of units of work to run."""
=======
    """Share of the units of work to run, as far as 200 inputs have so many."""
    min_units: int = 8
    """Units of work to run at least."""
>>>>>>> 9fd52d5 (pipelines/capacity: name fields, flags and stages by what they are)
    cpus: int = 64
    """CPUs of the described cluster."""
    price: float = 0.05
    """Price of one of its CPUs per hour."""
    currency: str = "USD"
    simulate: bool = False
    """Also simulate the cluster event by event."""
    cluster: Annotated[ClusterSpec, arg(name="")] = ClusterSpec()
    job: Annotated[ExtractConfig, arg(name="")] = laptop()

    def run(self) -> int:
        from pipelines.capacity import estimate
        from pipelines.capacity.sample_run import forecast

        nodes = self.cluster.nodes or max(1, self.cpus // self.cluster.node_cpus)
        if self.cluster.clips:
            if self.videos:
                raise PlanError("want VIDEOS... or --clips, not both")
            load = estimate.load_of(self.cluster, self.job.settings)
        elif not self.videos:
            raise PlanError("want VIDEOS... or --clips. `rigface forecast --help` has examples")
        else:
            sample = forecast(replace(self.job, videos=self.videos), self.share, self.min_units)
<<<<<<< HEAD
            print(sample.on(self.cpus, self.price, self.currency))
=======
            print(sample.describe(self.cpus, self.price, self.currency))
>>>>>>> 9fd52d5 (pipelines/capacity: name fields, flags and stages by what they are)
            if not self.simulate:
                return 0
            load = sample.load()
        print(estimate.describe(load, self.cluster, nodes, self.price, self.currency))
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
    job = PRESETS.get(chosen.preset, laptop)(workers=chosen.workers)  # tyro refuses an unknown preset by name
    return {"default": COMMANDS[name](job=job)}
