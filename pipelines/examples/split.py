"""Who is learned from and who is only looked at: one rule for every stage, by person.

The split is a function of the identity's name alone, so it needs no list, survives more videos, and two jobs that have
never heard of each other agree. Names are those of the column `identity`; they stay when videos are added.
"""

from __future__ import annotations

import hashlib
from typing import Literal

Split = Literal["train", "test"]

HELD_OUT = 0.1


def split_of(identity: str, held_out: float = HELD_OUT) -> Split:
    """`test` for about `held_out` of all people, `train` for the others.

    Args:
        identity: a person's name in the dataset.
        held_out: share of people, in [0, 1]; a larger share holds out the same people and more.
    """
    draw = int.from_bytes(hashlib.sha256(f"rigface split {identity}".encode()).digest()[:8], "big") / 2**64
    return "test" if draw < held_out else "train"
