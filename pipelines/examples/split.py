"""Split into training and test people: one rule for every stage.

The split is a function of the identity's name alone: it needs no list, stays when videos are added, and is the same in
every job. Names are those of the column `identity`.
"""

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
