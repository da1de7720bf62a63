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

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np

ROWS, COLUMNS = 2048, 8192  # of the distances held at a time: 64 MB


@dataclass(frozen=True, eq=False)
class IdentityClusters:
    """Clusters of identity vectors, reduced to what adding to them later needs."""

    ids: np.ndarray  # (K,) int64 labels
    centroid: np.ndarray  # (K, D) float32 weighted mean of its vectors
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
    grows with the number of new vectors times that of all groups, the memory with the number of groups.

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
    vectors = np.asarray(vectors, np.float32)
    weights = np.ones(len(vectors)) if weights is None else np.asarray(weights, np.float64)
    if vectors.ndim != 2 or not np.isfinite(vectors).all():
        raise ValueError(f"vectors: want (N, D) finite numbers, got {vectors.shape}")
    if weights.shape != (len(vectors),) or not (weights > 0).all():
        raise ValueError(f"weights: want ({len(vectors)},) above 0, got {weights.shape}")
    if previous is None:
        previous = IdentityClusters(np.zeros(0, np.int64), np.zeros((0, vectors.shape[1])), np.zeros(0), np.zeros(0))

    known = len(previous.ids)
    centroid = np.concatenate([previous.centroid, vectors], dtype=np.float32)
    weight = np.concatenate([previous.weight, weights])
    scatter = np.concatenate([previous.scatter, np.zeros(len(vectors))])
    count = len(centroid)
    parent = np.arange(count)  # the group that each of the above is in; known people come first and stay first
    foes = np.asarray(apart, np.int64).reshape(-1, 2) + known
    nearest, distance = np.zeros(count, np.int64), np.full(count, np.inf)
    ask = open_ = np.arange(count)
    while len(ask):
        for some, others in ((ask[ask < known], open_[open_ >= known]), (ask[ask >= known], open_)):
            nearest[some], distance[some] = _nearest(some, others, centroid, scatter, parent[foes])
        open_ = open_[distance[open_] < threshold**2]
        a, b = _reciprocal(open_, nearest, distance).T  # a < b, and no group is in two pairs
        total = weight[a] + weight[b]
        gap = centroid[b] - centroid[a]
        scatter[a] = (weight[a] * scatter[a] + weight[b] * scatter[b]) / total
        scatter[a] += weight[a] * weight[b] / total**2 * np.einsum("pd,pd->p", gap, gap, dtype=np.float64)
        centroid[a] += (weight[b] / total)[:, None] * gap
        weight[a] = total
        parent[b] = a
        parent = parent[parent]
        merged = np.zeros(count, bool)
        merged[a] = merged[b] = True
        open_ = open_[parent[open_] == open_]
        ask = open_[merged[open_] | merged[nearest[open_]]]
    stay, group = np.unique(parent, return_inverse=True)
    centroid, weight, scatter = centroid[stay], weight[stay], scatter[stay]

    first_new = int(previous.ids.max(initial=-1)) + 1
    ids = np.concatenate([previous.ids, np.arange(first_new, first_new + len(centroid) - known)])
    return ids[group[known:]], IdentityClusters(ids, centroid, weight, scatter)


def match_clusters(one: IdentityClusters, other: IdentityClusters, *, threshold: float) -> np.ndarray:
    """(P, 2) positions of clusters of `one` and of `other` that are one person: nearest to each other, one to one.

    For datasets that were clustered apart: within each, clusters are different people for certain. The threshold is
    that of `cluster_vectors`.
    """
    count = len(one.ids)
    centroid = np.concatenate([one.centroid, other.centroid], dtype=np.float32)
    scatter = np.concatenate([one.scatter, other.scatter])
    nearest, distance = np.zeros(len(centroid), np.int64), np.zeros(len(centroid))
    none, pairs = np.zeros((0, 2), np.int64), []
    left, right = np.arange(count), np.arange(count, len(centroid))
    while len(left) and len(right):
        nearest[left], distance[left] = _nearest(left, right, centroid, scatter, none)
        nearest[right], distance[right] = _nearest(right, left, centroid, scatter, none)
        left, right = (side[distance[side] < threshold**2] for side in (left, right))
        found = _reciprocal(np.concatenate([left, right]), nearest, distance)
        pairs.append(found - (0, count))
        left, right = np.setdiff1d(left, found), np.setdiff1d(right, found)
    return np.concatenate([none, *pairs])


def _nearest(
    ask: np.ndarray, others: np.ndarray, centroid: np.ndarray, scatter: np.ndarray, foes: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """For each group of `ask` the nearest of `others` but itself and its foes: which, and its squared distance.

    The distance is infinite where there is none. Products are in float32, block by block: memory grows with the number
    of groups alone, and every core has its share.
    """
    found, least = np.zeros(len(ask), np.int64), np.full(len(ask), np.inf, np.float32)
    if not len(ask) or not len(others):
        return found, np.full(len(ask), np.inf)
    column = np.full(len(centroid), -1)
    column[others] = np.arange(len(others))
    barred = np.concatenate([np.stack([ask, ask], 1), foes, foes[:, ::-1]])
    barred = barred[column[barred[:, 1]] >= 0]
    # |b|^2 + scatter(b) - 2 a.b: what is the same for a whole row, |a|^2 + scatter(a), is left out.
    those = centroid[others]
    own = np.einsum("nd,nd->n", those, those) + scatter[others].astype(np.float32)
    cores = len(os.sched_getaffinity(0))
    with ThreadPoolExecutor(cores) as pool:
        for start in range(0, len(ask), ROWS):
            here = ask[start : start + ROWS]
            asks = -2 * centroid[here]
            row = np.full(len(centroid), -1)
            row[here] = np.arange(len(here))
            bars = barred[row[barred[:, 0]] >= 0]
            at_row, at_column = row[bars[:, 0]], column[bars[:, 1]]
            step = -(-len(here) // cores)
            shares = [slice(first, first + step) for first in range(0, len(here), step)]
            for left in range(0, len(others), COLUMNS):
                linkage = asks @ those[left : left + COLUMNS].T
                linkage += own[left : left + COLUMNS]
                inside = (left <= at_column) & (at_column < left + COLUMNS)
                linkage[at_row[inside], at_column[inside] - left] = np.inf
                parts = [[a[share] for share in shares] for a in (linkage, least[start:][:ROWS], found[start:][:ROWS])]
                list(pool.map(partial(_keep_nearer, others[left : left + COLUMNS]), *parts))
    # From the pair itself, so that both sides of one have the same number.
    gap = centroid[ask] - centroid[found]
    distance = np.einsum("nd,nd->n", gap, gap, dtype=np.float64) + (scatter[ask] + scatter[found])
    return found, np.where(np.isinf(least), np.inf, distance)


def _keep_nearer(others: np.ndarray, linkage: np.ndarray, least: np.ndarray, found: np.ndarray) -> None:
    """Lower `least` (R,) and `found` (R,) where one of these others, by its linkage (R, C), is nearer."""
    best = linkage.argmin(1)
    value = linkage[np.arange(len(best)), best]
    nearer = value < least
    least[nearer], found[nearer] = value[nearer], others[best[nearer]]


def _reciprocal(open_: np.ndarray, nearest: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """(P, 2) groups that are each other's nearest, (low, high); at least one pair, if any group is open."""
    low = open_[(nearest[nearest[open_]] == open_) & (open_ < nearest[open_])]
    if not len(low) and len(open_):  # equal distances can lead in a circle
        low = open_[[distance[open_].argmin()]]
    return np.sort(np.stack([low, nearest[low]], 1), 1)
