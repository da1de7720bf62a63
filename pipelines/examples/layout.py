"""Paths and metadata of a folder of training examples."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from rigface.errors import MissingAsset, PlanError
from rigface.examples import ExampleSpec
from rigface.storage.store import Store, sharded

EXAMPLES = "examples"  # folder of the training examples
PLAN = "pairs.parquet"


def part_path(unit: str) -> str:
    """Path of a unit's examples."""
    return sharded(EXAMPLES, unit, ".parquet")


def has_examples(source: Store) -> bool:
    """True if a folder holds training examples."""
    return next(iter(source.paths(EXAMPLES, ".parquet")), None) is not None


def parquet_bytes(table: pa.Table) -> pa.Buffer:
    """A table as bytes: pictures are compressed already, and rows are read one by one."""
    sink = pa.BufferOutputStream()
    pq.write_table(
        table, sink, row_group_size=len(table) or 1, compression="zstd", use_dictionary=["split", "identity"]
    )
    return sink.getvalue()


def parts_of(source: Store) -> list[str]:
    """The objects of an examples folder; PlanError if there are none."""
    parts = sorted(source.paths(EXAMPLES, ".parquet"))
    if not parts:
        raise PlanError(f"{source.uri}: no examples/ here; make some with `rigface pair`")
    return parts


def schema_of(source: Store, parts: Sequence[str]) -> pa.Schema:
    """The schema shared by all objects of a folder."""
    return source.schema(parts[0])


def spec_of(source: Store, parts: Sequence[str]) -> ExampleSpec:
    """The spec shared by all examples of a folder."""
    return ExampleSpec.of(schema_of(source, parts))


def plan_hash(source: Store) -> str:
    """A hash of the plan behind a folder of examples; empty if it has none."""
    try:
        return hashlib.sha256(source.read(PLAN)).hexdigest()[:16]
    except FileNotFoundError:
        return ""


def examples_hash(*sources: Store) -> str:
    """A hash of the names of folders' objects, which are hashes of what they were made from; or PlanError."""
    names = "\0\0".join("\0".join(parts_of(source)) for source in sources)
    return hashlib.sha256(names.encode()).hexdigest()[:16]


def autoencoder_place(name: str) -> Path:
    """Folder of an autoencoder, its `vae/`, or a `.safetensors` file, or MissingAsset; `mini` is that which ships."""
    from rigface.model.checkpoint import sd15_beside
    from rigface.model.checkpoint_folder import folder_of
    from rigface.model.model_config import is_released

    place = folder_of(name)
    if name and is_released(name):
        place = sd15_beside(place)
    if name and place.is_file() and place.suffix == ".safetensors":
        return place
    for folder in (place / "vae", place):
        if name and (folder / "config.json").is_file() and any(folder.glob("*.safetensors")):
            return folder
    raise MissingAsset(
        f"autoencoder {name!r}: want a folder with config.json and *.safetensors, one with vae/ in it, or one "
        ".safetensors file. `rigface autoencoder FACES OUT` makes a small one"
    )


def autoencoder_hash(place: Path) -> str:
    """A hash of an autoencoder's config and weights."""
    files = [place] if place.is_file() else [place / "config.json", *sorted(place.glob("*.safetensors"))]
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            while piece := file.read(2**20):
                digest.update(piece)
    return digest.hexdigest()[:16]
