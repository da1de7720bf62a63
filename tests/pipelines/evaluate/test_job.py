"""Evaluation: held-out people only, the same tasks for all models and controls, resume, refusals."""

import json
from collections import Counter
from dataclasses import replace
from types import MappingProxyType

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest

from pipelines.evaluate import task_sampler
from pipelines.evaluate.config import EvaluateConfig
from pipelines.evaluate.info import fingerprint
from pipelines.evaluate.job import evaluate, models_by_name
from pipelines.evaluate.task_sampler import SWEEPS
from pipelines.evaluate.tasks import FacesSource
from pipelines.examples.split import split_of
from rigface.edits import LightEdit
from rigface.errors import PlanError
from rigface.evaluation import report
from rigface.evaluation.baselines import BLURRED, COPY_SOURCE, FLOOR, ROUND_TRIP, TRUE_FRAME
from rigface.evaluation.card_page import print_tables
from rigface.evaluation.estimator import Estimate, FaceEstimator
from rigface.face.controls.transfer import light_coefficients
from rigface.face.geometry.rotation import from_degrees, to_axis_angle
from rigface.face.head.open_head import OpenHead
from rigface.model import checkpoint
from rigface.model.model_config import ModelConfig, Process
from rigface.storage.store import Store
from rigface.types import FaceParams
from tests.pipelines.made_faces import dataset

SIZE = 64
HELD_OUT, LEARNT = "a1", "a0"  # by `split_of`, which a test below holds


class Stand:
    """An estimator that reads a face off the colours of any picture, and none off a black one."""

    head = OpenHead.load().spec
    score_names = head.expression_names
    extractors = MappingProxyType(dict.fromkeys(("in loop", "detector", "identity"), "stand-in"))
    looked = 0

    def __call__(self, pictures, near=None):
        type(self).looked += len(pictures)
        return [None if p is None or not p.any() else self.read(p) for p in pictures]

    def read(self, picture):
        small = cv2.resize(picture, (8, 8), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
        values = small.reshape(-1)
        turn = from_degrees(np.float32([[90 * (values[:64].mean() - 0.5), 0, 0]]))
        params = FaceParams(
            shape=np.zeros(self.head.shape, np.float32),
            expression=np.resize(values, self.head.expression),
            head_rotation=to_axis_angle(turn)[0].astype(np.float32),
            jaw_rotation=np.zeros(3, np.float32),
            camera=np.float32([5, 0, 0]),
            albedo=np.zeros(self.head.albedo, np.float32),
            light=light_coefficients(LightEdit(azimuth_deg=float(90 * values.mean()), relative=False), 1.0),
        )
        size = len(picture)
        return Estimate(
            params, np.float32([0.2, 0.2, 0.8, 0.8]) * size,
            np.float32([[0.2, 0.2, 0], [0.8, 0.2, 0], [0.8, 0.8, 0], [0.2, 0.8, 0]]) * size,
            np.eye(2, 3, dtype=np.float32),
            small.mean((0, 1)), 0.0, np.resize(values, len(self.score_names)), turn[0], np.resize(values, 128),
        )  # fmt: skip

    def person(self, picture, seen):
        return np.zeros(picture.shape[:2], bool)


@pytest.fixture(autouse=True)
def stand(monkeypatch):
    monkeypatch.setattr(FaceEstimator, "load", classmethod(lambda cls, profile, identity: Stand()))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Faces of people of whom one is held out, and a model."""
    folder = tmp_path_factory.mktemp("evaluate")
    dataset(folder / "faces", people=3, frames=8, identity="a{}")
    save_model(folder / "model", size=SIZE)
    return folder


def save_model(folder, size, seed=0, **settings):
    config = ModelConfig(
        Process("bridge", bridge_noise=0.0, scheduler="euler", steps=1), head=OpenHead.load().spec,
        **{"render_style": "texture", "size": size, **settings},
    )  # fmt: skip
    made = checkpoint.fresh(
        config, (16, 32), (8, 16), expression=52, text=(2, 24), heads=4, layers=1, groups=4, seed=seed
    )
    checkpoint.save(folder, made)


def config_of(place, out, data="faces", **changes) -> EvaluateConfig:
    models = ("preview", f"small={place / 'model'}")
    config = EvaluateConfig(str(place / data), str(out), models=models, limit=4, size=SIZE, threads=1)
    return replace(config, **{"tasks": ("self",), **changes})


def quiet(words: str) -> None:
    pass


@pytest.fixture(scope="module")
def judged(place, tmp_path_factory):
    """A finished evaluation of self-edits."""
    out = tmp_path_factory.mktemp("card")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FaceEstimator, "load", classmethod(lambda cls, profile, identity: Stand()))
        return out, evaluate(config_of(place, out), quiet)


def test_names_fall_into_the_expected_splits():
    assert (split_of(HELD_OUT), split_of(LEARNT)) == ("test", "train")


def test_all_models_and_controls_do_the_same_held_out_tasks(judged):
    out, card = judged
    rows = pq.read_table(out / "rows.parquet").to_pylist()
    assert {row["person"] for row in rows} == {HELD_OUT}
    names = ("preview", "small", COPY_SOURCE, BLURRED, TRUE_FRAME, ROUND_TRIP)
    keys = {m: Counter(r["key"] for r in rows if r["model"] == m) for m in names}
    assert len(keys["preview"]) >= 3
    assert all(found == keys["preview"] for found in keys.values())
    assert {row["model"] for row in rows} == {*names, FLOOR}
    assert card.baseline == "preview"


def test_true_frame_has_full_psnr_and_blur_no_detail(judged):
    _, card = judged
    cells = {(r.model, r.edit): r.cells for r in card.rows}
    assert cells[TRUE_FRAME, "self-edit"]["psnr_face"].value == 100
    assert cells[TRUE_FRAME, "self-edit"]["sharpness_face"].value == pytest.approx(1)
    assert cells[BLURRED, "self-edit"]["sharpness_face"].value < cells["preview", "self-edit"]["sharpness_face"].value


def test_card_is_written_in_every_form_with_pictures_and_test_set(judged):
    out, _ = judged
    page = (out / "card.html").read_text()
    tasks = pq.read_table(out / "tasks.parquet").to_pylist()
    assert page.count("data:image/jpeg") == len(tasks) * 4  # source, truth, preview, model
    assert "http" not in page.replace("http-equiv", "")
    assert (out / "card.md").read_text().startswith("# Evaluation")
    assert json.loads((out / "card.json").read_text())["rows"]
    assert all(len(task["source_sha256"]) == 32 for task in tasks)
    assert json.loads((out / "rigface.json").read_text())["models"]["small"]["fingerprint"]


def test_rerun_skips_finished_units_and_evaluates_another_model(judged, place, tmp_path):
    out, card = judged
    before = Stand.looked
    again = evaluate(config_of(place, out), quiet)
    assert Stand.looked == before
    assert report.to_dict(again) == report.to_dict(card)
    save_model(tmp_path / "other", SIZE, seed=1)
    assert fingerprint(str(tmp_path / "other")) != fingerprint(str(place / "model"))
    evaluate(config_of(place, out, models=("preview", f"small={tmp_path / 'other'}"), limit=1), quiet)
    assert Stand.looked > before


def test_dry_run_prints_the_plan_and_writes_nothing(place, tmp_path):
    said = []
    assert evaluate(config_of(place, tmp_path / "no", dry_run=True), said.append) is None
    assert "tasks of 1 people" in said[0]
    assert not (tmp_path / "no").exists()


def test_faces_give_all_task_kinds_for_a_model_of_any_style(place, tmp_path, capsys, monkeypatch):
    some = {name: SWEEPS[name][::6] for name in ("yaw_deg", "expression.smile", "light.azimuth_deg")}
    monkeypatch.setattr(task_sampler, "SWEEPS", some)
    save_model(tmp_path / "grey", 32, render_style="shape")
    config = config_of(
        place, tmp_path / "card", tasks=(), limit=2, sweeps=1, clips=1, clip_frames=3, all_people=True,
        models=("preview", f"grey={tmp_path / 'grey'}"),
    )  # fmt: skip
    card = evaluate(config, quiet)
    rows = pq.read_table(tmp_path / "card" / "rows.parquet").to_pylist()
    mine = [row for row in rows if row["model"] == "grey"]
    assert {row["kind"] for row in mine} == {"self", "cross", "sweep", "clip"}
    assert Counter(row["number"] for row in mine if row["number"]) == dict.fromkeys(some, 2)
    assert {row["target_person"] != row["person"] for row in mine if row["kind"] == "cross"} == {True}
    assert card.clips["grey"].clips == 1
    assert card.clips[TRUE_FRAME].pose == pytest.approx(1)
    print_tables(card)
    assert "Sweeps: achieved against asked" in capsys.readouterr().out


def test_faces_source_plans_held_out_people_only(place):
    config = config_of(place, "out", limit=8, sweeps=3, clips=3)
    items = FacesSource(Store(config.data)).plan(("self", "sweep", "clip"), config)
    assert {item.person for item in items} == {HELD_OUT}
    assert len({(item.name, item.key) for item in items}) == len(items)


def test_impossible_evaluations_are_refused_with_a_hint(place, tmp_path):
    with pytest.raises(PlanError, match="want some of self, cross, sweep, clip, got swep"):
        config_of(place, tmp_path / "out", tasks=("swep",))
    with pytest.raises(PlanError, match="two are called 'mine'"):
        models_by_name(("runs/mine/model", "mine=elsewhere"))
    dataset(tmp_path / "few", people=1, identity=LEARNT)
    pairs = tmp_path / "pairs" / "examples" / "00"
    pairs.mkdir(parents=True)
    (pairs / "0.parquet").write_bytes(b"")
    with pytest.raises(PlanError, match="evaluate on the dataset of faces"):
        evaluate(config_of(place, tmp_path / "out", data=str(pairs.parents[1])), quiet)
    with pytest.raises(PlanError, match="--all-people"):
        evaluate(config_of(place, tmp_path / "out", models=("preview",), data=str(tmp_path / "few")), quiet)


def test_later_run_says_what_changed_and_refuses_a_place_without_rows(judged, place, tmp_path):
    out, _ = judged
    save_model(tmp_path / "other", SIZE, seed=1)
    config = config_of(place, tmp_path / "new", models=("preview", f"small={tmp_path / 'other'}"), against=str(out))
    card = evaluate(config, quiet)
    assert card.changes["preview", "self-edit"]["psnr_face"].mean == 0
    assert card.changes["small", "self-edit"]["psnr_face"].pairs > 0
    assert f"Changed since {out}" in (tmp_path / "new" / "card.md").read_text()
    with pytest.raises(PlanError, match="which holds rows"):
        evaluate(replace(config, against=str(tmp_path)), quiet)
    with pytest.raises(PlanError, match=f"compared at {SIZE} px"):
        evaluate(replace(config, size=32), quiet)
