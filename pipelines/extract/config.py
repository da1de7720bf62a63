"""What a job can be told. Frozen dataclasses; a preset is a function that returns a whole config.

`rigface extract VIDEOS OUT --preset cluster --workers 64 --fps 2` takes the preset `cluster` and changes single fields.
The string under a field is its help text. `Settings` is *what to compute*: it is hashed into every unit of work, and a
dataset has one. Everything else is *how*, and may change from run to run on the same dataset. Where a job runs (nodes,
images, quotas) is not here: it is in infra/.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass, field, fields
from typing import Annotated, Literal

from tyro.conf import Suppress, arg

from rigface.errors import PlanError
from rigface.types import DetectorSpec, HeadSpec

STAGES = ("look", "reconstruct", "finish", "write")


@dataclass(frozen=True)
class Settings:
    """What to compute. Two datasets with the same settings have the same rows."""

    fps: float | Literal["all"] = 5.0
    """Frames looked at per second of video, or `all`. Neighbouring frames of one person say nearly the same thing."""
    small_faces: bool = False
    """Look at every frame a second time in tiles, for faces down to about 24 px in a 4K frame. Several times slower."""
    detector: Literal["mediapipe", "insightface", "fake"] = "mediapipe"
    """Who finds faces. `insightface`: the SCRFD of a model pack you have; MediaPipe's landmarker then looks at each face, since
    the head is fitted to its 478 points."""
    detector_folder: str = ""
    """Model pack of the detector `insightface`; empty: looked for in $RIGFACE_ASSETS."""
    identity: Literal["dlib", "arcface", "none", "fake"] = "dlib"
    """Network that says who somebody is, run on a few frames of each track: dlib's 128 numbers, or 512 of the ArcFace of a model
    pack you have."""
    identity_folder: str = ""
    """Model pack of `arcface`; empty: that of the detector, else looked for in $RIGFACE_ASSETS."""
    parser: Literal["colours", "segformer", "fake"] = "colours"
    """Who draws the mask: `colours` (3 ms), or a SegFormer trained for face parsing that you have (0.5 s a face on one core for the
    size b0, 3 s for b5)."""
    parser_folder: str = ""
    """Folder of the SegFormer (config.json, model.safetensors); empty: looked for in $RIGFACE_ASSETS."""
    reconstructor: str = "fit"
    """How crops become coefficients: `fit`, closed-form fitting."""
    head: str = "open"
    """Head model that is fitted: `open`. FLAME can be loaded and rendered from Python (`rigface.face.head.flame`), and not be fitted."""
    chunk_frames: int = 300
    """Looked-at frames per unit of work, at most. Longer videos are cut, their tracks joined again at the end."""
    jpeg_quality: int = 92
    """Of the stored crops."""

    def __post_init__(self) -> None:
        if self.fps != "all":
            if not 0 < float(self.fps) <= 1000:
                raise PlanError(f"fps: want a number above 0 (at most 1000) or `all`, got {self.fps}")
            object.__setattr__(self, "fps", float(self.fps))  # 5 and 5.0 are one setting and one hash
        if self.chunk_frames < 1:
            raise PlanError(f"chunk_frames: want at least 1, got {self.chunk_frames}")
        if not 1 <= self.jpeg_quality <= 100:
            raise PlanError(f"jpeg_quality: want 1 to 100, got {self.jpeg_quality}")

    @property
    def rate(self) -> float | None:
        """Frames per second as `rigface.video.decode` wants it: None for every frame."""
        return None if self.fps == "all" else float(self.fps)


@dataclass(frozen=True)
class Pool:
    """The actors of one stage."""

    actors: int = 1
    """How many start."""
    most: int = 0
    """How many it may grow to while its queue is long; 0: it does not grow."""
    cpus: float = 1.0
    """Ray CPUs each takes; it may be a fraction."""
    gpus: float = 0.0
    """Ray GPUs each takes. Above 0 the stage computes on CUDA."""
    memory_gb: float = 0.0
    """Memory each asks of the scheduler; 0: none, nothing is reserved."""
    shared: bool = False
    """Run in the actors of the stage before. Nothing is copied between the two, and pictures are decoded once."""

    def __post_init__(self) -> None:
        if self.actors < 1 or (self.most and self.most < self.actors):
            raise PlanError(
                f"a pool wants actors >= 1 and most = 0 or >= actors, got actors={self.actors}, most={self.most}"
            )
        if self.cpus < 0 or self.gpus < 0 or self.memory_gb < 0:
            raise PlanError(
                f"a pool cannot take less than nothing: cpus={self.cpus}, gpus={self.gpus}, memory_gb={self.memory_gb}"
            )


@dataclass(frozen=True)
class Extract:
    """One run of the main job."""

    videos: Suppress[tuple[str, ...]]
    """Folders, globs, list files (.txt, one path a line), single files, or s3:// prefixes."""
    out: Suppress[str]
    """Folder or s3:// prefix of the dataset. A run on an existing one goes on where it stopped."""
    settings: Annotated[Settings, arg(name="")] = field(default_factory=Settings)
    look: Pool = field(default_factory=Pool)
    reconstruct: Pool = field(default_factory=Pool)
    finish: Pool = field(default_factory=Pool)
    write: Pool = field(default_factory=Pool)
    address: str = ""
    """Ray cluster to join (`auto` or host:port). Empty: the one in RAY_ADDRESS, else one is started here."""
    object_store_mb: int = 500
    """Shared memory of a cluster that is started here."""
    overwrite: bool = False
    """Throw away what is in OUT and begin again."""
    retry_errors: bool = False
    """Try again what ended as an error in an earlier run."""
    identities: bool = True
    """Say at the end who is who across inputs."""
    silence_s: float = 120.0
    """A decoder that says nothing for so long is taken for hung, and stopped."""
    stall_s: float = 1800.0
    """The job gives up when no unit of work moves for so long."""

    def __post_init__(self) -> None:
        if not self.videos:
            raise PlanError("nothing to do: name a folder, a file, a glob, a list file or an s3:// prefix before OUT")
        if self.look.shared:
            raise PlanError("look is the first stage: there are no actors it could share")
        if self.look.gpus:
            raise PlanError("look runs on CPUs (decoder and landmarker): set look.gpus to 0")
        if self.silence_s <= 0 or self.stall_s <= 0 or self.object_store_mb < 80:
            raise PlanError("silence_s and stall_s must be above 0, object_store_mb at least 80")

    @property
    def pools(self) -> list[tuple[tuple[str, ...], Pool]]:
        """Stages grouped by the actors they share: [(("look",), pool), (("reconstruct", "finish", "write"), pool)]."""
        groups: list[tuple[tuple[str, ...], Pool]] = []
        for name in STAGES:
            pool: Pool = getattr(self, name)
            if pool.shared:
                groups[-1] = ((*groups[-1][0], name), groups[-1][1])
            else:
                groups.append(((name,), pool))
        return groups

    @property
    def cpus(self) -> float:
        """Ray CPUs that all pools take when they start."""
        return sum(pool.actors * pool.cpus for _, pool in self.pools)


def laptop(videos: tuple[str, ...] = (), out: str = "", workers: int = 0) -> Extract:
    """This machine: a looking actor per core, half as many for the rest, nothing copied between the last three."""
    cores = workers or os.cpu_count() or 1
    return Extract(
        videos or ("VIDEOS",),
        out,
        look=Pool(actors=cores, cpus=0.5),
        reconstruct=Pool(actors=max(cores // 2, 1), cpus=0.5),
        finish=Pool(shared=True),
        write=Pool(shared=True),
    )


def debug(videos: tuple[str, ...] = (), out: str = "", workers: int = 0) -> Extract:
    """Fakes at every boundary, chunks of 8 frames: the whole job in seconds, without any model."""
    return Extract(
        videos or ("VIDEOS",),
        out,
        settings=Settings(
            fps="all",
            detector="fake",
            identity="fake",
            reconstructor="fake",
            head="fake",
            parser="fake",
            chunk_frames=8,
        ),
        look=Pool(actors=workers or 1, cpus=0.5),
        reconstruct=Pool(cpus=0.5),
        finish=Pool(shared=True),
        write=Pool(shared=True),
        object_store_mb=100,
    )


def cluster(videos: tuple[str, ...] = (), out: str = "", workers: int = 0) -> Extract:
    """A Ray cluster that grows: `workers` lookers at most, one pool per stage."""
    most = workers or 64
    half, fourth = max(most // 2, 1), max(most // 4, 1)
    return Extract(
        videos or ("VIDEOS",),
        out,
        look=Pool(actors=min(4, most), most=most, cpus=1, memory_gb=2),
        reconstruct=Pool(actors=1, most=fourth, cpus=1, memory_gb=2),
        finish=Pool(actors=1, most=half, cpus=1, memory_gb=2),
        write=Pool(actors=1, most=fourth, cpus=0.25, memory_gb=1),
        address="auto",
    )


PRESETS = {preset.__name__: preset for preset in (laptop, debug, cluster)}


def config_hash(settings: Settings, head: HeadSpec, detector: DetectorSpec) -> str:
    """A name for everything that decides what a row holds: settings, head model, detector."""
    described = json.dumps([asdict(settings), asdict(head), asdict(detector)], sort_keys=True)
    return hashlib.sha256(described.encode()).hexdigest()[:16]


def differences(now: dict, before: dict) -> list[str]:
    """What changed between two settings (as dicts, one level deep), as `fps: 5.0 -> 2.0`."""
    return [
        f"{name}: {before.get(name)!r} -> {now.get(name)!r}"
        for name in sorted({*now, *before})
        if now.get(name) != before.get(name)
    ]


def settings_of(described: dict) -> Settings:
    """Settings back from JSON; fields this version does not know are left out."""
    known = {f.name for f in fields(Settings)}
    return Settings(**{k: v for k, v in described.items() if k in known})
