"""A checkpoint of a recipe that needs more than pictures edits over HTTP."""

from dataclasses import replace

import cv2
import numpy as np
from starlette.testclient import TestClient

from rigface.model import checkpoint
from rigface.model.recipes.protocol import RecipeOptions, recipe_of
from serve.api.routes import Services, make_api
from serve.inference.diffusion_worker import DiffusionWorker
from tests.serve.conftest import TEST_NAMES, send


def test_recipe_on_identity_vectors_edits_over_http(face_worker, png, tmp_path):
    made = recipe_of("ip_adapter").build(checkpoint.tiny(), RecipeOptions(identity="dlib", identity_width=128))
    made.config = replace(made.config, recipe="ip_adapter")
    checkpoint.save(tmp_path, made)
    diffusion_worker = DiffusionWorker.load({"faces": str(tmp_path)})
    services = Services(face_worker, diffusion_worker, loopback_names=TEST_NAMES)
    with TestClient(make_api(services), raise_server_exceptions=False) as client:
        out = send(client, png, {"yaw_deg": 10}, model="faces", steps=1)
    diffusion_worker.close()
    assert out.status_code == 200, out.text
    assert out.headers["RigFace-Model"] == "faces"
    assert cv2.imdecode(np.frombuffer(out.content, np.uint8), cv2.IMREAD_COLOR).std() > 4
