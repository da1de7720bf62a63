"""The data that travels between stages: faces as numbers, edits as words.

This module is the vocabulary of the project and imports nothing heavier than the standard library. `schema.py`
derives the Parquet columns from these classes, `testing/fakes.py` derives test data: add a field here and they follow.

Frames of reference, used everywhere:

* *frame px*: pixels of the decoded, upright frame. x right, y down, the frame spans [0, W] x [0, H], so the middle of
  the first pixel is (0.5, 0.5).
* *crop px*: the same convention in the 512 px crop.
* *crop unit*: the crop as [-1, 1] x [-1, 1], x right, **y up**; the frame that `FaceParams.camera` projects to.
* *head*: the head model's own frame, in metres: x to the person's left, y up, z out of the face.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any, Literal

CROP_PX = 512  # side of every stored crop
REGION_LABELS = ("background", "person", "face", "rim", "features")  # of a picture of a person, by number
EXTRAS = ("neck_rotation", "eye_rotations", "eyelids")  # fields of `FaceParams` that only some heads have
DLIB_WIDTH = 128  # numbers of a dlib identity vector
BFM_EXPRESSION = 64  # numbers of an expression code of the Basel networks
DLIB_SAME_PERSON = 0.6  # distance of dlib's raw vectors below which two images show one person (its author's rule)

Array = Any  # numpy at rest (Parquet, HTTP), torch on a device; one object never holds both


def _array(*shape: int | str, doc: str, unit: str = "", optional: bool = False) -> Any:
    """A dataclass field that knows its own trailing shape; a letter stands for a size that `HeadSpec` gives."""
    metadata = {"shape": shape, "doc": doc, "unit": unit, "optional": optional}
    return field(metadata=metadata, default=None) if optional else field(metadata=metadata)


def _number(doc: str, unit: str = "") -> Any:
    return field(metadata={"doc": doc, "unit": unit})


@dataclass(frozen=True)
class HeadSpec:
    """Name, version and coefficient counts of a head model.

    Rows of two head models never mix: name and version go into the metadata of every Parquet file.
    """

    name: str
    version: str  # of the model's own file: its hash, or the open head's version
    shape: int
    expression: int
    albedo: int
    expression_names: tuple[str, ...] = ()
    albedo_source: str = ""  # kind and hash of the file that the albedo comes from, if it is not the model's own
    colours: Literal["linear", "display"] = "linear"  # of albedo and light; display: albedo times shading is sRGB
    extras: tuple[str, ...] = ()  # optional fields of `FaceParams` that a fit to this head fills
    licence: str = ""  # of the model's files, in one line, as their folder states it

    def __post_init__(self) -> None:
        for name in ("expression_names", "extras"):  # JSON has lists
            object.__setattr__(self, name, tuple(getattr(self, name)))

    def misfit(self, installed: HeadSpec) -> str:
        """The reason why coefficients of this head do not describe an installed one, a sentence; empty if they do."""
        ours, theirs = (f"{spec.name} {spec.version}" for spec in (self, installed))
        if ours != theirs:
            return f"the coefficients are of {ours}, and {theirs} is installed; use that model's own file"
        if self.albedo and self.albedo_source != installed.albedo_source:
            ours, theirs = (spec.albedo_source or "none" for spec in (self, installed))
            return f"the albedo is of the texture {ours}, and {theirs} is installed; use that texture's own file"
        return ""

    def size(self, axis: int | str) -> int:
        """The length of an axis of a `FaceParams` field: a number is itself, "S", "E", "A" are this head's."""
        return axis if isinstance(axis, int) else {"S": self.shape, "E": self.expression, "A": self.albedo}[axis]


@dataclass(frozen=True)
class DetectorSpec:
    """Detector and its output layout, and the identity and segmentation networks.

    Args:
        identity: network of the identity vectors, with its version; `none` if identities are off.
        identity_width: length of its vectors.
        parser: name of the segmentation, with its version.
        expression_codes: network of `FaceParams.bfm_expression`, with its version; empty if there are none.
        reconstructor: network or closed-form fit of the coefficients, with its version; empty before "fit 2".
    """

    name: str
    version: str
    landmarks: int
    blendshape_names: tuple[str, ...] = ()
    identity: str = "dlib"
    identity_width: int = DLIB_WIDTH
    parser: str = "colours"
    expression_codes: str = ""
    reconstructor: str = ""


@dataclass(frozen=True, eq=False)
class Frame:
    """One decoded, upright frame."""

    image: Array  # (H, W, 3) uint8 RGB
    index: int  # position among the frames the video shows, in presentation order, from 0
    time_s: float  # presentation time in seconds; the first shown frame is 0


@dataclass(frozen=True, eq=False)
class Detection:
    """One detected face in one frame.

    Args:
        box: (4,) float32 x0, y0, x1, y1 in frame px: the bounding box of the landmarks.
        landmarks: (L, 3) float32 frame px; z has the scale of x and y, 0 at the head's centre, negative towards the
            camera.
        blendshapes: (B,) float32 in [0, 1], in the order of `DetectorSpec.blendshape_names`; None if not reported.
        matrix: (4, 4) float32 head-to-camera transform as the detector reports it; None if not reported.
        score: in [0, 1], the detector's confidence that this is a face.
        finder_box: (4,) as `box`, of the face detector before the landmarks (SCRFD); None if it has none of its own.
    """

    box: Array
    landmarks: Array
    score: float
    blendshapes: Array | None = None
    matrix: Array | None = None
    finder_box: Array | None = None


@dataclass(frozen=True, eq=False)
class FaceParams:
    """One face, or a batch of faces, as float32 coefficients.

    Each field has shape (*batch, *own); `batch` is the same for every field and () for a single face. S, E and A are
    those of the head model (`HeadSpec`).

    Raises:
        ValueError: a field has the wrong trailing shape, or two fields disagree about the batch.
    """

    shape: Array = _array("S", doc="shape coefficients of the head model", unit="standard deviations")
    expression: Array = _array(
        "E",
        doc="expression coefficients; on the open head each has a blendshape's name",
        unit="1 = the named expression in full",
    )
    head_rotation: Array = _array(3, doc="rotation of the head, axis-angle, head to camera", unit="rad")
    jaw_rotation: Array = _array(
        3, doc="rotation of the jaw, axis-angle, relative to the head; zero on the open head", unit="rad"
    )
    camera: Array = _array(
        3, doc="weak perspective (scale, x, y): crop unit = scale * (head point + (x, y))", unit="1/m, m, m"
    )
    albedo: Array = _array("A", doc="albedo coefficients of the head model", unit="standard deviations")
    light: Array = _array(
        9,
        3,
        doc="second-order spherical harmonics, RGB, order 1 x y z xy xz yz x2-y2 3z2-1, camera frame",
        unit="linear radiance",
    )
    bfm_expression: Array | None = _array(
        BFM_EXPRESSION, doc="expression code of the Basel network, if present", optional=True
    )
    neck_rotation: Array | None = _array(
        3, doc="rotation of the neck, axis-angle, relative to the head's first joint", unit="rad", optional=True
    )
    eye_rotations: Array | None = _array(
        2, 3, doc="rotations of the left and the right eyeball, axis-angle, relative to the head", unit="rad",
        optional=True,
    )  # fmt: skip
    eyelids: Array | None = _array(
        2, doc="how far the left and the right eyelid are closed", unit="[0, 1]", optional=True
    )

    def __post_init__(self) -> None:
        batches = {}
        for f in fields(self):
            value, own = getattr(self, f.name), f.metadata["shape"]
            if value is None and f.metadata["optional"]:
                continue
            got = tuple(value.shape)
            fits = len(got) >= len(own) and all(isinstance(w, str) or w == g for w, g in zip(own, got[-len(own) :]))
            if not fits:
                raise ValueError(f"FaceParams.{f.name}: want (..., {', '.join(map(str, own))}), got {got}")
            batches[f.name] = got[: len(got) - len(own)]
        if len(set(batches.values())) > 1:
            raise ValueError(f"FaceParams: fields disagree about the batch: {batches}")

    @property
    def batch(self) -> tuple[int, ...]:
        """The batch shape in front of every field."""
        return tuple(self.head_rotation.shape[:-1])

    def map(self, fn: Callable[[Array], Array]) -> FaceParams:
        """Apply `fn` to every field that is not None: `params.map(torch.from_numpy)`, `params.map(lambda a: a[0])`."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return FaceParams(**{name: None if value is None else fn(value) for name, value in values.items()})


@dataclass(frozen=True, eq=False)
class Face:
    """One analysed face of one image: all that an edit needs of a source or a target."""

    crop: Array  # (512, 512, 3) uint8
    frame_to_crop: Array  # (2, 3) float32 affine
    box: Array  # (4,) float32 x0, y0, x1, y1 of the landmarks, frame px
    landmarks: Array  # (L, 3) float32 crop px
    params: FaceParams  # its coefficients, no batch
    mask: Array  # (512, 512) uint8, 255 person, 0 background
    residual: float  # RMS distance of landmarks and fitted head, in outer-eye distances
    confidence: float = float("nan")  # `Quality.confidence`, in [0, 1]; NaN: not measured


@dataclass(frozen=True, eq=False)
class Conditions:
    """Input of the model for an edit, made by `Composer`, read by the pipeline and by training.

    Raises:
        ValueError: a picture is not (*batch, S, S, 3), or two fields disagree about batch or size.
    """

    reference: Array  # (*batch, S, S, 3) uint8: the source, from which the denoiser takes the identity
    background: Array  # (*batch, S, S, 3) uint8: the photograph with the person cut out
    render: Array  # (*batch, S, S, 3) uint8: the edited head, in the style that the checkpoint's config names
    expression_code: Array  # (*batch, E) float32: the edited expression, in the space that the config names
    identity: Array | None = None  # (*batch, V) float32: identity vector of the source, if the config asks for one

    def __post_init__(self) -> None:
        want = tuple(self.reference.shape)
        if len(want) < 3 or want[-1] != 3 or want[-2] != want[-3]:
            raise ValueError(f"Conditions.reference: want (*batch, S, S, 3), got {want}")
        for name in ("background", "render"):
            if tuple(getattr(self, name).shape) != want:
                raise ValueError(
                    f"Conditions.{name}: want {want} like the reference, got {tuple(getattr(self, name).shape)}"
                )
        for name in ("expression_code", "identity"):
            numbers = getattr(self, name)
            if numbers is not None and tuple(numbers.shape[:-1]) != want[:-3]:
                raise ValueError(f"Conditions.{name}: want (*{want[:-3]}, width), got {tuple(numbers.shape)}")

    @property
    def batch(self) -> tuple[int, ...]:
        """The batch shape in front of every field."""
        return tuple(self.reference.shape[:-3])

    def map(self, fn: Callable[[Array], Array]) -> Conditions:
        """Apply `fn` to every field that is not None: `conditions.map(lambda a: a[None])`."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return Conditions(**{name: None if value is None else fn(value) for name, value in values.items()})


@dataclass(frozen=True, eq=False)
class Example:
    """Training example: conditions, and the image they should become."""

    conditions: Conditions
    target: Array  # (*batch, S, S, 3) uint8


@dataclass(frozen=True)
class Quality:
    """Quality measures of a row. Nothing is dropped by them; readers choose their thresholds."""

    confidence: float = _number("overall trust in this row", "[0, 1]")
    landmark_confidence: float = _number(
        "the detector's own score and the agreement of its landmarks with the fitted head", "[0, 1]"
    )
    photometric_residual: float = _number(
        "median absolute difference of crop and re-render on visible skin", "[0, 1], sRGB"
    )
    landmark_residual: float = _number("RMS distance of landmarks and fitted head, in units of the outer-eye distance")
    face_size_px: float = _number("larger side of the landmark box in the frame", "frame px")
    sharpness: float = _number("gradient energy of the face at a common scale; 1 is a crisp photograph", "[0, 1]")
    exposure: float = _number("mean luminance of the skin", "[0, 1], linear")
    occlusion: float = _number("share of the face's visible surface that does not look like the rest of it", "[0, 1]")
    yaw_deg: float = _number("positive: the person turns to their own left", "degrees")
    pitch_deg: float = _number("positive: the person looks down", "degrees")
    roll_deg: float = _number("positive: the head tilts clockwise as seen in the picture", "degrees")
    skin_tone_ita_deg: float = _number(
        "individual typology angle of the skin as photographed (Chardon 1991)", "degrees"
    )
    is_profile: bool = _number("|yaw| beyond 60 degrees")
    is_tiny: bool = _number("face_size_px below 48")
    is_blurred: bool = _number("sharpness below 0.15")
    is_grey: bool = _number("the picture has no colour, so albedo and light colours are not to be trusted")
    is_suspect: bool = _number("probably not a human face (an animal, a pattern)")
