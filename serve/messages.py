"""Messages between the gateway, the workers and the job queue."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rigface.edits import EditSpec, EditWarning, FaceEdit, RegionPrompt, record_of
from rigface.types import Conditions
from serve.schemas import AnimationJob, BatchJob, FaceRequest, Format, VideoJob


@dataclass(frozen=True)
class EditInput:
    """Edits of one picture, with its images by content hash."""

    picture: str
    edits: tuple[FaceEdit[str], ...] = (FaceEdit(),)  # their targets by hash
    pictures: dict[str, bytes | None] = field(default_factory=dict)  # by hash; None: the receiver has it cached
    max_side: int = 1024

    @property
    def is_nothing(self) -> bool:
        """True if the result is the source."""
        return all(one.edit.is_nothing for one in self.edits)

    def record(self) -> dict[str, Any]:
        """The edits as plain JSON values, with the hashes of the pictures that traits are copied from."""
        return edit_record(self.edits)


def edit_record(edits: Sequence[FaceEdit[str]]) -> dict[str, Any]:
    """Edits for manifests and the audit log: `edit` and `from`, or of several faces the list `faces`."""
    record = record_of(edits)
    for one, row in zip(edits, record.get("faces", [record])):
        row["from"] = dict(one.targets) | ({"mask": one.mask} if one.mask else {})
    return record


@dataclass(frozen=True)
class JobSubmission:
    """A job with its files by content hash."""

    asked: BatchJob | VideoJob | AnimationJob  # the request without its files
    files: dict[str, bytes]  # by hash
    picture: str = ""  # hash; empty if the kind of job has none
    clip: str = ""  # likewise
    traits: dict[str, str] = field(default_factory=dict)
    """Trait, or `mask`, -> hash of its picture; of several faces `<n>.<trait>`, from 0."""


def stored_pictures(edits: Sequence[FaceEdit[str]]) -> dict[str, str]:
    """The `traits` of a submission with several faces."""
    return {
        f"{n}.{name}": picture
        for n, one in enumerate(edits)
        for name, picture in edit_record([one])["from"].items()
    }  # fmt: skip


def batch_edits(asked: BatchJob, number: int, traits: Mapping[str, str]) -> tuple[FaceEdit[str], ...]:
    """The edits that make one result of a batch, by its request and the `traits` of its submission."""
    one, pictures = asked.edits[number], dict(traits)
    mask = pictures.pop("mask", None)
    faces = [(asked.face, one)] if isinstance(one, EditSpec) else [(each.face, each.edit) for each in one.faces]
    return tuple(FaceEdit(face, edit, {t: pictures[t] for t in edit.take}, mask) for face, edit in faces)


def video_edits(asked: VideoJob, traits: Mapping[str, str]) -> list[FaceEdit[str]]:
    """The edits of a video by its request and the `traits` of its submission."""
    own: list[dict[Any, str]] = [{} for _ in asked.faces] or [dict(traits)]
    for key, name in traits.items() if asked.faces else ():
        number, trait = key.split(".")
        own[int(number)][trait] = name
    masks = [pictures.pop("mask", None) for pictures in own]
    ones: list[FaceRequest | VideoJob] = [*asked.faces] or [asked]
    return [FaceEdit(one.face, one.edit, names, mask) for one, names, mask in zip(ones, own, masks)]


@dataclass(frozen=True)
class SamplingOptions:
    """Settings of the sampler for one image."""

    seed: int = 0
    steps: int | None = None
    scheduler: str | None = None
    identity_scale: float = 1.0
    attribute_scale: float = 1.0
    text_scale: float = 1.0
    strength: float = 1.0
    prompt: str | None = None
    clip_scale: float = 0.0  # guidance of the prompts by CLIP; 0: none


@dataclass(frozen=True)
class OutputOptions:
    """Encoding of a result, and the record that its manifest gets. `quality` is for JPEG and WebP."""

    format: Format = "png"
    record: dict[str, Any] = field(default_factory=dict)
    quality: int = 94


@dataclass(frozen=True, eq=False)
class SampleRequest:
    """An image to sample."""

    model: str
    conditions: Conditions
    options: SamplingOptions = SamplingOptions()
    previews: int | None = None  # steps between two previews, 0 for none; None also for no `Step` events
    timeout_s: float = 120.0
    regions: Sequence[RegionPrompt] = ()


@dataclass(frozen=True, eq=False)
class ModelEdit:
    """An edit by a model."""

    edit_input: EditInput
    output_options: OutputOptions
    model: str
    options: SamplingOptions = SamplingOptions()  # of the first face; each further face has the next seed
    previews: int | None = None  # steps between two previews, 0 for none; None also for no progress events
    timeout_s: float = 120.0  # of the sampling of each face


@dataclass(frozen=True, eq=False)
class ComposedEdit:
    """The model's conditions of each edited face, in the order of `asked`."""

    conditions: list[Conditions]
    asked: list[dict[str, float]]
    prompts: list[str]
    regions: list[list[RegionPrompt]]


@dataclass(frozen=True, eq=False)
class Step:
    """`step` of `steps` are done; `preview` (S, S, 3) uint8 is the image denoised so far, if it was requested."""

    step: int
    steps: int
    preview: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class SampledImage:
    """A sampled image, (S, S, 3) uint8."""

    image: np.ndarray
    queue_s: float  # before sampling began
    sampling_s: float
    batch_rows: int  # the largest number of rows in a step of its batch, its own included


@dataclass(frozen=True, eq=False)
class Preview:
    """An encoded preview; requested values per edited face, and seconds by phase."""

    data: bytes
    asked: list[dict[str, float]]
    seconds: dict[str, float]
    warnings: list[list[EditWarning]] = field(default_factory=list)  # per edited face


@dataclass(frozen=True, eq=False)
class FinishedEdit:
    """An encoded edit with the requested and measured values per edited face; None if the face is not found again."""

    data: bytes
    asked: list[dict[str, float]]
    achieved: list[dict[str, float] | None]
    warnings: list[list[EditWarning]] = field(default_factory=list)  # per edited face


@dataclass(frozen=True, eq=False)
class EditedImage:
    """The end of an edit by a model; seconds by phase."""

    finished: FinishedEdit
    seconds: dict[str, float]


@dataclass(frozen=True)
class ResultRequest:
    """A request for a result of a job."""

    number: int
    through: bool = False  # bytes, even if the operator allows redirects to the bucket
    byte_range: str = ""  # a Range header of HTTP
    with_data: bool = True  # False: for HEAD


@dataclass(frozen=True, eq=False)
class JobResult:
    """A result of a job: the bytes asked for, or the `location` where they can be fetched."""

    data: bytes
    media_type: str
    headers: dict[str, str] = field(default_factory=dict)
    part: tuple[int, int, int] = (0, 0, 0)  # start, end and size of the whole, bytes
    location: str = ""
