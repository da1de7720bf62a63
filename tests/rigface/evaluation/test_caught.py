"""Editors that a yardstick must catch, each by the column that is to catch it (blur: `test_regions.py`)."""

from dataclasses import replace
from types import MappingProxyType, SimpleNamespace

import numpy as np
import pytest

from rigface.edits import EditSpec
from rigface.evaluation.baselines import COPY_SOURCE, controls
from rigface.evaluation.claims import claims
from rigface.evaluation.report_card import make_card
from rigface.evaluation.rows import measure_edits
from rigface.evaluation.samples import Edited
from rigface.evaluation.strangers import extractors_of

from .conftest import Painted, paint

PEOPLE = (10, 30, 50, 70, 90, 110)
TAKE = EditSpec(take={"pose", "light"})


class Strangers:
    """Networks that read another place of the picture than the loop's estimator: yaw and person off a corner."""

    networks = MappingProxyType({"pose": "corner", "identity": "corner"})
    versions = MappingProxyType({"pose": "corner 1", "identity": "corner 1"})

    def __call__(self, picture):
        person, yaw = float(picture[2, 2, 0]), (float(picture[2, 2, 1]) - 128) / 2
        vector = np.random.default_rng(int(person)).normal(size=16)
        return SimpleNamespace(
            yaw_deg=yaw, pitch_deg=np.nan, roll_deg=0.0, smile=np.nan, age_years=np.nan, identity=vector
        )


def photo(person, yaw, azimuth=0.0, meter_yaw=None):
    """A photograph of a person; the loop's estimator reads `meter_yaw` where it is given."""
    picture = paint(person, yaw=yaw if meter_yaw is None else meter_yaw, azimuth=azimuth)
    picture[:6, :6] = person, 128 + round(2 * yaw), 0
    return picture


def asked():
    return [
        Edited("", "self-edit", str(p), str(p), photo(p, -10), None, TAKE, photo(p, 20, 40), photo(p, 20, 40))
        for p in PEOPLE
    ]


EDITORS = {
    "good": lambda e: photo(int(e.person), 18, 38),
    "wrong light": lambda e: photo(int(e.person), 18, -40),
    "thief": lambda e: photo(int(e.person) + 100, 20, 40),
    "meter": lambda e: photo(int(e.person), -10, 40, meter_yaw=20),
    "base": lambda e: photo(int(e.person), 5, 20),
}


@pytest.fixture(scope="module")
def card():
    edits = [replace(e, model=name, output=editor(e)) for name, editor in EDITORS.items() for e in asked()]
    judges = Strangers()
    rows = measure_edits(Painted(), [*edits, *controls(asked())], judges=judges)
    return make_card(rows, Painted().extractors | extractors_of(judges), baseline="base", draws=100)


def value(card, model, metric):
    return card.row(model, "self-edit").cells[metric].value


def test_good_editor_passes_every_column(card):
    assert value(card, "good", "gain_pose") > 0.9
    assert value(card, "good", "gain_yaw_corner") > 0.9
    assert value(card, "good", "gain_light_ball") > 0.9
    assert value(card, "good", "identity_corner") == pytest.approx(0)


def test_wrong_light_is_worse_than_none_on_the_ball(card):
    assert value(card, "wrong light", "gain_light_ball") < 0
    assert value(card, "wrong light", "light_angle_deg") > 60


def test_lazy_editor_gains_nothing(card):
    for name in ("gain_pose", "gain_yaw_corner", "gain_light_ball"):
        assert value(card, COPY_SOURCE, name) == pytest.approx(0, abs=0.01)
        assert name in card.row(COPY_SOURCE, "self-edit").noise


def test_thief_is_another_person_to_the_loop_and_to_a_stranger(card):
    assert value(card, "thief", "identity_distance") > 5
    assert value(card, "thief", "identity_corner") > 0.3
    assert value(card, "thief", "gain_pose") > 0.9  # by this alone it would win


def test_moved_meter_is_no_claim_if_the_stranger_sees_no_turn(card):
    assert value(card, "meter", "gain_pose") > 0.9
    assert value(card, "meter", "gain_yaw_corner") == pytest.approx(0, abs=0.01)
    found = {(c.model, c.trait): (c.in_loop, c.strangers, c.text) for c in claims(card)}
    assert found["meter", "pose"] == ("better", "worse", "nothing")
    assert found["good", "pose"] == ("better", "better", "better")
