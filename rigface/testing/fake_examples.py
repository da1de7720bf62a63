"""Examples without faces: the fake of what `pair` makes, for tests of `encode` and `train`.

A "person" is a colour, a "pose" the place of a disc: the target is the reference's colour at the render's place, so
that there is something to learn. Everything is a pure function of the seed.
"""

from __future__ import annotations

import colorsys

import numpy as np
import pyarrow as pa

from rigface.examples import CAPTION, PICTURES, ExampleSpec, code_column, examples_schema
from rigface.image import encode_png
from rigface.schema import table_of
from rigface.types import HeadSpec

HEAD = HeadSpec("fake", "0", shape=4, expression=52, albedo=3)  # that of the checkpoint `tiny`


def spec(size: int = 32, style: str = "albedo") -> ExampleSpec:
    """What fake examples have in common; the checkpoint `tiny` is made for them."""
    return ExampleSpec(style, size, HEAD, "expression", HEAD.expression)


def table(rows: int, seed: int = 0, size: int = 32, style: str = "albedo", people: int = 8) -> pa.Table:
    """Some rows of examples/; people of odd number are held out.

    Args:
        people: among how many the rows are shared.
    """
    random = np.random.default_rng(seed)
    wanted = spec(size, style)
    cells: dict[str, list[bytes]] = {name: [] for name in (*PICTURES, "mask")}
    person = random.integers(people, size=rows)
    for one in person:
        before, after = random.uniform(0.3, 0.7, (2, 2)) * size
        grey = np.full((size, size, 3), 90, np.uint8)
        pictures = {
            "reference": _disc(grey, before, one / people),
            "background": grey,
            "render": _disc(grey, after, None),
            "target": _disc(grey, after, one / people),
        }
        for name, picture in pictures.items():
            cells[name].append(encode_png(picture))
        cells["mask"].append(encode_png(np.where(pictures["target"].std(-1) > 5, 255, 0).astype(np.uint8)))
    columns = {
        **cells,
        "example": [f"{seed:04x}{k:08x}" for k in range(rows)],
        "split": ["test" if one % 2 else "train" for one in person],
        "identity": [f"p{one:06}" for one in person],
        "kind": ["pair"] * rows,
        "mirrored": [False] * rows,
        "take": ["pose"] * rows,
        **{f"{who}_uri": ["fake"] * rows for who in ("source", "target")},
        **{f"{who}_{what}": [0] * rows for who in ("source", "target") for what in ("frame_index", "track")},
        **{f"delta_{what}": [10.0] * rows for what in ("yaw_deg", "pose_deg", "expression", "light")},
        **{f"{angle}_deg": [0.0] * rows for angle in ("yaw", "pitch", "roll")},
        CAPTION: [None] * rows,
        "expression_code": code_column(random.normal(size=(rows, HEAD.expression)).astype(np.float32)),
    }
    return table_of(columns, examples_schema(wanted))


def _disc(ground: np.ndarray, place: np.ndarray, hue: float | None) -> np.ndarray:
    size = len(ground)
    rows, columns = np.mgrid[:size, :size] + 0.5
    colour = np.array(colorsys.hsv_to_rgb(hue, 0.8, 0.9) if hue is not None else (0.8, 0.8, 0.8)) * 255
    inside = (rows - place[1]) ** 2 + (columns - place[0]) ** 2 < (size / 4) ** 2
    return np.where(inside[..., None], colour.astype(np.uint8), ground)
