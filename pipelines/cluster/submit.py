"""Jobs on a cluster that is elsewhere: send one, look at it, stop it. Wraps Ray's job server.

    rigface submit extract s3://bucket/videos/ s3://bucket/faces --preset cluster --cluster URL --hours 12
    rigface jobs logs -f --cluster URL

Path: words of a command -> checked here by the same parser -> `JobSubmissionClient` -> `budget.py` on the head -> the command.
The token comes from the environment (RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH, ~/.ray/auth_token). A job's environment is seen by
whoever sees the dashboard: names of secrets are refused, the cluster has its own identity for the storage.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import re
import shlex
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from pipelines.cluster import budget
from rigface.errors import NoCluster, PlanError
from rigface.ray_auth import authenticate

CLUSTER = "http://127.0.0.1:8265"
JOBS = ("extract", "identities", "pair", "autoencoder", "encode", "train", "evaluate")
PACKAGES = ("rigface", "pipelines", "serve")
SECRET = re.compile(r"SECRET|PASSWORD|TOKEN|CREDENTIAL|ACCESS_KEY|PRIVATE|(^|_)KEY$")
AGENT_S = 60.0  # a head answers before the agent that starts jobs on it is there
STOP_S = 90  # Ray kills a job that was asked to stop and goes on for longer


@dataclass(frozen=True)
class Request:
    """What is sent.

    Args:
        job: the words of a `rigface` command.
        upload: send this checkout's code along; else the cluster's own is used.
        env: names of variables whose values here are sent along.
    """

    job: tuple[str, ...]
    meter: budget.CostMeter
    upload: bool = False
    env: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The same for the same job: what its submissions are known by."""
        return f"rigface-{self.job[0]}-{hashlib.sha256(shlex.join(self.job).encode()).hexdigest()[:8]}"

    @property
    def entrypoint(self) -> str:
        """The command that Ray runs on the head."""
        limits = [(f.name, getattr(self.meter, f.name)) for f in fields(self.meter) if not f.name.startswith("spent")]
        options = [w for name, value in limits if value for w in (f"--{name.replace('_', '-')}", f"{value:g}")]
        return shlex.join(["python", "-m", "pipelines.cluster.budget", *options, "--", *self.job])

    @property
    def runtime_env(self) -> dict[str, Any]:
        """As Ray wants it."""
        found: dict[str, Any] = {"env_vars": {name: os.environ[name] for name in self.env}}
        found["env_vars"] |= {"RAY_JOB_STOP_SIGNAL": "SIGINT", "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_S)}
        if self.upload:
            root = Path(__file__).parents[2]
            found |= {"py_modules": [str(root / name) for name in PACKAGES], "excludes": ["**/__pycache__"]}
        return found


def request(
    job: Sequence[str], command: Any, meter: budget.CostMeter, upload: bool = False, env: Sequence[str] = ()
) -> Request:
    """A request, after seeing that it can work.

    Args:
        job: the words of the command line.
        command: what they were parsed into; its places are looked at.

    Raises:
        PlanError: no job for a cluster, places the cluster cannot see, a budget that cannot be kept, variables that are
            not set or should not be sent.
    """
    if not job or job[0].startswith("-"):
        raise PlanError("want a job to submit: rigface submit extract s3://... s3://... --cluster URL")
    if job[0] not in JOBS:
        raise PlanError(f"`{job[0]}` is nothing for a cluster; submit one of {', '.join(JOBS)}")
    for place in _places(command):
        if not place.startswith(("s3://", "/")):
            raise PlanError(
                f"{place}: the cluster does not see this machine's folders. Name s3://... or a path of a disk that all its "
                "nodes share, from /"
            )
    if meter.dollars and not (meter.price or meter.gpu_price):
        raise PlanError("--dollars wants --price: dollars per hour of a node (--gpu-price for those with GPUs)")
    if missing := [name for name in env if name not in os.environ]:
        raise PlanError(f"--env: {', '.join(missing)} is not set here")
    if secret := [name for name in env if SECRET.search(name)]:
        raise PlanError(
            f"--env: {', '.join(secret)} looks like a secret, and a job's environment is shown on the dashboard. Give the "
            "cluster's nodes a role, or a Secret (docs/clusters.md)"
        )
    return Request(tuple(job), meter, upload, tuple(env))


def _places(command: Any) -> list[str]:
    """Where a command reads and writes."""
    words = list(getattr(command, "paths", ())) + list(getattr(command, "words", ()))[1:]
    return words + [getattr(command, name) for name in ("faces", "examples", "data", "out") if hasattr(command, name)]


def described(asked: Request, cluster: str) -> str:
    """A request in words; values of variables are left out."""
    meter, env = asked.meter, asked.runtime_env["env_vars"]
    limits = [f"{meter.hours:g} h" if meter.hours else "", f"${meter.dollars:,.2f}" if meter.dollars else ""]
    lines = {
        "to": cluster,
        "as": f"{asked.name}-N, N counting its submissions",
        "entrypoint": asked.entrypoint,
        "code": f"uploaded: {', '.join(PACKAGES)}" if asked.upload else "the one installed on the cluster",
        "environment": ", ".join(sorted(env)) + " (values not shown)",
        "budget": " or ".join(filter(None, limits)) or "none",
    }
    return "\n".join(f"{name:12} {value}" for name, value in lines.items())


class JobServer:
    """A cluster's job server.

    Raises:
        NoCluster: nobody answers there, or we are not let in.
    """

    def __init__(self, url: str) -> None:
        if not re.match(r"https?://", url):
            raise PlanError(f"--cluster: want the address of a Ray dashboard, such as {CLUSTER}, got {url!r}")
        authenticate(joining=True)
        from ray.job_submission import JobSubmissionClient

        self.url = url
        with self._translated(), _no_other_address(url):
            self._client = JobSubmissionClient(url)

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        """Errors of Ray's client as ours, in one line."""
        from ray.exceptions import AuthenticationError

        try:
            yield
        except AuthenticationError:
            raise NoCluster(
                f"{self.url} asks for a token, and does not take ours: set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN, or put it "
                "into ~/.ray/auth_token"
            ) from None
        except (ConnectionError, OSError) as error:
            raise NoCluster(f"no Ray dashboard answers at {self.url} ({type(error).__name__})") from None
        except RuntimeError as error:
            raise NoCluster(f"{self.url}: {' '.join(str(error).split())[:300]}") from None

    def jobs(self, name: str = "") -> list[Any]:
        """Submissions of ours, the latest last; those of one job where it is named."""
        with self._translated():
            found = [j for j in self._client.list_jobs() if re.match(name or "rigface-", j.submission_id or "")]
        return sorted(found, key=lambda j: j.start_time or 0)

    def send(self, asked: Request) -> tuple[str, bool]:
        """Submit it, or find it at work.

        Returns:
            Its id, and whether it is new.
        """
        before = self.jobs(rf"{asked.name}-\d+$")
        for job in before:
            if not job.status.is_terminal():
                return job.submission_id, False
        name = f"{asked.name}-{len(before) + 1}"
        end = time.monotonic() + AGENT_S
        while True:
            try:
                with self._translated():
                    self._client.submit_job(
                        entrypoint=asked.entrypoint,
                        submission_id=name,
                        runtime_env=asked.runtime_env,
                        metadata={"rigface": shlex.join(asked.job)},
                    )
                return name, True
            except NoCluster as error:
                if "No available agent" not in str(error) or time.monotonic() > end:
                    raise
                time.sleep(1)

    def info(self, name: str) -> Any:
        """Ray's `JobDetails` of a submission."""
        with self._translated():
            return self._client.get_job_info(name)

    def logs(self, name: str) -> str:
        """All it has said."""
        with self._translated():
            return self._client.get_job_logs(name)

    def stop(self, name: str) -> bool:
        """Ask it to stop; False where it had ended."""
        with self._translated():
            return self._client.stop_job(name)

    def follow(self, name: str) -> str:
        """Print what it says until it ends; a connection that breaks off is made again.

        Returns:
            How it ended: SUCCEEDED, FAILED or STOPPED.
        """
        shown = 0
        while True:
            shown = asyncio.run(self._tail(name, shown))
            status = self.info(name).status
            if status.is_terminal():
                print(self.logs(name)[shown:], end="", flush=True)  # what came after the last line that was sent
                return str(status)
            time.sleep(1)

    async def _tail(self, name: str, shown: int) -> int:
        """Print from where we were; the server always begins at the beginning."""
        import aiohttp

        seen = 0
        lines: AsyncIterator[str] = self._client.tail_job_logs(name)
        with contextlib.suppress(RuntimeError, OSError, aiohttp.ClientError):
            async for text in lines:
                print(text[max(shown - seen, 0) :], end="", flush=True)
                seen += len(text)
                shown = max(shown, seen)
        return shown


@contextlib.contextmanager
def _no_other_address(url: str) -> Iterator[None]:
    """Ray prefers RAY_ADDRESS to what it is told; inside, it does not."""
    name = "RAY_API_SERVER_ADDRESS"
    before = os.environ.get(name)
    os.environ[name] = url
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
