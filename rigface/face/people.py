"""The same person across videos: clustering of identity vectors, so that ids stay when videos are added.

Path: one mean identity vector per track -> `identity.cluster` -> cluster -> an id per track; People is kept beside the dataset for next time.
Source: average linkage (UPGMA; Sokal and Michener 1958) on squared distances, merged by reciprocal nearest neighbours
(Murtagh 1983), which gives the same tree as merging the closest pair each time, in a few rounds of matrix products.

The mean squared distance between two clusters is |a - b|^2 + scatter(a) + scatter(b), with a, b their centroids: a
cluster is its centroid, its weight and its scatter, and the vectors themselves are needed no more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class People:
    """Clusters of identity vectors, as much of them as it takes to add to them later.

    Args:
        ids: (K,) int64, each one's label.
        centroid: (K, D) float64 weighted mean of its vectors.
        weight: (K,) float64 sum of their weights.
        scatter: (K,) float64 their weighted mean squared distance from the centroid.
    """

    ids: np.ndarray
    centroid: np.ndarray
    weight: np.ndarray
    scatter: np.ndarray


def cluster(
    vectors: np.ndarray,
    weights: np.ndarray | None = None,
    previous: People | None = None,
    *,
    threshold: float,
    apart: Sequence[tuple[int, int]] = (),
) -> tuple[np.ndarray, People]:
    """Say which vectors are one person's.

    People known before take in new vectors and are never merged with each other: an id, once given, stays. The work
    grows with the square of the number of vectors, the memory with the number.

    Args:
        vectors: (N, D), of tracks, say; `identity.cluster` prepares them and knows the threshold.
        weights: (N,) how much each counts, frames for instance; None: all the same.
        previous: people known from before; the new vectors do not repeat theirs.
        threshold: largest root mean square distance between two groups that are one person.
        apart: pairs of indices that are two people for certain, because one frame shows both.

    Returns:
        labels (N,) int64, and all people, old and new, for next time. New labels count on from the largest old one, in
        the order of the vectors.

    Raises:
        ValueError: a vector is not finite, or the weights do not fit.
    """
    vectors = np.asarray(vectors, np.float64)
    weights = np.ones(len(vectors)) if weights is None else np.asarray(weights, np.float64)
    if vectors.ndim != 2 or not np.isfinite(vectors).all():
        raise ValueError(f"vectors: want (N, D) finite numbers, got {vectors.shape}")
    if weights.shape != (len(vectors),) or not (weights > 0).all():
        raise ValueError(f"weights: want ({len(vectors)},) above 0, got {weights.shape}")
    if previous is None:
        previous = People(np.zeros(0, np.int64), np.zeros((0, vectors.shape[1])), np.zeros(0), np.zeros(0))

    known = len(previous.ids)
    centroid = np.concatenate([previous.centroid, vectors])
    weight = np.concatenate([previous.weight, weights])
    scatter = np.concatenate([previous.scatter, np.zeros(len(vectors))])
    group = np.arange(len(centroid))  # which group each of the above is in; known people come first and stay first
    foes = np.asarray(apart, np.int64).reshape(-1, 2) + known
    while pairs := _closest_pairs(centroid, scatter, group[foes], known, threshold):
        renamed = np.arange(len(centroid))
        for a, b in pairs:  # a < b, and no group is in two pairs
            total = weight[a] + weight[b]
            gap = centroid[b] - centroid[a]
            scatter[a] = (weight[a] * scatter[a] + weight[b] * scatter[b]) / total
            scatter[a] += weight[a] * weight[b] / total**2 * (gap @ gap)
            centroid[a] += weight[b] / total * gap
            weight[a] = total
            renamed[b] = a
        stay = np.unique(renamed)
        group = np.searchsorted(stay, renamed)[group]
        centroid, weight, scatter = centroid[stay], weight[stay], scatter[stay]

    first_new = int(previous.ids.max(initial=-1)) + 1
    ids = np.concatenate([previous.ids, np.arange(first_new, first_new + len(centroid) - known)])
    return ids[group[known:]], People(ids, centroid, weight, scatter)


def _closest_pairs(
    centroid: np.ndarray, scatter: np.ndarray, foes: np.ndarray, known: int, threshold: float, rows: int = 2048
) -> list[tuple[int, int]]:
    """Pairs of groups that are each other's nearest and near enough to be one, (low, high)."""
    count = len(centroid)
    nearest, distance = np.zeros(count, np.int64), np.full(count, np.inf)
    squares = (centroid**2).sum(1) + scatter
    for start in range(0, count, rows):
        stop = min(start + rows, count)
        # Rounded, so that the two distances of one pair, from two matrix products, are the same number.
        linkage = np.round(squares[start:stop, None] + squares - 2 * centroid[start:stop] @ centroid.T, 9)
        linkage[np.arange(stop - start), np.arange(start, stop)] = np.inf
        linkage[: max(known - start, 0), :known] = np.inf
        for one, other in ((foes[:, 0], foes[:, 1]), (foes[:, 1], foes[:, 0])):
            here = (one >= start) & (one < stop)
            linkage[one[here] - start, other[here]] = np.inf
        nearest[start:stop] = linkage.argmin(1)
        distance[start:stop] = linkage.min(1)
    near = np.flatnonzero(distance < threshold**2)
    pairs = [(int(k), int(nearest[k])) for k in near if nearest[nearest[k]] == k and k < nearest[k]]
    if not pairs and len(near):  # rounding hid that two are each other's nearest
        k = int(near[distance[near].argmin()])
        pairs = [(min(k, int(nearest[k])), max(k, int(nearest[k])))]
    return pairs
