"""Training loop: batches read ahead, resume with the same losses, checkpoints, export, refusals."""

import errno
import gzip
import json
import math
import pickle
import shutil
from concurrent.futures import Future
from dataclasses import asdict, replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from pipelines.examples import held_out
from pipelines.examples.config import EncodeConfig
from pipelines.examples.encode import encode
from pipelines.examples.example_index import INDEX, ExampleIndex
from pipelines.train import batch_sampler, metric_log, prepare_examples
from pipelines.train import loop as loops
from pipelines.train.backend import DONE, LocalBackend
from pipelines.train.batches import Batches
from pipelines.train.config import PRESETS, Networks, RegionWeights, TrainConfig, debug
from pipelines.train.job import _claim, preview, train
from pipelines.train.loop import loop
from pipelines.train.trainer_state import TrainerState
from pipelines.train.validation import Validation
from rigface.errors import JobBroken, PlanError
from rigface.examples import LatentSpec
from rigface.model import checkpoint
from rigface.storage.store import Store
from rigface.storage.versions import POINTER, newest_version
from rigface.testing import fake_examples, toy_start
from tests.pipelines.made_faces import dataset


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Three parts of fake examples: with pictures, and as latents of `tiny`."""
    folder = tmp_path_factory.mktemp("train")
    for k in range(3):
        part = folder / "pairs" / "examples" / f"{k:02x}" / f"{k:02x}part.parquet"
        part.parent.mkdir(parents=True)
        pq.write_table(fake_examples.table(16, seed=k), part)
    checkpoint.save(folder / "tiny", toy_start.shallow(kind="bridge"))
    encode(EncodeConfig(str(folder / "pairs"), str(folder / "latents"), str(folder / "tiny")), lambda words: None)
    return folder


def toy(place, out, **changes) -> TrainConfig:
    base = replace(debug(), examples=str(place / "latents"), out=str(out), start=str(place / "tiny"))
    return replace(base, **{"validation_examples": 0, "steps": 3, **changes})


def losses(out) -> dict[int, float]:
    return {line["step"]: line["loss"] for line in metric_log.lines(Store(str(out))) if "loss" in line}


def test_reader_returns_the_rows_of_the_window(place):
    index = ExampleIndex.of(Store(str(place / "latents")))
    order = batch_sampler.BatchSampler(index.rows("train"), batch=3, window=2, seed=1)
    reader = batch_sampler.Reader(index.parts, ["example", "split"], cache_bytes=1)
    read = batch_sampler.read_ahead(order.windows([0]), reader)
    following = 0
    for _, (window, table) in zip(range(4), read):
        assert window.first == following
        following += window.steps
        assert set(table["split"].to_pylist()) == {"train"}
        expected = [
            index.parts[p].table(["example"])["example"][int(r)].as_py() for p, r in zip(window.parts, window.rows)
        ]
        assert table["example"].to_pylist() == expected


def test_weights_move_by_the_rate_of_their_group(place, tmp_path, capsys):
    """Adam's first step is as long as the rate; of a dry run nothing remains."""
    config = toy(place, tmp_path, lr_groups=("identity.*=0",), warmup_steps=1, weight_decay=0.0, batch=1)
    text = preview(config)
    assert "identity.*: " in text
    assert "learning rate 0\n" in text + "\n"
    assert not list(tmp_path.iterdir())
    index = ExampleIndex.of(Store(config.examples))
    state = TrainerState(config, index.spec, LocalBackend(Store(str(tmp_path))), torch.device("cpu"))
    before = {name: p.detach().clone() for name, p in state.inner.named_parameters()}
    _, examples, _ = next(iter(Batches(config, index, state, [0])))
    loops._step(state, examples, [0], 1, 1)
    moved = {name: float((p.detach() - before[name]).abs().max()) for name, p in state.inner.named_parameters()}
    assert max(by for name, by in moved.items() if name.startswith("identity.")) == 0
    assert max(moved.values()) == pytest.approx(config.learning_rate, rel=0.01)


@pytest.fixture
def nothing_kept(monkeypatch):
    """No checkpoint and no model is written, for tests that read losses alone."""
    monkeypatch.setattr(LocalBackend, "keep", lambda *_, **__: None)
    monkeypatch.setattr(loops, "export", lambda *_: None)


@pytest.mark.usefixtures("nothing_kept")
def test_training_overfits_one_batch(place, tmp_path):
    config = toy(
        place, tmp_path, steps=20, batch=4, condition_dropout=0.0, learning_rate=1e-2, shuffle_window=1, log_every=1
    )
    source = tmp_path / "one"
    part = source / "examples" / "00" / "00one.parquet"
    part.parent.mkdir(parents=True)
    table = fake_examples.table(40, seed=9)
    pq.write_table(table.filter([s == "train" for s in table["split"].to_pylist()]).slice(0, 4), part)
    encode(EncodeConfig(str(source), str(tmp_path / "latents"), str(place / "tiny")), lambda words: None)
    train(replace(config, examples=str(tmp_path / "latents")), lambda words: None)
    curve = losses(tmp_path)
    first, last = (np.mean([curve[s] for s in steps]) for steps in (range(1, 6), range(16, 21)))
    assert last < 0.5 * first


@pytest.mark.usefixtures("nothing_kept")
def test_pictures_and_latents_give_the_same_loss(place, tmp_path):
    for name in ("pairs", "latents"):
        # the names of the parts differ, and with them their order; one part has one order
        only = tmp_path / name
        part = sorted((place / name / "examples").glob("*/*.parquet"))
        same = next(p for p in part if pq.read_table(p, columns=["example"])["example"][0].as_py().startswith("0001"))
        (only / "examples" / "aa").mkdir(parents=True)
        (only / "examples" / "aa" / "aa.parquet").write_bytes(same.read_bytes())
        weights = RegionWeights(background=0.5, face=3.0)
        train(toy(place, tmp_path / f"run-{name}", examples=str(only), region_weights=weights), lambda words: None)
    pictures, latents = losses(tmp_path / "run-pairs"), losses(tmp_path / "run-latents")
    assert pictures == pytest.approx(latents, rel=1e-3)


def weights_of(out):
    """Weights of the newest model of a run."""
    return checkpoint.load(checkpoint.folder_of(f"{out}/model")).model.state_dict()


def test_rerun_continues_the_loss_curve(place, tmp_path):
    groups = {"lr_groups": ("identity.*=0.1",), "decay": "matrices"}
    whole = toy(place, tmp_path / "whole", steps=4, checkpoint_every=2, **groups)
    train(whole, lambda words: None)
    parts = replace(whole, out=str(tmp_path / "parts"))

    class Killed(Exception):
        pass

    class Dying(LocalBackend):
        """Is killed while it writes the checkpoint of step 3."""

        def keep(self, step, numbers, write, last):
            super().keep(step, numbers, write, last)
            self.wait()
            if step == 3:
                folder = tmp_path / "parts" / "checkpoints" / "step-00000003"
                (folder / DONE).unlink()
                next(folder.glob("*.distcp")).write_bytes(b"half")
                raise Killed

    parts = replace(parts, checkpoint_every=1)
    _claim(Store(parts.out), parts)
    with pytest.raises(Killed):
        loop(parts, Dying(Store(parts.out)))
    with LocalBackend(Store(parts.out)).latest() as newest:
        assert newest.name == "step-00000002"
    train(parts, lambda words: None)
    assert losses(parts.out) == pytest.approx(losses(whole.out), rel=1e-5)
    one, other = (weights_of(out) for out in (whole.out, parts.out))
    for name in one:
        torch.testing.assert_close(one[name], other[name], atol=2e-4, rtol=2e-3)  # stored as float16


@pytest.mark.usefixtures("nothing_kept")
def test_micro_batches_equal_gradient_accumulation(place, tmp_path):
    wide = toy(place, tmp_path / "wide", micro_batches=2, batch=2, steps=2)
    train(wide, lambda words: None)
    assert len(losses(wide.out)) == 2
    halves = toy(place, tmp_path / "checkpointed", micro_batches=2, batch=2, steps=2, gradient_checkpointing=True)
    train(halves, lambda words: None)
    assert losses(halves.out) == pytest.approx(losses(wide.out), rel=1e-4)


def test_start_reads_the_index_once_and_no_column_of_every_part(place, tmp_path, monkeypatch):
    """Of the parts only those are read whose rows are shown; without an index each is read, to the same rows."""
    read: list[str] = []

    def counted(real):
        def get(store, path):
            if store.uri.endswith("latents"):
                read.append(path)
            return real(store, path)

        return get

    for name in ("open", "read"):
        monkeypatch.setattr(Store, name, counted(getattr(Store, name)))
    config, backend = toy(place, tmp_path, validation_examples=1), LocalBackend(Store(str(tmp_path)))
    index = ExampleIndex.of(Store(config.examples))
    state = TrainerState(config, index.spec, backend, torch.device("cpu"))
    Batches(config, index, state, [0])
    assert read == [INDEX]
    Validation(config, index, backend, state.loaded.config)
    assert len(read) == 2
    before = replace(index, schema=pa.schema([field for field in index.schema if "regions" not in field.name]))
    with pytest.raises(PlanError, match="need examples with regions"):
        Batches(replace(config, region_weights=RegionWeights(face=2.0)), before, state, [0])

    copied = tmp_path / "latents"
    shutil.copytree(place / "latents", copied)
    (copied / INDEX).unlink()
    read.clear()
    other = ExampleIndex.of(Store(str(copied)))
    both = ExampleIndex.of(Store(config.examples), Store(str(copied)))  # one with an index, one without
    assert both.datasets == [3, 3]
    assert [row.part.store.uri for row in held_out.rows_of(both)] == [
        folder for folder in (config.examples, str(copied)) for _ in held_out.rows_of(index)
    ]
    assert sum(map(len, both.rows("train"))) == 2 * sum(map(len, index.rows("train")))
    assert {path for path in read if path != INDEX} == {part.path for part in index.parts}
    assert other.table.to_pylist() == index.table.to_pylist()
    assert (other.counts, other.schema.metadata) == (index.counts, index.schema.metadata)
    (copied / index.parts[0].path).unlink()
    shutil.copy(place / "latents" / INDEX, copied)
    assert not ExampleIndex.of(Store(str(copied))).is_stored, "an index of other parts"
    for damaged in ((copied / INDEX).read_bytes()[:-30], b"", (copied / index.parts[1].path).read_bytes()):
        (copied / INDEX).write_bytes(damaged)
        with pytest.raises(PlanError, match=r"index\.parquet is damaged"):
            ExampleIndex.of(Store(str(copied)))


def test_training_writes_model_page_and_log(place, tmp_path):
    config = toy(place, tmp_path, validation_examples=3, validate_every=2, steps=4, peak_tflops=1, profile=9)
    numbers = train(config, lambda words: None)
    assert {"loss", "wait_share", "validation/psnr", "validation/preview_psnr"} <= set(numbers)
    assert 0 < numbers["mfu"] < 1
    trace = json.loads(gzip.decompress((tmp_path / "profile" / "worker-0000.json.gz").read_bytes()))
    assert any("convolution_backward" in event.get("name", "") for event in trace["traceEvents"])
    made = checkpoint.start(str(tmp_path / "model"))
    assert made.config.process.kind == "bridge"
    assert all(line["grad_norm"] > 0 for line in metric_log.lines(Store(str(tmp_path))) if "loss" in line)
    page = (tmp_path / "index.html").read_text()
    assert "PSNR of held-out edits" in page
    assert "data:image/png" in page
    assert set(pq.read_table(tmp_path / "log.parquet")["step"].to_pylist()) == set(range(5))
    assert any(p.name.startswith("events") for p in (tmp_path / "tensorboard").iterdir())
    assert len(list((tmp_path / "checkpoints").iterdir())) <= config.keep_checkpoints
    exported = newest_version(str(tmp_path / "model"))
    assert train(config, lambda words: None)["step"] == 4, "the same command trained on"
    assert newest_version(str(tmp_path / "model")) == exported
    (tmp_path / "model" / POINTER).write_text("step-00000002-aaaaaaaa")  # as if it was killed before the last export
    train(config, lambda words: None)
    assert "step-00000004" in newest_version(str(tmp_path / "model"))


def test_small_model_is_fine_tuned_on_faces_in_one_command(mini, tmp_path, monkeypatch):
    from pipelines.cli.main import main

    monkeypatch.setattr(prepare_examples, "MIN_PAIRS", 6)
    dataset(tmp_path / "faces", people=2, frames=5)
    words = [
        "mini_cpu",
        tmp_path / "faces",
        tmp_path / "run",
        "--start",
        "mini",
        "--steps",
        2,
        "--batch",
        2,
    ]
    words += ["--checkpoint-every", 2, "--validate-every", 2]
    assert main(["train", *map(str, words)]) == 0
    made = checkpoint.start(str(tmp_path / "run" / "model"))
    assert (made.config.size, made.config.render_style) == (64, "texture")
    before, after = (m.model.denoiser.conv_out.weight for m in (checkpoint.load(mini), made))
    assert not torch.equal(before, after)


def losses_not_finite_at(monkeypatch, *steps):
    """Let the loss of these steps be infinite."""
    real, calls = loops.row_losses, iter(range(1, 10**6))
    monkeypatch.setattr(loops, "row_losses", lambda *a: real(*a) * (torch.inf if next(calls) in steps else 1))


def test_step_without_finite_loss_is_skipped_and_counted(place, tmp_path, monkeypatch):
    losses_not_finite_at(monkeypatch, 2)
    numbers = train(toy(place, tmp_path, checkpoint_every=2), lambda words: None)
    assert numbers["skipped_steps"] == 1
    assert [step for step, loss in losses(tmp_path).items() if loss is None] == [2]
    assert all(weight.isfinite().all() for weight in weights_of(tmp_path).values())
    assert LocalBackend(Store(str(tmp_path))).names() == ["step-00000003"]  # none of step 2


def test_run_without_finite_losses_ends_with_error_and_keeps_the_last_checkpoint(place, tmp_path, monkeypatch):
    real = loops._step
    bad = (math.nan, math.nan)  # no step is computed: the test above shows that such a one changes nothing
    monkeypatch.setattr(loops, "_step", lambda *words: real(*words) if words[-1] < 4 else bad)
    config = toy(place, tmp_path, steps=40, checkpoint_every=1, keep_checkpoints=2)
    with pytest.raises(JobBroken, match="10 steps in a row, up to step 13, was not finite"):
        train(config, lambda words: None)
    assert LocalBackend(Store(str(tmp_path))).names() == ["step-00000002", "step-00000003"]
    with pytest.raises(JobBroken, match="up to step 4"):
        train(replace(config, steps=4), lambda words: None)


def test_half_output_scale_gives_half_the_change(place, tmp_path):
    """In one step, and whatever else the model does: the way from the start is scaled."""
    for output_scale in (1.0, 0.5):
        train(toy(place, tmp_path / f"{output_scale}", output_scale=output_scale), lambda words: None)
    whole, half = (checkpoint.start(str(tmp_path / f"{output_scale}" / "model")).model for output_scale in (1.0, 0.5))
    shape = (2, whole.latent_channels, 16, 16)
    random = torch.Generator().manual_seed(0)
    q = {name: torch.randn(shape, generator=random) for name in ("latents", "background", "render", "reference")}
    q |= {"timestep": torch.tensor([1000, 1000]), "expression_code": torch.zeros(2, whole.expression_size)}
    with torch.no_grad():
        torch.testing.assert_close(half(**q), whole(**q) / 2, atol=2e-3, rtol=2e-2)  # stored as float16
    plain = toy(place, tmp_path / "plain", start="tiny", output_scale=0.5, networks=Networks(kind="epsilon"))
    with pytest.raises(PlanError, match="output_scale is for a bridge"):
        train(replace(plain, examples=str(place / "pairs")), lambda words: None)
    with pytest.raises(PlanError, match="at most 1"):
        replace(debug(), output_scale=1.5)


def test_other_config_in_the_same_folder_is_refused(place, tmp_path):
    train(toy(place, tmp_path, steps=1), lambda words: None)
    with pytest.raises(PlanError, match="began with other batch"):
        train(toy(place, tmp_path, steps=4, batch=3), lambda words: None)


def test_other_examples_in_the_same_folder_are_refused(place, tmp_path):
    examples = tmp_path / "latents"
    shutil.copytree(place / "latents", examples)
    config = toy(place, tmp_path / "out", examples=str(examples), steps=1)
    train(config, lambda words: None)
    next((examples / "examples").rglob("*.parquet")).unlink()
    with pytest.raises(PlanError, match="holds other examples than when"):
        train(replace(config, steps=4), lambda words: None)


def test_one_checkpoint_alone_is_refused():
    with pytest.raises(PlanError, match="keep-checkpoints: want at least 2"):
        replace(debug(), keep_checkpoints=1)


def test_checkpoint_that_cannot_be_written_leaves_no_folder(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    written = Future()

    def fill(folder):
        (folder / "part").write_bytes(b"half")
        return written

    backend = LocalBackend(Store(str(tmp_path / "out")))
    backend.keep(3, {}, fill, last=False)  # returns before it is written
    written.set_exception(OSError(errno.ENOSPC, "No space left on device"))
    with pytest.raises(OSError, match="No space"):
        backend.keep(4, {}, fill, last=False)
    assert list(tmp_path.iterdir()) == []


def test_unfitting_examples_are_refused_with_the_differences(place, tmp_path):
    part = tmp_path / "pairs" / "examples" / "00" / "part.parquet"
    part.parent.mkdir(parents=True)
    pq.write_table(fake_examples.table(8, style="texture"), part)
    with pytest.raises(PlanError, match="'texture', the model knows 'albedo'"):
        train(toy(place, tmp_path / "out", examples=str(tmp_path / "pairs"), start="tiny"), lambda words: None)
    pq.write_table(fake_examples.table(8, size=64), part)
    own = toy(place, tmp_path / "sizes", examples=str(tmp_path / "pairs"))
    several = replace(own, examples=str(place / "pairs"), more_examples=(str(tmp_path / "pairs"),))
    with pytest.raises(PlanError, match=r"cannot be trained on together: they differ in size \(32 and 64\)$"):
        train(several, lambda words: None)
    with pytest.raises(PlanError, match="--weights: want one per folder of examples, 2, got 3"):
        train(replace(several, weights=(1, 1, 1)), lambda words: None)
    assert not (tmp_path / "sizes").exists(), "another try with the right folders goes on"
    with pytest.raises(PlanError, match="64 px, the model makes 32 px"):
        train(own, lambda words: None)


def test_presets_are_complete_and_serialisable():
    for preset in PRESETS.values():
        config = preset()
        assert pickle.loads(pickle.dumps(config)) == config
        json.dumps(asdict(config))
    with pytest.raises(PlanError, match="idle"):
        replace(debug(), workers=3, micro_batches=2)
    scale = "64 x 8 = 512 examples a step, learning rate 5.66e-05, 64 workers, those of a node share one model"
    assert replace(PRESETS["cluster"](), workers=64).scale() == scale


def test_latent_spec_is_read_back(place):
    spec = LatentSpec.of(ExampleIndex.of(Store(str(place / "latents"))).schema)
    assert isinstance(spec, LatentSpec)
    assert (spec.channels, spec.height) == (4, 16)
