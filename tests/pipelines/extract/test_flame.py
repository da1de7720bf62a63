"""FLAME through the job's stages, from the clip to the rows and the page of `inspect`; without Ray."""

from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from pipelines.extract import components
from pipelines.extract.config import Settings
from pipelines.extract.dataset import FaceDataset
from pipelines.extract.frame_processor import FrameProcessor
from pipelines.extract.layout import part_path
from pipelines.extract.plan import units_of, with_shards
from pipelines.extract.stages import MaskAndScore, Reconstruct, Write
from pipelines.extract.survey import Surveyor
from pipelines.extract.unit import Shard, Unit
from pipelines.inspect import gallery, job
from rigface import schema
from rigface.errors import PlanError
from rigface.face.head.heads import load_head
from rigface.image import decode
from rigface.storage.store import Store
from rigface.testing.official.flame import FLAME_2023_OPEN, write_flame


@pytest.fixture(scope="module")
def flame_folder(tmp_path_factory):
    folder = write_flame(tmp_path_factory.mktemp("flame"), FLAME_2023_OPEN, texture=False)
    (folder / "LICENSE.txt").write_text("Creative Commons BY 4.0, say its authors\n")
    return folder


@pytest.fixture(scope="module")
def settings(flame_folder):
    return Settings(fps=2, identity="none", head="flame", head_folder=str(flame_folder), shape=30, expression=20)


@pytest.fixture(scope="module")
def specs(settings):
    detector = components.detector(settings).spec
    return components.reconstructor(settings, "cpu", detector).head_spec, replace(detector, identity="none")


@pytest.fixture(scope="module")
def dataset(fixtures, settings, specs, tmp_path_factory):
    """A dataset of the shipped clip."""
    out = tmp_path_factory.mktemp("out")
    config = FaceDataset(Store(str(out))).begin_run(settings, *specs, overwrite=False)
    plan = Surveyor(settings)(str(fixtures / "clip.mp4"), lambda step: None)
    (planned,) = units_of(*with_shards([plan], config, 300), config)
    record, blob = FrameProcessor(settings)(planned, lambda step: None)
    unit = Unit(planned, record, blob)
    for stage in (Reconstruct(settings, "cpu"), MaskAndScore(settings)):
        stage(unit)
    Write(str(out), *specs)(Shard([unit]))
    return out, pq.read_table(out / part_path(planned.shard))


def test_rows_hold_flame_and_say_which(dataset, specs):
    _, rows = dataset
    spec = schema.head_of(rows.schema)
    assert spec == specs[0]
    assert (spec.name, spec.shape, spec.expression, spec.extras) == ("flame", 30, 20, ("eyelids",))
    assert spec.version.startswith("sha256:")
    assert spec.licence == "LICENSE.txt: Creative Commons BY 4.0, say its authors"
    params = schema.params_of(rows)
    assert params.shape.shape == (len(rows), 30)
    assert params.eyelids.shape == (len(rows), 2)
    assert params.eye_rotations is None
    assert np.ptp(params.shape, axis=0).max() == 0  # one track, one shape
    assert np.isfinite(params.light).all()
    assert (rows["landmark_residual"].to_numpy() < 0.005).all()
    assert (rows["confidence"].to_numpy() > 0.2).all()


def test_inspect_draws_the_fitted_head(dataset, flame_folder):
    """The drawn head covers the face and has about its colours."""
    out, rows = dataset
    head, why_not = gallery.load_head(schema.head_of(rows.schema), str(flame_folder))
    assert why_not == ""
    drawn = gallery.pictures(schema.params_of(rows.slice(0, 1)), head, px=128)["render"]
    crop = decode(rows["crop"][0].as_py())[2::4, 2::4].astype(int)
    inside = drawn[..., 3] > 0
    assert 0.1 < inside.mean() < 0.7
    assert np.abs(drawn[inside, :3].astype(int) - crop[inside]).mean() < 30
    page = job.write(str(out), samples=2)
    assert "Creative Commons BY 4.0" in (out / page.rpartition("/")[2]).read_text()


def test_another_flame_is_refused_for_the_same_dataset(dataset, settings, specs, tmp_path):
    out, _ = dataset
    head, detector = specs
    with pytest.raises(PlanError, match=r"head's version: 'sha256:\w+' -> 'sha256:2'"):
        FaceDataset(Store(str(out))).check(settings, replace(head, version="sha256:2"), detector, overwrite=False)
    moved = replace(settings, head_folder="/elsewhere")
    FaceDataset(Store(str(out))).check(moved, replace(head, licence="read"), detector, overwrite=False)
    assert torch.isfinite(load_head(head, settings.head_folder).template).all()
