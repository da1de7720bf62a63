"""Configuration of the extract job: frozen dataclasses, and presets as functions that return a whole config.

`rigface extract VIDEOS OUT --preset cluster --workers 64 --fps 2` takes the preset `cluster` and changes single fields.
The text beside or under a field is its help. `Settings` is *what to compute*: it is hashed into every unit of work, and
a dataset has one. Everything else is *how*, and may change from run to run on the same dataset. Nodes and quotas are
configured in infra/.
"""

import hashlib
import json
import math
import os
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Annotated, Any, Literal, Self

from tyro.conf import Suppress, arg

from rigface.errors import PlanError
from rigface.profile import PROFILES, CropRule
from rigface.ranges import in_range
from rigface.types import DetectorSpec, HeadSpec

OPENING = 4  # frames' work: what it costs to open an input, to find the chunk and to commit the rows
STAGES = ("detect_faces", "reconstruct", "mask_and_score", "write")
MODEL_FOLDERS = ("detector_folder", "identity_folder", "parser_folder", "head_folder")  # fields of `Settings`
FOLDERS = (*MODEL_FOLDERS, "root")  # fields of `Settings`: places, not content
UNHASHED = (*FOLDERS, "licence", "head's licence")  # a licence is a text beside the file whose hash is the version
PROFILED = ("detector", "parser", "reconstructor", "head", "expression_codes", "mask")  # fields that a profile sets
MODELS = ("identity", *PROFILED)  # fields of `Settings` that decide which networks are loaded


@dataclass(frozen=True)
class Settings:
    """Settings of the computation. Two datasets with the same settings have the same rows."""

    fps: float | Literal["all"] = 5.0
    """Frames sampled per second of video, or `all`. Neighbouring frames of a person are nearly alike."""
    small_faces: bool = False
    """Also search every frame in tiles, for faces down to about 24 px in a 4K frame. Several times slower."""
    detector: Literal["mediapipe", "insightface", "fake"] = "mediapipe"
    """Face detector. `mediapipe` runs on GPUs with --detect-faces.gpus. `insightface`: the SCRFD of a model pack that
    you provide; MediaPipe's landmarker then runs on each face, since the head is fitted to its 478 points."""
    detector_folder: str = ""  # Model pack of the detector `insightface`; empty: searched for in $RIGFACE_ASSETS.
    identity: Literal["dlib", "arcface", "none", "fake"] = "dlib"
    """Face recognition network, run on a few frames of each track: dlib (128 numbers), or the ArcFace of a model pack
    that you provide (512)."""
    identity_folder: str = ""
    """Model pack of `arcface`; empty: that of the detector, else searched for in $RIGFACE_ASSETS."""
    parser: Literal["colours", "selfie", "segformer", "bisenet", "fake"] = "colours"
    """Segmentation for the mask: `colours` (3 ms), `selfie` (a network that ships, with soft edges, 26 ms; that of
    edits), or a network for face parsing that you provide: a SegFormer (0.5 s a face on one core for the size b0, 3 s
    for b5) or BiSeNet."""
    parser_folder: str = ""
    """Folder of the SegFormer (config.json, model.safetensors), file of BiSeNet; empty: the assets folder."""
    reconstructor: str = "fit"
    """Method that turns crops into coefficients: `fit`, least squares on the detector's landmarks and the colours, or a
    network that you provide and that reads FLAME's: `deca`, `emoca`, `smirk`."""
    head: str = "open"
    """Head model to fit: `open`, or `flame` or `basel`, whose files you provide; networks take `flame`."""
    chunk_frames: int = 300
    """Maximum of sampled frames per unit of work. Longer videos are cut, and their tracks joined again at the end."""
    jpeg_quality: int = 92  # JPEG quality of the stored crops.
    root: str = ""
    """Folder or s3:// prefix that all inputs lie below. The dataset holds their paths from there, so that it is
    continued with the root of another mount. Empty: absolute paths."""
    head_folder: str = ""
    """Folder of FLAME's files or one model in it, or the Basel model's file; empty: the assets folder."""
    shape: int = 100  # Shape coefficients of FLAME, 1-300.
    expression: int = 50  # Expression coefficients of FLAME, 1-100.
    refine: int = 0
    """Steps on colours and landmarks that improve each face after the reconstructor; about 2 ms each on one core."""
    half: bool = False
    """Let `deca` and `emoca` compute in bfloat16: on processors that have it twice as fast, codes within 1 %."""
    expression_codes: Literal["none", "d3dfr", "deep3d"] = "none"
    """Network, which you provide, of the Basel model's expression codes (column `bfm_expression`)."""
    mask: Literal["person-without-clothes", "everything"] = "person-without-clothes"
    """Classes that the mask holds; everything but the background needs a network as parser."""
    profile: Literal["own", "rigface"] = "own"
    """Models and rules of a trained model, as defaults of the flags above; rigface: those of the released RigFace
    weights, DECA on FLAME with d3dfr's codes and BiSeNet's masks."""

    columns: str = ""
    """Columns of OUT/faces to compute and keep, separated by commas, beside those that name a face (uri, frame_index,
    time_s, track, status, reason, box); empty: all. What nobody needs is not computed: masks, say, or light."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "columns", ",".join(sorted(set(self.columns.replace(" ", "").split(",")) - {""})))
        if not self.wants("identity_vector"):
            object.__setattr__(self, "identity", "none")
        for name in PROFILED if self.profile != "own" else ():
            if getattr(self, name) == getattr(Settings, name):
                object.__setattr__(self, name, getattr(PROFILES[self.profile], name))
        if self.root:
            is_s3 = self.root.startswith("s3://")
            root = self.root.rstrip("/") if is_s3 else os.path.abspath(os.path.expanduser(self.root))
            object.__setattr__(self, "root", root)
        if self.fps != "all":
            if not 0 < float(self.fps) <= 1000:
                raise PlanError(f"fps: want a number above 0 (at most 1000) or `all`, got {self.fps}")
            object.__setattr__(self, "fps", float(self.fps))  # 5 and 5.0 are one setting and one hash
        if self.reconstructor not in ("fit", "fake") and self.head == "open":
            object.__setattr__(self, "head", "flame")
        in_range(self, "[1, inf)", "chunk_frames")
        in_range(self, "[1, 100]", "jpeg_quality", "expression")
        in_range(self, "[1, 300]", "shape")
        in_range(self, "[0, 1000]", "refine")

    @property
    def kept(self) -> tuple[str, ...]:
        """The columns asked for; none: all."""
        return tuple(filter(None, self.columns.split(",")))

    def wants(self, *columns: str) -> bool:
        """True if one of these columns is to be kept, or all are."""
        return not self.columns or not set(columns).isdisjoint(self.kept)

    @property
    def crop_rule(self) -> CropRule:
        """The square that is cut around a face."""
        return PROFILES[self.profile].crop

    @property
    def rate(self) -> float | None:
        """Frames per second as `rigface.video.decode` wants it: None for every frame."""
        return None if self.fps == "all" else float(self.fps)


@dataclass(frozen=True)
class Pool:
    """The actors of one stage."""

    actors: int = 1  # Number of actors at the start.
    max_actors: int = 0  # Limit of autoscaling while the queue is long; 0: no autoscaling.
    cpus: float = 1.0  # Ray CPUs of each actor; may be a fraction.
    gpus: float = 0.0  # Ray GPUs of each actor. Above 0 the stage runs on CUDA.
    memory_gb: float = 0.0  # Memory that Ray reserves for each actor; 0: none.
    shared: bool = False
    """Run in the actors of the stage before: nothing is copied between the two, and crops are decoded once."""

    def __post_init__(self) -> None:
        if self.actors < 1 or (self.max_actors and self.max_actors < self.actors):
            raise PlanError(f"a pool needs actors >= 1 and max_actors = 0 or >= actors, got {self}")
        in_range(self, "[0, inf)", "cpus", "gpus", "memory_gb", "max_actors")

    def divided(self, jobs: int) -> Self:
        """The share of one of so many jobs."""
        return replace(self, actors=max(1, self.actors // jobs), max_actors=math.ceil(self.max_actors / jobs))


@dataclass(frozen=True)
class ExtractConfig:
    """One run of the extract job."""

    videos: Suppress[tuple[str, ...]]
    """Folders, globs, list files (.txt, one path a line), single files, or s3:// prefixes."""
    out: Suppress[str]  # Folder or s3:// prefix of the dataset. A run on an existing dataset continues it.
    settings: Annotated[Settings, arg(name="")] = field(default_factory=Settings)
    detect_faces: Pool = field(default_factory=Pool)
    reconstruct: Pool = field(default_factory=Pool)
    mask_and_score: Pool = field(default_factory=Pool)
    write: Pool = field(default_factory=Pool)
    address: str = ""
    """Ray cluster to join (`auto` or host:port). Empty: that of RAY_ADDRESS, else a local cluster is started."""
    in_process: Literal["auto", "always", "never"] = "auto"
    """Run without Ray, in this process. auto: a few photos or a short clip, unless --workers or --address are given."""
    object_store_mb: int = 500  # Shared memory of a local cluster.
    overwrite: bool = False  # Delete the dataset in OUT and start again.
    retry_errors: bool = False  # Retry inputs that ended as an error in an earlier run.
    identities: bool = True  # Cluster identities across inputs at the end.
    shard: str = ""
    """Do the share I of N of the inputs, as `--shard I/N`: several such runs write to one OUT at once, each on its
    own inputs. They only add; a last run without --shard does what they left, clusters identities and checks all."""
    shard_frames: int = 300
    """Work that one object of OUT/faces holds, in sampled frames: short inputs are bundled. Small jobs have smaller
    ones, so that every worker gets some."""
    silence_s: float = 120.0  # Stop a decoder that makes no progress for so long.
    stall_s: float = 1800.0  # End the job if no unit of work finishes for so long.

    def __post_init__(self) -> None:
        if not self.videos:
            raise PlanError("nothing to do: name a folder, a file, a glob, a list file or an s3:// prefix before OUT")
        if self.detect_faces.shared:
            raise PlanError("detect_faces is the first stage: there are no earlier actors to share")
        if self.detect_faces.gpus and self.settings.detector != "mediapipe":
            raise PlanError(f"detect_faces.gpus: the detector {self.settings.detector} runs on CPUs; set it to 0")
        in_range(self, "(0, inf)", "silence_s", "stall_s")
        in_range(self, "[80, inf)", "object_store_mb")
        in_range(self, "[1, inf)", "shard_frames")
        if self.shard:
            number, _, count = self.shard.partition("/")
            if not (number.isdigit() and count.isdigit() and 1 <= int(number) <= int(count)):
                raise PlanError(f"--shard: want I/N with I from 1 to N, such as 2/8, got {self.shard!r}")
            if self.overwrite or self.retry_errors:
                raise PlanError("--overwrite and --retry-errors change what is there: use them without --shard")

    @property
    def part(self) -> str:
        """The part of the dataset that this run locks, as in `lock.hold`; empty: all of it."""
        return self.shard.replace("/", "-of-")

    def is_mine(self, uri: str) -> bool:
        """True if an input is of this run's share."""
        number, _, count = self.shard.partition("/")
        return not self.shard or zlib.crc32(uri.encode()) % int(count) == int(number) - 1

    @property
    def pools(self) -> list[tuple[tuple[str, ...], Pool]]:
        """Stages grouped by shared actors, such as [(("detect_faces",), pool), (("reconstruct", "write"), pool)]."""
        groups: list[tuple[tuple[str, ...], Pool]] = []
        for name in STAGES:
            pool: Pool = getattr(self, name)
            if pool.shared:
                groups[-1] = ((*groups[-1][0], name), groups[-1][1])
            else:
                groups.append(((name,), pool))
        return groups

    def grown(self, resources: Mapping[str, float], shards: int) -> Self:
        """The configuration for a later group of so many shards: pools start as large as they may grow, on at most half
        of a cluster with these resources (in Ray's words, shared with other drivers), not as small as at first.
        """
        pools = {name: getattr(self, name) for name in STAGES}
        own = [pool for _, pool in self.pools]
        wanted = {
            "CPU": sum(pool.max_actors * pool.cpus for pool in own),
            "GPU": sum(pool.max_actors * pool.gpus for pool in own),
            "memory": sum(pool.max_actors * pool.memory_gb * 2**30 for pool in own),
        }
        drivers = int(self.shard.partition("/")[2] or 1)
        shares = [resources.get(kind, 0.0) / (2 * drivers * amount) for kind, amount in wanted.items() if amount]
        limits = {name: min(int(min([1.0, *shares]) * pool.max_actors), shards // 4) for name, pool in pools.items()}
        return replace(self, **{n: replace(pool, actors=max(pool.actors, limits[n])) for n, pool in pools.items()})

    @property
    def cpus(self) -> float:
        """Ray CPUs of all pools at their start."""
        return sum(pool.actors * pool.cpus for _, pool in self.pools)


def laptop(videos: tuple[str, ...] = (), out: str = "", workers: int = 0) -> ExtractConfig:
    """This machine: a detect_faces actor per core, half as many for the other stages, which share actors."""
    cores = workers or os.cpu_count() or 1
    return ExtractConfig(
        videos or ("VIDEOS",),
        out,
        detect_faces=Pool(actors=cores, cpus=0.5),
        reconstruct=Pool(actors=max(cores // 2, 1), cpus=0.5),
        mask_and_score=Pool(shared=True),
        write=Pool(shared=True),
    )


def debug(videos: tuple[str, ...] = (), out: str = "", workers: int = 0) -> ExtractConfig:
    """Fake models, chunks of 8 frames and shards of 40: the whole job in seconds."""
    return ExtractConfig(
        videos or ("VIDEOS",),
        out,
        settings=Settings(
            "all", False, "fake", identity="fake", parser="fake", reconstructor="fake", head="fake", chunk_frames=8
        ),
        detect_faces=Pool(actors=workers or 1, cpus=0.5),
        reconstruct=Pool(cpus=0.5),
        mask_and_score=Pool(shared=True),
        write=Pool(shared=True),
        object_store_mb=100,
        shard_frames=40,
    )


def cluster(videos: tuple[str, ...] = (), out: str = "", workers: int = 0) -> ExtractConfig:
    """A Ray cluster that autoscales: at most `workers` detect_faces actors, one pool per stage."""
    largest = workers or 64
    return ExtractConfig(
        videos or ("VIDEOS",),
        out,
        detect_faces=Pool(actors=min(4, largest), max_actors=largest, cpus=1, memory_gb=2),
        reconstruct=Pool(actors=1, max_actors=max(largest // 4, 1), cpus=1, memory_gb=2),
        mask_and_score=Pool(actors=1, max_actors=max(largest // 2, 1), cpus=1, memory_gb=2),
        write=Pool(actors=1, max_actors=max(largest // 4, 1), cpus=0.25, memory_gb=1),
        address="auto",
    )


PRESETS = {preset.__name__: preset for preset in (laptop, debug, cluster)}


def config_hash(settings: Settings, head: HeadSpec, detector: DetectorSpec) -> str:
    """Hash of all that decides the content of a row: settings, head model, detector.

    Folders are left out, because the versions of the models name their content. A field that is added to one of these
    classes (at its end) is left out at its default. So neither a remount nor an upgrade changes the hash.
    """
    described = json.dumps([_hashed(settings, 12), _hashed(head, 6), _hashed(detector, 7)], sort_keys=True)
    return hashlib.sha256(described.encode()).hexdigest()[:16]


def _hashed(value: Settings | HeadSpec | DetectorSpec, first: int) -> dict[str, Any]:
    later = {f.name: f.default for f in fields(value)[first:]}
    everything = {name: "" if name in UNHASHED else v for name, v in asdict(value).items()}
    return {name: v for name, v in everything.items() if name not in later or v != later[name]}


def differences(now: dict, before: dict) -> list[str]:
    """Changed values between two settings (as flat dicts), as `fps: 5.0 -> 2.0`; folders do not count."""
    return [
        f"{name}: {before.get(name)!r} -> {now.get(name)!r}"
        for name in sorted({*now, *before} - set(UNHASHED))
        if now.get(name) != before.get(name)
    ]
