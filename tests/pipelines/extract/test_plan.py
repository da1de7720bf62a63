"""Plans and unit names."""

import json
from dataclasses import replace

from pipelines.extract.plan import Plan, UnitPlan, bundles, shard_name, units_of, with_shards
from pipelines.extract.unit import plans_json, plans_of_json
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
    (plan,) = with_shards([PLAN], "config", 300)
    assert Plan.from_json(plan.to_json()) == plan
    assert Plan.from_json(PLAN.to_json()) == PLAN
    units = list(units_of(plan, "config"))
    assert plans_of_json(plans_json(units)) == units
    assert [(unit.index, unit.chunks, unit.expected) for unit in units] == [(0, 2, 40), (1, 2, 2)]


def test_stored_plan_has_a_field_for_each_attribute():
    stored = json.loads(PLAN.to_json())
    names = ["index", "start_slot", "stop_slot", "seek_s", "start_frame", "start_pts", "origin_pts"]
    assert stored["chunks"][1] == dict(zip(names, [1, 40, None, 7.9, 200, 3, 1]))
    assert (stored["uri"], stored["expected"], stored["reason"]) == ("/videos/a.mp4", [40, 2], None)


def unit(uri: str, expected: int, chunks: int = 1, index: int = 0) -> UnitPlan:
    return UnitPlan(f"{uri}{index}", uri, index, chunks, None, expected)


def test_short_inputs_are_bundled_up_to_the_work_of_a_shard_and_cut_ones_stay_alone():
    """Opening an input counts as four frames."""
    photos = [unit(f"{k}.jpg", 1) for k in range(25)]
    long = [unit("a.mp4", 46, 3, k) for k in range(3)]
    other = [unit("b.mp4", 3, 2, k) for k in range(2)]
    found = list(bundles([*photos[:23], *long, *other, *photos[23:]], 100))
    assert found == [photos[:20], photos[20:23], long[:2], long[2:], other, photos[23:]]


def test_shard_is_named_after_its_units_in_any_order():
    units = [unit("a", 1), unit("b", 1)]
    assert shard_name(units) == shard_name(units[::-1]) != shard_name(units[:1])


def test_only_units_without_a_shard_get_one():
    plans = [replace(PLAN, uri=f"{k}.jpg", chunks=(None,), expected=(1,)) for k in range(4)]
    first = with_shards(plans[:2], "config", 300)
    assert len({plan.shards for plan in first}) == 1
    both = with_shards([*first, *plans[2:]], "config", 300)
    assert both[:2] == first
    assert both[2].shards == both[3].shards != first[0].shards


def test_new_plan_of_the_same_units_keeps_their_shards():
    (plan,) = with_shards([PLAN], "config", 300)
    assert replace(PLAN, stamp="touched").following(plan).shards == plan.shards
    assert replace(PLAN, sha256="0").following(plan).shards == ()


def test_refused_plan_has_no_units():
    plan = PLAN.refused("decode", "torn")
    assert (plan.status, plan.stage, plan.reason, plan.sha256) == ("error", "decode", "torn", "ab")
    assert not list(units_of(plan, "config"))
