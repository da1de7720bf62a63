"""Leakage of an edit into other traits: rows are edited traits, columns all traits, in units of the estimator's noise.

Path: changes of every trait between source and output, per edit -> matrix -> the card's largest leakage.
Source: this project's protocol; the estimator floor is the change that three pixels of crop jitter make.

Off the diagonal is the mean change of an unedited trait, divided by the floor: 1 is the estimator's noise. On the
diagonal is achieved / asked: 1 for an edit done in full.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rigface.metrics.statistics import of_finite

TRAITS = ("shape", "expression", "pose", "light", "albedo", "identity", "background")
BACKGROUND_FLOOR = 1 / 255  # a shifted crop says nothing about a background; one grey level is the precision of 8 bits


@dataclass(frozen=True, eq=False)
class Leakage:
    """One matrix."""

    rows: tuple[str, ...]  # the edited trait, or several joined by `+`
    columns: tuple[str, ...]  # `TRAITS`
    values: np.ndarray  # (R, C) changes in units of the floor; achieved / asked for edited traits; NaN if unknown
    edited: np.ndarray  # (R, C) bool, which entries are achieved / asked
    counts: np.ndarray  # (R,) outputs behind each row

    def ranked(self, row: str) -> list[tuple[str, float]]:
        """The unedited traits of one row and their change in floors, the largest first; unknown ones left out.

        Identity often leads: its floor is tiny, because dlib's vector hardly notices three pixels.
        """
        r = self.rows.index(row)
        entries = zip(self.columns, self.values[r], self.edited[r])
        changes = [(trait, float(value)) for trait, value, edited in entries if not edited and np.isfinite(value)]
        return sorted(changes, key=lambda change: -change[1])


def edited_traits(name: str) -> frozenset[str]:
    """The traits in a row's name: `pose+light` -> {pose, light}; `identity` is a face swap, with shape and skin."""
    traits = frozenset(name.split("+")) - {""}
    return traits | {"shape", "albedo"} if "identity" in traits else traits


def leakage_matrix(
    edited: Sequence[str],
    changes: Mapping[str, np.ndarray],
    along: Mapping[str, np.ndarray],
    asked: Mapping[str, np.ndarray],
    floor: Mapping[str, float],
) -> Leakage:
    """The leakage matrix of N edits.

    Args:
        edited: N names of the traits each edit changes, `pose`, `light`, `pose+light` ...; one row per different name.
        changes: trait -> (N,) distance of output and source; NaN where not measured.
        along, asked: trait -> (N,) the two halves of achieved / asked, see `geometry.moves`.
        floor: trait -> mean change by the estimator's noise alone; absent or 0: the entry is NaN.
    """
    rows = tuple(dict.fromkeys(edited))
    values = np.full((len(rows), len(TRAITS)), np.nan)
    is_edited = np.zeros(values.shape, bool)
    for r, row in enumerate(rows):
        own, traits = np.array([e == row for e in edited]), edited_traits(row)
        for c, trait in enumerate(TRAITS):
            is_edited[r, c] = trait in traits
            if trait in traits:
                if trait in along:
                    values[r, c] = _share(along[trait][own], asked[trait][own])
            elif trait in changes and floor.get(trait, 0) > 0:
                values[r, c] = of_finite(np.mean, changes[trait][own]) / floor[trait]
    counts = np.array([list(edited).count(row) for row in rows])
    return Leakage(rows, TRAITS, values, is_edited, counts)


def _share(along: np.ndarray, asked: np.ndarray) -> float:
    known = np.isfinite(along) & np.isfinite(asked)
    total = asked[known].sum()
    return float(along[known].sum() / total) if total > 0 else np.nan
