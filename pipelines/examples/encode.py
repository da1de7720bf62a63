"""Examples in, latents out: the autoencoder runs once here, and never in training.

Path: OUT/examples of `pair` -> `encode_example` -> OUT/examples of another folder, same rows, four columns more.
Training rows lose their pictures, rows held out keep them: validation shows pictures. `train` reads either form.

A unit is a part of the input; its object's name is the hash of the part and of the autoencoder's weights, so that latents
of two autoencoders never mix and a run that is stopped goes on.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.compute as pc
from tyro.conf import Suppress, arg

from pipelines.cluster.actor_pool import Workers, over
from pipelines.examples.layout import autoencoder_folder, autoencoder_hash, parts_of, spec_of
from pipelines.run_info import git_commit, versions
from rigface import schema
from rigface.errors import PlanError
from rigface.examples import PICTURES, ExampleSpec, LatentSpec, examples_of, half_column, latents_schema
from rigface.storage import lock
from rigface.storage.store import Store, sharded

ABOUT = "rigface.json"


@dataclass(frozen=True)
class EncodeConfig:
    """One run of the job."""

    examples: Suppress[str]
    out: Suppress[str]
    autoencoder: str = ""
    """Folder or s3:// prefix of the autoencoder (diffusers' AutoencoderKL), or of a checkpoint or Stable Diffusion that has one; or
    `mini`."""
    batch: int = 16
    """Examples encoded at once; four pictures each."""
    keep_pictures: bool = False
    """Keep the pictures of training rows, too."""
    run: Annotated[Workers, arg(name="")] = field(default_factory=Workers)


def encode(config: EncodeConfig, say: Callable[[str], None] = print) -> dict[str, int]:
    """Run the job; counts of units and rows done now.

    Raises:
        PlanError: there are no examples, or the output holds latents of another autoencoder.
        MissingAsset: there is no autoencoder where it was said to be.
        OutputBusy: another run writes to this output.
    """
    source, store = Store(config.examples), Store(config.out)
    parts = parts_of(source)
    spec = spec_of(source, parts)
    folder = autoencoder_folder(config.autoencoder)
    with lock.hold(store) as check:
        about = _about(store, source, spec, autoencoder_hash(folder))
        done = store.ids("examples", ".parquet")
        units = [(unit_name(part, about["autoencoder"]), {"part": part}) for part in parts]
        todo = [(name, plan) for name, plan in units if name not in done]
        say(f"{len(units):,} parts, {len(todo):,} to do")
        counts: Counter[str] = Counter()
        arguments = {"config": config, "autoencoder": about["autoencoder"]}
        for k, record in enumerate(over(todo, EncodeUnit, arguments, config.run), 1):
            counts.update(record)
            check()
            if k % 20 == 0 or k == len(todo):
                say(f"{k:,}/{len(todo):,} parts, {counts['rows']:,} examples")
    return dict(counts)


def unit_name(part: str, autoencoder: str) -> str:
    """Name of the object that a part becomes."""
    return hashlib.sha256(f"{part}\0{autoencoder}".encode()).hexdigest()[:24]


def _about(store: Store, source: Store, spec: ExampleSpec, autoencoder: str) -> dict[str, Any]:
    try:
        about = json.loads(store.read(ABOUT))
    except FileNotFoundError:
        about = {"autoencoder": autoencoder, "spec": spec.to_json(), "examples": source.uri}
        store.publish(ABOUT, json.dumps({**about, "commit": git_commit(), "packages": versions()}, indent=1).encode())
        return about
    if about.get("autoencoder") != autoencoder or about.get("spec") != spec.to_json():
        raise PlanError(f"{store.uri} holds latents of another autoencoder or of other examples; choose another OUT")
    return about


class EncodeUnit:
    """Encodes parts. One per actor."""

    def __init__(self, config: EncodeConfig, autoencoder: str) -> None:
        import torch
        from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

        self._source, self._out, self._config = Store(config.examples), Store(config.out), config
        folder = autoencoder_folder(config.autoencoder)
        vae = AutoencoderKL.from_pretrained(folder, use_safetensors=True, local_files_only=True)
        vae.to(memory_format=torch.channels_last)  # twice as fast on a CPU
        self._vae = vae.eval().requires_grad_(False).to(config.run.device)
        self._autoencoder = autoencoder

    def __call__(self, unit: str, plan: dict[str, Any]) -> dict[str, int]:
        """Encode one part."""
        from pipelines.examples.compose_worker import parquet_of

        table = self._source.table(plan["part"])
        latents, spec = self.latents(table)
        columns = {name: table[name].combine_chunks() for name in table.column_names}
        if not self._config.keep_pictures:
            held = pa.array([s != "train" for s in table["split"].to_pylist()])
            for name in (*PICTURES, "mask"):
                columns[name] = pc.if_else(held, columns[name], pa.nulls(len(table), pa.binary()))
        wanted = latents_schema(ExampleSpec.of(table.schema), spec)
        self._out.publish(
            sharded("examples", unit, ".parquet"),
            parquet_of(schema.table_of({**columns, **latents}, wanted)),
            replace=False,
        )
        return {"rows": len(table), "units": 1}

    def latents(self, table: pa.Table) -> tuple[dict[str, pa.Array], LatentSpec]:
        """The four columns of a table of examples."""
        import numpy as np
        import torch

        from rigface.model.latents import encode_example

        made: dict[str, list[np.ndarray]] = {name: [] for name in PICTURES}
        with torch.inference_mode():
            for start in range(0, len(table), self._config.batch):
                example = encode_example(self._vae, examples_of(table.slice(start, self._config.batch)))
                c = example.conditions
                for name, values in zip(PICTURES, (c.reference, c.background, c.render, example.target)):
                    made[name].append(values.float().cpu().numpy())  # type: ignore[union-attr]
        whole = {name: np.concatenate(values) for name, values in made.items()}
        channels, height, width = whole["target"].shape[1:]
        spec = LatentSpec(channels, height, width, self._vae.config["scaling_factor"], self._autoencoder)
        return {f"{name}_latents": half_column(values) for name, values in whole.items()}, spec
