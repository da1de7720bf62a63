"""User-provided weights through the whole job: SCRFD and ArcFace of a model pack, masks of a SegFormer."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.dataset
import pytest

from pipelines.extract import components
from pipelines.extract.config import Settings, debug, laptop
from pipelines.extract.identities import identify
from pipelines.extract.job import extract
from rigface import schema
from rigface.errors import MissingAsset, PlanError
from rigface.image import decode_mask
from rigface.storage.store import Store
from tests.drills.poison import NoChild
from tests.pipelines.conftest import identities_of, inputs_of
from tests.rigface.face import made_weights
from tests.rigface.face.made_weights import ARCFACE

CLIP = Path(__file__).parents[2] / "fixtures" / "clip.mp4"


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A pack whose SCRFD detects the (still) face of the clip, and a SegFormer."""
    folder = tmp_path_factory.mktemp("weights")
    for name in ("pack", "parser"):
        (folder / name).mkdir()
    made_weights.pack(folder / "pack", face_of_the_clip(), in_red=False)
    made_weights.tiny_segformer(folder / "parser", ["background", "skin", "hair", "cloth"])
    return folder


def face_of_the_clip():
    import av

    from rigface.face.detection.factory import load_detector

    with av.open(str(CLIP)) as container:
        frame = next(container.decode(video=0)).to_ndarray(format="rgb24")
    (face,) = load_detector()(frame)  # 640 px wide, as SCRFD sees it
    x0, y0, x1, y1 = (float(v) / 16 for v in face.box)
    return [(16, int((x0 + x1) / 2), int((y0 + y1) / 2), 0.9, ((x1 - x0) / 2, (y1 - y0) / 2) * 2)]


@pytest.fixture
def specs_here(monkeypatch):
    """Load the networks for their specs in this process, which has imported torch already."""
    monkeypatch.setattr(components, "WorkerProcess", lambda _, kwargs, silence_s: NoChild(components.Specs(**kwargs)))


@pytest.mark.slow
def test_user_provided_weights_give_complete_rows(weights, silent, tmp_path):
    settings = Settings(
        fps=5, chunk_frames=7, detector="insightface", detector_folder=str(weights / "pack"), identity="arcface",
        parser="segformer", parser_folder=str(weights / "parser"),
    )  # fmt: skip
    out = tmp_path / "out"
    extract(replace(laptop((str(CLIP),), str(out), workers=1), settings=settings), silent)
    (row,) = inputs_of(out).to_pylist()
    assert (row["status"], row["frames"], row["faces"], row["tracks"], row["chunks"]) == ("ok", 12, 12, 1, 2)

    faces = pyarrow.dataset.dataset(out / "faces", format="parquet").to_table()
    assert set(faces["status"].to_pylist()) == {"ok"}
    spec = schema.detector_of(faces.schema)
    assert (spec.name, spec.landmarks, spec.identity_width) == ("scrfd", 478, 512)
    assert spec.identity.startswith("arcface-w600k_r50-")
    assert spec.parser.startswith("segformer-")
    vectors = [v for v in faces["identity_vector"].to_pylist() if v is not None]
    assert len(vectors) == 4  # two of each chunk's track
    assert np.allclose(vectors, ARCFACE / np.linalg.norm(ARCFACE), atol=1e-5)
    assert list(identities_of(out)) == [(row["uri"], 0)]
    assert max(faces["landmark_residual"].to_pylist()) < 0.02
    assert faces["is_suspect"].to_pylist() == [False] * 12
    mask = decode_mask(faces["mask"][0].as_py())
    assert mask.shape == (512, 512)
    assert (mask == 255).mean() > 0.5  # hair everywhere, where the frame is

    assert identify(Store(str(out))).threshold == pytest.approx(1.1)
    assert "ArcFace" in next(
        c.doc for c in schema.face_columns(schema.head_of(faces.schema), spec) if "vector" in c.name
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"detector": "insightface", "detector_folder": "empty"}, "insightface_pack is not on this machine"),
        ({"identity": "arcface", "identity_folder": "empty"}, "insightface_pack is not on this machine"),
        ({"parser": "segformer", "parser_folder": "empty"}, "segformer_face_parsing is not on this machine"),
    ],
    ids=["pack", "arcface", "segformer"],
)
def test_missing_weights_are_refused_before_anything_runs(change, words, specs_here, silent, tmp_path, monkeypatch):
    monkeypatch.delenv("RIGFACE_ASSETS", raising=False)
    change = {name: str(tmp_path) if value == "empty" else value for name, value in change.items()}
    config = debug((str(CLIP),), str(tmp_path / "out"))
    with pytest.raises(MissingAsset, match=words):
        extract(replace(config, settings=replace(config.settings, **change)), silent)
    assert not (tmp_path / "out").exists()


def test_detector_without_enough_landmarks_is_refused_before_anything_runs(specs_here, silent, tmp_path):
    config = debug((str(CLIP),), str(tmp_path / "out"))
    settings = replace(config.settings, reconstructor="fit", head="open")
    with pytest.raises(
        PlanError, match="fitted to MediaPipe's 468\\+ landmarks and 52 blendshapes; this detector gives 478"
    ):
        extract(replace(config, settings=settings), silent)
    assert not (tmp_path / "out").exists()
