"""Request and response types of the HTTP API. Edits derive from `rigface.edits.EditSpec`: a field added there is here.

Used by the gateway and by the client. No torch, no Ray, no pixels.

A body is JSON, or multipart: the files are parts (`picture`, `clip`, `target`, `target.<trait>`; for one of several
faces `faces.<n>.target` ...), the rest is JSON in the part `request`. A file may also be named in the JSON instead,
by `PictureRef` or `ClipRef`.

Files are required in the document and optional in the models, because they may be parts of the form.
"""

from typing import Annotated, Any, Literal, Self, TypeVar

import pydantic
from pydantic import BaseModel, ConfigDict, Field

from rigface.edits import MAX_FACE_EDITS, EditSpec, Trait
from serve.edit_schema import Edit
from serve.problems import KNOWN, PREFIX

API_VERSION = "1"
PictureId = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$", description="content hash of a picture sent before")]
Format = Literal["png", "jpeg", "webp"]
Values = dict[str, float]
FaceChoice = Literal["largest", "left-most", "right-most", "all"] | Annotated[int, Field(ge=0, le=999)]
"""A face of a picture; a number counts from the left."""


_ID: dict[str, Any] = {"id": "sha256:" + "5f" * 32}
_CLIP: dict[str, Any] = {"url": "https://bucket.example.com/clip.mp4?signed"}
_EDIT: dict[str, Any] = {"yaw_deg": 15, "expression": {"smile": 0.6}, "light": {"azimuth_deg": 50}}


def _documented(*required: str, **example: Any) -> ConfigDict:
    """Required fields and an example for the JSON schema."""
    return ConfigDict(json_schema_extra={"required": list(required), "examples": [example]})


class Strict(BaseModel):
    """Base of requests: no unknown fields, no infinite numbers."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


def _one_field(schema: dict[str, Any]) -> None:
    """Say in the JSON schema that exactly one field is given."""
    schema |= {"minProperties": 1, "maxProperties": 1}
    for field in schema["properties"].values():
        field |= next(kind for kind in field.pop("anyOf") if kind != {"type": "null"})
        field.pop("default", None)


class ClipRef(Strict):
    """A video: its bytes, or an address in an object store that the operator allows."""

    model_config = ConfigDict(json_schema_extra=_one_field)

    base64: str | None = Field(None, description="the file, base64")
    url: str | None = Field(None, max_length=4096, description="a pre-signed address on the operator's allow-list")

    @pydantic.model_validator(mode="after")
    def _given_once(self) -> Self:
        fields = type(self).model_fields
        if sum(getattr(self, name) is not None for name in fields) != 1:
            raise ValueError(f"give one of {', '.join(fields)}")
        return self


class PictureRef(ClipRef):
    """A picture: its content hash, or its bytes, or an address in an object store that the operator allows."""

    id: PictureId | None = None


Picture = Annotated[PictureRef | None, Field(description="the source; in multipart the file part `picture`")]
Clip = Annotated[ClipRef | None, Field(description="the source or driving video; in multipart the file part `clip`")]
Scale = Annotated[float, Field(ge=0, le=5)]


class Guidance(Strict):
    """Guidance scale of each condition; 1 is off, any other value costs one more row of the batch."""

    identity: Scale = 1.0
    attributes: Scale = 1.0
    text: Scale = 1.0
    clip: Annotated[Scale, Field(description="by the service's CLIP model, also of models that read no text")] = 0.0


class PictureRequest(Strict):
    """A picture. In a multipart request the pictures are parts and this is the part `request`."""

    model_config = _documented("picture", picture={"base64": "iVBORw0KGgo="})

    picture: Picture = None
    face: FaceChoice = "largest"


class Targets(Strict):
    """Pictures that traits are copied from."""

    target: PictureRef | None = Field(None, description="picture to copy the taken traits from; multipart: `target`")
    targets: dict[Trait, PictureRef] = Field(
        default_factory=dict, description="a picture for one trait, which is then taken; multipart: `target.<trait>`"
    )


MASK = Field(None, description="bounds the edit to its white parts, at any size; multipart: `mask`")


class FaceRequest(Targets):
    """The edit of one face of several; its pictures precede those of the request."""

    model_config = _documented("edit", face=1, edit=_EDIT)

    face: FaceChoice = Field("largest", description="`all`: every face that has no edit of its own")
    edit: Edit = Field(default_factory=EditSpec)
    mask: PictureRef | None = MASK


class FaceEdits(Targets):
    """One edit, or several, each of its own face."""

    face: FaceChoice = "largest"
    edit: Edit = Field(default_factory=EditSpec)
    mask: PictureRef | None = MASK
    faces: list[FaceRequest] = Field(
        [], max_length=MAX_FACE_EDITS, description="several faces, each with its own edit, instead of `face` and `edit`"
    )

    @pydantic.model_validator(mode="after")
    def _either(self) -> Self:
        if self.faces and (self.face, self.edit) != ("largest", EditSpec()):
            raise ValueError("faces: give the edits of several faces, or face and edit, not both")
        return self


class VideoOutput(Strict):
    """Encoding of a result video."""

    container: Literal["mp4", "mov"] = "mp4"  # those that a C2PA manifest can be written into
    silent: bool = Field(False, description="drop the sound")


class PreviewRequest(PictureRequest, FaceEdits):
    """A picture and an edit of it."""

    model_config = _documented("picture", picture=_ID, edit=_EDIT, max_side=512)

    max_side: int = Field(1024, ge=64, le=4096, description="longest side of a preview, px")


class Sampling(Strict):
    """Settings of the model and its sampler."""

    model: str | None = Field(None, max_length=100, description="a name of /v1/models; default: the service's default")
    seed: int = Field(0, ge=0, lt=2**63)
    steps: int | None = Field(None, ge=1, le=100)
    scheduler: str | None = Field(None, max_length=60)
    guidance: Guidance = Guidance()
    strength: float = Field(1.0, gt=0, le=1, description="below 1, sampling starts from the partly noised render")


class EditRequest(PreviewRequest, Sampling):
    """The fields of a preview, and settings of the model."""

    model_config = _documented("picture", picture=_ID, edit=_EDIT, seed=7, format="jpeg")

    previews: int = Field(0, ge=0, le=100, description="in a stream: steps between preview images; 0 sends none")
    format: Format | None = Field(None, description="of the image in JSON or a stream; default: png")


class _Job(Sampling, Targets):
    """Fields of all jobs."""

    face: FaceChoice = "largest"
    webhook: str | None = Field(
        None,
        max_length=2048,
        description="an address on the operator's allow-list; gets a message when the job has ended",
    )


class OneFace(Strict):
    """The edit of one face of several, which copies from the pictures of the job."""

    face: FaceChoice = Field("largest", description="`all`: every face that has no edit of its own")
    edit: Edit = Field(default_factory=EditSpec)


class SeveralFaces(Strict):
    """Edits of several faces, made at once."""

    faces: list[OneFace] = Field(min_length=1, max_length=MAX_FACE_EDITS)


class BatchJob(_Job):
    """Many edits of one picture, each of `face`, or of several faces."""

    model_config = _documented(
        "kind", "picture", "edits", kind="batch", picture=_ID, edits=[{"yaw_deg": -20}, {"yaw_deg": 20}]
    )

    kind: Literal["batch"]
    picture: Picture = None
    edits: list[Edit | SeveralFaces] = Field(min_length=1, max_length=1000)
    mask: PictureRef | None = MASK
    format: Format = "png"


class VideoJob(_Job, FaceEdits, VideoOutput):
    """The same edits on every frame of a video. A `face` is chosen once and tracked."""

    model_config = _documented("kind", "clip", kind="video", clip=_CLIP, edit=_EDIT)

    kind: Literal["video"]
    clip: Clip = None


class AnimationJob(_Job, VideoOutput):
    """Animate a picture by the largest face of a driving video."""

    model_config = _documented(
        "kind", "picture", "clip", kind="animation", picture=_ID, clip=_CLIP, take=["pose", "expression"]
    )

    kind: Literal["animation"]
    picture: Picture = None
    clip: Clip = None
    take: set[Literal["pose", "expression", "light"]] = Field(
        {"pose", "expression"},
        min_length=1,
        description="traits taken from the video; traits of a target override them",
    )
    edit: Edit = Field(default_factory=EditSpec, description="values that override the video's")
    mask: PictureRef | None = MASK
    absolute: bool = Field(False, description="use the driver's absolute pose and expression, not its changes")
    neutral: Literal["first", "calmest"] = Field("first", description="the reference frame of the changes")
    smooth: bool = Field(True, description="smooth the driver's coefficients over time")
    max_side: int = Field(1280, ge=64, le=2048, description="longest side of the video, px")


Request = TypeVar("Request", bound=BaseModel)


def without_files(asked: Request) -> Request:
    """A request without its pictures and videos."""
    empty: dict[str, Any] = {"picture": None, "clip": None, "mask": None, "target": None, "targets": {}}
    bare = {name: value for name, value in empty.items() if name in type(asked).model_fields}
    if faces := getattr(asked, "faces", []):
        bare["faces"] = [without_files(one) for one in faces]
    return asked.model_copy(update=bare)


JobRequest = Annotated[BatchJob | VideoJob | AnimationJob, Field(discriminator="kind")]


class ProblemDocument(BaseModel):
    """Problem details (RFC 9457)."""

    type: str = Field(json_schema_extra={"enum": [PREFIX + slug for slug in KNOWN]})
    title: str
    status: int
    detail: str | None = None
    instance: str | None = None


class JobState(BaseModel):
    """State and progress of a job."""

    id: str
    kind: Literal["batch", "video", "animation"]
    state: Literal["queued", "running", "done", "failed", "cancelled"]
    total: int = Field(description="edits, or frames of the video; 0 while unknown")
    finished: int = Field(description="edits or frames done")
    results: list[int] = Field(description="n for which /v1/jobs/{id}/results/{n} exists")
    media_type: str = Field(description="of the results")
    created_at: str = Field(description="RFC 3339, like all times")
    started_at: str | None = None
    ended_at: str | None = None
    expires_at: str | None = Field(None, description="when the job and its results are removed")
    asked: list[Values] = Field([], description="of a video: one row per tracked face")
    achieved: list[Values | None] = Field([], description="of a video: measured on sampled result frames")
    notes: list[str] = Field(default=[], description="remarks, such as the number of frames without a face")
    error: ProblemDocument | None = None
    webhook: Literal["none", "waiting", "delivered", "given-up"] = "none"


class JobList(BaseModel):
    """A caller's jobs, the newest first."""

    jobs: list[JobState]


class SeenFace(BaseModel):
    """One face of a picture."""

    box: list[float] = Field(description="x0, y0, x1, y1 in px of the upright picture")
    landmarks: list[list[float]] = Field(description="x, y in px of the picture")
    confidence: float = Field(description="agreement of the fitted head with the landmarks, in [0, 1]")
    numbers: dict[str, float] = Field(description="slider values of this face: pose, named expressions, light")
    coefficients: dict[str, Any] = Field(description="`FaceParams`, field by field")


class Reconstruction(BaseModel):
    """All faces of a picture, from left to right."""

    picture: PictureId
    width: int
    height: int
    head: str
    faces: list[SeenFace]
    contours: list[list[int]] = Field(
        [], description="for drawing: indices of landmarks along each outline, if the detector has outlines"
    )


class Warned(BaseModel):
    """A remark on an edit that may look wrong."""

    code: str = Field(description="`unseen-side`, `cut-off`, `uncertain-face`, `too-much` or `no-colour`")
    text: str = Field(description="one sentence")
    holds: dict[str, tuple[float, float]] = Field({}, description="ranges of the edit's numbers without this warning")


class EditResult(BaseModel):
    """An edited picture with measured values. Image responses have the same in `RigFace-*` headers."""

    image: str = Field(description="base64")
    media_type: str
    picture: PictureId = Field(description="content hash of the source")
    model: str
    seed: int
    asked: list[Values] = Field(description="requested values, one row per edited face")
    achieved: list[Values | None] = Field(description="measured on the result; null if no face is found")
    warnings: list[list[Warned]] = Field([], description="what may look wrong, per edited face")
    seconds: dict[str, float]


class EditProgress(BaseModel):
    """A `progress` event of a stream of an edit."""

    phase: Literal["preview", "look", "paint"]
    step: int
    steps: int
    face: int | None = Field(default=None, description="of `faces`, from 0; of the steps of a model")
    faces: int | None = None
    preview: str | None = Field(default=None, description="a JPEG, base64, if the request asks for previews")


class Verified(BaseModel):
    """Provenance of a picture or video."""

    made_here: bool = Field(description="a valid manifest signed by this service; the watermark alone is a hint")
    manifest: Literal["trusted", "foreign", "invalid", "none"] = Field(
        description="signed here; signed by another and intact; broken; absent"
    )
    record: dict[str, Any] | None = Field(None, description="the edit, from a trusted manifest")
    watermark: bool
    mark: str | None = Field(
        None, description="the watermark's 32 bits, hex: the record's `mark`; of a poor copy a bit or two may be wrong"
    )
    score: float = Field(description="of the watermark: at most about 105 by chance; the threshold is 130")


class ModelInfo(BaseModel):
    """A model that an edit may name."""

    name: str
    kind: str = Field(description="`preview`, `refiner` (it corrects the preview), or the process of a diffusion model")
    size: int = Field(description="side of the sampled square, px")
    steps: int = Field(description="default number of steps; 0 for the preview")
    default: bool
    loaded: bool
    about: str = Field(default="", description="remarks for users")


class Models(BaseModel):
    """All models, and the limits of the service."""

    models: list[ModelInfo]
    body_bytes: int = Field(description="size limit of a request")
    clip_bytes: int = Field(description="size limit of a job's video")
    jobs: bool = Field(description="if jobs are enabled")
