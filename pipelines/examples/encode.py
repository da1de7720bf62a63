"""Examples in, latents out: the autoencoder runs once here, and never in training.

Path: OUT/examples of `pair` -> `encode_example` -> OUT/examples of another folder, same rows, four columns more.

Training rows lose their pictures, held-out rows keep them: validation shows pictures. `train` reads either form. A unit
is a part of the input; its name is the hash of the part's path and of the autoencoder's weights. An output has the
latents of one autoencoder and of one plan of `pair`; a stopped run goes on.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from pipelines import run_info
from pipelines.cluster.unit_job import Unit, run_units, unit_name
from pipelines.examples.config import EncodeConfig
from pipelines.examples.example_index import INDEX, publish_index
from pipelines.examples.layout import (
    EXAMPLES,
    autoencoder_hash,
    autoencoder_place,
    parquet_bytes,
    part_path,
    parts_of,
    plan_hash,
    spec_of,
)
from rigface import schema
from rigface.errors import PlanError
from rigface.examples import (
    IDENTITY,
    PICTURES,
    REGIONS,
    ExampleSpec,
    LatentSpec,
    examples_of,
    half_column,
    in_cells,
    latents_schema,
    regions_of,
)
from rigface.model.latents import encode_example
from rigface.model.stable_diffusion import load_vae
from rigface.storage import lock
from rigface.storage.store import Store


def encode(config: EncodeConfig, say: Callable[[str], None] = print) -> dict[str, int]:
    """Run the job; counts of units and rows done now.

    Raises:
        PlanError: there are no examples, or the output holds other latents or other data.
        MissingAsset: the autoencoder is missing.
        OutputBusy: another run writes to this output.
    """
    source, store = Store(config.examples), Store(config.out)
    parts = parts_of(source)
    autoencoder = autoencoder_hash(autoencoder_place(config.autoencoder))
    origin = {"autoencoder": autoencoder, "spec": spec_of(source, parts).to_json(), "plan": plan_hash(source)}
    units = [Unit(unit_name(part, autoencoder), part) for part in parts]
    with lock.hold(store) as check:
        info, done = run_info.load_own(store, "encode", (EXAMPLES,)), store.ids(EXAMPLES, ".parquet")
        if info is None:
            run_info.write(store, origin | {"examples": source.uri} | run_info.software())
        elif any(info.get(name, value) != value for name, value in origin.items()) or (
            done - {unit.name for unit in units}
        ):
            raise PlanError(
                f"{store.uri} holds latents of another autoencoder or of other examples (those of {info['examples']}); "
                "choose another OUT"
            )
        if {unit.name for unit in units} - done:
            store.delete(INDEX)
        counts = run_units(units, partial(EncodeUnit, config, autoencoder), config.pool, store, EXAMPLES, check, say)
        publish_index(store)
        return dict(counts)


class EncodeUnit:
    """Encodes parts. One per actor."""

    def __init__(self, config: EncodeConfig, autoencoder: str) -> None:
        self._source, self._out, self._config = Store(config.examples), lock.follow(Store(config.out)), config
        vae: Any = load_vae(autoencoder_place(config.autoencoder))
        vae.to(memory_format=torch.channels_last)  # twice as fast on a CPU
        self._vae = vae.eval().requires_grad_(False).to(config.pool.device)
        self._autoencoder = autoencoder

    def __call__(self, unit: str, part: str) -> dict[str, int]:
        table = self._source.table(part)
        latents, spec = self._latents(table)
        columns = {name: table[name].combine_chunks() for name in table.column_names}
        if not self._config.keep_pictures:
            held_out = pa.array([s != "train" for s in table["split"].to_pylist()])
            for name in {*PICTURES, "mask", REGIONS} & columns.keys():
                columns[name] = pc.if_else(held_out, columns[name], pa.nulls(len(table), pa.binary()))
        encoded = schema.table_of({**columns, **latents}, latents_schema(ExampleSpec.of(table.schema), spec))
        self._out.publish(part_path(unit), parquet_bytes(encoded), replace=False)
        return {"rows": len(table), "units": 1}

    @torch.inference_mode()
    def _latents(self, table: pa.Table) -> tuple[dict[str, pa.Array], LatentSpec]:
        """The four columns of a table of examples."""
        batches: dict[str, list[np.ndarray]] = {name: [] for name in PICTURES}
        if IDENTITY in table.column_names:
            table = table.drop_columns([IDENTITY])  # it would take the reference's place
        for start in range(0, len(table), self._config.batch):
            example = encode_example(self._vae, examples_of(table.slice(start, self._config.batch)))
            c = example.conditions
            for name, values in zip(PICTURES, (c.reference, c.background, c.render, example.target)):
                assert isinstance(values, Tensor)
                batches[name].append(values.float().cpu().numpy())
        latents = {name: np.concatenate(values) for name, values in batches.items()}
        channels, height, width = latents["target"].shape[1:]
        spec = LatentSpec(channels, height, width, self._vae.config["scaling_factor"], self._autoencoder)
        columns = {f"{name}_latents": half_column(values) for name, values in latents.items()}
        if REGIONS in table.column_names and not table[REGIONS].null_count:
            cells = in_cells(regions_of(table), height, width).reshape(len(table), -1)
            columns[f"{REGIONS}_latents"] = pa.FixedSizeListArray.from_arrays(pa.array(cells.ravel()), height * width)
        return columns, spec
