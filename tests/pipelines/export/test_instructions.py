"""Instructions in words, written from the numbers of two faces."""

import pytest

from pipelines.export.instructions import MEASURED, differences, instruction


def face(**values: float) -> dict[str, float]:
    return dict.fromkeys(MEASURED, 0.0) | values


@pytest.mark.parametrize(
    ("source", "target", "said"),
    [
        ({}, {"yaw_deg": 15, "au12": 0.5}, "turn the head 15 degrees to their left; smile more"),
        ({"yaw_deg": 10}, {"yaw_deg": -10.4}, "turn the head 20 degrees to their right"),
        ({}, {"pitch_deg": 6, "roll_deg": -5}, "lower the head 6 degrees; tilt the head 5 degrees to their right"),
        ({"au12": 0.9}, {"au12": 0.1}, "smile much less"),
        ({}, {"au01": 0.2, "au02": 0.2}, "raise the eyebrows a little"),
        ({}, {"mouth_opening": 0.2}, "open the mouth"),
        ({"mouth_opening": 0.2}, {"mouth_opening": 0.4}, "open the mouth wider"),
        ({"mouth_opening": 0.4}, {}, "close the mouth"),
        ({}, {"au45": 0.6, "eye_pitch_deg": 30}, "close the eyes"),  # closed eyes look nowhere
        ({}, {"eye_yaw_deg": -12}, "move the eyes 12 degrees to their right"),
        ({}, {"eye_pitch_deg": 9}, "move the eyes 9 degrees down"),
        ({}, {"yaw_deg": 3, "au12": 0.1}, ""),
    ],
)  # fmt: skip
def test_instruction(source, target, said):
    assert instruction(face(**source), face(**target)) == said


def test_differences_of_angles_go_the_shorter_way_round():
    change = differences(face(roll_deg=170, au12=0.2), face(roll_deg=-170, au12=0.1))
    assert change["roll_deg"] == pytest.approx(20)
    assert change["au12"] == pytest.approx(-0.1)
