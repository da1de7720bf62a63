"""Schema of training examples: written by `pair`, extended by `encode`, read by `train`.

One row is one `Example` (types.py): the conditions of an edit, and the photograph it should become. Two forms share all
other columns: with pictures (`examples/1`), and with the pictures' latents beside or instead of them (`latents/1`).
Style, size, head model and the meaning of the expression code are in the metadata of every file, so that rows of two
kinds never mix.

`python -m rigface.examples` prints the tables of the documentation.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import pyarrow as pa

from rigface.image import decode, decode_mask
from rigface.profile import OWN, ConditionSpec, ExpressionField, FaceProfile, IdentityName, RenderStyle
from rigface.schema import Column, markdown
from rigface.types import Conditions, Example, HeadSpec

EXAMPLES_VERSION = "examples/1"
LATENTS_VERSION = "latents/1"
REGIONS = "regions"  # files written before there were regions lack it
CAPTION = "caption"  # files written before there were captions lack it
IDENTITY = "identity_vector"  # of the source, in files whose spec names a network
IDENTITY_WIDTH = {"dlib": 128, "arcface": 512}
PICTURES = ("reference", "background", "render", "target")


@dataclass(frozen=True)
class ExampleSpec:
    """Properties shared by the rows of a file; part of its metadata."""

    style: RenderStyle  # of the render condition, as in a checkpoint's config
    size: int  # side of the pictures, px
    head: HeadSpec  # head model of the coefficients behind the conditions
    expression_field: ExpressionField  # the field of `FaceParams` that is the expression code
    expression_size: int  # its number of coefficients
    profile: FaceProfile = OWN  # how the faces were analysed and drawn
    identity: IdentityName = ""  # network of the identity vectors of the sources; "": there are none

    @property
    def conditions(self) -> ConditionSpec:
        """The conditions of the rows."""
        return ConditionSpec(self.style, self.size, self.expression_field, profile=self.profile, identity=self.identity)

    def to_json(self) -> str:
        described = asdict(self)
        if self.profile == OWN:
            del described["profile"]
        if not self.identity:
            del described["identity"]
        return json.dumps(described)

    @staticmethod
    def of(schema: pa.Schema) -> ExampleSpec:
        """The spec of a file; ValueError if its metadata has none."""
        if b"rigface.examples" not in (schema.metadata or {}):
            raise ValueError("not an examples file: its metadata has no rigface.examples")
        described = json.loads(schema.metadata[b"rigface.examples"])
        profile = FaceProfile(**described.pop("profile", {}))
        return ExampleSpec(**{**described, "head": HeadSpec(**described["head"])}, profile=profile)


@dataclass(frozen=True)
class LatentSpec:
    """Origin of latents; part of a file's metadata."""

    channels: int  # of one picture's latents
    height: int
    width: int
    scale: float  # factor of the target's latents
    autoencoder: str  # hash of the autoencoder's weights and config

    @property
    def numbers(self) -> int:
        """Floats per picture."""
        return self.channels * self.height * self.width

    @staticmethod
    def of(schema: pa.Schema) -> LatentSpec | None:
        """The spec of a file with latents; None if it has none."""
        described = (schema.metadata or {}).get(b"rigface.latents")
        return None if described is None else LatentSpec(**json.loads(described))


def example_columns(expression_size: int) -> list[Column]:
    """The columns of an examples file, in file order."""
    numbers = [
        ("delta_yaw_deg", "turn to the left from source to target", "degrees"),
        ("delta_pose_deg", "angle between the two heads", "degrees"),
        ("delta_expression", "root mean square difference of the expression codes", ""),
        ("delta_light", "distance of the two lights after equal exposure, as a share of their size", ""),
    ]
    return [
        Column("example", pa.string(), "name of the example: hash of all that decides what is in it"),
        Column("split", pa.string(), "`train` or `test`, by person (`pipelines/examples/split.py`)"),
        Column("identity", pa.string(), "the person"),
        Column("kind", pa.string(), "`pair` of two frames; `relit`: the source is under an invented light; "
           "`posed`: it was turned, too, by the preview"),
        Column("mirrored", pa.bool_(), "left and right are exchanged in all pictures and numbers"),
        Column("take", pa.string(), "the traits that differ, as `EditSpec.take`, joined by commas"),
        *(Column(f"{who}_{what}", kind, doc, unit) for who in ("source", "target") for what, kind, doc, unit in (
            ("uri", pa.string(), f"the input the {who} comes from", ""),
            ("frame_index", pa.int32(), "its frame", ""),
            ("track", pa.int32(), "its track", ""),
        )),
        *(Column(name, pa.float32(), doc, unit) for name, doc, unit in numbers),
        Column("yaw_deg", pa.float32(), "asked of the edit", "degrees"),
        Column("pitch_deg", pa.float32(), "asked of the edit", "degrees"),
        Column("roll_deg", pa.float32(), "asked of the edit", "degrees"),
        Column("reference", pa.binary(), "picture: the person as the denoiser remembers them"),
        Column("background", pa.binary(), "picture: what stays, the person cut out"),
        Column("render", pa.binary(), "picture: the head as wanted, in the style of the metadata"),
        Column("target", pa.binary(), "picture: the photograph to be arrived at"),
        Column("mask", pa.binary(), "PNG: 255 where the person is in the target"),
        Column(REGIONS, pa.binary(), "PNG of the target: 0 background, 1 person, 2 face, 3 the person's edge, "
           "4 eyes and mouth"),
        Column("expression_code", pa.list_(pa.float32(), expression_size), "the expression wanted"),
        Column(CAPTION, pa.string(), "what is said of the target; null where nothing is"),
    ]  # fmt: skip


def examples_schema(spec: ExampleSpec) -> pa.Schema:
    """Arrow schema of the picture form."""
    metadata = {"rigface.schema": EXAMPLES_VERSION, "rigface.examples": spec.to_json()}
    columns = [(c.name, c.type) for c in example_columns(spec.expression_size)]
    if spec.identity:
        columns.append((IDENTITY, pa.list_(pa.float32(), IDENTITY_WIDTH[spec.identity])))
    return pa.schema(columns, metadata=metadata)


def latent_columns(numbers: int, cells: int) -> list[Column]:
    """The columns that `encode` adds, for latents of so many numbers in so many cells; see rigface/model/latents.py for
    the scaling.
    """
    return [
        Column(
            f"{name}_latents",
            pa.list_(pa.float16(), numbers),
            f"the {name} as latents (channels, height, width), {'scaled' if name == 'target' else 'unscaled'}",
        )
        for name in PICTURES
    ] + [Column(f"{REGIONS}_latents", pa.list_(pa.uint8(), cells), "the largest number of `regions` in each cell")]


def latents_schema(spec: ExampleSpec, latents: LatentSpec) -> pa.Schema:
    """Arrow schema of the latent form: everything of the picture form, and four columns more."""
    metadata = {
        "rigface.schema": LATENTS_VERSION,
        "rigface.examples": spec.to_json(),
        "rigface.latents": json.dumps(asdict(latents)),
    }
    added = [pa.field(c.name, c.type) for c in latent_columns(latents.numbers, latents.height * latents.width)]
    return pa.schema([*examples_schema(spec), *added], metadata=metadata)


def examples_of(table: pa.Table) -> Example:
    """The rows of a table of the picture form as one batch (N,), numpy; ValueError if a picture is null.

    A column of identity vectors becomes part of the conditions; readers leave it out for models that read none.
    """
    for name in PICTURES:
        if table[name].null_count:
            raise ValueError(f"{name}: {table[name].null_count} rows have no picture; read the latents instead")
    pictures = {name: np.stack([decode(cell) for cell in table[name].to_pylist()]) for name in PICTURES}
    target = pictures.pop("target")
    numbers = {"expression_code": numbers_of(table, "expression_code")}
    if IDENTITY in table.column_names:
        numbers["identity"] = numbers_of(table, IDENTITY)
    return Example(Conditions(**pictures, **numbers), target)


def regions_of(table: pa.Table) -> np.ndarray:
    """The column `regions` as (N, S, S) uint8; it may not be null."""
    return np.stack([decode_mask(cell) for cell in table[REGIONS].to_pylist()])


def in_cells(regions: np.ndarray, height: int, width: int) -> np.ndarray:
    """(N, height, width): the largest number of regions (N, S, S) in each cell of latents."""
    count, side = regions.shape[:2]
    cells: np.ndarray = regions.reshape(count, height, side // height, width, side // width).max((2, 4))
    return cells


def numbers_of(table: pa.Table, name: str) -> np.ndarray:
    """A fixed-size-list column as (N, width), of the column's own float type."""
    values = table[name].combine_chunks()
    flat = values.flatten().to_numpy(zero_copy_only=False).reshape(len(table), values.type.list_size)
    return np.array(flat)  # a copy: torch wants writable memory, Arrow's is not


def mirrored_expression(names: Sequence[str]) -> np.ndarray:
    """The order of expression axes seen in a mirror: `code[mirrored_expression(names)]`.

    Axes with `Left` or `Right` in their names change places with their twin, ValueError if there is none; others stay.
    """
    if not names:
        raise ValueError("this head's expression axes have no names, so they cannot be mirrored")
    other = {"Left": "Right", "Right": "Left", "_left": "_right", "_right": "_left"}
    order = []
    for name in names:
        twin = next((name.replace(side, to) for side, to in other.items() if side in name), name)
        if twin not in names:
            raise ValueError(f"expression axis {name!r} has no twin {twin!r}")
        order.append(list(names).index(twin))
    return np.array(order)


def half_column(values: np.ndarray) -> pa.Array:
    """(N, ...) floats as a fixed-size-list column of float16; ValueError if a value does not fit."""
    with np.errstate(over="ignore"):
        half = np.ascontiguousarray(values.reshape(len(values), -1), np.float16)
    if not np.isfinite(half).all():
        raise ValueError("latents: a value is too large for float16, or not a number")
    return pa.FixedSizeListArray.from_arrays(pa.array(half.ravel()), half.shape[1])


if __name__ == "__main__":
    from rigface.face.head.open_head import OpenHead

    print(markdown(example_columns(OpenHead.load().spec.expression)))
    print()
    print(markdown(latent_columns(4096, 1024)))
