"""A small dataset of faces on disk without any detector, for the jobs that begin with one."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from rigface import schema
from rigface.face.geometry import alignment
from rigface.face.geometry.camera import project, to_crop_px
from rigface.face.geometry.rotation import from_degrees, to_axis_angle
from rigface.face.head.open_head import OpenHead
from rigface.image import encode_jpeg, encode_png
from rigface.types import CROP_PX, DetectorSpec, Face, FaceParams


def params_of(yaw: float, smile: float = 0.0, scale: float = 6.0) -> FaceParams:
    head = OpenHead.load().spec
    expression = np.zeros(head.expression, np.float32)
    expression[head.expression_names.index("mouthSmileLeft")] = smile
    light = np.zeros((9, 3), np.float32)
    light[0] = 2.0
    return FaceParams(
        shape=np.zeros(head.shape, np.float32),
        expression=expression,
        head_rotation=to_axis_angle(from_degrees(np.array([[yaw, 0, 0]], np.float32)))[0].astype(np.float32),
        jaw_rotation=np.zeros(3, np.float32),
        camera=np.array([scale, 0, 0], np.float32),
        albedo=np.zeros(head.albedo, np.float32),
        light=light,
    )


def scene(seed: int = 0) -> np.ndarray:
    """A frame (600, 800, 3) with something to see everywhere."""
    coarse = np.random.default_rng(seed).integers(40, 220, (12, 16, 3), dtype=np.uint8)
    return np.kron(coarse, np.ones((50, 50, 1), np.uint8))


def face_at(frame: np.ndarray, box: tuple[float, float, float, float], params: FaceParams) -> Face:
    affine = alignment.frame_to_crop(np.float32(box))
    mask = np.zeros((CROP_PX, CROP_PX), np.uint8)
    mask[150:400, 150:360] = 255
    row = params.map(lambda a: torch.from_numpy(a)[None])
    points = to_crop_px(project(OpenHead.load().head(0).of(row), row.camera))[0].numpy()
    landmarks = np.concatenate([points, np.repeat(points[:1], 478 - len(points), axis=0)])
    return Face(alignment.crop(frame, affine), affine, np.float32(box), landmarks, params, mask, 0.0)


def dataset(folder, people: int = 3, frames: int = 6, identity: str = "p{}", scores: tuple[str, ...] = ()) -> None:
    """A small dataset of faces on disk, without any detector; `scores` are the names of its expression scores, of which
    those of a smile grow from frame to frame; none: they are null.
    """
    head, detector = OpenHead.load().spec, DetectorSpec("fake", "1", 478, scores or ("a",))
    wanted = schema.faces_schema(head, detector)
    for person in range(people):
        faces = [
            face_at(scene(person), (300 + 4 * k, 200, 420 + 4 * k, 350), params_of(6.0 * k, 0.1 * k))
            for k in range(frames)
        ]
        batch = FaceParams(
            **{
                n: None if getattr(faces[0].params, n) is None else np.stack([getattr(f.params, n) for f in faces])
                for n in FaceParams.__dataclass_fields__
            }
        )
        columns = {
            "uri": [f"/clip{person}.mp4"] * frames,
            "frame_index": list(range(frames)),
            "time_s": [k / 6 for k in range(frames)],
            "track": [0] * frames,
            "status": ["ok"] * (frames - 1) + ["error"],
            "box": schema.column([f.box for f in faces], 4),
            "frame_to_crop": schema.column([f.frame_to_crop for f in faces], 6),
            "landmarks": schema.column([f.landmarks for f in faces], 478 * 3),
            "blendshapes": schema.column(
                np.outer(np.arange(frames) / 10, ["mouthSmile" in name for name in scores])
                if scores
                else [None] * frames,
                max(len(scores), 1),
            ),
            "crop": [encode_jpeg(f.crop) for f in faces],
            "mask": [encode_png(f.mask) for f in faces],
            **schema.params_columns(batch, head),
            **{name: [0.9] * frames for name in ("confidence", "sharpness")},
            "face_size_px": [150.0] * frames,
        }
        place = folder / "faces" / f"{person:02x}"
        place.mkdir(parents=True)
        pq.write_table(schema.table_of(columns, wanted), place / f"{person:02x}unit.parquet")
    (folder / "identities").mkdir()
    named = {"uri": [f"/clip{person}.mp4" for person in range(people)], "track": pa.array([0] * people, pa.int32())}
    named["identity"] = [identity.format(person) for person in range(people)]
    pq.write_table(pa.table(named), folder / "identities" / "all.parquet")
