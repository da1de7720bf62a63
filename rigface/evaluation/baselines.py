"""Four control editors for every table: copy source, copy target, VAE round trip, estimator floor.

Path: the edits of a test set -> the same edits by each control -> `measure_edits`, beside the models.

* `copy source`: perfect identity, no gain. A metric that is good here does not measure the edit.
* `copy target`: perfect pose, another person.
* `VAE round trip` of the true picture: the upper bound of a latent model.
* `estimator floor`: the source moved by 3 px. Smaller differences are noise.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from rigface.evaluation.samples import Edited

COPY_SOURCE, COPY_TARGET, ROUND_TRIP, FLOOR = "copy source", "copy target", "VAE round trip", "estimator floor"
CONTROLS = (COPY_SOURCE, COPY_TARGET, ROUND_TRIP, FLOOR)
JITTER_PX = 3.0  # in a picture of 512 px; other sizes in proportion


def controls(edits: Sequence[Edited], round_trip: Callable[[np.ndarray], np.ndarray] | None = None) -> list[Edited]:
    """The control rows of some edits; edits of several models or seeds on one pair give one control each.

    Without `round_trip` (picture -> the same through encoder and decoder) its row is left out; without a target or a
    true picture an edit has only the first and last control.
    """
    random = np.random.default_rng(0)
    out, done = [], set()
    for edit in edits:
        if (edit.name, edit.key) in done:
            continue
        done.add((edit.name, edit.key))
        plain = replace(edit, seed=0, latency_s=None)
        out.append(replace(plain, model=COPY_SOURCE, output=edit.source))
        goal = edit.truth if edit.truth is not None else edit.target
        if goal is not None:
            out.append(replace(plain, model=COPY_TARGET, output=goal))
            if round_trip is not None:
                out.append(replace(plain, model=ROUND_TRIP, output=round_trip(goal)))
        out.append(replace(plain, model=FLOOR, output=jittered(edit.source, random)))
    return out


def jittered(picture: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """The picture moved by about 3 px (of 512) in some direction, by whole pixels, so that it is not blurred.

    Its border is repeated.
    """
    distance = JITTER_PX * min(picture.shape[:2]) / 512
    angle = random.uniform(0, 2 * np.pi)
    right, down = round(distance * np.cos(angle)), round(distance * np.sin(angle))
    if right == down == 0:
        right = 1
    by = max(abs(right), abs(down))
    wide = np.pad(picture, ((by, by), (by, by), (0, 0)), mode="edge")
    height, width = picture.shape[:2]
    return np.ascontiguousarray(wide[by - down : by - down + height, by - right : by - right + width])
