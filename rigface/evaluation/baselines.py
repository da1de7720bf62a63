"""Control editors for every table: copy source, blurred preview, true frame, VAE round trip, estimator floor.

Path: the edits of a test set -> the same edits by each control -> `measure_edits`, beside the models.

* `copy source`: perfect identity, no gain. A metric that is good here does not measure the edit.
* `blurred preview`: the best PSNR without a better picture. A metric that is good here rewards blur.
* `true frame`, where there is one: the best of every number.
* `copy target`, where the target is another person: perfect pose, another face.
* `VAE round trip` of the true picture: the upper bound of a latent model.
* `estimator floor`: the source moved by 3 px. Smaller differences are noise.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import cv2
import numpy as np

from rigface.edits import PREVIEW
from rigface.evaluation.samples import Edited

COPY_SOURCE, COPY_TARGET, TRUE_FRAME = "copy source", "copy target", "true frame"
BLURRED, ROUND_TRIP, FLOOR = "blurred preview", "VAE round trip", "estimator floor"
SHAKEN = "true frame, moved"  # of clips: what noise of the estimator alone reads as jitter
CONTROLS = (COPY_SOURCE, BLURRED, COPY_TARGET, TRUE_FRAME, ROUND_TRIP, SHAKEN, FLOOR)
JITTER_PX = 3.0  # in a picture of 512 px; other sizes in proportion
BLUR = 1.5 / 256  # of the shorter side: the spread that gives a preview the best PSNR


def controls(edits: Sequence[Edited], round_trip: Callable[[np.ndarray], np.ndarray] | None = None) -> list[Edited]:
    """The control rows of some edits; edits of several models or seeds on one pair give one control each.

    `blurred preview` is made of the edits of a model named `preview`. Without `round_trip` (picture -> the same through
    encoder and decoder) its row is left out. The floor of an edit is made once for each source. The true frames of
    clips are moved one by one: that jitter is the estimator's.
    """
    random, shaking = np.random.default_rng(0), np.random.default_rng(1)
    out, done, moved = [], set(), set()
    for edit in edits:
        if edit.model == PREVIEW and edit.seed == 0 and edit.output is not None:
            spread = BLUR * min(edit.output.shape[:2])
            blurred = cv2.GaussianBlur(edit.output, (0, 0), spread)
            out.append(replace(edit, model=BLURRED, output=blurred, latency_s=None))
        if (edit.name, edit.key) in done:
            continue
        done.add((edit.name, edit.key))
        plain = replace(edit, seed=0, latency_s=None)
        out.append(replace(plain, model=COPY_SOURCE, output=edit.source))
        goal = edit.truth if edit.truth is not None else edit.target
        if goal is not None:
            out.append(replace(plain, model=COPY_TARGET if edit.truth is None else TRUE_FRAME, output=goal))
            if round_trip is not None:
                out.append(replace(plain, model=ROUND_TRIP, output=round_trip(goal)))
        if edit.clip is not None and edit.truth is not None:
            out.append(replace(plain, model=SHAKEN, output=jittered(edit.truth, shaking)))
        source = (edit.name, edit.person, hash(edit.source.tobytes()))
        if source not in moved:
            moved.add(source)
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
