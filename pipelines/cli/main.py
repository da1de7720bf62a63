"""`rigface`: the command line. Each command is a dataclass; tyro makes flags and help of it.

Presets come first: `--preset` and `--workers` choose a whole configuration, whose values are then the defaults of all other
flags. Nothing heavy is imported before a command is chosen.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, Union

import tyro
from tyro.conf import Positional, arg, subcommand

from pipelines.capacity.estimate import ClusterSpec
from pipelines.cli import cluster as submit_commands
from pipelines.cli import editing
from pipelines.cluster.submit import JOBS
from pipelines.extract.config import PRESETS, ExtractConfig, laptop
from rigface.errors import PlanError, RigFaceError

ABOUT = """Faces from videos, as a dataset: who, where, 3D coefficients, skin, light, and how far to trust each row.

  rigface extract clips/ out/faces      videos (or pictures) in, Parquet out
  rigface inspect out/faces             a page to look at what came out
  rigface forecast clips/               time, bytes and cost of all of it, from one percent
  rigface edit photo.jpg out.png --yaw 15 --smile 0.6 --light-azimuth 40
                                        change a face in a picture or a clip
  rigface animate photo.jpg clip.mp4 out.mp4
                                        let a clip drive a picture
  rigface strip photo.jpg out.png       one picture of what editing does to somebody
  rigface sliders                       every number an edit can have
  rigface submit extract s3://b/videos/ s3://b/faces --preset cluster --cluster URL
                                        the same on a cluster; `rigface jobs` looks at what is there
  rigface serve                         edit faces in the browser; has a help of its own

Every command explains itself: rigface extract --help"""


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


_FACES = {
    "extract": ExtractCommand,
    "status": StatusCommand,
    "inspect": InspectCommand,
    "identities": IdentitiesCommand,
    "forecast": ForecastCommand,
}
COMMANDS = (
    *_FACES,
    *editing.COMMANDS,
    *submit_commands.COMMANDS,
    "pair",
    "autoencoder",
    "encode",
    "train",
    "evaluate",
    "serve",
)  # all names; the latter live in modules of their own


def parse(argv: Sequence[str]) -> Any:
    """A command from its words; prints help or a complaint and leaves where there is none."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--preset", default="laptop")
    first.add_argument("--workers", type=int, default=0)
    chosen, _ = first.parse_known_args(argv)
    job = PRESETS.get(chosen.preset, laptop)(workers=chosen.workers)  # an unknown one is refused below, by name
    defaults: dict[str, Any] = {name: _FACES[name](job=job) for name in ("extract", "forecast")}
    if argv[:1] == ["submit"]:  # its words and those of the job stand in one line
        own, words = submit_commands.split(argv[1:])
        inner = parse(words) if words and words[0] in JOBS else None
        argv, defaults["submit"] = ["submit", *own], submit_commands.SubmitCommand(job=tuple(words), command=inner)
    commands: dict[str, type] = {**_FACES, **editing.COMMANDS, **submit_commands.COMMANDS}
    if not argv or argv[0] not in commands:  # the commands of learning bring torch, which `extract` should not wait for
        from pipelines.cli import learning

        commands |= learning.COMMANDS
        defaults |= {n: d["default"] for n in learning.COMMANDS if (d := learning.default_of(n, argv))}
    made = [
        Annotated[command, subcommand(name, **({"default": defaults[name]} if name in defaults else {}))]
        for name, command in commands.items()
    ]
    kinds: Any = Union[tuple(made)]  # noqa: UP007
    return tyro.cli(
        kinds,
        prog="rigface",
        description=ABOUT,
        args=list(argv),
        config=(tyro.conf.FlagCreatePairsOff, tyro.conf.HelptextFromCommentsOff),
    )


def main(argv: Sequence[str] | None = None) -> int:
    """The entry point.

    Returns:
        0; 1 where an error of ours ended the command; 130 where the user did.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["serve"]:  # a program of its own, which knows nothing of the jobs, nor they of it
        os.execv(sys.executable, [sys.executable, "-m", "serve", *words[1:]])
    command: Any = None
    try:
        command = parse(words)
        return command.run()
    except RigFaceError as e:
        if "json" in (getattr(command, "log_format", ""), getattr(getattr(command, "job", None), "log_format", "")):
            from pipelines.telemetry import log_events

            log_events.failed(e)
        else:
            print(f"rigface: {e}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("rigface: stopped. What is finished is kept; run the same command to go on.", file=sys.stderr)
        return 130
