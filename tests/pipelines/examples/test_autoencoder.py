"""Making the small autoencoder: people learned from, written files, refusals."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from diffusers import AutoencoderKL

from pipelines.examples.autoencoder import _publish, crops, make_autoencoder, measure
from pipelines.examples.config import AutoencoderConfig
from pipelines.examples.layout import autoencoder_place
from pipelines.examples.split import split_of
from rigface.errors import MissingAsset, OutputBusy, PlanError
from rigface.image import encode_jpeg
from rigface.model import checkpoint
from rigface.model.latents import encode_target
from rigface.storage import lock
from rigface.storage.store import Store
from rigface.testing import fakes

SMALL = AutoencoderConfig(size=32, patch=4, channels=12)


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    """Forty crops of four people, in the columns that are read."""
    folder = tmp_path_factory.mktemp("faces")
    (folder / "faces" / "00").mkdir(parents=True)
    people = [name for name in (f"p{i:06}" for i in range(200)) if split_of(name) == "train"][:3]
    people.append(next(name for name in (f"p{i:06}" for i in range(200)) if split_of(name) == "test"))
    rows = {name: [] for name in ("uri", "track", "identity", "status", "crop")}
    for k in range(40):
        image = fakes.picture(((k % 4) / 4,), size=(64, 64), at=k / 40)
        values = (f"/v{k % 4}", 0, people[k % 4], "error" if k == 7 else "ok", encode_jpeg(image))
        for name, value in zip(rows, values):
            rows[name].append(value)
    pq.write_table(pa.table(rows), folder / "faces" / "00" / "part.parquet")
    return folder


def test_held_out_people_are_not_learned_from(faces):
    own, others = crops(str(faces), SMALL)
    assert own.shape == (30, 32, 32, 3)
    assert others.shape == (9, 32, 32, 3)  # one of the ten is an error


def test_autoencoder_reconstructs_held_out_people_with_latents_of_unit_spread(faces, tmp_path):
    words: list[str] = []
    vae = make_autoencoder(str(faces), str(tmp_path), SMALL, words.append)
    own, others = crops(str(faces), SMALL)
    coarse = make_autoencoder(str(faces), str(tmp_path / "coarse"), AutoencoderConfig(32, 4, 4), words.append)
    assert measure(vae, others) > measure(coarse, others) + 2
    assert f"{measure(vae, others):.2f} dB" in words[1]
    pictures = torch.from_numpy(own).permute(0, 3, 1, 2).float() / 255
    assert encode_target(vae, pictures).std().item() == pytest.approx(1, rel=0.02)


def test_written_autoencoder_equals_the_returned_one(faces, tmp_path):
    vae = make_autoencoder(str(faces), str(tmp_path), SMALL, lambda words: None)
    read = AutoencoderKL.from_pretrained(autoencoder_place(str(tmp_path)), use_safetensors=True)
    assert read.config["scaling_factor"] == vae.config["scaling_factor"]
    for (name, one), other in zip(vae.state_dict().items(), read.state_dict().values()):
        torch.testing.assert_close(one, other, rtol=0, atol=0, msg=name)


def test_same_crops_give_the_same_autoencoder(faces, tmp_path):
    one, other = (make_autoencoder(str(faces), str(tmp_path / n), SMALL, lambda words: None) for n in "ab")
    for (name, first), second in zip(one.state_dict().items(), other.state_dict().values()):
        torch.testing.assert_close(first, second, rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.parametrize(("config", "says"), [
    (AutoencoderConfig(30, 4, 12), "not a multiple of the patches"), (AutoencoderConfig(32, 4, 10), "multiple of 4"),
])  # fmt: skip
def test_unfitting_sizes_are_refused(faces, tmp_path, config, says):
    with pytest.raises(PlanError, match=says):
        make_autoencoder(str(faces), str(tmp_path), config)


def test_missing_faces_are_refused(tmp_path):
    with pytest.raises(PlanError, match="no faces"):
        make_autoencoder(str(tmp_path), str(tmp_path / "out"), SMALL)


def test_folder_of_a_model_is_left_alone(faces, tmp_path):
    checkpoint.save(tmp_path, checkpoint.tiny())
    before = {path: path.read_bytes() for path in (tmp_path / "vae").iterdir()}
    with pytest.raises(PlanError, match=r"has vae but no rigface\.json"):
        make_autoencoder(str(faces), str(tmp_path), SMALL, lambda words: None)
    assert {path: path.read_bytes() for path in (tmp_path / "vae").iterdir()} == before


def test_output_in_use_is_refused(faces, tmp_path):
    with lock.hold(Store(str(tmp_path))), pytest.raises(OutputBusy):
        make_autoencoder(str(faces), str(tmp_path), SMALL, lambda words: None)


def test_killed_export_leaves_no_mixture_of_weights_and_config(tmp_path, monkeypatch):
    store, publish = Store(str(tmp_path)), Store.publish
    vae = checkpoint.tiny().vae
    _publish(store, vae)
    assert autoencoder_place(str(tmp_path)) == tmp_path / "vae"

    def killed(self, path, data, **options):
        if path.endswith("config.json"):
            raise KeyboardInterrupt
        return publish(self, path, data, **options)

    monkeypatch.setattr(Store, "publish", killed)
    with pytest.raises(KeyboardInterrupt):
        _publish(store, vae)
    with pytest.raises(MissingAsset, match="want a folder with config"):
        autoencoder_place(str(tmp_path))
