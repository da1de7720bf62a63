"""Gallery of the inspect page: choose diverse faces and draw crop, landmarks, normals, shading, albedo,
re-render, relit.

Path: FaceStatistics.candidates -> choose -> fetch (reads the pictures) -> strips -> `report.py`.
Without the head model the strips end after the mask, and the page says why.

Conventions: pictures are RGBA uint8; what does not belong to the person is transparent, so that it takes the page's
colour in dark and light.
"""

import io
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from pipelines.cluster.threads import torch_threads
from pipelines.inspect.people import RowPosition
from pipelines.inspect.statistics import Candidate, light_slope
from rigface import schema
from rigface.errors import RigFaceError
from rigface.face.geometry.contours import CONTOURS, POINTS
from rigface.face.head import heads
from rigface.face.head.head_model import Head
from rigface.face.rendering.lighting import harmonics, shade
from rigface.face.rendering.renderer import render
from rigface.image import decode, decode_mask, linear_to_srgb
from rigface.pages.environment import data_uri
from rigface.types import CROP_PX, FaceParams, HeadSpec

# Pixels and WebP quality, tried in order until the pictures of a page fit into BUDGET.
SIZES = ((320, 80), (256, 76), (192, 70), (128, 60))
# All tiles but the crop itself show this square of it, (x, y, side) in shares of the crop: the face and some hair.
WINDOW = (0.1, 0.13, 0.8)
VIEW_BOX = "{0:g} {1:g} {2:g} {2:g}".format(*(share * CROP_PX for share in WINDOW))  # of landmarks over a tile
RENDER_PX = 720  # of the whole crop; tiles are reduced when they are encoded, which smooths outlines
BUDGET = 4_200_000
THUMB_PX = 72
# Yaw, pitch, light x y z, confidence: a distance of one is a different picture.
_FEATURE_SCALE = np.array([1 / 35, 1 / 25, 0.8, 0.8, 0.8, 1.6])
_SAME_PERSON = 0.3  # weight of the distance between two pictures of one person
_DIM = 0.4
# Linear colour to sRGB in 4096 steps, each under one level of the result.
_SRGB = np.round(linear_to_srgb(np.linspace(0, 1, 4096, dtype=np.float32)) * 255).astype(np.uint8)
_BACKDROP = 56  # alpha of what the mask calls background
RELIT = "key light from above, on the side that was darker"
LABELS = {
    "crop": "crop",
    "landmarks": "landmarks",
    "mask": "person mask",
    "normals": "normals",
    "shading": "shading",
    "albedo": "albedo",
    "render": "re-render",
    "relit": "relit",
}


@dataclass(frozen=True)
class Picture:
    """One tile of a strip, RGBA; the page draws the landmarks over the one of that name."""

    name: str
    image: np.ndarray


@dataclass(frozen=True)
class Strip:
    """One face: its numbers in the dataset (None if missing), its tiles, and its landmarks as SVG path data."""

    facts: Mapping[str, Any]
    tiles: list[Picture]
    dots: str
    lines: str


def choose(
    candidates: Sequence[Candidate], count: int, *, without: set[RowPosition] | None = None
) -> list[RowPosition]:
    """Farthest-first: from the most trusted face on, repeatedly take the face that differs most from those taken.

    The order of the candidates does not matter; at most `count` are taken, none of `without`.
    """
    pool = sorted(c for c in candidates if c.position not in (without or set()))
    if not pool:
        return []
    features = np.array([c.features for c in pool]) * _FEATURE_SCALE
    persons = np.unique([c.person for c in pool], return_inverse=True)[1]
    taken = [int(np.argmax(features[:, -1]))]
    nearest = np.full(len(pool), np.inf)
    while len(taken) < min(count, len(pool)):
        last = taken[-1]
        distance = np.linalg.norm(features - features[last], axis=1)
        distance[persons == persons[last]] *= _SAME_PERSON
        nearest = np.minimum(nearest, distance)
        nearest[taken] = -1
        taken.append(int(np.argmax(nearest)))
    return [pool[i].position for i in taken]


def fetch(parquet: pq.ParquetFile, rows: Sequence[int], columns: Sequence[str]) -> dict[int, pa.Table]:
    """Some rows of a file, each a table of one row; other rows are in memory a few at a time."""
    present = [name for name in columns if name in parquet.schema_arrow.names]
    tables: dict[int, pa.Table] = {}
    first = 0
    for group in range(parquet.num_row_groups):
        stop = first + parquet.metadata.row_group(group).num_rows
        if any(first <= row < stop for row in rows):
            for batch in parquet.iter_batches(batch_size=16, row_groups=[group], columns=present):
                for row in rows:
                    if first <= row < first + len(batch):
                        table = pa.Table.from_batches([batch]).slice(row - first, 1)
                        tables[row] = table.take([0])  # a copy: a slice would keep the whole batch alive
                first += len(batch)
        first = stop
    return tables


def strips(rows: pa.Table, head: Head | None, spec: HeadSpec) -> list[Strip]:
    """Draw the faces of some rows with their head model, or without one; `spec` is that of the coefficients."""
    vectors = {name for name in rows.column_names if pa.types.is_fixed_size_list(rows[name].type)}
    facts = rows.drop_columns(sorted(vectors | ({"crop", "mask", "landmarks"} & {*rows.column_names}))).to_pylist()
    out = []
    for i, fact in enumerate(facts):
        row = rows.slice(i, 1)
        crop, mask = _pixels(row)
        drawn = {"crop": _rgba(crop), "landmarks": _window(_rgba(crop, mask))}
        if head is not None:
            rendered = pictures(schema.params_of(row, spec), head)
            drawn |= {name: _window(image) for name, image in rendered.items()}
        else:
            person = np.zeros_like(crop[..., 0]) if mask is None else mask
            drawn["mask"] = _window(np.dstack([np.full_like(crop, 128), person]))
        tiles = [Picture(name, reduced(image, SIZES[0][0])) for name, image in drawn.items()]
        out.append(Strip(defaultdict(lambda: None, fact), tiles, *_contours(row)))
    return out


def load_head(spec: HeadSpec, folder: str | None = None) -> tuple[Head | None, str]:
    """The head model of a dataset, or None and the reason; its files are searched in `folder` and the assets folder."""
    try:
        return heads.load_head(spec, folder), ""
    except (RigFaceError, OSError, ValueError) as problem:
        return None, f"the head model {spec.name} is not there to be drawn ({problem})"


def pictures(params: FaceParams, head: Head, px: int = RENDER_PX) -> dict[str, np.ndarray]:
    """Render the coefficients of one face (batch (1,), numpy): normals, shading, albedo, render, relit.

    Each is RGBA uint8 (px, px, 4), transparent outside the head.
    """
    with torch_threads(), torch.inference_mode():
        batch = params.map(lambda values: torch.tensor(values, dtype=torch.float32))
        drawn = render(head, batch, size=px, cull=True)
        inside = drawn.alpha[0, 0].numpy() > 0
        seen = [part[0].permute(1, 2, 0)[inside] for part in (drawn.normal_image, drawn.albedo_image, drawn.shading)]
        relight = torch.tensor(relit(batch.light[0].numpy()), dtype=torch.float32)
        relit_shading = shade(seen[0][None], relight[None])[0].numpy()
    normals, albedo, shading = (part.numpy() for part in seen)
    encode, shading_scale = _srgb8 if head.spec.colours == "linear" else _plain8, 1.0
    if len(shading):  # the mean brightness is kept, unless it is too low to see anything
        relit_shading *= max(shading.mean(), _DIM) / max(relit_shading.mean(), 1e-6)
        shading_scale = 0.7 / max(float(np.quantile(shading, 0.98)), 1e-6)
    colours = {
        "normals": (np.clip(normals * 0.5 + 0.5, 0, 1) * 255).round(),
        "shading": _srgb8(shading * shading_scale),
        "albedo": encode(albedo),
        "render": encode(albedo * shading),
        "relit": encode(albedo * relit_shading),
    }
    return {name: _placed(colour, inside) for name, colour in colours.items()}


def relit(light: np.ndarray) -> np.ndarray:
    """A white key light from above, on the side that was darker in `light` (9, 3), over some even light.

    (9, 3) such that `lighting.shade` gives 0.25 + max(0, n.d) for a normal n, as well as nine numbers can.
    """
    side = -1.0 if light_slope(light[None])[0][0, 0] > 0 else 1.0
    toward = np.array([0.8 * side, 0.5, 0.45])
    toward /= np.linalg.norm(toward)
    sphere = np.random.default_rng(0).normal(size=(512, 3))
    sphere /= np.linalg.norm(sphere, axis=1, keepdims=True)
    basis = harmonics(torch.tensor(sphere)).numpy()
    wanted = 0.25 + np.maximum(sphere @ toward, 0)
    return np.repeat(np.linalg.lstsq(basis, wanted, rcond=None)[0][:, None], 3, axis=1)


def _srgb8(linear: np.ndarray) -> np.ndarray:
    return _SRGB[(np.clip(linear, 0, 1) * 4095).astype(np.int16)]


def _plain8(encoded: np.ndarray) -> np.ndarray:
    return (np.clip(encoded, 0, 1) * 255 + 0.5).astype(np.uint8)


def _placed(colour: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """(H, W, 4) uint8 with (P, 3) colours at the P drawn pixels, transparent elsewhere."""
    out = np.zeros((*inside.shape, 4), np.uint8)
    out[inside, :3] = colour
    out[inside, 3] = 255
    return out


def encoded(strips: Sequence[Strip]) -> list[list[str]]:
    """The tiles of all strips as data URIs, as large as the budget allows."""
    uris: list[list[str]] = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for px, quality in SIZES:
            encode = partial(webp, px=px, quality=quality)
            uris = [list(pool.map(encode, [tile.image for tile in strip.tiles])) for strip in strips]
            if sum(len(uri) for strip in uris for uri in strip) <= BUDGET:
                break
    return uris


def reduced(image: np.ndarray, px: int) -> np.ndarray:
    """An RGBA picture no larger than `px`; what is transparent does not bleed into what is not."""
    picture = Image.fromarray(image)
    picture.thumbnail((px, px), Image.Resampling.LANCZOS)
    return np.asarray(picture)


def webp(image: np.ndarray, px: int, quality: int = 80) -> str:
    """A picture as a data URI, no larger than `px`."""
    out = io.BytesIO()
    Image.fromarray(reduced(image, px)).save(out, "WEBP", quality=quality, method=2)
    return data_uri(out.getvalue(), "webp")


def thumbs(rows: pa.Table) -> list[str]:
    """Small round faces for a list, as data URIs."""
    return [webp(_round(_window(_rgba(_pixels(rows.slice(i, 1))[0]))), THUMB_PX, 76) for i in range(len(rows))]


def _round(image: np.ndarray) -> np.ndarray:
    middle = np.arange(len(image)) + 0.5 - len(image) / 2
    inside = middle[:, None] ** 2 + middle**2 < (len(image) / 2) ** 2
    return np.dstack([image[..., :3], np.where(inside, image[..., 3], np.uint8(0))])


def _pixels(row: pa.Table) -> tuple[np.ndarray, np.ndarray | None]:
    """Crop and mask of one row; a crop that cannot be read is grey, a mask that cannot is None."""
    crop, mask = (row[name][0].as_py() if name in row.column_names else None for name in ("crop", "mask"))
    pixels, person = np.full((CROP_PX, CROP_PX, 3), 128, np.uint8), None
    with suppress(RigFaceError):
        pixels = pixels if crop is None else decode(crop)
        person = None if mask is None else decode_mask(mask)
    return pixels, person if person is not None and person.shape == pixels.shape[:2] else None


def _rgba(crop: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
    alpha = np.full(crop.shape[:2], 255, np.uint8) if mask is None else np.maximum(mask, np.uint8(_BACKDROP))
    return np.dstack([crop, alpha])


def _window(image: np.ndarray) -> np.ndarray:
    x, y, side = (round(share * len(image)) for share in WINDOW)
    return image[y : y + side, x : x + side]


def _contours(row: pa.Table) -> tuple[str, str]:
    """Landmarks of one row as SVG path data, crop px: dots, and contours if the layout is the 478-point one."""
    values = row["landmarks"][0].as_py() if "landmarks" in row.column_names else None
    points = np.array(values or [], float).reshape(-1, 3)[:, :2]
    positions = np.clip(np.nan_to_num(points), -9999, 9999).round().astype(int)
    dots = "".join(f"M{x} {y}h0" for x, y in positions)
    if len(positions) != POINTS:
        return dots, ""
    return dots, "".join("M" + "L".join(f"{x} {y}" for x, y in positions[list(line)]) for line in CONTOURS)
