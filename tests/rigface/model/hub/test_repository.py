"""Hub ids without a network, uploads, and the model card."""

import shutil

import huggingface_hub
import pytest
from huggingface_hub import ModelCard, constants

from pipelines.cli.main import main
from rigface.errors import MissingAsset, PlanError, StorageGone, UnsafeFile
from rigface.model import checkpoint
from rigface.model.checkpoint_folder import folder_of
from rigface.model.hub import repository
from rigface.model.hub.model_card import SD15_ID, Trained, card
from rigface.model.model_config import ModelConfig

COMMIT = "5f" * 20


@pytest.fixture
def hub(tmp_path, tiny_once, monkeypatch):
    """A cache as huggingface_hub keeps it, with one model; whatever asks the network fails the test."""
    snapshot = tmp_path / "hub" / "models--ann--faces" / "snapshots" / COMMIT
    checkpoint.save(snapshot, tiny_once)
    refs = snapshot.parents[1] / "refs"
    refs.mkdir()
    (refs / "main").write_text(COMMIT)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    for name in ("HF_TOKEN", repository.SWITCH):
        monkeypatch.delenv(name, raising=False)
    return snapshot


def test_hub_id_is_found_in_the_cache_and_a_folder_of_that_name_comes_first(hub, tmp_path, monkeypatch):
    assert folder_of("ann/faces") == folder_of(f"ann/faces@{COMMIT}") == hub
    assert checkpoint.start("ann/faces").config.size == 32
    with pytest.raises(MissingAsset, match="rigface model fetch ann/others"):
        folder_of("ann/others")
    monkeypatch.setenv(repository.SWITCH, "1")
    with pytest.raises(StorageGone, match="the hub does not give it"):  # it asked, and the client is told to be offline
        folder_of("ann/others")
    shutil.copytree(hub, tmp_path / "ann" / "faces")
    assert str(folder_of("ann/faces")) == "ann/faces"


def test_upload_takes_its_token_from_the_environment_and_no_pickles(hub, tmp_path, monkeypatch, capsys):
    done = []

    class Api:
        def __init__(self, token):
            self.create_repo = lambda name, **how: done.append((token, name, how)) or f"https://hub/{name}"
            self.upload_folder = lambda **how: done.append(how)

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    with pytest.raises(PlanError, match="HF_TOKEN"):
        repository.push(hub, "ann/faces")
    monkeypatch.setenv("HF_TOKEN", "secret")
    assert main(["model", "push", str(hub), "ann/faces", "--pull-request"]) == 0
    assert capsys.readouterr().out == "https://hub/ann/faces\n"
    assert done[0] == ("secret", "ann/faces", {"private": True, "exist_ok": True})
    assert (done[1]["folder_path"], done[1]["create_pr"]) == (hub, True)
    with pytest.raises(PlanError, match="want org/name"):
        repository.push(hub, "faces")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "weights.bin").touch()
    with pytest.raises(UnsafeFile, match=r"weights\.bin"):
        repository.push(tmp_path / "other", "ann/faces")


def test_card_has_front_matter_facts_and_figures_but_no_path_of_this_machine(hub):
    written = ModelCard.load(hub / "README.md")
    assert (written.data.library_name, written.data.pipeline_tag) == ("diffusers", "image-to-image")
    assert (written.data.license, written.data.base_model) == ("other", None)
    trained = Trained("sd15:/home/ann/sd", 200, 32, 1e-4, {"identity_distance": 0.41237}, "abc")
    text = card(ModelConfig(recipe="lora"), trained)
    data = ModelCard(text).data
    assert (data.license, data.base_model) == ("creativeml-openrail-m", SD15_ID)
    assert {"rigface", "lora"} <= set(data.tags)
    assert "200 steps of 32 examples" in text
    assert "| identity distance | 0.4124 |" in text
    assert "/home" not in text
    assert ModelCard(card(ModelConfig(), trained, is_adapter=True)).data.base_model_relation == "adapter"
    assert ModelCard(card(ModelConfig(), Trained("ann/faces@v1", 1, 1, 1e-4))).data.base_model == "ann/faces"
