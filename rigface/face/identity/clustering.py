"""Clustering of identity vectors across videos, incremental: ids stay when videos are added.

Path: one mean identity vector per track -> cluster_identities -> cluster_vectors -> an id per track; IdentityClusters
is kept beside the dataset for the next run.
Source: average linkage (UPGMA; Sokal and Michener 1958) on squared distances, merged by reciprocal nearest neighbours
(Murtagh 1983), which gives the same tree as merging the closest pair each time, in a few rounds of matrix products.

The mean squared distance between two groups is |a - b|^2 + scatter(a) + scatter(b), with a, b their centroids: a
group is its centroid, its weight and its scatter, and the vectors themselves are no longer needed.

A merged group is never nearer to a third than the nearer of its two parts was. So only
groups that were merged, or whose nearest was, search for their nearest again, and a group that is too far from all
others is final: all pairs are compared once, not once a round.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

CELLS = 1 << 23  # distances held at a time: 64 MB


@dataclass(frozen=True, eq=False)
class IdentityClusters:
    """Clusters of identity vectors, reduced to what adding to them later needs."""

    ids: np.ndarray  # (K,) int64 labels
    centroid: np.ndarray  # (K, D) float64 weighted mean of its vectors
    weight: np.ndarray  # (K,) float64 sum of their weights
    scatter: np.ndarray  # (K,) float64 their weighted mean squared distance from the centroid


def cluster_vectors(
    vectors: np.ndarray,
    weights: np.ndarray | None = None,
    previous: IdentityClusters | None = None,
    *,
    threshold: float,
    apart: Sequence[tuple[int, int]] = (),
) -> tuple[np.ndarray, IdentityClusters]:
    """Cluster vectors by person.

    Known people take in new vectors and are never merged with each other: an id, once given, stays. The work
    grows with the square of the number of vectors, the memory with the number.

    Args:
        vectors: (N, D), of tracks for instance; `cluster_identities` prepares them and knows the threshold.
        weights: (N,) how much each counts, frames for instance; None: all equal.
        previous: clusters of an earlier run; the new vectors do not repeat theirs.
        threshold: largest root mean square distance between two groups that are one person.
        apart: pairs of indices that are two people for certain, because one frame shows both.

    Returns:
        labels (N,) int64, and all clusters, old and new, for the next run. New labels count on from the largest old
        one, in the order of the vectors.

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
        previous = IdentityClusters(np.zeros(0, np.int64), np.zeros((0, vectors.shape[1])), np.zeros(0), np.zeros(0))

    known = len(previous.ids)
    centroid = np.concatenate([previous.centroid, vectors])
    weight = np.concatenate([previous.weight, weights])
    scatter = np.concatenate([previous.scatter, np.zeros(len(vectors))])
    count = len(centroid)
    parent = np.arange(count)  # the group that each of the above is in; known people come first and stay first
    foes = np.asarray(apart, np.int64).reshape(-1, 2) + known
    nearest, distance = np.zeros(count, np.int64), np.full(count, np.inf)
    ask = open_ = np.arange(count)
    while len(ask):
        nearest[ask], distance[ask] = _nearest(ask, open_, centroid, scatter, parent[foes], known)
        open_ = open_[distance[open_] < threshold**2]
        pairs = _reciprocal(open_, nearest, distance)
        for a, b in pairs:  # a < b, and no group is in two pairs
            total = weight[a] + weight[b]
            gap = centroid[b] - centroid[a]
            scatter[a] = (weight[a] * scatter[a] + weight[b] * scatter[b]) / total
            scatter[a] += weight[a] * weight[b] / total**2 * (gap @ gap)
            centroid[a] += weight[b] / total * gap
            weight[a] = total
            parent[b] = a
        parent = parent[parent]
        merged = np.zeros(count, bool)
        merged[pairs] = True
        open_ = open_[parent[open_] == open_]
        ask = open_[merged[open_] | merged[nearest[open_]]]
    stay, group = np.unique(parent, return_inverse=True)
    centroid, weight, scatter = centroid[stay], weight[stay], scatter[stay]

    first_new = int(previous.ids.max(initial=-1)) + 1
    ids = np.concatenate([previous.ids, np.arange(first_new, first_new + len(centroid) - known)])
    return ids[group[known:]], IdentityClusters(ids, centroid, weight, scatter)


def _nearest(
    ask: np.ndarray, others: np.ndarray, centroid: np.ndarray, scatter: np.ndarray, foes: np.ndarray, known: int
) -> tuple[np.ndarray, np.ndarray]:
    """For each group of `ask` the nearest of `others` that it may be merged with: which, and its squared distance."""
    nearest, barred = np.zeros(len(ask), np.int64), np.zeros(len(ask), bool)
    column = np.full(len(centroid), -1)
    column[others] = np.arange(len(others))
    # |b|^2 + scatter(b) - 2 a.b as one product: what is the same for a whole row, |a|^2 + scatter(a), is left out.
    asks = np.column_stack([-2 * centroid[ask], np.ones(len(ask))])
    those = np.column_stack([centroid[others], (centroid[others] ** 2).sum(1) + scatter[others]]).T.copy()
    foes = np.concatenate([foes, foes[:, ::-1]])
    foes = foes[column[foes[:, 1]] >= 0]
    rows = max(CELLS // max(len(others), 1), 1)
    cells = np.empty((min(rows, len(ask)), len(others)))
    for start in range(0, len(ask), rows):
        here = ask[start : start + rows]
        linkage = np.matmul(asks[start : start + rows], those, out=cells[: len(here)])
        own = column[here]
        linkage[np.flatnonzero(own >= 0), own[own >= 0]] = np.inf
        linkage[np.ix_(here < known, others < known)] = np.inf
        row = np.full(len(centroid), -1)
        row[here] = np.arange(len(here))
        near = foes[row[foes[:, 0]] >= 0]
        linkage[row[near[:, 0]], column[near[:, 1]]] = np.inf
        best = linkage.argmin(1)
        nearest[start : start + rows] = others[best]
        barred[start : start + rows] = np.isinf(linkage[np.arange(len(here)), best])
    # From the pair itself, so that both sides of one have the same number.
    distance = ((centroid[ask] - centroid[nearest]) ** 2).sum(1) + (scatter[ask] + scatter[nearest])
    return nearest, np.where(barred, np.inf, distance)


def _reciprocal(open_: np.ndarray, nearest: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """(P, 2) groups that are each other's nearest, (low, high); at least one pair, if any group is open."""
    low = open_[(nearest[nearest[open_]] == open_) & (open_ < nearest[open_])]
    if not len(low) and len(open_):  # equal distances can lead in a circle
        low = open_[[distance[open_].argmin()]]
    return np.sort(np.stack([low, nearest[low]], 1), 1)
