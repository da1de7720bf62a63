"""Training of a refiner: from a dataset of faces to a model that the editor loads."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines.refine import job
from pipelines.refine.batches import Batch, ExampleBatches
from pipelines.refine.config import ExampleSettings, RefineConfig
from pipelines.refine.loss import refiner_loss, region_psnr
from rigface.errors import JobBroken, PlanError
from rigface.face.head.open_head import OpenHead
from rigface.model.checkpoint_folder import refiner_folder
from rigface.refiner.network import Correction, load_refiner
from rigface.refiner.regions import REGIONS
from rigface.storage.store import Store
from tests.pipelines.made_faces import dataset

SETTINGS = ExampleSettings(size=32, restored=0, pairs=1, held_out_fraction=0.4)


def quiet(words: str) -> None:
    pass


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> RefineConfig:
    faces = tmp_path_factory.mktemp("refine")
    dataset(faces / "faces", people=5, frames=3)
    return RefineConfig(
        str(faces / "faces"), str(faces / "run"), SETTINGS, steps=6, batch=4, checkpoint_every=2, validate_every=3,
        device="cpu", threads=1,
    )  # fmt: skip


@pytest.fixture(scope="module")
def finished(config) -> dict[str, float]:
    return job.refine(config, quiet)


def untrained(config: RefineConfig, out: Path) -> RefineConfig:
    """A run on the same examples, before its first step."""
    shutil.copytree(config.out, out, ignore=shutil.ignore_patterns("checkpoint.pt", "model", "log", "tensorboard"))
    return replace(config, out=str(out))


def weights(out: str) -> dict[str, torch.Tensor]:
    folder = refiner_folder(f"{out}/model")
    assert folder is not None
    return load_refiner(folder)[0].state_dict()


def test_run_validates_by_region_and_publishes_a_model(config, finished):
    assert {"pair refined mouth", "pair preview mouth", "pair refined face"} <= finished.keys()
    assert any(value.any() for name, value in weights(config.out).items() if name.startswith("exit"))


def test_interrupted_run_ends_with_the_same_weights(config, finished, tmp_path, monkeypatch):
    run = untrained(config, tmp_path / "run")
    steps = iter(range(3))
    real = job.refiner_loss

    def killed(*arguments):
        next(steps)  # StopIteration at the fourth step
        return real(*arguments)

    monkeypatch.setattr(job, "refiner_loss", killed)
    with pytest.raises(StopIteration):
        job.refine(run, quiet)
    monkeypatch.setattr(job, "refiner_loss", real)
    job.refine(run, quiet)
    for name, tensor in weights(config.out).items():
        torch.testing.assert_close(weights(run.out)[name], tensor, rtol=0, atol=1e-3)


def test_run_starts_from_the_weights_named(config, finished, tmp_path):
    start = str(refiner_folder(f"{config.out}/model"))
    run = replace(untrained(config, tmp_path / "run"), start=start)
    training = job.RefinerTraining(run, job.RefinerConfig(OpenHead.load().spec, 32), Store(run.out))
    for name, tensor in weights(config.out).items():
        torch.testing.assert_close(training.network.state_dict()[name], tensor)
    with pytest.raises(PlanError, match="refiner of other settings"):
        job.RefinerTraining(run, job.RefinerConfig(OpenHead.load().spec, 64), Store(run.out))


def test_output_of_other_settings_is_refused(config, finished):
    with pytest.raises(PlanError, match="made with other refine"):
        job.refine(replace(config, settings=replace(SETTINGS, seed=1)), quiet)


def test_infinite_loss_ends_the_run(config, finished, tmp_path, monkeypatch):
    monkeypatch.setattr(job, "refiner_loss", lambda *_: torch.tensor(torch.inf))
    with pytest.raises(JobBroken, match="loss of step 1 is not finite"):
        job.refine(untrained(config, tmp_path / "run"), quiet)


def test_training_overfits_one_batch(config, finished):
    batches = ExampleBatches(Store(config.out), OpenHead.load().spec)
    batch = batches.batch(batches.train[:4])
    training = job.RefinerTraining(config, job.RefinerConfig(OpenHead.load().spec, 16), Store(config.out))
    for group in training.optimizer.param_groups:
        group["lr"] = 1e-3
    before = float(refiner_loss(nothing_but(batch, torch.zeros_like(batch.preview)), batch))
    for _ in range(36):
        loss = refiner_loss(training.network(batch.pictures, batch.code), batch)
        training.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(training.network.parameters(), job.MAX_GRADIENT)
        training.optimizer.step()
    assert loss.item() < 0.8 * before


def test_people_of_the_test_split_are_never_drawn(config, finished):
    batches = ExampleBatches(Store(config.out), OpenHead.load().spec)
    assert len(batches.test)
    assert not set(batches.train) & set(batches.test)
    assert set(batches.held_out(2)) == {"pair"}
    assert len(batches.held_out(2)["pair"]) == 2


def test_mirrored_examples_exchange_sides_in_pictures_codes_and_normals(config, finished):
    batches = ExampleBatches(Store(config.out), OpenHead.load().spec)

    class Mirroring:
        """Mirrors every example and changes nothing else."""

        def random(self, count):
            return np.zeros(count)

        def normal(self, mean, spread, size):
            return np.zeros(size)

        def integers(self, low, high, count):
            return np.zeros(count, int)

    plain = batches.batch(batches.train[:2])
    mirrored = batches._augmented(plain, Mirroring())
    torch.testing.assert_close(mirrored.target, plain.target.flip(-1), atol=1e-5, rtol=0)
    names = OpenHead.load().spec.expression_names
    left, right = names.index("mouthSmileLeft"), names.index("mouthSmileRight")
    assert torch.equal(mirrored.code[:, left], plain.code[:, right])
    on_face = (plain.geometry[:, :2] > -1).any(1)
    assert torch.equal(mirrored.geometry[:, 0].flip(-1)[on_face], -plain.geometry[:, 0][on_face])
    assert torch.equal(mirrored.geometry[:, 1:].flip(-1), plain.geometry[:, 1:])


def made_batch(regions: torch.Tensor) -> Batch:
    pictures = torch.zeros(1, 3, 16, 16)
    return Batch(pictures, pictures, pictures, pictures, regions, torch.zeros(1, 8))


def nothing_but(batch: Batch, change: torch.Tensor) -> Correction:
    """A correction without a flow."""
    return Correction(torch.zeros(len(change), 2, *change.shape[-2:]), change)


def test_loss_counts_the_mouth_and_nearly_leaves_out_the_outside():
    regions = torch.zeros(1, 16, 16, dtype=torch.int64)
    regions[:, :, 8:] = REGIONS.index("mouth")
    batch = made_batch(regions)
    on_mouth, outside = torch.zeros(1, 3, 16, 16), torch.zeros(1, 3, 16, 16)
    on_mouth[..., 10:14], outside[..., 2:6] = 0.5, 0.5
    losses = [float(refiner_loss(nothing_but(batch, c), batch)) for c in (batch.target, on_mouth, outside)]
    assert losses[0] == 0
    assert losses[1] > 10 * losses[2]


def test_loss_is_less_for_detail_in_a_wrong_place_than_for_a_blur():
    places = torch.arange(32) * 1.5
    true, misplaced = (torch.sin(places + shift).expand(1, 3, 32, 32) * 0.5 for shift in (0, torch.pi / 2))
    regions = torch.full((1, 32, 32), REGIONS.index("mouth"))
    batch = replace(made_batch(regions), preview=torch.zeros_like(true), target=true)
    blurred, detailed = (float(refiner_loss(nothing_but(batch, share * misplaced), batch)) for share in (0, 0.5))
    assert (0.5 * misplaced - true).abs().mean() > 1.05 * true.abs().mean()  # pixels alone prefer the blur
    assert detailed < 0.95 * blurred


def test_psnr_is_of_the_region_alone():
    regions = torch.zeros(1, 16, 16, dtype=torch.int64)
    regions[:, :, 8:] = REGIONS.index("mouth")
    batch = made_batch(regions)
    output = torch.full((1, 3, 16, 16), 1.0)
    output[..., 8:] = 0.2  # a tenth of the range
    measured = region_psnr(output, batch)
    assert measured["mouth"] == (pytest.approx(20, abs=1e-3), 1)
    assert measured["eyes"] == (0.0, 0)
