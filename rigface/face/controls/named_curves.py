"""Fixed curves that make the numbers of an edit mean what they say in a preview.

Path: `transfer.py` asks `drawn_change` on the way from numbers to coefficients; reports ask `wanted_change` on the way
back. `python scripts/fit_named_curves.py --data ../shared/data` measures and prints the
tables.

A preview shows less than it is asked: of a smile, a reconstructor finds half of the change again. A curve leads from
the change that is wanted, relative to the photograph's own amount, to the change to draw, so that over people the
median reading is what was asked. It is straight as far as faces stay faces (smile 0.7, jaw 0.5), rises slowly from
there, and is identity far out. It is monotone, 0 for 0; there is no loop over a picture. A
lamp's azimuth has one too. What is copied from a photograph has none.

The jaw's curve depends on the smile: a reconstructor takes part of a smiling mouth's opening for a lower lip drawn down
(`mouthLowerDown`), and finds 0.7 of a change of `jawOpen` in a mouth at rest, 0.4 in one that smiles.

No curve: `blink` closes the lids at 1 as it is, and brows, squint, frown, pucker and wide eyes visibly do what is asked
while the reconstructor hardly notices (it reads back 5 to 25 % of the change), so its reading says nothing about them.
"""

import numpy as np

from rigface.types import HeadSpec

HEAD = "open"  # the head model of the preview; edits on others have no curves
FAR = 2.2  # a change of an expression from which a curve is identity

# Wanted and drawn change of a named expression, from the decrease to the increase; medians over 24 people.
EXPRESSIONS = {
    "smile": ((-2.2, -2.2), (-1.2, -1.35), (-0.7, -1.02), (0.0, 0.0), (0.7, 1.38), (1.2, 1.53), (2.2, 2.2)),
    "jaw_open": ((-2.2, -2.2), (-1.2, -1.35), (-0.5, -1.07), (0.0, 0.0), (0.5, 0.7), (1.2, 1.35), (2.2, 2.2)),
}
SMILE = 0.8  # amount of smile after the edit, from which these are in force; those above are of a mouth at rest
SMILING = {
    "jaw_open": ((-2.2, -2.2), (-1.2, -1.35), (-0.5, -1.07), (0.0, 0.0), (0.5, 1.2), (1.2, 1.35), (2.2, 2.2)),
}
# Wanted and drawn azimuth of a lamp, degrees; the other side is its mirror image.
AZIMUTH = ((0.0, 0.0), (30.2, 25.0), (54.9, 50.0), (75.1, 80.0), (180.0, 180.0))


def drawn_change(name: str, wanted: float, head: HeadSpec, smile: float = 0.0) -> float:
    """The change of a named expression that shows the wanted one, in a face that smiles so much afterwards."""
    return _along(_knots(name, smile), wanted) if name in EXPRESSIONS and head.name == HEAD else wanted


def wanted_change(name: str, drawn: float, head: HeadSpec, smile: float = 0.0) -> float:
    """The inverse of `drawn_change`."""
    return _along(_swapped(_knots(name, smile)), drawn) if name in EXPRESSIONS and head.name == HEAD else drawn


def reach(name: str, head: HeadSpec) -> tuple[float, float]:
    """The largest decrease and increase of a named expression that can be had in full; infinite without a curve."""
    if name not in EXPRESSIONS or head.name != HEAD:
        return -np.inf, np.inf
    knots = [x for x, _ in EXPRESSIONS[name]]
    middle = knots.index(0.0)
    return knots[middle - 1], knots[middle + 1]


def drawn_azimuth(wanted: float, head: HeadSpec) -> float:
    """The azimuth of the lamp to draw, degrees, in [-180, 180] as the one wanted."""
    return float(np.copysign(_along(AZIMUTH, abs(wanted)), wanted)) if head.name == HEAD else wanted


def wanted_azimuth(drawn: float, head: HeadSpec) -> float:
    """The inverse of `drawn_azimuth`."""
    return float(np.copysign(_along(_swapped(AZIMUTH), abs(drawn)), drawn)) if head.name == HEAD else drawn


def _knots(name: str, smile: float) -> tuple[tuple[float, float], ...]:
    """The curve for a smile: of what is drawn, the share that is found changes linearly with it."""
    rest = EXPRESSIONS[name]
    share = float(np.clip(smile / SMILE, 0, 1))
    pairs = zip(rest, SMILING.get(name, rest))
    return tuple((x, y if y == z else y * z / (share * y + (1 - share) * z)) for (x, y), (_, z) in pairs)


def _along(knots: tuple[tuple[float, float], ...], x: float) -> float:
    xs, ys = zip(*knots)
    return x if not xs[0] < x < xs[-1] else float(np.interp(x, xs, ys))


def _swapped(knots: tuple[tuple[float, float], ...]) -> tuple[tuple[float, float], ...]:
    return tuple((y, x) for x, y in knots)
