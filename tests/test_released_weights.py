"""RigFace's released model from a photograph to the service, through stand-ins of every file that it needs.

The stand-ins have the official names, layouts and shapes (`rigface.testing.official`), so nothing here knows that they
are none. Their diffusion networks are narrow and random: the pictures show noise, in which no face is found.
"""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.dataset
import pytest

from pipelines.cli.main import main
from rigface.image import decode, encode_png
from rigface.model.model_config import RELEASED, ModelConfig
from rigface.video.decode import read_frames

CLIP = Path(__file__).parent / "fixtures" / "clip.mp4"
EDIT = ["--yaw", "15", "--smile", "0.6", "--light-azimuth", "40"]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def downloads(tmp_path_factory) -> Path:
    """A folder of everything that RigFace's instructions download."""
    from rigface.testing.official.downloads import write_downloads

    return write_downloads(tmp_path_factory.mktemp("downloads"))


@pytest.fixture(scope="module", autouse=True)
def assets(downloads, tmp_path_factory) -> Path:
    """The assets folder that `rigface assets adopt` makes of it; this process and its children use it."""
    folder = tmp_path_factory.mktemp("assets")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RIGFACE_ASSETS", str(folder))
        assert main(["assets", "adopt", str(downloads)]) == 0
        config = folder / "rigface" / "config.json"  # written by adopt: what the released weights mean
        assert ModelConfig.from_json(json.loads(config.read_text())) == RELEASED
        config.write_text(json.dumps(replace(RELEASED, size=128).to_json()))  # for the time that the tests take
        yield folder


@pytest.fixture(scope="module")
def photo(tmp_path_factory) -> Path:
    """A frame of a real clip as a file."""
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    path.write_bytes(encode_png(next(iter(read_frames(str(CLIP)))).image))
    return path


def table_of(text: str) -> dict[str, list[str]]:
    """Rows of the printed table: name -> was, asked, achieved, off by."""
    lines = [line.strip("│┃ ").split("│") for line in text.splitlines() if line.count("│") > 4]
    return {cells[0].strip(): [cell.strip() for cell in cells[1:]] for cells in lines}


def test_photo_is_edited_by_the_released_model(photo, tmp_path, capsys):
    assert main(["edit", str(photo), str(tmp_path / "out.png"), "--checkpoint", "rigface", "--steps", "2", *EDIT]) == 0
    printed = capsys.readouterr().out
    rows = table_of(printed)
    assert "no face was found in the result" in printed
    assert (rows["yaw"][1], rows["expression.smile"][1], rows["light.azimuth"][1]) == ("15.0°", "0.60", "40.0°")
    before, after = (decode(path.read_bytes()) for path in (photo, tmp_path / "out.png"))
    assert before.shape == after.shape
    changed = (np.abs(before.astype(int) - after).max(-1) > 8).mean()
    assert 0.05 < changed < 0.9


def test_precise_edit_takes_the_sampling_of_the_authors(photo, tmp_path, monkeypatch):
    from rigface.model.pipeline import RigFacePipeline

    asked, real = [], RigFacePipeline.__call__
    monkeypatch.setattr(
        RigFacePipeline, "__call__", lambda self, *a, **k: asked.append((self, k)) or real(self, *a, **k | {"steps": 2})
    )
    assert (
        main(["edit", str(photo), str(tmp_path / "a.png"), "--checkpoint", "rigface", "--precise", "--yaw", "9"]) == 0
    )
    ((pipe, options),) = asked
    assert (options["scheduler"], options["steps"], pipe._dtype) == ("unipc", 50, None)
    assert pipe.model_config.prompt == "A close up of a person."


def test_dataset_of_the_profile_trains_and_measures_the_released_model(assets, photo, tmp_path):
    faces, pairs, latents, run = (str(tmp_path / name) for name in ("faces", "pairs", "latents", "run"))
    here = ["--fps", "1", "--in-process", "always"]
    assert main(["extract", str(CLIP), faces, "--profile", "rigface", *here]) == 0
    table = pyarrow.dataset.dataset(f"{faces}/faces", format="parquet").to_table()
    assert set(table["status"].to_pylist()) == {"ok"}
    assert not table["bfm_expression"].null_count
    few = ["--pairs", "4", "--relit", "2", "--min-confidence", "0", "--held-out-fraction", "0", "--size", "128"]
    assert main(["pair", faces, pairs, "--profile", "rigface", *few]) == 0
    assert main(["encode", pairs, latents, "--autoencoder", "rigface"]) == 0
    how = ["--start", "rigface", "--steps", "2", "--workers", "0", "--batch", "1", "--validation-examples", "0"]
    assert main(["train", "debug", latents, run, *how]) == 0
    trained = f"{run}/model"
    assert main(["edit", str(photo), str(tmp_path / "b.png"), "--checkpoint", trained, "--steps", "1", *EDIT]) == 0
    few = ["--limit", "4", "--seeds", "1", "--tasks", "self", "--min-confidence", "0"]
    evaluated = ["--models", trained, "--all-people", *few]
    assert main(["evaluate", faces, str(tmp_path / "card"), *evaluated]) == 0
    assert "head flame" in (tmp_path / "card" / "card.json").read_text()


def test_models_of_two_profiles_serve_side_by_side(photo):
    from starlette.testclient import TestClient

    from serve.api.dependencies import Services
    from serve.api.routes import make_api
    from serve.inference.diffusion_worker import DiffusionWorker
    from serve.inference.face_worker import FaceWorker
    from tests.serve.conftest import TEST_NAMES, send

    models = {"rigface": "rigface", "tiny": "tiny"}
    worker = DiffusionWorker.load(models)
    services = Services(FaceWorker.load(models), worker, loopback_names=TEST_NAMES)
    with TestClient(make_api(services)) as client:
        assert [model["name"] for model in client.get("/v1/models").json()["models"]] == ["rigface", "tiny", "preview"]
        for model in models:
            answer = send(
                client, photo.read_bytes(), {"yaw_deg": 15, "expression": {"smile": 0.6}}, model=model, steps=2
            )
            assert answer.status_code == 200, answer.text
            (asked,) = json.loads(answer.headers["RigFace-Asked"])
            assert (asked["yaw_deg"], asked["smile"]) == (pytest.approx(15, abs=0.01), pytest.approx(0.6, abs=0.01))
    worker.close()


def test_card_tells_adopted_weights_apart_by_their_content(assets, tmp_path, monkeypatch):
    from pipelines.evaluate.info import fingerprint

    before = fingerprint("rigface")
    shutil.copytree(assets / "rigface", tmp_path / "rigface")
    weights = tmp_path / "rigface" / "unet_id" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    monkeypatch.setenv("RIGFACE_ASSETS", str(tmp_path))
    assert fingerprint("rigface") != before
