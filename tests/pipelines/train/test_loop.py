"""Training: deterministic order, resume with the same losses, independence of the number of workers."""

import errno
import gzip
import json
import math
import pickle
import shutil
from collections import Counter
from concurrent.futures import Future
from dataclasses import asdict, replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch._dynamo.utils import counters

from pipelines.examples import held_out
from pipelines.examples.config import EncodeConfig
from pipelines.examples.encode import encode
from pipelines.examples.example_index import INDEX, ExampleIndex
from pipelines.train import batch_sampler, metric_log, prepare_examples
from pipelines.train import loop as loops
from pipelines.train import model_setup as starts
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
from rigface.model.diffusion import Draw, row_losses
from rigface.model.ema import Average
from rigface.model.latents import LatentConditions, LatentExample
from rigface.model.model_config import Process
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


# --- order


def order_of(sizes, **options) -> batch_sampler.BatchSampler:
    return batch_sampler.BatchSampler([np.arange(n) for n in sizes], **{"batch": 2, "window": 3, "seed": 5, **options})


def taken(order, micro_batches, start, steps):
    out = []
    for window in order.windows(micro_batches, start):
        rows = np.stack([window.parts, window.rows], 1).reshape(window.steps, len(micro_batches), order.batch, 2)
        out += list(rows)
        if len(out) >= steps:
            return out[:steps]
    return out


def test_epoch_shows_every_example_once_and_the_next_in_another_order():
    order = order_of([7, 4, 9], batch=2)
    epochs = [np.concatenate(taken(order, [0], e * 10, 10)).reshape(-1, 2) for e in range(2)]
    for epoch in epochs:
        assert len({tuple(row) for row in epoch.tolist()}) == 20
    assert not np.array_equal(epochs[0], epochs[1])


WEIGHTED = {"weights": (3, 1), "datasets": (2, 1)}


@pytest.mark.parametrize("mixture", [{}, WEIGHTED])
def test_starting_in_the_middle_gives_the_same_batches(mixture):
    order = order_of([7, 4, 9], **mixture)
    whole = taken(order, [0], 0, 25)
    for start in (1, 4, 9, 10, 13):
        assert np.array_equal(taken(order, [0], start, 5), whole[start : start + 5])


@pytest.mark.parametrize("mixture", [{}, WEIGHTED])
def test_micro_batches_are_the_same_for_any_number_of_workers(mixture):
    order = order_of([20, 13, 31], micro_batches=4, **mixture)
    together = np.stack(taken(order, [0, 1, 2, 3], 0, 20))
    apart = [np.stack(taken(order, micro_batches, 0, 20)) for micro_batches in ([0, 2], [1, 3])]
    assert np.array_equal(together[:, [0, 2]], apart[0])
    assert np.array_equal(together[:, [1, 3]], apart[1])
    if not mixture:
        seen = [tuple(r) for r in together[: order.steps_per_epoch].reshape(-1, 2).tolist()]
        assert len(seen) == len(set(seen))


def test_datasets_have_their_weights_in_every_window_and_show_all_rows_equally_often():
    order = order_of([7, 4, 89], batch=5, window=2, **WEIGHTED)  # 11 rows have three quarters, 89 one quarter
    rows = [tuple(r) for r in np.concatenate(taken(order, [0], 0, 200)).reshape(-1, 2).tolist()]
    for first in range(0, len(rows), 10):
        assert sum(part == 2 for part, _ in rows[first : first + 10]) in (2, 3)
    assert sum(part == 2 for part, _ in rows) == len(rows) / 4
    for parts, count in (({0, 1}, 11), ({2}, 89)):
        times = Counter(row for row in rows if row[0] in parts)
        assert len(times) == count
        assert max(times.values()) - min(times.values()) <= 1
    with pytest.raises(PlanError, match="folder 2 of 2"):
        order_of([7, 4, 0], **WEIGHTED)


def test_fewer_examples_than_a_batch_are_repeated_and_none_is_refused():
    assert len(taken(order_of([1], batch=4), [0], 0, 3)) == 3
    with pytest.raises(PlanError, match="no examples"):
        order_of([0, 0])


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


# --- numbers


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


def test_weight_average_follows_and_swaps_back():
    layer = torch.nn.Linear(2, 2)
    average = Average(layer, decay=0.5)
    before = layer.weight.detach().clone()
    with torch.no_grad():
        layer.weight += 1
    average.update()  # the first update has decay 2/11
    assert torch.allclose(average.weights["weight"], before + 9 / 11)
    with average.swapped():
        assert torch.allclose(layer.weight, before + 9 / 11)
    assert torch.allclose(layer.weight, before + 1)
    with pytest.raises(ValueError, match="other weights"):
        average.load({"updates": 1, "weights": {"nobody": before}})


# --- runs


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


def test_plain_start_takes_the_examples_config_and_released_weights_keep_theirs(clip_folder):
    toy = checkpoint.tiny(expression=64)
    checkpoint.save(clip_folder, toy)
    for own in ("config.json", "default_text.safetensors"):  # now it is in the released layout
        (clip_folder / own).unlink()
    spec = fake_examples.spec(size=512)
    released = starts.load(replace(debug(), start=str(clip_folder)), spec)
    assert (released.model.expression_size, released.config.expression_field) == (52, "expression")
    assert released.config.head == spec.head
    starts.check(released, spec, None)
    with pytest.raises(PlanError, match="64 px, the model makes 512 px"):
        starts.check(released, fake_examples.spec(size=64), None)
    (clip_folder / "unet_id").rename(clip_folder / "unet")
    plain = starts.load(replace(debug(), start=f"sd15:{clip_folder}"), fake_examples.spec(size=64, style="texture"))
    assert (plain.config.size, plain.config.render_style, plain.config.head) == (64, "texture", spec.head)
    with pytest.raises(PlanError, match="multiples of"):
        starts.check(plain, fake_examples.spec(size=66, style="texture"), None)


def test_any_start_takes_any_process_and_samples_by_a_scheduler_for_it(clip_folder):
    toy_start.write(clip_folder)
    config = replace(debug(), start=f"sd15:{clip_folder}")
    textured = fake_examples.spec(style="texture")
    own = starts.load(config, textured).config.process
    for process, scheduler in (("v_prediction", "dpm++"), ("flow", "euler"), ("bridge", "euler")):
        made = starts.load(replace(config, process=process), textured).config
        assert (made.process.kind, made.process.scheduler) == (process, scheduler)
        assert (made.process.latent_scale, made.detail) == (own.latent_scale, process == "bridge")
    ended = starts.load(replace(config, process="v_prediction", zero_terminal_snr=True), textured).config.process
    assert ended.zero_terminal_snr
    with pytest.raises(PlanError, match="wants v_prediction or sample"):
        starts.load(replace(config, zero_terminal_snr=True), textured)
    with pytest.raises(PlanError, match="pair --style texture"):
        starts.load(replace(config, process="bridge"), fake_examples.spec())


def test_compiled_blocks_and_channels_last_give_the_same_loss_and_gradient():
    random = torch.Generator().manual_seed(0)
    noisy, background, render, reference, target = (torch.randn(1, 4, 16, 16, generator=random) for _ in range(5))

    def computed(model):
        conditions = LatentConditions(background, render, torch.ones(1, model.expression_size), reference=reference)
        drawn = Draw(torch.tensor([500]), noisy, torch.zeros(1, 3, dtype=torch.bool))
        loss = row_losses(model, LatentExample(conditions, target), Process(kind="flow"), drawn).mean()
        loss.backward()
        gradient = model.denoiser.conv_in.weight.grad
        return loss.item(), gradient.norm().item(), gradient.stride()

    def arranged(**settings):
        model = toy_start.shallow(kind="bridge").model.train()
        starts.arrange(model, replace(debug(), **settings))
        return model

    plain = computed(arranged())
    compiled = arranged()
    names = starts.compile_blocks(compiled, "eager")
    assert [name.split(".")[0] for name in names] == ["identity"] * 2 + ["denoiser"] * 2
    counters.clear()
    assert computed(compiled)[:2] == pytest.approx(plain[:2])
    assert counters["stats"]["unique_graphs"] == 3, "blocks of one shape share their code"
    assert not counters["graph_break"]
    laid_out = computed(arranged(channels_last=True))
    assert laid_out[:2] == pytest.approx(plain[:2], rel=1e-5)
    assert laid_out[2] != plain[2]
    seen = []
    hooked = arranged(channels_last=True, sharding="fsdp", workers=1)
    hooked.denoiser.conv_in.register_forward_hook(lambda _, args, __: seen.append(args[0].stride()))
    assert computed(hooked)[:2] == pytest.approx(plain[:2], rel=1e-5)  # with weights as they were
    assert seen[0][1] == 1, "channels are not last"


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
