"""Similarity of identity vectors, and the threshold that a test set gives.

Path: `FaceEstimator` -> identity vectors (as the network gives them) -> `measure_edits` -> the identity columns of the
card. Source: the false-accept-rate protocol of face verification (LFW, IJB); King, "Dlib-ml", JMLR 2009, for the 0.6
rule.

A cosine means nothing by itself: dlib's vectors of two strangers have a cosine near 0.85. So the card prints the
threshold and the mean of the impostor pairs of the same test set, and never identity without the pose error: copying
the source's pose scores high.
"""

from itertools import pairwise

import numpy as np

FALSE_ACCEPTS = 1e-3
YAW_EDGES = (0.0, 10.0, 20.0, 30.0, 45.0, 60.0, 180.0)  # bins of the turn an edit asks for, degrees


def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cosine of identity vectors (..., D), which need not be of length 1: (...,) in [-1, 1]; NaN for a null vector."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    lengths = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.clip((a * b).sum(-1) / lengths, -1, 1))


def distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Euclidean distance of raw identity vectors (..., D): the subject of dlib's 0.6 rule."""
    return np.asarray(np.linalg.norm(np.asarray(a, np.float64) - np.asarray(b, np.float64), axis=-1))


def impostor_cosines(vectors: np.ndarray, people: np.ndarray) -> np.ndarray:
    """(M,) cosines of all pairs of pictures of two different people, each pair once.

    Rows of `vectors` (N, D) that are not finite are left out; `people` (N,) are labels of any kind.
    """
    vectors, people = np.asarray(vectors, np.float64), np.asarray(people)
    good = np.isfinite(vectors).all(-1) & (np.linalg.norm(vectors, axis=-1) > 0)
    vectors, people = vectors[good], people[good]
    directions = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    first, second = np.triu_indices(len(directions), 1)
    strangers = people[first] != people[second]
    return np.asarray(np.clip((directions @ directions.T)[first[strangers], second[strangers]], -1, 1))


def threshold_at(impostors: np.ndarray, rate: float = FALSE_ACCEPTS) -> float:
    """The lowest threshold above which at most `rate` of the impostor pairs lie.

    With fewer than 1 / rate pairs that is the largest of them: no pair may pass, and the true rate may be anything up
    to 3 / pairs.

    A pair passes if its similarity is *above* this. NaN without impostors.
    """
    impostors = np.sort(np.asarray(impostors, np.float64))
    if not len(impostors):
        return np.nan
    may_pass = int(np.floor(rate * len(impostors) + 1e-9))
    return float(impostors[len(impostors) - 1 - may_pass])


def bin_names(edges: tuple[float, ...] = YAW_EDGES, unit: str = "°") -> list[str]:
    """Readable names of the bins between edges, the last one open: `0-10°`, ..., `60°+`."""
    inner = [f"{low:g}-{high:g}{unit}" for low, high in pairwise(edges[:-1])]
    return [*inner, f"{edges[-2]:g}{unit}+"]


def bins_of(values: np.ndarray, edges: tuple[float, ...] = YAW_EDGES) -> np.ndarray:
    """(N,) int64 bin of the absolute value of each number; -1 if it is not finite."""
    size = np.abs(np.asarray(values, np.float64))
    index = np.clip(np.searchsorted(edges, size, side="right") - 1, 0, len(edges) - 2)
    return np.where(np.isfinite(size), index, -1)
