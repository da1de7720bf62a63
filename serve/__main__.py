"""`rigface serve`: start the service on this machine, or manage its keys.

rigface serve                                the editor page at http://127.0.0.1:8000, with `mini` where it is
rigface serve --checkpoint runs/mine/model   with another model
rigface serve demo clip.mp4 out/demo         start, make one edit through HTTP, and stay for the browser
rigface serve key add alice --file keys.jsonl
rigface serve enroll anna anna1.jpg anna2.jpg --file consent.jsonl
rigface serve audit check audit.jsonl        was a line of the audit log changed or removed?
"""

from __future__ import annotations

import inspect
import os
import signal
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tyro.conf import Positional, arg

from rigface import assets
from rigface.errors import RigFaceError
from rigface.terminal import exit_code
from serve.schemas import PREVIEW

LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class Start:
    """Start the editing service and its page on this machine; it ends with ctrl-c, letting requests finish.

    It listens on loopback and is open to whoever reaches it, unless --keys names a file of API keys.
    """

    checkpoint: Annotated[str, arg(metavar="NAME", aliases=("--model",))] = ""
    """`mini` (the small model that ships), a folder or s3:// prefix of weights, or `preview`; none: mini where it is, else previews."""
    host: str = "127.0.0.1"
    port: int = 8000
    """0 takes any that is free."""
    device: str = "cpu"
    """Of the model."""
    keys: str = ""
    """File of API keys (`rigface serve key add`); required for a host that is not loopback."""
    fetch: tuple[str, ...] = ()
    """Beginnings of object-store addresses that requests may name, such as https://bucket.s3.amazonaws.com/ ; with networks
    such as 10.0.0.0/8 where those have private addresses."""
    jobs: str | None = None
    """Folder or s3://bucket/prefix of the queue of jobs, which clips need; where left out, a folder of the user's own for this
    port. '': no jobs."""
    webhooks: tuple[str, ...] = ()
    """Beginnings of addresses that may be told when a job has ended; needs RIGFACE_WEBHOOK_SECRET in the environment."""
    audit: str = ""
    """File that each edit and preview adds a line to; or a folder (with a slash at its end), which several machines may share."""
    consent: str = ""
    """List of people (`rigface serve enroll`): nobody else's face is edited. Empty: no consent is asked for."""
    deny: str = ""
    """List of people whose faces are refused."""
    edit_s: float = 120.0
    """An edit that takes longer is given up."""
    traces: Literal["", "otlp", "console"] = ""
    """Send OpenTelemetry spans: `otlp` to OTEL_EXPORTER_OTLP_ENDPOINT, `console` to standard error."""

    def run(self) -> int:
        """Until stopped."""
        if not self.keys and self.host not in LOOPBACK:
            print("rigface serve: --host is not loopback: name a file of API keys with --keys", file=sys.stderr)
            return 1
        from serve.local import free_port, serving
        from serve.security import api_keys as keys

        if self.keys:
            keys.read(Path(self.keys))  # a file that cannot be read is said here, not in a door's log
        port = free_port(self.host, self.port)
        with serving(self.host, port, **self._args(port)) as url:
            print(f"The editor is at {url}/   API: {url}/openapi.json   stop: ctrl-c", flush=True)
            stay()
        return 0

    def _args(self, port: int) -> dict[str, Any]:
        names = ("device", "keys", "edit_s", "audit", "consent", "deny", "traces")
        jobs = str(Path.home() / ".local" / "share" / "rigface" / f"jobs-{port}") if self.jobs is None else self.jobs
        lists = {"fetch": list(self.fetch), "webhooks": list(self.webhooks)}
        return (
            {name: getattr(self, name) for name in names} | lists | {"jobs": jobs, "model": model_of(self.checkpoint)}
        )


@dataclass(frozen=True)
class Demo:
    """Start the service, make one edit of a clip's or a picture's face through HTTP, and print where the editor page is.

    At a terminal it stays until ctrl-c. Elsewhere, as in CI, it ends, and prints the command that starts it again.
    """

    source: Positional[Path]
    """A clip or a picture that shows a face."""
    out: Positional[Path] = Path("out/demo")
    """Folder for the picture that is made."""
    checkpoint: Annotated[str, arg(metavar="NAME", aliases=("--model",))] = ""
    """As for `rigface serve`."""
    port: int = 0
    """0 takes any that is free."""

    def run(self) -> int:
        """Show it."""
        from serve.demo import show
        from serve.local import free_port, serving

        port = free_port("127.0.0.1", self.port)
        print("Starting the editing service; the first start takes half a minute.", flush=True)
        with serving(port=port, quiet=True, model=model_of(self.checkpoint), jobs=str(self.out / "jobs")) as url:
            print(show(url, self.source, self.out), flush=True)
            if sys.stdin.isatty() and sys.stdout.isatty() and not os.environ.get("CI"):
                print("Open it in a browser. Ctrl-C ends the service.", flush=True)
                stay()
            else:
                again = f"{Path(sys.executable).parent / 'rigface'} serve" + (
                    f" --checkpoint {self.checkpoint}" if self.checkpoint else ""
                )
                print(f"Nobody is at a terminal, so the service ends here. To have it again:\n  {again}", flush=True)
        return 0


def model_of(checkpoint: str) -> str:
    """Value of `ServiceConfig.model`; empty serves the preview only."""
    named = checkpoint or ("mini" if assets.is_here("mini") else PREVIEW)
    return "" if named == PREVIEW else named


def stay() -> None:
    """Until somebody says stop."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    stop.wait()
    print("Letting requests finish.", flush=True)


@dataclass(frozen=True)
class KeyCommand:
    """API keys: the file holds hashes only, and may be changed while the service runs."""

    action: Positional[Literal["add", "remove", "list", "secret"]]
    """`secret` prints what webhooks about this key's jobs are signed with."""
    name: Positional[str] = ""
    file: Path = Path("keys.jsonl")
    scopes: tuple[str, ...] = field(default=("edit", "jobs", "verify"))
    """Some of edit, jobs, verify, and metrics for Prometheus."""
    rate: float = 20.0
    """Requests a second on average."""
    burst: float = 0.0
    """Requests at once, after a pause. 0: three seconds of the rate."""
    at_a_time: int = 16
    """Requests under way."""

    def run(self) -> int:
        """Do it."""
        from serve.security import api_keys as keys

        if self.action == "add":
            burst = {"burst": self.burst} if self.burst else {}
            print(keys.add(self.file, self.name, self.scopes, rate=self.rate, at_a_time=self.at_a_time, **burst))
        elif self.action == "remove":
            if not keys.remove(self.file, self.name):
                print(f"rigface serve: there is no key {self.name!r}", file=sys.stderr)
                return 1
        elif self.action == "secret":
            from serve.jobs.webhook import SECRET_VARIABLE, secret_of

            if not os.environ.get(SECRET_VARIABLE):
                raise ValueError(f"{SECRET_VARIABLE} is not set in the environment")
            print(secret_of(self.name, os.environ[SECRET_VARIABLE]))
        else:
            for key in keys.read(self.file):
                limits = f"{key.rate:g}/s\t{key.burst:g} at once\t{key.at_a_time} at a time"
                print(f"{key.name}\t{','.join(key.scopes)}\t{limits}")
        return 0


@dataclass(frozen=True)
class EnrollCommand:
    """Lists of people, for --consent and --deny: a name and identity vectors, never a picture.

      rigface serve enroll anna anna1.jpg anna2.jpg --file consent.jsonl
      rigface serve enroll anna --remove --file consent.jsonl
      rigface serve enroll --file consent.jsonl                               who is on it

    Each picture shows one person; two or three, taken on different days, are better than one. Vectors are biometric data of
    that person: have their permission, and keep the file to yourself (it is written for its owner only).
    """

    name: Positional[str] = ""
    pictures: Positional[tuple[Path, ...]] = ()
    file: Path = Path("consent.jsonl")
    remove: bool = False
    """Take the person off the list."""

    def run(self) -> int:
        """Do it."""
        from serve.security import consent as policy

        if not self.name:
            for person in policy.read(self.file):
                print(f"{person.name}\t{len(person.vectors)} vectors")
            return 0
        if self.remove:
            if not policy.remove(self.file, self.name):
                raise ValueError(f"{self.file}: there is no {self.name!r}")
            return 0
        if not self.pictures:
            raise ValueError(f"name some pictures of {self.name}")
        policy.enroll(self.file, self.name, [_vector_of(path) for path in self.pictures])
        print(f"{self.name} is on {self.file} with {len(self.pictures)} more vectors.")
        return 0


@dataclass(frozen=True)
class AuditCommand:
    """The audit log: was a line changed, put in or removed since it was written?

      rigface serve audit check audit.jsonl                  or a folder, with a file of each host
      rigface serve audit check audit.jsonl --holds HASH     and is a line that was once the last still there?

    Each line has the hash of the one before it. That does not show that the end of a file was cut off, that a whole file is gone,
    or that somebody who may write there made all of it anew: keep the hash that this prints in another place, and give it to
    --holds the next time.
    """

    action: Positional[Literal["check"]]
    path: Positional[Path]
    holds: str = ""
    """Hash of an earlier check; of a folder, one file has to hold it."""

    def run(self) -> int:
        """Do it."""
        from serve.security import audit_log as audit

        files, found = audit.files_of(self.path), not self.holds
        for path in files:
            one = audit.check(path, self.holds)
            broken = f"; {one.broken} more are no lines of the log, such as half a one of a machine that failed" * bool(
                one.broken
            )
            print(f"{path}: {one.lines} lines as they were written, the last of {one.last}, hash {one.hash}{broken}")
            found = found or one.holds
        if not found:
            raise ValueError(
                f"{self.path}: no line has the hash {self.holds}: an end was cut off, or a file is gone or written anew"
            )
        return 0


def _vector_of(path: Path) -> Any:
    from rigface.face.analyzer import FaceAnalyzer
    from rigface.image import decode
    from serve.security.consent import DlibEmbedding

    image = decode(path.read_bytes())
    faces = FaceAnalyzer.load()(image)
    if len(faces) != 1:
        raise ValueError(f"{path}: want a picture of one person, this shows {len(faces) or 'nobody'}")
    vector = DlibEmbedding()(image, faces[0])
    if vector is None:
        raise ValueError(f"{path}: the face is too small to be recognised")
    return vector


def _shown(about: str) -> str:
    """A docstring for tyro, which joins lines: commands keep theirs, sentences do not."""
    paragraphs = (p.splitlines() for p in about.split("\n\n"))
    return "\n\n".join(("\n\n" if "rigface serve" in p[-1] else " ").join(map(str.strip, p)) for p in paragraphs)


COMMANDS = {"key": KeyCommand, "enroll": EnrollCommand, "audit": AuditCommand, "demo": Demo}


def main(argv: Sequence[str] | None = None) -> int:
    """The entry point; 0, or 1 where an error of ours ended it."""
    words = list(sys.argv[1:] if argv is None else argv)
    kind: Any = COMMANDS.get(words[0] if words else "", Start)
    prog = "rigface serve" if kind is Start else f"rigface serve {words.pop(0)}"
    try:
        about = inspect.cleandoc(__doc__ if kind is Start else kind.__doc__)
        return tyro.cli(kind, prog=prog, description=_shown(about), args=words).run()
    except (RigFaceError, ValueError, FileNotFoundError) as error:
        print(f"rigface serve: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    sys.exit(exit_code(main))
