"""`rigface serve`: start the service on this machine, or manage API keys, people and the audit log."""

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
from rigface.edits import PREVIEW
from rigface.host_environment import repair_environment
from rigface.ranges import in_range
from rigface.terminal import exit_code, sentence_of
from serve.local import free_port, serving
from serve.security import api_keys, audit_log, consent
from serve.security.consent import IdentityName


@dataclass(frozen=True)
class Start:
    """Start the editing service and its page on this machine, or manage API keys, people and the audit log.

    It listens on loopback; without --keys it answers requests from this machine only. Ctrl-C stops it after running
    requests end.

      rigface serve                                the editor page at http://127.0.0.1:8000
      rigface serve --checkpoint runs/mine/model   with another model
      rigface serve demo clip.mp4 out/demo         start it, make one edit through HTTP, keep it for the browser
      rigface serve key add alice --file keys.jsonl
      rigface serve enroll anna anna1.jpg anna2.jpg --file consent.jsonl
      rigface serve audit check audit.jsonl        check that no line of the audit log was changed or removed
    """

    checkpoint: Annotated[tuple[str, ...], arg(metavar="NAME...", aliases=("--model",))] = ()
    """`refiner` or `mini` (small models that ship), `rigface` (the released weights, after `rigface assets adopt`), a
    folder or s3:// prefix of weights, or `preview`; of several models the first is the default.

    Default: refiner or mini if installed, else preview.
    """
    clip: str = ""
    """Folder of a CLIP model (both halves, in transformers' layout); requests with `guidance.clip` are guided by it."""
    host: str = "127.0.0.1"
    port: int = 8000  # 0: any free port.
    device: str = "cpu"  # Device of the model, such as cpu or cuda.
    detector: Literal["", "mediapipe", "insightface"] = ""
    """Face detector: mediapipe, or the SCRFD of an InsightFace pack. Default: that of each model."""
    parser: Literal["", "selfie", "colours", "segformer", "bisenet"] = ""
    """Segmentation of the person: selfie, colours, or a network that you provide. Default: that of each model."""
    keys: str = ""  # File of API keys (`rigface serve key add`); required if the host is not loopback.
    fetch_urls: tuple[str, ...] = ()
    """URL prefixes that requests may name files from, such as https://bucket.s3.amazonaws.com/ ; with networks such
    as 10.0.0.0/8 if those have private addresses."""
    jobs: str | None = None
    """Folder or s3://bucket/prefix of the job queue, which videos need.

    Default: a folder of the user for this port; '': no jobs.
    """
    webhook_urls: tuple[str, ...] = ()
    """URL prefixes that webhooks about ended jobs may be sent to; needs RIGFACE_WEBHOOK_SECRET in the environment."""
    audit_log: str = ""
    """File of the audit log, a line per edit and preview; or a folder (`logs/`) that several machines share."""
    consent: str = ""  # List of people (`rigface serve enroll`): only their faces are edited. Empty: everyone's.
    deny: str = ""  # List of people whose faces are refused.
    identity: IdentityName = "dlib"
    """Network that recognises people on these lists: dlib's, or the ArcFace of a model pack (non-commercial)."""
    identity_folder: str = ""  # Folder of that pack; empty: $RIGFACE_ASSETS.
    same_person_distance: Annotated[float | None, arg(metavar="DISTANCE", help_behavior_hint="")] = None
    """Largest distance of two vectors of one person. Default: 0.6 for dlib; ArcFace's must be given, as it is not
    measured here."""
    edit_timeout_s: float = 120.0  # Time limit of an edit, seconds.
    traces: Literal["", "otlp", "console"] = ""
    """Send OpenTelemetry spans: `otlp` to OTEL_EXPORTER_OTLP_ENDPOINT, `console` to standard error."""

    def __post_init__(self) -> None:
        in_range(self, "[0, 65535]", "port")
        in_range(self, "(0, inf)", "edit_timeout_s", "same_person_distance")

    def run(self) -> None:
        if self.keys:
            api_keys.read(Path(self.keys))  # report an unreadable file here, not in the log of a replica
        port = free_port(self.host, self.port)
        with serving(self.host, port, **self._args(port)) as url:
            print(f"Editor: {url}/   API: {url}/openapi.json   stop: Ctrl-C", flush=True)
            stay()

    def _args(self, port: int) -> dict[str, Any]:
        jobs = str(Path.home() / ".local" / "share" / "rigface" / f"jobs-{port}") if self.jobs is None else self.jobs
        same = {name: value for name, value in vars(self).items() if name not in ("checkpoint", "host", "port")}
        first, *others = self.checkpoint or ("",)
        models = {name.rstrip("/").rpartition("/")[2]: name for name in others if name != PREVIEW}
        return same | {"jobs": jobs, "model": model_of(first), "models": models}


@dataclass(frozen=True)
class Demo:
    """Start the service, make one edit of a video or an image through HTTP, and print the address of the editor page.

    At a terminal the service runs until Ctrl-C. Elsewhere, as in CI, it stops.
    """

    source: Positional[Path]  # A video or an image that shows a face.
    out: Positional[Path] = Path("out/demo")  # Folder for the results.
    checkpoint: Annotated[str, arg(metavar="NAME", aliases=("--model",))] = ""  # As for `rigface serve`.
    port: int = 0  # 0: any free port.

    def __post_init__(self) -> None:
        in_range(self, "[0, 65535]", "port")

    def run(self) -> None:
        from serve.demo import show

        port = free_port("127.0.0.1", self.port)
        print("Starting the editing service; the first start takes about half a minute.", flush=True)
        with serving(port=port, quiet=True, model=model_of(self.checkpoint), jobs=str(self.out / "jobs")) as url:
            print(show(url, self.source, self.out), flush=True)
            if sys.stdin.isatty() and sys.stdout.isatty() and not os.environ.get("CI"):
                print("Open it in a browser. Ctrl-C stops the service.", flush=True)
                stay()
            else:
                again = f"{Path(sys.executable).parent / 'rigface'} serve"
                again += f" --checkpoint {self.checkpoint}" * bool(self.checkpoint)
                print(f"Not a terminal: stopping the service. To start it again:\n  {again}", flush=True)


def model_of(checkpoint: str) -> str:
    """Value of `ServiceConfig.model`; empty serves the preview only."""
    named = checkpoint or assets.default_model() or PREVIEW
    return "" if named == PREVIEW else named


def stay() -> None:
    """Block until SIGINT or SIGTERM."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    stop.wait()
    print("Letting requests finish.", flush=True)


@dataclass(frozen=True)
class KeyCommand:
    """Manage API keys. The file has hashes only, and may be changed while the service runs."""

    action: Positional[Literal["add", "rotate", "remove", "list", "secret"]]
    """`rotate` replaces the key and keeps its jobs; `secret` prints the secret that signs webhooks about them."""
    name: Positional[str] = ""
    file: Path = Path("keys.jsonl")
    scopes: tuple[str, ...] = field(default=("edit", "jobs", "verify"))
    """Any of edit, jobs, verify, and metrics (for Prometheus)."""
    rate: float = 20.0  # Requests a second, on average.
    burst: float = 0.0  # Requests at once after a pause; 0: three seconds of the rate.
    max_concurrent: int = 16  # Concurrent requests.

    def __post_init__(self) -> None:
        in_range(self, "(0, inf)", "rate")
        in_range(self, "[0, inf)", "burst")
        in_range(self, "[1, inf)", "max_concurrent")

    def run(self) -> None:
        if self.action == "add":
            burst = {"burst": self.burst} if self.burst else {}
            limits = {"rate": self.rate, "max_concurrent": self.max_concurrent, **burst}
            print(api_keys.add(self.file, self.name, self.scopes, **limits))
        elif self.action == "rotate":
            print(api_keys.rotate(self.file, self.name))
        elif self.action == "remove":
            api_keys.remove(self.file, self.name)
        elif self.action == "secret":
            from serve.jobs.webhook import SECRET_VARIABLE, secret_of

            if not os.environ.get(SECRET_VARIABLE):
                raise ValueError(f"{SECRET_VARIABLE} is not set in the environment")
            print(secret_of(api_keys.named(self.file, self.name).id, os.environ[SECRET_VARIABLE]))
        else:
            for key in api_keys.read(self.file):
                rates = f"{key.rate:g}/s\t{key.burst:g} burst\t{key.max_concurrent} concurrent"
                print(f"{key.name}\t{','.join(key.scopes)}\t{rates}")


@dataclass(frozen=True)
class EnrollCommand:
    """Manage lists of people for --consent and --deny: names and identity vectors, no pictures.

    Each picture shows one person; two or three, taken on different days, are better than one. Vectors are biometric
    data: get the person's permission, and keep the file private (only its owner may read it).

      rigface serve enroll anna anna1.jpg anna2.jpg --file consent.jsonl
      rigface serve enroll anna --remove --file consent.jsonl
      rigface serve enroll --file consent.jsonl                               list the people
    """

    name: Positional[str] = ""
    pictures: Positional[tuple[Path, ...]] = ()
    file: Path = Path("consent.jsonl")
    remove: bool = False  # Remove the person from the list.
    identity: IdentityName = "dlib"  # As for `rigface serve`; all people of a list are of one network.
    identity_folder: str = ""

    def run(self) -> None:
        if not self.name:
            for person in consent.read(self.file):
                print(f"{person.name}\t{len(person.vectors)} vectors")
            return
        if self.remove:
            if not consent.remove(self.file, self.name):
                raise ValueError(f"{self.file}: no {self.name!r}")
            return
        if not self.pictures:
            raise ValueError(f"give at least one picture of {self.name}")
        embed = consent.NetworkEmbedding(self.identity, self.identity_folder)
        consent.enroll(self.file, self.name, [_vector_of(path, embed) for path in self.pictures])
        print(f"{self.file}: added {len(self.pictures)} vectors of {self.name}.")


@dataclass(frozen=True)
class AuditCommand:
    """Check that no line of the audit log was changed, inserted or removed.

    Each line has the hash of the one before it. This does not detect a truncated end, a removed file, or a log that was
    rewritten as a whole: keep the printed hash elsewhere and give it to --contains the next time.

      rigface serve audit check audit.jsonl                    or a folder with a file per host
      rigface serve audit check audit.jsonl --contains HASH    and that a line with this hash is still there
    """

    action: Positional[Literal["check"]]
    path: Positional[Path]
    contains: str = ""  # Hash printed by an earlier check; in a folder, one file must contain it.

    def run(self) -> None:
        files, found = audit_log.files_of(self.path), not self.contains
        for path in files:
            result = audit_log.check(path, self.contains)
            broken = f"; {result.broken} incomplete lines, as after a crash" * bool(result.broken)
            print(f"{path}: {result.lines} intact lines, the last of {result.last}, hash {result.hash}{broken}")
            found = found or result.holds
        if not found:
            lost = "the log was truncated, removed or rewritten"
            raise ValueError(f"{self.path}: no line has the hash {self.contains}: {lost}")


def _vector_of(path: Path, embed: consent.EmbedFace) -> Any:
    from rigface.face.analyzer import FaceAnalyzer
    from rigface.video.sandbox import DecoderPool

    image = DecoderPool().picture(path.read_bytes())
    faces = FaceAnalyzer.load()(image)
    if len(faces) != 1:
        raise ValueError(f"{path}: want a picture of one person, got {len(faces) or 'no'} faces")
    vector = embed(image, faces[0])
    if vector is None:
        raise ValueError(f"{path}: the face is too small to be recognised")
    return vector


COMMANDS = {"key": KeyCommand, "enroll": EnrollCommand, "audit": AuditCommand, "demo": Demo}


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns 0, or 1 after an error."""
    repair_environment()
    words = list(sys.argv[1:] if argv is None else argv)
    kind: Any = COMMANDS.get(words[0] if words else "", Start)
    prog = "rigface serve" if kind is Start else f"rigface serve {words.pop(0)}"
    try:
        tyro.cli(kind, prog=prog, args=words).run()
    except Exception as error:
        sentence = str(error) if isinstance(error, ValueError) else sentence_of(error)
        if isinstance(error, BrokenPipeError) or sentence is None:
            raise
        print(f"rigface serve: {sentence}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    sys.exit(exit_code(main))
