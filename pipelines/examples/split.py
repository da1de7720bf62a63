"""Split into training and test people: one rule for every stage.

The split is a function of the identity's name alone: it needs no list, stays when videos are added, and is the same in
every job. Names are those of the column `identity`.
"""

import hashlib
from typing import Literal

Split = Literal["train", "test"]

HELD_OUT = 0.1


def split_of(identity: str, held_out: float = HELD_OUT) -> Split:
    """`test` for about a share `held_out` of people, else `train`, by name; a larger share adds people."""
    draw = int.from_bytes(hashlib.sha256(f"rigface split {identity}".encode()).digest()[:8], "big") / 2**64
    return "test" if draw < held_out else "train"
