"""Pictures in, rows of the `faces` schema out: the stage for `ray.data.Dataset.map_batches`.

Path: a batch with `bytes` or `image` -> detect, track, align, reconstruct, segment, assess -> a table of faces.

The steps are those of `rigface.face.steps`, which the extract job runs, too, so a row here is a row there, bit for bit;
a test compares them. The job's own stages stay in `pipelines`: they work on units with plans, records and children.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Protocol

import cv2
import numpy as np
import pyarrow as pa

from rigface import schema
from rigface.errors import BadInput
from rigface.face import steps
from rigface.face.detection.detector import BatchDetector, Detector, KeyframeDetector, check_image
from rigface.face.detection.factory import load_detector
from rigface.face.detection.tracking import Tracker
from rigface.face.geometry.rotation import to_degrees, to_matrix
from rigface.face.identity.dlib_embedding import DlibIdentity, FramePicker
from rigface.face.reconstruction.parsers import load_parser
from rigface.face.reconstruction.protocol import Reconstructor
from rigface.face.reconstruction.reconstructor import load_reconstructor
from rigface.face.reconstruction.segmentation import Parser
from rigface.image import decode, decode_crop, encode_jpeg, encode_png
from rigface.ray.tensors import tensor_shapes
from rigface.ray.tensors import tensors as as_tensors
from rigface.types import DLIB_WIDTH, FaceParams, Quality

JPEG_QUALITY = 92  # of the crops, as the job's default
_BAD_FACE = (BadInput, np.linalg.LinAlgError)


class Identity(Protocol):
    """A face recognition network."""

    version: str
    width: int

    def chip(self, image: np.ndarray, landmarks: np.ndarray) -> np.ndarray | None: ...
    def embed(self, chips: Sequence[np.ndarray]) -> np.ndarray: ...


@dataclass(frozen=True)
class FaceModels:
    """The networks of a stage."""

    detector: Detector
    reconstructor: Reconstructor
    parser: Parser
    identity: Identity | None = None  # None: `identity_vector` is null
    assess: Callable[[steps.AlignedFaces, int, np.ndarray, np.ndarray, np.ndarray], Quality] = steps.assess
    looks_ahead: bool = False  # the detector sees all pictures of a batch at once, if it can

    @classmethod
    def load(cls, *, small_faces: bool = False, identity: bool = True, device: str = "cpu") -> "FaceModels":
        """The defaults of `rigface extract`; MissingAsset if a model is not on this machine.

        On a device other than the CPU the detector looks at all pictures of a batch together, which are decoded then.
        """
        return cls(
            load_detector(small_faces=small_faces, device="" if device == "cpu" else device),
            load_reconstructor("fit", device=device),
            load_parser("colours", device=device),
            DlibIdentity() if identity else None,
            looks_ahead=device != "cpu",
        )


class Faces:
    """Finds and measures the faces of pictures.

        rows = ray.data.read_binary_files("photos/", include_paths=True).map_batches(
            Faces, batch_format="pyarrow", batch_size=8, compute=ray.data.ActorPoolStrategy(size=4)
        )

    A batch (a table or a dict of arrays) has `bytes`, an encoded picture, or `image`, (H, W, 3) uint8 RGB, in each row.
    It may have `uri` (or `path`), `frame_index` and `time_s`: rows of one uri that have a frame_index are frames of one
    clip, and people are tracked through them in the order of the frames, as far as they are in one batch. Other rows
    are pictures by themselves.

    The result has the columns of `rigface.schema.faces_schema`, a row for each face. A picture that cannot be read is a
    row with status `error` and the reason; a picture without a face gives no row.

    Args:
        models: makes the networks, once in each actor.
        keep: columns of the batch to repeat for each face.
        tensors: return a dict of arrays, vectors in their own shape as `read_faces` gives them, instead of a table.
        options: of `FaceModels.load`, if `models` is left out.
    """

    def __init__(
        self,
        models: Callable[..., FaceModels] = FaceModels.load,
        keep: Sequence[str] = (),
        tensors: bool = False,
        **options: Any,
    ) -> None:
        cv2.setNumThreads(1)  # actors are the parallelism
        self._models, self._keep, self._tensors = models(**options), tuple(keep), tensors
        identity = self._models.identity
        known: dict[str, Any] = {"identity": "none"}
        if identity is not None:
            known = {"identity": identity.version, "identity_width": identity.width}
        detector = replace(self._models.detector.spec, **known, reconstructor=self._models.reconstructor.version)
        self.schema = schema.faces_schema(self._models.reconstructor.head_spec, detector)

    def __call__(self, batch: pa.Table | Mapping[str, Any]) -> pa.Table | dict[str, Any]:
        """The faces of a batch; ValueError if it has neither `bytes` nor `image`."""
        rows = _rows(batch)
        if self._models.looks_ahead and isinstance(self._models.detector, BatchDetector):
            pictures = []
            for row in rows:
                with suppress(BadInput, ValueError):  # which make a row below
                    row["image"] = _picture(row)
                    pictures.append(row["image"])
            self._models.detector.prepare(pictures)
        tables = [self._of_clip(clip) for clip in _clips(rows)]
        kept = {name: [row[name] for row in rows] for name in self._keep}
        number = np.concatenate([np.asarray(at, np.int64) for _, at in tables]) if tables else np.zeros(0, np.int64)
        table = pa.concat_tables([table for table, _ in tables]) if tables else self.schema.empty_table()
        for name, values in kept.items():
            table = table.append_column(name, pa.array(values).take(pa.array(number)))
        if not self._tensors:
            return table
        return as_tensors(table, tensor_shapes(self._models.reconstructor.head_spec, self._models.detector.spec))

    def _of_clip(self, clip: Sequence[dict[str, Any]]) -> tuple[pa.Table, list[int]]:
        """The faces of frames of one clip, and the number of the row of the batch that each is of."""
        seen = _Seen(self._models)
        bad: list[tuple[dict[str, Any], str]] = []
        for row in clip:
            try:
                seen.add(row, _picture(row))
            except (BadInput, ValueError) as e:
                bad.append((row, getattr(e, "reason", str(e))))
        columns, origin = seen.columns(), [*seen.origin, *(row["_number"] for row, _ in bad)]
        table = schema.table_of(columns, self.schema) if len(seen) else self.schema.empty_table()
        if bad:
            about = {
                "uri": [row["uri"] for row, _ in bad],
                "status": ["error"] * len(bad),
                "reason": [r for _, r in bad],
            }
            about |= {name: [row[name] for row, _ in bad] for name in ("frame_index", "time_s")}
            table = pa.concat_tables([table, schema.table_of(about, self.schema)])
        return table, origin


class _Seen:
    """The faces of a clip so far."""

    def __init__(self, models: FaceModels) -> None:
        self._models = models
        self._detect, self._tracker = KeyframeDetector(models.detector), Tracker()
        self._picker = FramePicker() if models.identity is None else FramePicker(cut=models.identity.chip)
        self._keys: list[tuple[str, int, float, int]] = []  # uri, frame, time, track
        self._faces: list[steps.AlignedFaces] = []  # one each, with its crop as stored
        self._crops: list[bytes] = []
        self._sizes: list[tuple[int, int]] = []  # of the frame: height, width
        self.origin: list[int] = []

    def __len__(self) -> int:
        return len(self._keys)

    def add(self, row: dict[str, Any], image: np.ndarray) -> None:
        """Detect and track the faces of the next frame."""
        detections = self._detect(image)
        for detection, track in zip(detections, self._tracker.update(image, detections)):
            aligned = steps.align([image], [detection])
            self._crops.append(encode_jpeg(aligned.crops[0], JPEG_QUALITY))
            self._faces.append(replace(aligned, crops=[decode_crop(self._crops[-1])]))
            self._keys.append((row["uri"], row["frame_index"], row["time_s"], track))
            self._sizes.append(image.shape[:2])
            self.origin.append(row["_number"])
            if self._models.identity is not None:
                self._picker.offer(track, row["frame_index"], image, detection)

    def columns(self) -> dict[str, Any]:
        """All columns but the identity; rows that failed have status and reason, and nulls."""
        if not self._keys:
            return {}
        uri, frame, time, track = zip(*self._keys)
        faces = self._faces
        blendshapes = [face.blendshapes for face in faces]
        out: dict[str, Any] = {"uri": list(uri), "frame_index": list(frame), "time_s": list(time), "track": list(track)}
        out |= {
            "box": schema.column([face.boxes for face in faces], 4),
            "frame_to_crop": schema.column([face.frame_to_crop for face in faces], 6),
            "landmarks": schema.column([face.landmarks for face in faces], faces[0].landmarks.size),
            "blendshapes": schema.column(blendshapes, 1 if blendshapes[0] is None else blendshapes[0].size),
            "identity_vector": schema.column(
                self._vectors(), DLIB_WIDTH if self._models.identity is None else self._models.identity.width
            ),
            "crop": pa.array(self._crops, pa.binary()),
        }
        return out | self._fitted(np.array(track))

    def _vectors(self) -> list[np.ndarray | None]:
        at = {(track, frame): i for i, (_, frame, _, track) in enumerate(self._keys)}
        out: list[np.ndarray | None] = [None] * len(self)
        if self._models.identity is not None:
            for track, picks in self._picker.picks().items():
                for (frame, _), vector in zip(picks, self._models.identity.embed([chip for _, chip in picks])):
                    out[at[track, frame]] = vector
        return out

    def _fitted(self, tracks: np.ndarray) -> dict[str, Any]:
        """Coefficients, mask, quality, status and reason."""
        faces = _joined(self._faces)
        fit = steps.reconstruct(self._models.reconstructor, faces, tracks)
        numbers = {f.name: value for f in fields(FaceParams) if (value := getattr(fit.params, f.name)) is not None}
        residuals = np.stack([fit.landmark_residual, fit.photometric_residual, fit.occlusion], axis=1)
        flat = [np.asarray(value).reshape(len(faces), -1) for value in (*numbers.values(), residuals)]
        finite = np.all([np.isfinite(value).all(1) for value in flat], axis=0)
        reason: list[str | None] = [None if ok else "reconstruct: its coefficients are not finite" for ok in finite]
        degrees = to_degrees(to_matrix(np.where(finite[:, None], fit.params.head_rotation, 0)))
        masks: list[bytes | None] = [None] * len(faces)
        qualities: list[dict[str, Any]] = [{}] * len(faces)
        for i in np.flatnonzero(finite).tolist():
            try:
                mask = steps.segment(self._models.parser, faces, i, self._sizes[i])
                qualities[i] = asdict(self._models.assess(faces, i, mask, degrees[i], residuals[i]))
                masks[i] = encode_png(mask)
            except _BAD_FACE as e:
                reason[i] = f"mask_and_score: {e}"
        out: dict[str, Any] = {
            "status": ["ok" if r is None else "error" for r in reason],
            "reason": reason,
            "mask": masks,
        }
        for (name, _), value in zip(numbers.items(), flat):
            out[name] = schema.column([v if ok else None for v, ok in zip(value, finite)], value.shape[1])
        return out | {f.name: [quality.get(f.name) for quality in qualities] for f in fields(Quality)}


def _picture(row: Mapping[str, Any]) -> np.ndarray:
    """The picture of a row; BadInput or ValueError if it is none."""
    image = np.asarray(row["image"]) if row.get("image") is not None else decode(row["bytes"])
    check_image(image)
    return image


def _joined(faces: Sequence[steps.AlignedFaces]) -> steps.AlignedFaces:
    """Single faces as one batch."""
    shapes = [face.blendshapes for face in faces if face.blendshapes is not None]
    return steps.AlignedFaces(
        crops=[face.crops[0] for face in faces],
        frame_to_crop=np.concatenate([face.frame_to_crop for face in faces]),
        boxes=np.concatenate([face.boxes for face in faces]),
        landmarks=np.concatenate([face.landmarks for face in faces]),
        scores=np.concatenate([face.scores for face in faces]),
        blendshapes=np.concatenate(shapes) if len(shapes) == len(faces) else None,
    )


def _rows(batch: pa.Table | Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows of a batch with `uri`, `frame_index` and `time_s`, and their number."""
    if isinstance(batch, pa.Table):
        columns: dict[str, Any] = {name: _values(batch[name]) for name in batch.column_names}
    else:
        columns = dict(batch)
    if not {"bytes", "image"} & columns.keys():
        raise ValueError(f"want a column `bytes` (encoded pictures) or `image` (arrays), got {sorted(columns)}")
    rows = [dict(zip(columns, cells)) for cells in zip(*columns.values())]
    for number, row in enumerate(rows):
        row["_number"] = number
        row["_is_frame"] = row.get("frame_index") is not None
        row["uri"] = str(row.get("uri") or row.get("path") or "")
        row["frame_index"] = int(row.get("frame_index") or 0)
        row["time_s"] = float(row.get("time_s") or 0.0)
    return rows


def _values(column: pa.ChunkedArray) -> Sequence[Any]:
    """Cells of a column; Ray's tensors as arrays."""
    if isinstance(column.type, pa.ExtensionType):
        return [cell for chunk in column.chunks for cell in chunk.to_numpy(zero_copy_only=False)]
    return list(column.to_pylist())


def _clips(rows: Sequence[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Rows that are frames of one clip together, in the order of the frames; every other row by itself."""
    clips: dict[Any, list[dict[str, Any]]] = {}
    for row in rows:
        clips.setdefault(row["uri"] if row["_is_frame"] and row["uri"] else row["_number"], []).append(row)
    for clip in clips.values():
        yield sorted(clip, key=lambda row: row["frame_index"])
