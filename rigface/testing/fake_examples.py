"""Fake examples in the layout of `pair`, for tests of `encode` and `train`.

A "person" is a colour, a "pose" the position of a disc: the target is the reference's colour at the render's position,
so that there is something to learn. Everything is a pure function of the seed.
"""

import colorsys

import numpy as np
import pyarrow as pa

from rigface.examples import CAPTION, IDENTITY, IDENTITY_WIDTH, PICTURES, REGIONS, ExampleSpec, examples_schema
from rigface.image import encode_png
from rigface.profile import IdentityName, RenderStyle
from rigface.schema import column, table_of
from rigface.types import HeadSpec

HEAD = HeadSpec("fake", "0", shape=4, expression=52, albedo=3)  # as in the checkpoint `tiny`


def spec(size: int = 32, style: RenderStyle = "albedo", identity: IdentityName = "") -> ExampleSpec:
    """Settings of fake examples, which fit the checkpoint `tiny`."""
    return ExampleSpec(style, size, HEAD, "expression", HEAD.expression, identity=identity)


def table(
    rows: int, seed: int = 0, size: int = 32, style: RenderStyle = "albedo", people: int = 8,
    identity: IdentityName = "",
) -> pa.Table:  # fmt: skip
    """Rows of examples/ of `people` people; people of odd number are held out."""
    random = np.random.default_rng(seed)
    cells: dict[str, list[bytes]] = {name: [] for name in (*PICTURES, "mask", REGIONS)}
    person = random.integers(people, size=rows)
    for number in person:
        before, after = random.uniform(0.3, 0.7, (2, 2)) * size
        grey = np.full((size, size, 3), 90, np.uint8)
        pictures = {
            "reference": _disc(grey, before, number / people),
            "background": grey,
            "render": _disc(grey, after, None),
            "target": _disc(grey, after, number / people),
        }
        for name, picture in pictures.items():
            cells[name].append(encode_png(picture))
        mask = pictures["target"].std(-1) > 5
        cells["mask"].append(encode_png(np.where(mask, 255, 0).astype(np.uint8)))
        cells[REGIONS].append(encode_png(np.where(mask, 2, 0).astype(np.uint8)))
    columns = {
        **cells,
        "example": [f"{seed:04x}{k:08x}" for k in range(rows)],
        "split": ["test" if number % 2 else "train" for number in person],
        "identity": [f"p{number:06}" for number in person],
        "kind": ["pair"] * rows,
        "mirrored": [False] * rows,
        "take": ["pose"] * rows,
        **{f"{role}_uri": ["fake"] * rows for role in ("source", "target")},
        **{f"{role}_{name}": [0] * rows for role in ("source", "target") for name in ("frame_index", "track")},
        **{f"delta_{name}": [10.0] * rows for name in ("yaw_deg", "pose_deg", "expression", "light")},
        **{f"{angle}_deg": [0.0] * rows for angle in ("yaw", "pitch", "roll")},
        CAPTION: [None] * rows,
        "expression_code": column(random.normal(size=(rows, HEAD.expression)).astype(np.float32), HEAD.expression),
    }
    if identity:
        vectors = np.random.default_rng(0).normal(size=(people, IDENTITY_WIDTH[identity])).astype(np.float32)
        columns[IDENTITY] = column(vectors[person], IDENTITY_WIDTH[identity])
    return table_of(columns, examples_schema(spec(size, style, identity)))


def _disc(ground: np.ndarray, place: np.ndarray, hue: float | None) -> np.ndarray:
    size = len(ground)
    rows, columns = np.mgrid[:size, :size] + 0.5
    colour = np.array(colorsys.hsv_to_rgb(hue, 0.8, 0.9) if hue is not None else (0.8, 0.8, 0.8)) * 255
    inside = (rows - place[1]) ** 2 + (columns - place[0]) ** 2 < (size / 4) ** 2
    return np.where(inside[..., None], colour.astype(np.uint8), ground)
