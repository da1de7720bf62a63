"""Plans and unit names."""

import json
from dataclasses import replace

from pipelines.extract.plan import Plan, UnitPlan, units_of
from rigface.video.decode import Chunk

PLAN = Plan(
    "/videos/a.mp4",
    "9-1",
    "video",
    bytes=9,
    sha256="ab",
    rate=5.0,
    chunks=(Chunk(0, 0, 40, None, 0), Chunk(1, 40, None, 7.9, 200, 3, 1)),
    expected=(40, 2),
)


def unit_id(plan: Plan, index: int, config: str) -> str:
    return list(units_of(plan, config))[index].unit_id


def test_unit_name_depends_on_uri_content_chunk_and_config():
    name = unit_id(PLAN, 0, "config")
    assert name == unit_id(replace(PLAN, stamp="other"), 0, "config")
    assert len(name) == 24
    others = [
        unit_id(replace(PLAN, uri="/elsewhere.mp4"), 0, "config"),
        unit_id(replace(PLAN, sha256="0"), 0, "config"),
        unit_id(PLAN, 1, "config"),
        unit_id(PLAN, 0, "other config"),
    ]
    assert len({name, *others}) == 5


def test_unit_names_of_stored_datasets_do_not_change():
    assert unit_id(PLAN, 1, "config") == "dddbaa01800edad600b3ac96"
    image = Plan("/a.jpg", kind="image", sha256="ab", chunks=(None,), expected=(1,))
    assert unit_id(image, 0, "config") == "2c919967953e19b4629eff0d"


def test_plan_and_units_survive_json():
    assert Plan.from_json(PLAN.to_json()) == PLAN
    units = list(units_of(PLAN, "config"))
    assert [UnitPlan.from_json(unit.to_json()) for unit in units] == units
    assert [(unit.index, unit.chunks, unit.expected) for unit in units] == [(0, 2, 40), (1, 2, 2)]


def test_stored_plan_has_a_field_for_each_attribute():
    stored = json.loads(PLAN.to_json())
    names = ["index", "start_slot", "stop_slot", "seek_s", "start_frame", "start_pts", "origin_pts"]
    assert stored["chunks"][1] == dict(zip(names, [1, 40, None, 7.9, 200, 3, 1]))
    assert (stored["uri"], stored["expected"], stored["reason"]) == ("/videos/a.mp4", [40, 2], None)


def test_refused_plan_has_no_units():
    plan = PLAN.refused("decode", "torn")
    assert (plan.status, plan.stage, plan.reason, plan.sha256) == ("error", "decode", "torn", "ab")
    assert not list(units_of(plan, "config"))
