"""The commands `submit` and `jobs` for remote Ray clusters.

The arguments of `submit` and those of the job stand in one line, in any order: flags of `submit` are taken out, the
rest is the job.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal

from tyro.conf import Positional, Suppress, UseAppendAction, arg

from pipelines.cluster import submit
from pipelines.cluster.budget import SPENT, CostMeter
from rigface.errors import PlanError
from rigface.ranges import in_range

EXIT_STATUS = {"SUCCEEDED": 0, "FAILED": 1, "STOPPED": 130}


def _default_cluster() -> str:
    return os.environ.get("RIGFACE_CLUSTER", "http://127.0.0.1:8265")


@dataclass(frozen=True)
class SubmitCommand:
    """Run a job on a Ray cluster: `rigface submit JOB ...`, with the arguments of JOB.

    Its output is followed until it ends; ctrl-c leaves it running. The same command again follows the running job, or
    continues an unfinished one. The cluster's code is used unless --upload sends the local code.

      rigface submit extract s3://b/videos/ s3://b/faces --preset cluster --cluster http://127.0.0.1:8265
      rigface submit extract s3://b/videos/ s3://b/faces --preset cluster --dollars 200 --price 0.35 --gpu-price 1.2
      rigface submit train cluster s3://b/latents s3://b/runs/a --start sd15:/models/sd15 --hours 48 --detach
    """

    job: Suppress[tuple[str, ...]] = ()
    command: Suppress[Any] = None  # the parsed job; set by `parse`
    cluster: str = ""
    """Address of the cluster's dashboard; empty: RIGFACE_CLUSTER, else http://127.0.0.1:8265 (a tunnel). Its
    token is read from RAY_AUTH_TOKEN or ~/.ray/auth_token."""
    hours: float = 0.0  # Stop after so many hours; the same command continues. 0: no limit.
    dollars: float = 0.0  # Stop when the nodes have cost so much since the start; needs --price. 0: no limit.
    price: float = 0.0  # Dollars per hour of a node; all nodes of the cluster count.
    gpu_price: float = 0.0  # Dollars per hour of a node with GPUs; 0: as --price.
    upload: bool = False  # Upload the local code.
    env: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="NAME")] = ()
    """Environment variable whose local value is sent, such as AWS_REGION; may be repeated. No secrets."""
    detach: bool = False  # Do not follow the job.
    dry_run: bool = False  # Print the submission and stop.

    def __post_init__(self) -> None:
        in_range(self, "[0, inf)", "hours", "dollars", "price", "gpu_price")

    def run(self) -> int:
        url = self.cluster or _default_cluster()
        meter = CostMeter(self.hours, self.dollars, self.price, self.gpu_price)
        submission = submit.prepare(self.job, self.command, meter, self.upload, self.env)
        if self.dry_run:
            print(submit.describe(submission, url))
            return 0
        cluster = submit.JobServer(url)
        name, new = cluster.send(submission)
        print(f"{name}: {'submitted' if new else 'is running already'}", flush=True)
        return 0 if self.detach else _followed(cluster, name)


@dataclass(frozen=True)
class JobsCommand:
    """List, follow and cancel jobs on a Ray cluster.

      rigface jobs list
      rigface jobs logs -f
      rigface jobs cancel rigface-extract-1a2b3c4d-1

    `cancel` keeps finished work.
    """

    action: Positional[Literal["list", "status", "logs", "cancel"]]
    name: Positional[str] = ""  # Id of a submission; empty: the latest.
    cluster: str = ""  # Address of the cluster's dashboard, as for `submit`.
    follow: Annotated[bool, arg(aliases=["-f"])] = False  # `logs`: follow the output until the job ends.

    def run(self) -> int:
        cluster = submit.JobServer(self.cluster or _default_cluster())
        jobs = cluster.jobs()
        if self.action == "list":
            print("\n".join(_line(job) for job in jobs) or "no RigFace jobs")
            return 0
        name = self.name or (jobs[-1].submission_id if jobs else "")
        if not name:
            raise PlanError("there are no RigFace jobs on this cluster")
        if self.action == "logs" and self.follow:
            return _followed(cluster, name)
        if self.action == "cancel":
            print(f"{name}: {'stopping' if cluster.stop(name) else 'has already ended'}")
        elif self.action == "logs":
            print(cluster.logs(name), end="")
        else:
            print(_line(cluster.info(name)))
        return 0


def _followed(cluster: Any, name: str) -> int:
    """Follow the output of a job; returns an exit status."""
    try:
        status = cluster.follow(name)
    except KeyboardInterrupt:
        jobs = "rigface jobs"
        print(f"\n{name} keeps running. `{jobs} logs -f {name}` follows it, `{jobs} cancel {name}` stops it.")
        return 0
    info = cluster.info(name)
    print(_line(info), file=sys.stderr)
    return SPENT if info.driver_exit_code == SPENT else EXIT_STATUS[status]


def _line(job: Any) -> str:
    """A job as one line of text."""
    began = time.strftime("%Y-%m-%d %H:%M", time.localtime((job.start_time or 0) / 1000))
    minutes = ((job.end_time or time.time() * 1000) - (job.start_time or 0)) / 60000
    state = "budget spent" if job.driver_exit_code == SPENT else str(job.status).lower()
    command = (job.metadata or {}).get("rigface") or job.entrypoint
    return f"{job.submission_id}  {state:12}  {began}  {minutes:7.1f} min  {command}"


def split(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The arguments of `submit` itself, and those of the job.

    Both `--flag value` and `--flag=value` work; `--help` belongs to the job if one is named before it.
    """
    flags = {f"--{f.name.replace('_', '-')}": f.type for f in fields(SubmitCommand) if f.name not in ("job", "command")}
    own: list[str] = []
    job: list[str] = []
    left = iter(words)
    for word in left:
        flag = word.split("=", 1)[0].replace("_", "-")
        if flag in flags or (word in ("-h", "--help") and not job):
            own.append(word)
            if flags.get(flag, "bool") != "bool" and "=" not in word:
                own += [next(left, "")]
        else:
            job.append(word)
    return own, job


COMMANDS = {"submit": SubmitCommand, "jobs": JobsCommand}
