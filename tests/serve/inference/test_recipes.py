"""Checkpoints of every recipe edit over HTTP."""

from typing import get_args

import cv2
import numpy as np
import pytest
from starlette.testclient import TestClient

from rigface.model.model_config import RecipeName
from rigface.testing.toy_start import write_recipes
from serve.api.routes import Services, make_api
from serve.inference.diffusion_worker import DiffusionWorker
from tests.serve.conftest import TEST_NAMES, send


@pytest.fixture(scope="module")
def recipes(face_worker, tmp_path_factory):
    """A client of a service with a toy model of every recipe, by its name."""
    diffusion_worker = DiffusionWorker.load(write_recipes(tmp_path_factory.mktemp("recipes")))
    services = Services(face_worker, diffusion_worker, loopback_names=TEST_NAMES)
    with TestClient(make_api(services), raise_server_exceptions=False) as client:
        yield client
    diffusion_worker.close()


@pytest.mark.parametrize("name", get_args(RecipeName))
def test_recipe_edits_over_http(recipes, png, name):
    out = send(recipes, png, {"yaw_deg": 10, "prompt": "a b"}, model=name, steps=1)
    assert out.status_code == 200, out.text
    assert out.headers["RigFace-Model"] == name
    assert cv2.imdecode(np.frombuffer(out.content, np.uint8), cv2.IMREAD_COLOR).std() > 4
