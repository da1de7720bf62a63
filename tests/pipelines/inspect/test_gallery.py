"""Gallery: choice of faces, rendered tiles, budget of their size."""

import base64
import io
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image

from pipelines.inspect import gallery
from pipelines.inspect.people import RowPosition
from rigface import schema
from rigface.face.head.open_head import OpenHead
from rigface.face.rendering.lighting import shade
from rigface.types import CROP_PX, HeadSpec


def test_chosen_faces_are_diverse(make):
    table = make.faces(300, pictures=False)
    statistics = make.statistics(table, keep=8)
    chosen = gallery.choose(statistics.candidates(), 12)
    yaw = np.array([table["yaw_deg"][position.row].as_py() for position in chosen])
    assert yaw.min() < -55
    assert yaw.max() > 55
    assert len({table["identity"][position.row].as_py() for position in chosen}) >= 6
    assert len(set(chosen)) == 12
    assert not set(gallery.choose(statistics.candidates(), 12, without=set(chosen))) & set(chosen)


def test_single_face_is_chosen(make):
    statistics = make.statistics(make.faces(1, pictures=False))
    assert gallery.choose(statistics.candidates(), 24) == [RowPosition(0, 0)]


def test_rows_are_fetched_from_any_row_group(make, tmp_path):
    make.dataset(tmp_path, make.faces(20, pictures=False))
    with pq.ParquetFile(tmp_path / "faces" / "00" / "part.parquet") as parquet:
        tables = gallery.fetch(parquet, [0, 7, 8, 19], ["frame_index", "not there"])
    assert {row: table["frame_index"].to_pylist() for row, table in tables.items()} == {
        0: [0],
        7: [7],
        8: [8],
        19: [19],
    }


def test_tiles_shrink_to_the_budget(monkeypatch):
    noise = np.random.default_rng(0).integers(0, 255, (CROP_PX, CROP_PX, 4), np.uint8)
    strip = gallery.Strip({}, [gallery.Picture("crop", noise)] * 4, "", "")
    assert _side(gallery.encoded([strip])[0][0]) == gallery.SIZES[0][0]
    monkeypatch.setattr(gallery, "BUDGET", 100_000)
    small = gallery.encoded([strip])
    assert sum(map(len, small[0])) <= 100_000
    assert _side(small[0][0]) < gallery.SIZES[0][0]


def test_relit_light_comes_from_the_darker_side_above():
    light = np.zeros((9, 3), np.float32)
    light[0], light[1] = 3.0, 1.0  # from the right
    sides = torch.tensor([[-0.8, 0.6, 0.0], [0.8, 0.6, 0.0], [-0.8, -0.6, 0.0]])
    new = torch.tensor(gallery.relit(light), dtype=torch.float32)
    left, right, below = shade(sides[None], new[None])[0, :, 0].tolist()
    assert left > 2 * right
    assert left > 2 * below
    assert below > -0.05


def test_open_head_is_rendered(make):
    spec = OpenHead.load().spec
    head, why_not = gallery.load_head(spec)
    assert not why_not
    params = schema.params_of(make.faces(1, head=spec, pictures=False), spec)
    drawn = gallery.pictures(params, head, px=96)
    assert list(drawn) == ["normals", "shading", "albedo", "render", "relit"]
    inside = drawn["normals"][..., 3] > 0
    assert 0.1 < inside.mean() < 0.8
    assert drawn["normals"][inside][:, 2].mean() > 170  # the face looks at the camera
    assert all(np.array_equal(image[..., 3] > 0, inside) for image in drawn.values())
    assert not np.array_equal(drawn["render"], drawn["relit"])


def test_coefficients_of_another_version_are_not_rendered():
    head, why_not = gallery.load_head(replace(OpenHead.load().spec, version="0"))
    assert head is None
    assert "open 0" in why_not


def test_missing_head_model_gives_its_reason(monkeypatch, tmp_path):
    monkeypatch.delenv("RIGFACE_ASSETS", raising=False)
    head, why_not = gallery.load_head(HeadSpec("flame", "sha256:0", 100, 50, 0), str(tmp_path))
    assert head is None
    assert "registration" in why_not


def _side(uri):
    return max(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))).size)
