"""Training on object storage: pairs, steps, a checkpoint, resume, and an edit by the model's s3:// name."""

import json
import os
import threading
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from diffusers import UNet2DConditionModel

from pipelines.cli.main import main
from pipelines.evaluate.info import fingerprint
from pipelines.examples.config import PairConfig, PairSettings
from pipelines.examples.layout import autoencoder_place
from pipelines.examples.pair import pair
from pipelines.train import loop, metric_log
from pipelines.train.backend import LocalBackend
from pipelines.train.config import debug
from pipelines.train.job import train
from rigface.errors import MissingAsset, OutputBusy, PlanError
from rigface.image import encode_png
from rigface.model import checkpoint
from rigface.model.model_config import config_of
from rigface.storage import lock, model_cache
from rigface.storage.store import Store
from rigface.storage.versions import newest_version
from rigface.testing import fake_examples, toy_start
from rigface.video.decode import read_frames
from tests.pipelines.made_faces import dataset


def uploaded(folder, uri: str) -> Store:
    store = Store(uri)
    for file in sorted(p for p in folder.rglob("*") if p.is_file()):
        store.publish(str(file.relative_to(folder)), file.read_bytes())
    return store


@pytest.fixture(autouse=True)
def _copies_here(tmp_path, monkeypatch):
    monkeypatch.setenv("RIGFACE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def sd15(tmp_path, clip_folder):
    """A folder in the layout of Stable Diffusion 1.5 with as few layers as can be, its text encoder included."""
    toy = toy_start.shallow()
    config = {k: v for k, v in toy.model.identity.config.items() if not k.startswith("_")}
    torch.manual_seed(5)
    UNet2DConditionModel(**config).save_pretrained(clip_folder / "unet")
    toy.vae.save_pretrained(clip_folder / "vae")
    return clip_folder


def test_pairs_training_and_edit_on_object_storage(bucket, sd15, fixtures, tmp_path):
    root = f"{bucket}/{tmp_path.name}"
    dataset(tmp_path / "faces", people=2, frames=5)
    uploaded(tmp_path / "faces", f"{root}/faces")
    uploaded(sd15, f"{root}/sd15").publish("unrelated/huge.safetensors", b"is left where it is")
    small = PairSettings(size=64, pairs=8, relit=4, held_out_fraction=0.0, min_overlap=0.5, max_background_change=1.0)
    pair(PairConfig(f"{root}/faces", f"{root}/pairs", small), lambda words: None)

    run = replace(
        debug(), examples=f"{root}/pairs", out=f"{root}/run", start=f"sd15:{root}/sd15", steps=2, checkpoint_every=1,
        validation_examples=0, keep_checkpoints=2,
    )  # fmt: skip
    train(run, lambda words: None)
    store = Store(run.out)
    assert LocalBackend(store).names() == ["step-00000001", "step-00000002"]
    first = {line["step"]: line for line in metric_log.lines(store) if "loss" in line}
    train(replace(run, steps=3), lambda words: None)
    after = {line["step"]: line for line in metric_log.lines(store) if "loss" in line}
    assert [after[step] for step in first] == list(first.values())
    assert set(after) == {1, 2, 3}
    assert any("events" in path for path in store.paths("tensorboard"))

    about = json.loads(Store(newest_version(f"{run.out}/model")).read("config.json"))
    assert (about["size"], about["render_style"], about["head"]["name"]) == (64, "texture", "open")
    (tmp_path / "photo.png").write_bytes(portrait(fixtures))
    words = [tmp_path / "photo.png", tmp_path / "out.png", "--checkpoint", f"{run.out}/model", "--yaw", 10]
    assert main(["edit", *map(str, words)]) == 0
    assert (tmp_path / "out.png").is_file()


def portrait(fixtures) -> bytes:
    return encode_png(next(iter(read_frames(str(fixtures / "clip.mp4")))).image)


def test_folder_is_fetched_once_and_again_after_a_change(bucket, tmp_path, monkeypatch):
    checkpoint.save(tmp_path / "tiny", toy_start.shallow(kind="bridge"))
    uri = f"{bucket}/{tmp_path.name}/model"
    store = uploaded(tmp_path / "tiny", uri)
    place = checkpoint.folder_of(uri)
    for file in (p for p in place.rglob("*") if p.is_file()):
        assert file.read_bytes() == (tmp_path / "tiny" / file.relative_to(place)).read_bytes()
    unread = {"README.md", "model_index.json", "scheduler"}  # for others
    assert {p.name for p in place.iterdir()} == {p.name for p in (tmp_path / "tiny").iterdir()} - unread
    with monkeypatch.context() as patch:
        patch.setattr(model_cache, "_fetch", lambda *_: pytest.fail("fetched twice"))
        assert checkpoint.folder_of(uri) == place
        assert config_of(uri) == config_of(str(tmp_path / "tiny"))
        assert autoencoder_place(uri) == place / "vae"
        assert fingerprint(uri) == fingerprint(str(tmp_path / "tiny"))
    store.publish("config.json", store.read("config.json") + b"\n")
    assert checkpoint.folder_of(uri) != place
    with pytest.raises(MissingAsset, match="no folder of weights"):
        checkpoint.folder_of(f"{bucket}/{tmp_path.name}/nothing")
    monkeypatch.setenv("RIGFACE_CACHE_GB", "0.0001")
    store.publish("config.json", store.read("config.json") + b"\n")
    with pytest.raises(PlanError, match="RIGFACE_CACHE_GB"):
        checkpoint.folder_of(uri)


def test_least_recently_used_copies_are_evicted_and_none_in_use(bucket, tmp_path, monkeypatch):
    store = Store(f"{bucket}/{tmp_path.name}")
    for name in ("a", "b", "c"):
        store.publish(f"{name}/config.json", b"{}")
        store.publish(f"{name}/vae/diffusion_pytorch_model.safetensors", np.random.default_rng(0).bytes(100_000))
    monkeypatch.setenv("RIGFACE_CACHE_GB", "0.00021")  # two, not three
    a, b = (model_cache.fetched(f"{store.uri}/{name}") for name in ("a", "b"))
    os.utime(a, (0, 0))
    c = model_cache.fetched(f"{store.uri}/c")
    assert [p.is_dir() for p in (a, b, c)] == [False, True, True]
    model_cache.fetched(f"{store.uri}/a")
    assert b.is_dir(), "used a moment ago"


def test_training_stops_writing_after_a_takeover_of_the_output(bucket, tmp_path, monkeypatch):
    """As after a night's sleep of the machine: another has made the lease its own."""
    part = tmp_path / "examples" / "00" / "00part.parquet"
    part.parent.mkdir(parents=True)
    pq.write_table(fake_examples.table(16), part)
    run = replace(debug(), examples=str(tmp_path), out=f"{bucket}/{tmp_path.name}/run", steps=4, checkpoint_every=2)
    run = replace(run, validate_every=2, validation_examples=0)
    store, noticed = Store(run.out), threading.Event()
    step, renew, keep = loop._step, lock._Lease.renew, LocalBackend.keep

    def stepped(state, examples, micro_batches, passes, number):
        if number == 3:
            store.publish(".rigface/lease.json", json.dumps({"id": "another"}).encode())
            assert noticed.wait(20)
        return step(state, examples, micro_batches, passes, number)

    def kept(backend, *args, **options):
        keep(backend, *args, **options)
        backend.wait()  # it is written before the other comes

    def renewed(lease, patience):
        still_ours = renew(lease, patience)
        if not still_ours:
            noticed.set()
        return still_ours

    monkeypatch.setattr(lock, "RENEW_S", 0.2)
    monkeypatch.setattr(lock._Lease, "renew", renewed)
    monkeypatch.setattr(loop, "_step", stepped)
    monkeypatch.setattr(LocalBackend, "keep", kept)
    with pytest.raises(OutputBusy, match="another has taken over"):
        train(run, lambda words: None)
    assert LocalBackend(store).names() == ["step-00000002"]
    assert any("events" in path for path in store.paths("tensorboard"))  # of a run that never came to its end
    lock.check_holder(store, "another")
    with pytest.raises(OutputBusy, match="another has taken over"):
        lock.check_holder(store, "a third")
