"""Edits by a refiner: it corrects the preview in the face worker, and no diffusion worker is asked."""

import json

import numpy as np
import pytest
import torch

from rigface.editor import Editor
from rigface.face.head.open_head import OpenHead
from rigface.image import decode
from rigface.refiner.network import RefinerConfig, RefinerNetwork, save_refiner
from rigface.refiner.preview_refiner import PreviewRefiner
from serve.inference.diffusion_worker import DiffusionWorker

EDIT = {"yaw_deg": 10}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A network that makes any face brighter."""
    config = RefinerConfig(OpenHead.load().spec, size=32, widths=(8, 16), blocks=(1, 1))
    network = RefinerNetwork(config)
    with torch.no_grad():
        network.exit.bias.fill_(0.5)
    place = tmp_path_factory.mktemp("weights") / "bright"
    save_refiner(place, network, config)
    return place


@pytest.fixture
def refining(services, folder, monkeypatch):
    """The services with the models `bright`, the default, and `tiny`."""
    worker = DiffusionWorker.load({"bright": str(folder), "tiny": "tiny"})
    monkeypatch.setattr(services, "diffusion_worker", worker)
    editors = {"bright": Editor(services.face_worker.analyzer, refiner=PreviewRefiner.load(folder))}
    monkeypatch.setattr(services.face_worker, "_refined", editors)
    yield services
    worker.close()


def edited(client, png, model):
    body = {"edit": EDIT} | ({"model": model} if model else {})
    answer = client.post("/v1/edits", files={"picture": ("a.png", png), "request": (None, json.dumps(body))})
    assert answer.status_code == 200, answer.text
    return decode(answer.content).astype(int), answer.headers


def test_default_refiner_corrects_the_preview_without_sampling(refining, client, png):
    before = refining.diffusion_worker.rows_sampled
    refined, _ = edited(client, png, None)
    preview, _ = edited(client, png, "preview")
    assert refining.diffusion_worker.rows_sampled == before
    assert (refined - preview).mean() > 3
    assert np.abs(refined - preview)[:2].max() <= 4  # outside of the face, but for the watermark


def test_refiner_is_listed_with_its_kind(refining, client):
    models = {m["name"]: m for m in client.get("/v1/models").json()["models"]}
    assert models["bright"]["kind"] == "refiner"
    assert models["bright"]["default"]
    assert models["bright"]["loaded"]
    assert models["tiny"]["kind"] == "epsilon"


def test_other_models_still_sample(refining, client, png):
    before = refining.diffusion_worker.rows_sampled
    edited(client, png, "tiny")
    assert refining.diffusion_worker.rows_sampled > before


def test_prompt_with_a_refiner_is_refused(refining, client, png):
    body = json.dumps({"edit": EDIT | {"prompt": "a hat"}})
    answer = client.post("/v1/edits", files={"picture": ("a.png", png), "request": (None, body)})
    assert answer.status_code == 422
    assert "bright has no text encoder" in answer.json()["detail"]
