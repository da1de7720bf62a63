"""Instructions of an edit in words, written from the numbers of two faces.

Path: study columns of source and target -> `differences` -> `instruction`: "turn the head 15 degrees to their left;
smile more".

Left and right are the person's own ("their left"), as everywhere in this project. Amounts of a movement are `a little`,
none, or `much`, by how far the target is from the source.
"""

from collections.abc import Mapping

LITTLE, SOME, MUCH = 0.15, 0.35, 0.7  # of a unit's [0, 1]: smaller changes are not mentioned
TURN_DEG = 4.0  # of the head
GAZE_DEG = 8.0  # of the eyes against the head
MOUTH, MOUTH_SHUT = 0.08, 0.06  # gap over width
EYES = 0.3  # of unit 45
MEASURED = (
    *("yaw_deg", "pitch_deg", "roll_deg", "eye_yaw_deg", "eye_pitch_deg", "mouth_opening"),
    *("au01", "au02", "au04", "au12", "au15", "au18", "au45"),
)
_WORDS = {  # unit -> with more of it, with less of it
    "brows": ("raise the eyebrows {}", "lower the eyebrows {}"),
    "au12": ("smile {}more", "smile {}less"),
    "au15": ("turn the corners of the mouth down {}more", "turn the corners of the mouth down {}less"),
    "au18": ("pucker the lips {}more", "pucker the lips {}less"),
    "au04": ("frown {}more", "frown {}less"),
}


def differences(source: Mapping[str, float], target: Mapping[str, float]) -> dict[str, float]:
    """Target minus source of each of `MEASURED`; angles are the shorter way round."""
    out = {name: float(target[name]) - float(source[name]) for name in MEASURED}
    return {name: (v + 180) % 360 - 180 if name.endswith("_deg") else v for name, v in out.items()}


def instruction(source: Mapping[str, float], target: Mapping[str, float]) -> str:
    """The edit that turns the source into the target, its parts separated by `; `; empty if there is nothing to say."""
    change = differences(source, target)
    said = [*_head(change), *_eyes(change), *_mouth(source, target, change)]
    amounts = {
        "brows": (change["au01"] + change["au02"]) / 2,
        **{unit: change[unit] for unit in _WORDS if unit in change},
    }
    for name, (more, less) in _WORDS.items():
        if (size := abs(amounts[name])) >= LITTLE:
            amount = "a little " if size < SOME else "" if size < MUCH else "much "
            said.append((more if amounts[name] > 0 else less).format(amount).rstrip())
    return "; ".join(said)


def _head(change: Mapping[str, float]) -> list[str]:
    yaw, pitch, roll = (change[f"{name}_deg"] for name in ("yaw", "pitch", "roll"))
    said = []
    if abs(yaw) >= TURN_DEG:
        said.append(f"turn the head {_degrees(yaw)} to their {'left' if yaw > 0 else 'right'}")
    if abs(pitch) >= TURN_DEG:
        said.append(f"{'lower' if pitch > 0 else 'raise'} the head {_degrees(pitch)}")
    if abs(roll) >= TURN_DEG:
        said.append(f"tilt the head {_degrees(roll)} to their {'left' if roll > 0 else 'right'}")
    return said


def _eyes(change: Mapping[str, float]) -> list[str]:
    if abs(change["au45"]) >= EYES:
        return ["close the eyes" if change["au45"] > 0 else "open the eyes"]
    yaw, pitch = change["eye_yaw_deg"], change["eye_pitch_deg"]
    said = []
    if abs(yaw) >= GAZE_DEG:
        said.append(f"move the eyes {_degrees(yaw)} to their {'left' if yaw > 0 else 'right'}")
    if abs(pitch) >= GAZE_DEG:
        said.append(f"move the eyes {_degrees(pitch)} {'down' if pitch > 0 else 'up'}")
    return said


def _mouth(source: Mapping[str, float], target: Mapping[str, float], change: Mapping[str, float]) -> list[str]:
    if abs(change["mouth_opening"]) < MOUTH:
        return []
    if change["mouth_opening"] > 0:
        return ["open the mouth" if source["mouth_opening"] < MOUTH_SHUT else "open the mouth wider"]
    return ["close the mouth" if target["mouth_opening"] < MOUTH_SHUT else "close the mouth partly"]


def _degrees(value: float) -> str:
    return f"{abs(value):.0f} degrees"
