"""What else changed? Rows are the trait edited, columns are all traits, in units of the estimator's own noise.

Path: changes of every trait between source and output, per edit -> matrix -> the card's largest leakage.
Source: this project's protocol; the estimator floor is the change that three pixels of crop jitter make.

Off the diagonal stands the mean change of a trait nobody asked to change, divided by the floor: 1 is noise, 10 is ten
times what the estimator itself wavers by. On the diagonal stands achieved / asked: 1 is the edit done in full.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

TRAITS = ("shape", "expression", "pose", "light", "albedo", "identity", "background")
BACKGROUND_FLOOR = 1 / 255  # a shifted crop says nothing about a background; one grey level is what 8 bits waver by


@dataclass(frozen=True, eq=False)
class Leakage:
    """One matrix.

    Args:
        rows: what was edited: a trait, or several joined by `+`.
        columns: `TRAITS`.
        values: (R, C) changes in units of the floor; achieved / asked where the trait was edited; NaN where unknown.
        edited: (R, C) bool, which entries are achieved / asked.
        counts: (R,) outputs behind each row.
    """

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    values: np.ndarray
    edited: np.ndarray
    counts: np.ndarray

    def ranked(self, row: str) -> list[tuple[str, float]]:
        """The unedited traits of one row and by how many floors they changed, the largest first; unknown ones left out.

        Identity often leads: its floor is tiny, because dlib's vector hardly notices three pixels.
        """
        r = self.rows.index(row)
        found = [(t, float(v)) for t, v, mine in zip(self.columns, self.values[r], self.edited[r]) if not mine]
        return sorted((f for f in found if np.isfinite(f[1])), key=lambda f: -f[1])


def edited_traits(name: str) -> frozenset[str]:
    """The traits in a row's name: `pose+light` -> {pose, light}; `identity` is a face swap: shape and skin go along."""
    traits = frozenset(name.split("+")) - {""}
    return traits | {"shape", "albedo"} if "identity" in traits else traits


def matrix(
    edited: Sequence[str],
    changes: Mapping[str, np.ndarray],
    along: Mapping[str, np.ndarray],
    asked: Mapping[str, np.ndarray],
    floor: Mapping[str, float],
) -> Leakage:
    """Put N edits into a matrix.

    Args:
        edited: N names of what each edit changes, `pose`, `light`, `pose+light` ...; one row per different name.
        changes: trait -> (N,) distance of output and source; NaN where not measured.
        along, asked: trait -> (N,) the two halves of achieved / asked, see `geometry.moves`.
        floor: trait -> mean change that the estimator's noise alone makes; absent or 0: the entry is NaN.
    """
    rows = tuple(dict.fromkeys(edited))
    values = np.full((len(rows), len(TRAITS)), np.nan)
    asked_for = np.zeros(values.shape, bool)
    for r, row in enumerate(rows):
        here, traits = np.array([e == row for e in edited]), edited_traits(row)
        for c, trait in enumerate(TRAITS):
            asked_for[r, c] = trait in traits
            if trait in traits:
                if trait in along:
                    values[r, c] = _share(along[trait][here], asked[trait][here])
            elif trait in changes and floor.get(trait, 0) > 0:
                values[r, c] = _mean(changes[trait][here]) / floor[trait]
    counts = np.array([list(edited).count(row) for row in rows])
    return Leakage(rows, TRAITS, values, asked_for, counts)


def _share(along: np.ndarray, asked: np.ndarray) -> float:
    known = np.isfinite(along) & np.isfinite(asked)
    total = asked[known].sum()
    return float(along[known].sum() / total) if total > 0 else float("nan")


def _mean(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")
