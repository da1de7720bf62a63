"""Build `rigface/data/open_head.npz` from openly licensed portraits and clips.

    python scripts/build_open_head.py ../shared/data          # about five minutes on two cores

`DATA/manifest.csv` names the files; only rows with `ship` = 1 (permissive licence, no research-set origin) are read,
and of those only pictures of one person. The model holds averages and principal components over about eighty people;
no picture, and no single face, is stored. The report at the end is measured on people left out of the build.

Steps: detect (landmarks, blendshapes) -> geometry (mean, shape PCA, expression ridge) -> paint (colours at the
vertices) -> albedo (de-light, symmetrise, PCA) -> save. Mirrored copies of every face make the model exactly
symmetric.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import torch

from rigface import assets
from rigface.colour import LUMINANCE
from rigface.face.detection.factory import load_detector
from rigface.face.geometry.procrustes import procrustes
from rigface.face.head.open_head import SKIN_LUMINANCE, OpenHead
from rigface.face.reconstruction import albedo_light
from rigface.face.reconstruction.landmark_fit import GeometryFitter, to_crop_unit
from rigface.face.reconstruction.reconstructor import sample_colours
from rigface.face.rendering.lighting import harmonics
from rigface.face.rendering.renderer import vertex_normals
from rigface.face.steps import align
from rigface.image import decode
from rigface.types import HeadSpec
from rigface.video.decode import read_frames

SHAPE, ALBEDO = 40, 32
FRAMES_PER_CLIP = 60
FACES_PER_PERSON = 16  # for the albedo: more frames of one person add little
UNPAINTABLE = ("greyscale", "glasses", "occlusion", "colour-cast", "old-photo", "mic", "makeup", "headwear")
LIGHTS_SHARE = 0.7  # of a portrait's colour cast is taken for the light's, the rest for the skin's
ORIGIN = (0.0, -0.02, -0.03)  # metres in the canonical mesh: between the ears, the centre of a head's rotation


@dataclass(frozen=True, eq=False)
class Faces:
    """N detected faces of images of one person."""

    landmarks: np.ndarray  # (N, 468, 3) crop px
    scores: np.ndarray  # (N, 52)
    person: np.ndarray  # (N,) str
    notes: np.ndarray  # (N,) str
    crops: np.ndarray  # (N,) JPEG bytes as object

    def take(self, rows: np.ndarray) -> Faces:
        return Faces(**{name: getattr(self, name)[rows] for name in self.__dataclass_fields__})


def canonical_mesh() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points (468, 3) in metres from ORIGIN, texture coordinates (468, 2), triangles (898, 3), from the landmarker's
    own bundle.

    The bundle is a zip; its geometry metadata is a protocol buffer whose first field is the mesh: interleaved
    x y z u v as field 3, indices as field 4.
    """
    with zipfile.ZipFile(assets.find("face_landmarker")) as bundle:
        name = next(n for n in bundle.namelist() if "geometry_pipeline" in n)
        message = bundle.read(name)
    mesh = next(value for field, value in _fields(message) if field == 1)
    numbers = np.array([np.frombuffer(v, "<f4")[0] for f, v in _fields(mesh) if f == 3]).reshape(-1, 5)
    triangles = np.array([v for f, v in _fields(mesh) if f == 4]).reshape(-1, 3)
    return numbers[:, :3] * 0.01 - ORIGIN, numbers[:, 3:], triangles


def _fields(message: bytes):
    """(field number, value) of one protocol-buffer message; nested messages stay bytes."""

    def varint(i: int) -> tuple[int, int]:
        value = shift = 0
        while True:
            byte = message[i]
            value |= (byte & 127) << shift
            i, shift = i + 1, shift + 7
            if byte < 128:
                return value, i

    i = 0
    while i < len(message):
        key, i = varint(i)
        if key & 7 == 0:
            value, i = varint(i)
        elif key & 7 == 2:
            size, i = varint(i)
            value, i = message[i : i + size], i + size
        elif key & 7 == 5:
            value, i = message[i : i + 4], i + 4
        else:
            raise ValueError(f"wire type {key & 7} is not used in this message")
        yield key >> 3, value


def feature_points(count: int) -> np.ndarray:
    """(count,) 1 at landmarks of eyes, brows and lips, else 0."""
    from mediapipe.tasks.python.vision import FaceLandmarksConnections as Lines

    feature = np.zeros(count)
    for part in ("LIPS", "LEFT_EYE", "RIGHT_EYE", "LEFT_EYEBROW", "RIGHT_EYEBROW"):
        for line in getattr(Lines, f"FACE_LANDMARKS_{part}"):
            feature[[line.start, line.end]] = 1
    return feature


def detect_faces(data: Path, ship: str = "1") -> tuple[Faces, tuple[str, ...]]:
    """Detect the usable faces of the manifest's rows with that `ship`; also the blendshapes' names."""
    detector = load_detector("mediapipe")
    rows: list[tuple] = []
    for row in csv.DictReader((data / "manifest.csv").open()):
        if row["ship"] != ship or row["person"].startswith("g") or ";" in row["person"]:
            continue
        for image in _pictures(data / row["file"], int(row["frames"])):
            found = detector(image)
            if len(found) == 1:
                face = align([image], found)
                bgr = face.crops[0][..., ::-1]
                jpeg = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()
                rows.append((face.landmarks[0, :468], found[0].blendshapes, row["person"], row["notes"], jpeg))
        print(f"  {row['file']}: {len(rows)} faces", flush=True)
    points, scores, person, notes, jpegs = zip(*rows)
    crops = np.empty(len(jpegs), object)
    crops[:] = jpegs
    return Faces(
        np.stack(points), np.stack(scores), np.array(person), np.array(notes), crops
    ), detector.spec.blendshape_names


def _pictures(path: Path, count: int):
    if path.parent.name == "images":
        yield decode(path.read_bytes())
        return
    step = max(5, count // FRAMES_PER_CLIP)
    yield from (frame.image for frame in read_frames(str(path), None) if frame.index % step == 0)


def learn_geometry(faces: Faces, canonical: np.ndarray, mirror: np.ndarray, swap: list[int], rounds: int = 8):
    """Mean, shape basis and expression basis by alternating least squares.

    Y = mean + identity(person) + expression . scores, each face aligned to its own prediction before every round;
    frontal faces count more. Mirrored copies make the result symmetric.

    Returns:
        template (468, 3), shape (40, 468, 3) per standard deviation, expression (52, 468, 3); metres.
    """
    seen = to_crop_unit(torch.from_numpy(faces.landmarks)).double()
    people, member = np.unique(faces.person, return_inverse=True)
    scores = faces.scores.astype(np.float64)
    mean, identity = canonical.copy(), np.zeros((len(people), 468, 3))
    expression = np.zeros((scores.shape[1], 468, 3))
    flip = lambda a: a[..., mirror, :] * [-1.0, 1.0, 1.0]  # noqa: E731
    for _ in range(rounds):
        predicted = mean + identity[member] + np.einsum("ne,evi->nvi", scores, expression)
        aligned, yaw = _align(seen, predicted)
        weight = np.exp(-((yaw / 0.52) ** 2)) + 0.05
        both = np.concatenate([scores, scores[:, swap]])
        moved = np.concatenate([aligned - mean - identity[member], flip(aligned) - mean - flip(identity[member])])
        twice = np.concatenate([weight, weight])[:, None]
        normal = (both * twice).T @ both + np.eye(both.shape[1]) * weight.mean()
        expression = np.linalg.solve(normal, (both * twice).T @ moved.reshape(len(both), -1)).reshape(expression.shape)
        rest = aligned - mean - np.einsum("ne,evi->nvi", scores, expression)
        total = np.zeros_like(identity)
        np.add.at(total, member, rest * weight[:, None, None])
        identity = total / (np.bincount(member, weight) + 0.3)[:, None, None]
        centre = identity.mean(0)
        mean, identity = mean + (centre + flip(centre)) / 2, identity - centre
    _, size, axes = np.linalg.svd(
        np.concatenate([identity, flip(identity)]).reshape(2 * len(people), -1), full_matrices=False
    )
    shape = axes[:SHAPE] * (size[:SHAPE] / np.sqrt(2 * len(people)))[:, None]
    print(
        f"  {len(people)} people, {len(member)} faces; "
        f"{(size[:SHAPE] ** 2).sum() / (size**2).sum():.3f} of the variance in {SHAPE} axes"
    )
    return mean, shape.reshape(SHAPE, 468, 3), expression


def _align(seen: torch.Tensor, predicted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Detected points in the head frame of their prediction, (N, 468, 3), and yaw in radians."""
    points = torch.from_numpy(predicted)
    rotation, scale = procrustes(points, seen)
    centred = seen - seen.mean(1, keepdim=True)
    aligned = (centred @ rotation) / scale[:, None, None] + points.mean(1, keepdim=True)
    return aligned.numpy(), torch.atan2(rotation[:, 0, 2], rotation[:, 2, 2]).numpy()


def paint(faces: Faces, head: OpenHead) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Linear colours (N, 7257, 3), camera-frame normals, and a mask of visible vertices (not hidden by the nose)."""
    weights, triangles = (torch.from_numpy(a) for a in head.subdivision())
    colours, normals, seen = [], [], []
    for start in range(0, len(faces.person), 32):
        part = faces.take(np.arange(start, min(start + 32, len(faces.person))))
        fit = GeometryFitter(head)(
            torch.from_numpy(part.landmarks), torch.from_numpy(part.scores).float(), torch.arange(len(part.person))
        )
        points = torch.einsum("vc,nci->nvi", weights, fit.points)
        camera = fit.scale[:, None, None] * (points @ fit.rotation.mT)
        camera[..., :2] += fit.shift[:, None]
        normal = vertex_normals(points, triangles.long()) @ fit.rotation.mT
        crops = [decode(jpeg) for jpeg in part.crops]
        colour, inside = sample_colours(crops, camera[..., :2].numpy())
        colours.append(torch.from_numpy(colour))
        normals.append(normal)
        seen.append(torch.from_numpy(inside) & (normal[..., 2] > albedo_light.GRAZING) & _nearest(camera))
    return torch.cat(colours), torch.cat(normals), torch.cat(seen)


def _nearest(camera: torch.Tensor, cells: int = 86, slack: float = 0.055) -> torch.Tensor:
    """(N, V) bool: no other vertex of the same small cell of the picture is clearly nearer to the viewer."""
    cell = ((camera[..., :2] + 1) / 2 * cells).long().clamp(0, cells - 1)
    key = cell[..., 0] * cells + cell[..., 1]
    front = torch.full((len(camera), cells * cells), -1e9).scatter_reduce(1, key, camera[..., 2], "amax")
    return camera[..., 2] > front.gather(1, key) - slack


def learn_albedo(faces: Faces, head: OpenHead, mirror: np.ndarray, rounds: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Mean albedo (7257, 3) and basis (32, 7257, 3), linear, symmetric, skin luminance 0.3 throughout.

    The light of each portrait is fitted under the *mean* albedo only: fitted under the person's own, the albedo would
    swallow the shading round by round. What is left after dividing by the light is the person's.
    """
    rows = _paintable(faces, head)
    faces = faces.take(rows)
    colours, normals, seen = paint(faces, head)
    people, member = np.unique(faces.person, return_inverse=True)
    skin = torch.from_numpy(head.skin)
    facing = seen * normals[..., 2].clamp_min(0)
    luminance = torch.tensor(LUMINANCE)
    weight = facing * skin
    exposure = ((colours @ luminance) * weight).sum(1) / (weight.sum(1) * SKIN_LUMINANCE)
    colours = colours / exposure[:, None, None]
    mean = torch.tensor([0.42, 0.27, 0.20]).expand(len(skin), 3)
    basis = None
    for step in range(rounds):
        total, count = torch.zeros(len(people), len(skin), 3), torch.zeros(len(people), len(skin), 3)
        for i, who in enumerate(member):
            waves = harmonics(normals[i : i + 1])
            robust = facing[i : i + 1]
            for _ in range(4):
                light = albedo_light.solve_light(
                    colours[i : i + 1], waves, mean[None], robust, albedo_light.light_products(waves)
                )
                robust = facing[i : i + 1] * albedo_light.cauchy(colours[i : i + 1] - mean * (waves @ light))
            cast = light[0, 0] / light[0, 0].mean()
            light = light * (cast**LIGHTS_SHARE / cast)
            shading = (waves @ light)[0].clamp_min(0.1)
            total[who] += robust[0, :, None] * shading * colours[i]
            count[who] += robust[0, :, None] * shading**2
        own = ((total + 0.1 * mean) / (count + 0.1)).clamp(0.01, 0.95)
        own = (own + own[:, mirror]) / 2
        own *= (SKIN_LUMINANCE / (own[:, skin] @ luminance).mean(1))[:, None, None]
        mean = own.mean(0)
        _, size, axes = torch.linalg.svd((own - mean).flatten(1), full_matrices=False)
        basis = axes[:ALBEDO] * (size[:ALBEDO] / len(people) ** 0.5)[:, None]
        kept = float((size[:ALBEDO] ** 2).sum() / (size**2).sum())
        print(f"  round {step}: {len(people)} people, {len(member)} faces, {kept:.3f} of the variance in {ALBEDO} axes")
    return mean.numpy(), basis.reshape(ALBEDO, -1, 3).numpy()


def _paintable(faces: Faces, head: OpenHead) -> np.ndarray:
    """Rows fit for the albedo: uncovered, in colour, not too far turned, few per person."""
    clean = np.array([not any(tag in note for tag in UNPAINTABLE) for note in faces.notes])
    fit = GeometryFitter(head)(
        torch.from_numpy(faces.landmarks), torch.from_numpy(faces.scores).float(), torch.arange(len(faces.person))
    )
    clean &= torch.atan2(fit.rotation[:, 0, 2], fit.rotation[:, 2, 2]).abs().numpy() < 0.78
    random = np.random.default_rng(0)
    kept = [
        random.permutation(np.flatnonzero(clean & (faces.person == p)))[:FACES_PER_PERSON]
        for p in np.unique(faces.person)
    ]
    return np.sort(np.concatenate(kept))


def mirror_of(points: np.ndarray) -> np.ndarray:
    """(V,) the vertex on the other side of each.

    Raises:
        ValueError: the mesh is not symmetric.
    """
    distance = ((points[None] - (points * [-1, 1, 1])[:, None]) ** 2).sum(-1)
    mirror = distance.argmin(1)
    if not (mirror[mirror] == np.arange(len(points))).all():
        raise ValueError("the canonical mesh is not mirror symmetric; was the bundle changed?")
    return mirror


def assemble(faces: Faces, names: tuple[str, ...]) -> OpenHead:
    """Fit everything but the albedo, which is flat afterwards."""
    points, uv, triangles = canonical_mesh()
    mirror = mirror_of(points)
    swap = [names.index(n.replace("Left", "#").replace("Right", "Left").replace("#", "Right")) for n in names]
    template, shape, expression = learn_geometry(faces, points, mirror, swap)
    flat = OpenHead(
        template=template.astype(np.float32), shape=shape.astype(np.float32), expression=expression.astype(np.float32),
        control_faces=triangles.astype(np.int32), control_uv=uv.astype(np.float32),
        albedo_mean=np.zeros((0, 3), np.float32), albedo=np.zeros((0, 0, 3), np.float32), skin=np.zeros(0, bool),
        mirror=mirror.astype(np.int32),
        spec=HeadSpec("open", "building", SHAPE, len(names), ALBEDO, names),
    )  # fmt: skip
    weights, _ = flat.subdivision()
    skin = weights @ feature_points(len(points)) < 0.2
    return replace(flat, skin=skin & skin[mirror_of(weights @ points)])


def left_out(faces: Faces, names: tuple[str, ...], folds: int = 4) -> np.ndarray:
    """(N,) mean landmark error of every face under a head built without that person, in % of the outer-eye distance."""
    people = np.unique(faces.person)
    fold_of = dict(zip(people, np.random.default_rng(0).permutation(len(people)) % folds))
    fold = np.array([fold_of[p] for p in faces.person])
    error = np.zeros(len(fold))
    for k in range(folds):
        head = assemble(faces.take(np.flatnonzero(fold != k)), names)
        error[fold == k] = landmark_error(faces.take(np.flatnonzero(fold == k)), head)
    return error


def landmark_error(faces: Faces, head: OpenHead) -> np.ndarray:
    """(N,) mean 2D distance of landmarks and fitted head, in % of the outer-eye distance; every face by itself."""
    landmarks = torch.from_numpy(faces.landmarks)
    fit = GeometryFitter(head)(landmarks, torch.from_numpy(faces.scores).float(), torch.arange(len(landmarks)))
    projected = fit.scale[:, None, None] * (fit.points @ fit.rotation.mT)[..., :2] + fit.shift[:, None]
    seen = to_crop_unit(landmarks)
    eyes = (seen[:, 33] - seen[:, 263]).norm(dim=-1)
    return (100 * (seen[..., :2] - projected).norm(dim=-1).mean(1) / eyes).numpy()


def save(head: OpenHead, path: Path) -> None:
    """Write the asset: float32 control points, int8 albedo levels, no pickles; its version is a hash of its content."""
    step = np.abs(head.albedo).max((1, 2)) / 127
    arrays = {
        "template": head.template, "shape": head.shape, "expression": head.expression,
        "control_faces": head.control_faces.astype(np.int16), "control_uv": head.control_uv,
        "albedo_mean": head.albedo_mean.astype(np.float16), "albedo_step": step.astype(np.float32),
        "albedo_levels": np.round(head.albedo / step[:, None, None]).astype(np.int8),
        "skin": head.skin, "mirror": head.mirror.astype(np.int16),
        "expression_names": np.array(head.spec.expression_names),
    }  # fmt: skip
    digest = hashlib.sha256(b"".join(name.encode() + a.tobytes() for name, a in sorted(arrays.items())))
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, version=np.array(f"1.{digest.hexdigest()[:8]}"), **arrays)
    print(f"{path}: {path.stat().st_size / 2**20:.2f} MiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder with manifest.csv, images/ and videos/")
    parser.add_argument("--out", type=Path, default=Path("rigface/data/open_head.npz"))
    parser.add_argument("--report", type=Path, default=Path("benchmarks/results/open_head.json"))
    options = parser.parse_args()
    print("looking")
    faces, names = detect_faces(options.data)
    print("geometry")
    head = assemble(faces, names)
    print("albedo")
    fine = mirror_of(head.subdivision()[0].astype(np.float64) @ canonical_mesh()[0])
    mean, basis = learn_albedo(faces, head, fine)
    save(replace(head, albedo_mean=mean, albedo=basis), options.out)
    print("people left out (four folds)")
    error = left_out(faces, names)
    strangers, _ = detect_faces(options.data, ship="0")
    unseen = landmark_error(strangers.take(~np.isin(strangers.person, faces.person)), head)
    report = {
        "unit": "mean landmark distance in % of the outer-eye distance, each face fitted by itself",
        "left_out": {
            "people": len(np.unique(faces.person)),
            "faces": len(error),
            "mean": error.mean(),
            "p95": np.percentile(error, 95),
        },
        "never_in_the_build": {"faces": len(unseen), "mean": unseen.mean(), "p95": np.percentile(unseen, 95)},
    }
    text = json.dumps(report, indent=1, default=lambda x: round(float(x), 4))
    options.report.parent.mkdir(parents=True, exist_ok=True)
    options.report.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
