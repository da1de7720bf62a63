"""The small autoencoder: it learns, it goes on where it was, and its latents come out with a spread of one."""

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from pipelines.autoencoder_data import AutoencoderConfig, batch, crops
from pipelines.encode import autoencoder_folder
from pipelines.split import split_of
from pipelines.train_autoencoder import picture_loss, train_autoencoder
from rigface import fake
from rigface.errors import PlanError
from rigface.image import encode_jpeg

SMALL = AutoencoderConfig(
    channels=(8, 16), latent_channels=4, size=32, window=16, batch=4, steps=8, warmup=2, save_every=4, bf16=False
)


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    """Forty crops of four people, in the columns that are read."""
    folder = tmp_path_factory.mktemp("faces")
    (folder / "faces" / "00").mkdir(parents=True)
    people = [name for name in (f"p{i:06}" for i in range(200)) if split_of(name) == "train"][:3]
    people.append(next(name for name in (f"p{i:06}" for i in range(200)) if split_of(name) == "test"))
    rows = {name: [] for name in ("uri", "track", "identity", "status", "crop")}
    for k in range(40):
        image = fake.picture(((k % 4) / 4,), size=(64, 64), at=k / 40)
        values = (f"/v{k % 4}", 0, people[k % 4], "error" if k == 7 else "ok", encode_jpeg(image))
        for name, value in zip(rows, values):
            rows[name].append(value)
    pq.write_table(pa.table(rows), folder / "faces" / "00" / "part.parquet")
    return folder


def test_people_held_out_are_not_learned_from(faces):
    own, others = crops(str(faces), SMALL)
    assert own.shape == (30, 32, 32, 3)
    assert others.shape == (9, 32, 32, 3)  # one of the ten is an error


def test_a_step_draws_the_same_batch_again_and_another_step_another(faces):
    own, _ = crops(str(faces), SMALL)
    assert torch.equal(batch(own, SMALL, 3), batch(own, SMALL, 3))
    assert not torch.equal(batch(own, SMALL, 3), batch(own, SMALL, 5))
    assert batch(own, SMALL, 3).shape == (4, 3, 16, 16)
    assert batch(own, SMALL, 4).shape == (1, 3, 32, 32)  # every fourth step: as many pixels, whole crops
    assert batch(own, SMALL, 3).abs().max() <= 1


def test_loss_is_zero_for_the_same_picture_and_counts_edges():
    picture = torch.rand(1, 3, 16, 16)
    assert picture_loss(picture, picture) == 0
    shifted, blurred = picture + 0.1, torch.nn.functional.avg_pool2d(picture, 3, 1, 1)
    assert picture_loss(shifted, picture) == pytest.approx(0.1, rel=1e-3)  # no edge has changed
    assert picture_loss(blurred, picture) > 2 * (blurred - picture).abs().mean()


def test_stopped_and_run_again_it_comes_to_the_same(faces, tmp_path):
    whole = train_autoencoder(str(faces), str(tmp_path / "whole"), SMALL, lambda words: None)
    train_autoencoder(str(faces), str(tmp_path / "parts"), replace(SMALL, stop_after_s=1e-6), lambda words: None)
    parts = train_autoencoder(str(faces), str(tmp_path / "parts"), SMALL, lambda words: None)
    for (name, one), other in zip(whole.state_dict().items(), parts.state_dict().values()):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5, msg=name)
    lines = [json.loads(line) for line in (tmp_path / "whole" / "autoencoder" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "psnr" in line] == [4, 8]


def test_it_learns_and_its_latents_have_a_spread_of_one(faces, tmp_path):
    words: list[str] = []
    config = replace(SMALL, steps=60, save_every=20)
    vae = train_autoencoder(str(faces), str(tmp_path), config, words.append)
    psnr = [float(w.split("PSNR ")[1].split(" ")[0]) for w in words if "PSNR" in w]
    assert psnr[-1] > psnr[0] + 2
    own, _ = crops(str(faces), SMALL)
    with torch.no_grad():
        pictures = torch.from_numpy(own).permute(0, 3, 1, 2).float() / 127.5 - 1
        spread = vae.config["scaling_factor"] * vae.encode(pictures).latent_dist.mode().std()
    assert spread.item() == pytest.approx(1, abs=0.05)
    assert autoencoder_folder(str(tmp_path)) == tmp_path / "vae"


def test_another_shape_in_the_same_folder_is_refused(faces, tmp_path):
    train_autoencoder(str(faces), str(tmp_path), replace(SMALL, steps=1), lambda words: None)
    with pytest.raises(PlanError, match="other latent_channels"):
        train_autoencoder(str(faces), str(tmp_path), replace(SMALL, latent_channels=8), lambda words: None)
    with pytest.raises(PlanError, match="no faces"):
        train_autoencoder(str(tmp_path / "nobody"), str(tmp_path / "x"), SMALL, lambda words: None)


def test_crops_are_read_in_the_range_they_are_measured_in(faces):
    own, _ = crops(str(faces), SMALL)
    assert own.dtype == np.uint8
    assert own.max() > 120
