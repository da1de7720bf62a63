"""Commands of datasets of faces: `extract`, `status`, `forget`, `adopt`, `inspect`, `identities`, `forecast`."""

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from pipelines.capacity.estimate import ClusterSpec
from pipelines.convert.config import ConvertConfig
from pipelines.extract.config import PRESETS, ExtractConfig, laptop
from rigface.errors import PlanError
from rigface.ranges import in_range


@dataclass(frozen=True)
class ExtractCommand:
    """Turn videos and images into a dataset of faces.

    OUT/faces has a row per face and sampled frame, OUT/inputs a row per input.

    Run the same command again to continue after an interruption, or to add new videos of the folder: finished
    work is not repeated. A bad file does not end the job; it becomes a row of OUT/inputs with stage and
    reason.

      rigface extract clips/ out/faces
      rigface extract 'clips/**/*.mp4' portraits/ out/faces --fps 2 --small-faces
      rigface extract s3://bucket/videos/ s3://bucket/faces --preset cluster --workers 200 --jobs 2
    """

    paths: Annotated[Positional[tuple[str, ...]], arg(metavar="VIDEOS... OUT")] = ()
    """Folders, files, globs, list files (.txt) or s3:// prefixes to read; the last one is the folder or s3://
    prefix to write."""
    preset: Literal["laptop", "cluster", "debug"] = "laptop"
    """Defaults of the other flags: for this machine, for a Ray cluster that grows, or with fake models."""
    workers: int = 0  # Actors that detect faces, and the other pools in proportion; 0: the number of the preset.
    jobs: int = 1
    """Drivers that share the work on a cluster, each a process on this machine (the head, with `rigface submit`).
    One feeds some hundred cores. One that dies is replaced, and the last run joins what they did."""
    dry_run: bool = False  # Print the plan and stop.
    log_format: Literal["text", "json"] = "text"
    """json: one line per event on standard error, for log collectors, instead of the display and the tables."""
    job: Annotated[ExtractConfig, arg(name="")] = laptop()

    def __post_init__(self) -> None:
        in_range(self, "[0, inf)", "workers")
        in_range(self, "[1, inf)", "jobs")

    def run(self) -> int:
        from pipelines.extract.job import extract, extract_with_drivers
        from pipelines.extract.progress import JsonProgress, Progress, log_end, report

        if len(self.paths) < 2:
            raise PlanError("want VIDEOS... OUT: inputs, then the output. `rigface extract --help` has examples")
        config = replace(self.job, videos=self.paths[:-1], out=self.paths[-1])
        if self.dry_run:
            from pipelines.extract.dry_run import preview

            print(preview(config))
            return 0
        if self.jobs > 1 and config.shard:
            raise PlanError("--jobs runs all shares, --shard one of them: give one of the two")
        display = JsonProgress if self.log_format == "json" else Progress
        summary = extract_with_drivers(config, self.jobs, display) if self.jobs > 1 else extract(config, display())
        if self.log_format == "json":
            log_end(summary)
        else:
            report(summary, config.out)
        return 0


@dataclass(frozen=True)
class StatusCommand:
    """Show how far a dataset is: inputs by status, units of work, and the job that is writing."""

    out: Positional[str]  # The dataset.

    def run(self) -> int:
        from pipelines.extract.dry_run import status

        print(status(self.out))
        return 0


@dataclass(frozen=True)
class ForgetCommand:
    """Remove inputs from a dataset: their faces, rows and plans.

    `extract` never removes an input whose source is away; this command does, for sources that are gone for good.
    """

    paths: Annotated[Positional[tuple[str, ...]], arg(metavar="OUT INPUT...")] = ()
    """The dataset, and the inputs as its column `uri` names them; absolute paths may be given from here."""

    def run(self) -> int:
        from pipelines.extract.dataset import FaceDataset
        from rigface.storage import lock
        from rigface.storage.store import Store

        if len(self.paths) < 2:
            raise PlanError("want OUT INPUT...: the dataset, then its inputs to remove")
        store, uris = Store(self.paths[0]), list(self.paths[1:])
        info = FaceDataset(store).info()
        if info is None:
            raise PlanError(f"{store.uri} is not a RigFace dataset")
        if not info["settings"].get("root"):
            uris = [path if "://" in path else os.path.abspath(path) for path in uris]
        with lock.hold(store):
            FaceDataset(store).forget(uris)
        print(f"{len(uris):,} inputs removed")
        return 0


@dataclass(frozen=True)
class AdoptCommand:
    """Make the uris of a dataset relative to a folder, so that it is continued wherever that is mounted.

    The dataset is written again, object by object; a killed command is continued by the same command. The folder
    need not be there. From then on, `extract` wants --root with its present place.

      rigface adopt out/faces --root /mnt/videos
      rigface extract /data/videos out/faces --root /data/videos
    """

    out: Positional[str]
    """The dataset."""
    root: str
    """Folder or s3:// prefix that the present uris lie below."""

    def run(self) -> int:
        from pipelines.convert.adopt import adopt
        from rigface.storage.store import Store

        if not self.root:
            raise PlanError("--root: want the folder or s3:// prefix that the uris lie below")
        print(f"{adopt(Store(self.out), self.root):,} inputs")
        return 0


@dataclass(frozen=True)
class ConvertCommand(ConvertConfig):
    """Give a dataset the coefficients of another reconstructor, from its stored crops; no video is read again.

    OUT has the same rows. Coefficients, residuals and angles are new, other columns are copied; `confidence` is that of
    the first fit. OUT/rigface.json says which columns are of which program.

    With --shared-skin a person has the same skin colour in all inputs, and only albedo and light are new. With neither,
    a dataset of an earlier version is written in the layout of this one, with nothing else changed, so that `extract`
    continues it.

      rigface convert out/old out/faces
      rigface convert out/faces out/shared --shared-skin
      rigface convert out/faces out/deca --reconstruct deca
      rigface convert out/faces out/flame --reconstruct fit --head flame --shape 300 --expression 100
      rigface convert s3://bucket/faces s3://bucket/smirk --reconstruct smirk --workers 16
    """

    def run(self) -> int:
        if self.shared_skin:
            from pipelines.convert.shared_skin import share_skin

            print(f"{self.out}: {share_skin(self).get('rows', 0):,} rows written now")
            return 0
        if not self.reconstruct:
            from pipelines.convert.relayout import relayout
            from rigface.storage.store import Store

            counts = relayout(Store(self.faces), Store(self.out), print)
            print(f"{self.out}: {counts['rows']:,} rows in {counts['shards']:,} shards written now")
            return 0
        from pipelines.convert.job import convert

        counts = convert(self)
        print(f"{self.out}: {counts.get('rows', 0):,} rows converted now")
        return 0


@dataclass(frozen=True)
class InspectCommand:
    """Make an HTML page of a dataset: faces with their fitted heads, distributions, failures, time by stage."""

    out: Positional[str]  # The dataset.

    def run(self) -> int:
        from pipelines.inspect import job as inspect

        print(inspect.write(self.out))
        return 0


@dataclass(frozen=True)
class IdentitiesCommand:
    """Cluster the faces of a dataset into persons, across inputs, and write the table OUT/identities.

    `extract` does it at its end. Persons keep their names when videos are added later. Several datasets get common
    names, those of the first one that has the person.

      rigface identities out/faces
      rigface identities out/january out/february out/march
    """

    out: Positional[tuple[str, ...]]  # The dataset, or several.
    threshold: float = 0.0
    """Maximum distance of two vectors of one person; 0: that of the last run, else 0.8 for dlib, 1.1 for ArcFace.
    Smaller splits persons, larger merges them."""

    def __post_init__(self) -> None:
        in_range(self, "[0, inf)", "threshold")

    def run(self) -> int:
        from contextlib import ExitStack

        from pipelines.extract.identities import identify, join
        from rigface.storage import lock
        from rigface.storage.store import Store

        stores = [Store(out) for out in dict.fromkeys(self.out)]
        with ExitStack() as stack:
            for store in stores:
                stack.enter_context(lock.hold(store))
            reports = [identify(store, self.threshold or None) for store in stores]
            for store, report in zip(stores, reports if len(stores) == 1 else join(stores)):
                print(f"{store.uri}: {report}" if len(stores) > 1 else report)
        return 0


@dataclass(frozen=True)
class ForecastCommand:
    """Estimate time, bytes and cost of an extraction on a given cluster, from a sample of one percent.

    At most 200 inputs are surveyed, and only their units are run; the output says how large the sample was.

    --simulate adds an event-by-event simulation of the cluster: starting machines, queues, the driver, spot.
    --clips runs nothing: it uses figures measured on two cores.

      rigface forecast s3://bucket/videos/ --cpus 256 --price 0.04
      rigface forecast s3://bucket/videos/ --simulate --nodes 100 --spot-hours 12
      rigface forecast --clips 10e6 --fps 1 --nodes 200 --jobs 16
    """

    videos: Positional[tuple[str, ...]] = ()  # As for `extract`.
    preset: Literal["laptop", "cluster", "debug"] = "laptop"
    """As for `extract`; of the sample run, not of the cluster of the forecast."""
    workers: int = 0  # As for `extract`.
    share: float = 0.01  # Share of the units of work to run, if the surveyed inputs have as many.
    min_units: int = 8  # Units of work to run at least.
    cpus: int = 64  # CPUs of the cluster of the forecast.
    price: float = 0.05  # Price of a CPU hour.
    currency: str = "USD"
    simulate: bool = False  # Simulate the cluster event by event, too.
    cluster: Annotated[ClusterSpec, arg(name="")] = ClusterSpec()
    job: Annotated[ExtractConfig, arg(name="")] = laptop()

    def __post_init__(self) -> None:
        in_range(self, "(0, 1]", "share")
        in_range(self, "[1, inf)", "cpus", "min_units")
        in_range(self, "[0, inf)", "price", "workers")

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
            print(sample.describe(self.cpus, self.price, self.currency))
            if not self.simulate:
                return 0
            load = sample.load()
        print(estimate.describe(load, self.cluster, nodes, self.price, self.currency))
        return 0


COMMANDS = {
    "extract": ExtractCommand,
    "status": StatusCommand,
    "forget": ForgetCommand,
    "adopt": AdoptCommand,
    "convert": ConvertCommand,
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
    if chosen.workers:
        job = replace(job, in_process="never")
    return {"default": COMMANDS[name](job=job)}
