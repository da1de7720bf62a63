"""Encoding examples: latents equal those of training, made once per autoencoder."""

import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from pipelines.cluster.workers import Workers
from pipelines.examples.config import EncodeConfig
from pipelines.examples.encode import encode
from rigface.errors import MissingAsset, PlanError
from rigface.examples import LatentSpec, examples_of, half_column, numbers_of
from rigface.model import checkpoint
from rigface.model.latents import encode_example
from rigface.testing import fake_examples


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Two parts of fake examples, and an autoencoder."""
    folder = tmp_path_factory.mktemp("encode")
    for k in range(2):
        part = folder / "pairs" / "examples" / f"{k:02x}" / f"{k:02x}part.parquet"
        part.parent.mkdir(parents=True)
        pq.write_table(fake_examples.table(9, seed=k), part)
    checkpoint.save(folder / "tiny", checkpoint.tiny())
    return folder


def test_latents_equal_those_made_in_training(place):
    out = place / "latents"
    counts = encode(EncodeConfig(str(place / "pairs"), str(out), str(place / "tiny"), batch=4), lambda words: None)
    assert counts == {"rows": 18, "units": 2}
    vae = checkpoint.load(place / "tiny").vae
    by_name = {}
    for part in (place / "pairs" / "examples").glob("*/*.parquet"):
        table = pq.read_table(part)
        with torch.inference_mode():
            made = encode_example(vae, examples_of(table))
        for k, name in enumerate(table["example"].to_pylist()):
            by_name[name] = made.map(lambda t, k=k: t[k])
    for part in (out / "examples").glob("*/*.parquet"):
        table = pq.read_table(part)
        spec = LatentSpec.of(table.schema)
        for k, name in enumerate(table["example"].to_pylist()):
            wanted = by_name[name]
            for column, tensor in (("target", wanted.target), ("render", wanted.conditions.render)):
                got = numbers_of(table, f"{column}_latents")[k].reshape(spec.channels, spec.height, spec.width)
                np.testing.assert_allclose(got, tensor.numpy(), rtol=2e-3, atol=2e-3)


def test_held_out_rows_keep_their_pictures_and_training_rows_do_not(place):
    out = place / "latents"
    encode(EncodeConfig(str(place / "pairs"), str(out), str(place / "tiny")), lambda words: None)
    for part in (out / "examples").glob("*/*.parquet"):
        table = pq.read_table(part)
        has = [cell is not None for cell in table["target"].to_pylist()]
        assert has == [split == "test" for split in table["split"].to_pylist()]
        with pytest.raises(ValueError, match="read the latents"):
            examples_of(table)


def test_encode_makes_missing_parts_only(place):
    config = EncodeConfig(str(place / "pairs"), str(place / "again"), str(place / "tiny"))
    encode(config, lambda words: None)
    parts = sorted((place / "again" / "examples").glob("*/*.parquet"))
    kept = parts[0].stat().st_mtime_ns
    parts[1].unlink()
    assert encode(config, lambda words: None)["units"] == 1
    assert parts[0].stat().st_mtime_ns == kept
    assert parts[1].is_file()


def test_other_autoencoder_is_refused(place):
    encode(EncodeConfig(str(place / "pairs"), str(place / "one"), str(place / "tiny")), lambda words: None)
    checkpoint.save(place / "other", checkpoint.tiny(seed=1))
    with pytest.raises(PlanError, match="another autoencoder"):
        encode(EncodeConfig(str(place / "pairs"), str(place / "one"), str(place / "other")), lambda words: None)


def test_other_examples_are_refused(place, tmp_path):
    shutil.copytree(place / "pairs", tmp_path / "pairs")
    config = EncodeConfig(str(tmp_path / "pairs"), str(tmp_path / "out"), str(place / "tiny"))
    (tmp_path / "pairs" / "pairs.parquet").write_bytes(b"a plan")
    encode(config, lambda words: None)
    encode(config, lambda words: None)
    (tmp_path / "pairs" / "pairs.parquet").write_bytes(b"another plan")
    with pytest.raises(PlanError, match="of other examples"):
        encode(config, lambda words: None)
    (tmp_path / "pairs" / "pairs.parquet").write_bytes(b"a plan")
    part = next((tmp_path / "pairs" / "examples").glob("*/*.parquet"))
    part.rename(part.with_stem("another"))
    with pytest.raises(PlanError, match="of other examples"):
        encode(config, lambda words: None)


def test_folder_of_another_command_is_refused(place, tmp_path):
    config = EncodeConfig(str(place / "pairs"), str(tmp_path), str(place / "tiny"))
    (tmp_path / "rigface.json").write_text('{"config": "", "faces": "x"}')
    with pytest.raises(PlanError, match="an output of `pair`"):
        encode(config, lambda words: None)


def test_missing_autoencoder_and_examples_are_refused_with_a_command(place, tmp_path):
    with pytest.raises(MissingAsset, match="rigface autoencoder"):
        encode(EncodeConfig(str(place / "pairs"), str(tmp_path), str(tmp_path)), lambda words: None)
    with pytest.raises(PlanError, match="rigface pair"):
        encode(EncodeConfig(str(tmp_path), str(tmp_path / "out"), str(place / "tiny")), lambda words: None)


def test_values_beyond_float16_are_refused():
    with pytest.raises(ValueError, match="float16"):
        half_column(np.array([[1e6]]))


@pytest.mark.slow
def test_encode_on_ray_gives_the_same_objects(place, ray_cluster):
    alone, spread = place / "alone", place / "spread"
    encode(EncodeConfig(str(place / "pairs"), str(alone), str(place / "tiny")), lambda words: None)
    run = Workers(workers=1, cpus=0.5)
    encode(EncodeConfig(str(place / "pairs"), str(spread), str(place / "tiny"), pool=run), lambda words: None)
    names = [sorted(p.name for p in (f / "examples").glob("*/*.parquet")) for f in (alone, spread)]
    assert names[0] == names[1]
    for name in names[0]:
        a, b = (pq.read_table(next(f.glob(f"examples/*/{name}"))) for f in (alone, spread))
        assert a.drop_columns([c for c in a.column_names if c.endswith("latents")]).equals(
            b.drop_columns([c for c in b.column_names if c.endswith("latents")])
        )
        np.testing.assert_allclose(numbers_of(a, "target_latents"), numbers_of(b, "target_latents"), atol=2e-3)
