"""DECA and BiSeNet through the job's stages, from the clip to the rows; without Ray, with made-up weights."""

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipelines.extract import components
from pipelines.extract.config import Settings
from pipelines.extract.dataset import FaceDataset
from pipelines.extract.frame_processor import FrameProcessor
from pipelines.extract.layout import part_path
from pipelines.extract.plan import units_of, with_shards
from pipelines.extract.stages import MaskAndScore, Reconstruct, Write
from pipelines.extract.survey import Surveyor
from pipelines.extract.unit import Shard, Unit
from rigface import schema
from rigface.image import decode
from rigface.storage.store import Store
from rigface.testing.official.flame import write_flame
from rigface.testing.official.networks import write_bisenet, write_deca


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("RIGFACE_ASSETS", str(tmp_path / "assets"))
    write_flame(tmp_path / "assets" / "flame", texture=False)
    write_deca(tmp_path / "assets" / "deca" / "deca_model.tar")
    write_bisenet(tmp_path / "assets" / "bisenet" / "79999_iter.pth")
    return tmp_path


def test_a_network_implies_flame():
    assert Settings(reconstructor="deca").head == "flame"
    assert Settings(reconstructor="fit").head == "open"


@pytest.mark.slow
def test_rows_hold_decas_coefficients_and_bisenets_masks(folder, fixtures):
    settings = Settings(fps=1, identity="none", reconstructor="deca", parser="bisenet", half=True)
    specs = components.Specs(settings)(None, lambda step: None)
    config = FaceDataset(Store(str(folder / "out"))).begin_run(settings, *specs, overwrite=False)
    plan = Surveyor(settings)(str(fixtures / "clip.mp4"), lambda step: None)
    (planned,) = units_of(*with_shards([plan], config, 300), config)
    unit = Unit(planned, *FrameProcessor(settings)(planned, lambda step: None))
    for stage in (Reconstruct(settings, "cpu"), MaskAndScore(settings)):
        stage(unit)
    Write(str(folder / "out"), *specs)(Shard([unit]))
    rows = pq.read_table(folder / "out" / part_path(planned.shard))
    assert rows.num_rows == 3
    assert specs[0].name == "flame"
    stored = schema.detector_of(rows.schema)
    assert stored.reconstructor.startswith("deca-")
    assert stored.parser.startswith("bisenet-")
    shapes = np.stack(rows["shape"].to_pylist())
    assert shapes.shape == (3, 100)
    assert np.ptp(shapes, axis=0).max() < 1e-6  # one track, one shape
    assert np.ptp(np.stack(rows["expression"].to_pylist()), axis=0).max() > 0
    assert np.isfinite(np.stack(rows["light"].to_pylist())).all()
    assert np.isfinite(rows["landmark_residual"].to_numpy()).all()
    masks = [decode(mask) for mask in rows["mask"].to_pylist()]
    assert all(0.02 < (mask > 0).mean() < 0.98 for mask in masks)
