"""Jobs on a remote cluster: submit, follow, list and stop them. Wraps Ray's job server.

    rigface submit extract s3://bucket/videos/ s3://bucket/faces --preset cluster --cluster URL --hours 12
    rigface jobs logs -f --cluster URL

Path: a command line -> parsed and checked here -> `JobSubmissionClient` -> `budget.py` on the head -> the command.
The token comes from the environment (RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH, ~/.ray/auth_token). The dashboard shows a
job's environment: names of secrets are refused, the cluster has its own credentials for the storage.
"""

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

DEFAULT_URL = "http://127.0.0.1:8265"
JOBS = ("extract", "identities", "pair", "autoencoder", "encode", "train", "evaluate")
PACKAGES = ("rigface", "pipelines", "serve")
SECRET = re.compile(r"SECRET|PASSWORD|TOKEN|CREDENTIAL|ACCESS_KEY|PRIVATE|(^|_)KEY$")
AGENT_START_S = 60.0  # a head answers before its job agent has started
STOP_S = 90  # Ray kills a job that runs on for longer after a stop


@dataclass(frozen=True)
class Submission:
    """A job to submit."""

    job: tuple[str, ...]  # the arguments of a `rigface` command
    meter: budget.CostMeter
    upload: bool = False  # send this checkout's code; else the cluster's own is used
    env: tuple[str, ...] = ()  # names of environment variables whose local values are sent

    @property
    def name(self) -> str:
        """Prefix of the ids of this job's submissions; equal for equal arguments."""
        return f"rigface-{self.job[0]}-{hashlib.sha256(shlex.join(self.job).encode()).hexdigest()[:8]}"

    @property
    def entrypoint(self) -> str:
        """The command that Ray runs on the head."""
        limits = [(f.name, getattr(self.meter, f.name)) for f in fields(self.meter) if not f.name.startswith("spent")]
        options = [o for name, value in limits if value for o in (f"--{name.replace('_', '-')}", f"{value:g}")]
        return shlex.join(["python", "-m", "pipelines.cluster.budget", *options, "--", *self.job])

    @property
    def runtime_env(self) -> dict[str, Any]:
        """Ray's runtime environment: variables, and code if `upload`."""
        env = {name: os.environ[name] for name in self.env}
        env |= {"RAY_JOB_STOP_SIGNAL": "SIGINT", "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_S)}
        modules = [str(Path(__file__).parents[2] / name) for name in PACKAGES]
        code = {"py_modules": modules, "excludes": ["**/__pycache__"]} if self.upload else {}
        return {"env_vars": env, **code}


def prepare(
    job: Sequence[str], command: Any, meter: budget.CostMeter, upload: bool = False, env: Sequence[str] = ()
) -> Submission:
    """A checked submission of the arguments of a command line, with the paths of the parsed command.

    PlanError: not a job for a cluster, paths the cluster cannot see, dollars without a price, variables that are not
    set or should not be sent.
    """
    if not job or job[0].startswith("-"):
        raise PlanError("name a job to submit: rigface submit extract s3://... s3://... --cluster URL")
    if job[0] not in JOBS:
        raise PlanError(f"`{job[0]}` does not run on a cluster; submit one of {', '.join(JOBS)}")
    for path in _paths(command):
        if not path.startswith(("s3://", "/")):
            raise PlanError(
                f"{path}: the cluster does not see this machine's folders. Use s3://... or the absolute path of a "
                "disk that all its nodes share"
            )
    if meter.dollars and not (meter.price or meter.gpu_price):
        raise PlanError("--dollars needs --price: dollars per hour of a node (--gpu-price for those with GPUs)")
    if missing := [name for name in env if name not in os.environ]:
        raise PlanError(f"--env: {', '.join(missing)} is not set here")
    if secret := [name for name in env if SECRET.search(name)]:
        raise PlanError(
            f"--env: {', '.join(secret)} looks like a secret, and a job's environment is shown on the dashboard. "
            "Give the cluster's nodes a role, or a Secret (docs/clusters.md)"
        )
    return Submission(tuple(job), meter, upload, tuple(env))


def _paths(command: Any) -> list[str]:
    """Inputs and outputs of a command."""
    named = [getattr(command, n) for n in ("paths", "faces", "examples", "data", "out") if hasattr(command, n)]
    places = [place for value in named for place in ([value] if isinstance(value, str) else value)]
    return places + list(getattr(command, "words", ()))[1:]


def describe(submission: Submission, cluster: str) -> str:
    """A submission in words, without the values of variables."""
    meter, env = submission.meter, submission.runtime_env["env_vars"]
    limits = [f"{meter.hours:g} h" if meter.hours else "", f"${meter.dollars:,.2f}" if meter.dollars else ""]
    lines = {
        "cluster": cluster,
        "id": f"{submission.name}-N, N counts its submissions",
        "entrypoint": submission.entrypoint,
        "code": f"uploaded: {', '.join(PACKAGES)}" if submission.upload else "as installed on the cluster",
        "environment": ", ".join(sorted(env)) + " (values not shown)",
        "budget": " or ".join(filter(None, limits)) or "none",
    }
    return "\n".join(f"{name:12} {value}" for name, value in lines.items())


class JobServer:
    """A cluster's job server; NoCluster if none answers there, or if it refuses the token."""

    def __init__(self, url: str) -> None:
        if not re.match(r"https?://", url):
            raise PlanError(f"--cluster: expected the address of a Ray dashboard, such as {DEFAULT_URL}, got {url!r}")
        authenticate(joining=True)
        from ray.job_submission import JobSubmissionClient

        self.url = url
        with self._errors(), _job_server_address(url):
            self._client = JobSubmissionClient(url)

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Raise errors of Ray's client as NoCluster, in one line."""
        from ray.exceptions import AuthenticationError

        try:
            yield
        except AuthenticationError:
            raise NoCluster(
                f"{self.url} needs a token and refused the one sent, if any: set RAY_AUTH_MODE=token and "
                "RAY_AUTH_TOKEN, or put it into ~/.ray/auth_token"
            ) from None
        except (ConnectionError, OSError) as error:
            raise NoCluster(f"no Ray dashboard answers at {self.url} ({type(error).__name__})") from None
        except RuntimeError as error:
            raise NoCluster(f"{self.url}: {' '.join(str(error).split())[:300]}") from None

    def jobs(self, name: str = "") -> list[Any]:
        """RigFace submissions whose id matches `name` (a regular expression; empty: all), the latest last."""
        with self._errors():
            jobs = [j for j in self._client.list_jobs() if re.match(name or "rigface-", j.submission_id or "")]
        return sorted(jobs, key=lambda j: j.start_time or 0)

    def send(self, submission: Submission) -> tuple[str, bool]:
        """Submit a job, unless it is running already; its id, and True if it is new."""
        earlier = self.jobs(rf"{submission.name}-\d+$")
        for job in earlier:
            if not job.status.is_terminal():
                return job.submission_id, False
        name = f"{submission.name}-{len(earlier) + 1}"
        end = time.monotonic() + AGENT_START_S
        while True:
            try:
                with self._errors():
                    self._client.submit_job(
                        entrypoint=submission.entrypoint,
                        submission_id=name,
                        runtime_env=submission.runtime_env,
                        metadata={"rigface": shlex.join(submission.job)},
                    )
                return name, True
            except NoCluster as error:
                if "No available agent" not in str(error) or time.monotonic() > end:
                    raise
                time.sleep(1)

    def info(self, name: str) -> Any:
        """Ray's `JobDetails` of a submission."""
        with self._errors():
            return self._client.get_job_info(name)

    def logs(self, name: str) -> str:
        with self._errors():
            return self._client.get_job_logs(name)

    def stop(self, name: str) -> bool:
        """Request a stop; False if the job has ended."""
        with self._errors():
            return self._client.stop_job(name)

    def follow(self, name: str) -> str:
        """Print the output of a submission until it ends, over broken connections; SUCCEEDED, FAILED or STOPPED."""
        shown = 0
        while True:
            shown = asyncio.run(self._tail(name, shown))
            status = self.info(name).status
            if status.is_terminal():
                print(self.logs(name)[shown:], end="", flush=True)  # the output after the last line received
                return str(status)
            time.sleep(1)

    async def _tail(self, name: str, shown: int) -> int:
        """Print the output after `shown` characters and return the new count; the server sends it from the start."""
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
def _job_server_address(url: str) -> Iterator[None]:
    """Make Ray's client use this address inside; it would prefer RAY_ADDRESS."""
    before = os.environ.copy()
    os.environ["RAY_API_SERVER_ADDRESS"] = url
    try:
        yield
    finally:
        os.environ.pop("RAY_API_SERVER_ADDRESS")
        os.environ.update(before)
