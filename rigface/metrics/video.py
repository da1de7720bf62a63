"""Metrics of edited clips: jitter, identity drift, and exact checks of frames, times and sound.

Path: per-frame coefficients of an output clip and its driving clip -> jitter, drift; two files -> exact checks.
Source: the second difference as a measure of jitter is common in reenactment; the checks of the file are this
project's.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
import numpy as np

from rigface.face.geometry.rotation import to_degrees, to_matrix
from rigface.metrics.statistics import of_finite


def jitter(values: np.ndarray) -> float:
    """Mean |p[t+1] - 2 p[t] + p[t-1]| of a track (T, D), length of the vector; NaN without three frames in a row.

    Frames that are NaN (no face) leave out the three differences they take part in.
    """
    values = np.asarray(values, np.float64).reshape(len(values), -1)
    bends = np.linalg.norm(values[2:] - 2 * values[1:-1] + values[:-2], axis=-1)
    return of_finite(np.mean, bends)


def pose_track(head_rotation: np.ndarray) -> np.ndarray:
    """Yaw, pitch and roll over time without jumps of 360 degrees: axis-angle (T, 3) -> (T, 3) degrees; NaN stays."""
    degrees: np.ndarray = to_degrees(to_matrix(np.asarray(head_rotation, np.float64)))
    good = np.isfinite(degrees).all(1)
    degrees[good] = np.unwrap(degrees[good], axis=0, period=360)
    return degrees


def jitter_ratio(output: np.ndarray, driving: np.ndarray) -> float:
    """Jitter of the output relative to its driving clip: 1 is as smooth, 2 twice as restless. (T, D) both.

    NaN if only the output moves; 1 if neither moves.
    """
    own, reference = jitter(output), jitter(driving)
    if reference == 0:
        return 1.0 if own == 0 else np.nan
    return own / reference


@dataclass(frozen=True)
class Drift:
    """Change of the similarity to the source over time."""

    mean: float  # similarity to the source over all frames
    per_minute: float  # slope of a least-squares line; negative if the similarity falls
    last: float  # mean over the last tenth of the frames, at least one
    worst: float  # lowest of all frames


def identity_drift(similarity: np.ndarray, time_s: np.ndarray) -> Drift:
    """Identity over time: (T,) similarities to the source, NaN where not measured, at (T,) seconds."""
    similarity, time_s = np.asarray(similarity, np.float64), np.asarray(time_s, np.float64)
    known = np.isfinite(similarity)
    values, times = similarity[known], time_s[known]
    if not len(values):
        return Drift(*[np.nan] * 4)
    slope = np.polyfit(times, values, 1)[0] * 60 if len(values) > 1 and np.ptp(times) > 0 else 0.0
    tail = values[-max(len(values) // 10, 1) :]
    return Drift(float(values.mean()), float(slope), float(tail.mean()), float(values.min()))


@dataclass(frozen=True)
class Smoothness:
    """Smoothness of one model's clips beside their driving clips: medians over clips."""

    clips: int  # number of clips with three frames with faces in a row
    pose: float  # `jitter_ratio`; 1 is as smooth as the driving clip
    expression: float
    identity: float  # mean similarity to the source
    drift: float  # of the similarity, per minute
    worst: float  # lowest of all frames


def smoothness(rows: Sequence[Mapping[str, Any]]) -> Smoothness | None:
    """Smoothness of one model's rows of `measure_edits` that are frames of clips; None if there are none."""
    clips: dict[tuple[str, int], list[Mapping[str, Any]]] = {}
    for row in rows:
        if row.get("clip") is not None and row.get("track_goal_rotation") is not None:
            clips.setdefault((row["clip"], row["seed"]), []).append(row)
    by_clip: list[tuple[float, ...]] = []
    for frames in clips.values():
        frames = sorted(frames, key=lambda r: r["time_s"])
        pose, expression = (
            jitter_ratio(*(read(np.array([r[f"track_{who}_{what}"] for r in frames])) for who in ("output", "goal")))
            for what, read in (("rotation", pose_track), ("expression", np.asarray))
        )
        similarity = np.array([np.nan if r.get("identity") is None else r["identity"] for r in frames], np.float64)
        drift = identity_drift(similarity, np.array([r["time_s"] for r in frames]))
        by_clip.append((pose, expression, drift.mean, drift.per_minute, drift.worst))
    if not by_clip:
        return None
    values = np.array(by_clip, np.float64)
    pose, expression, same, drift_per_minute = (of_finite(np.median, values[:, k]) for k in range(4))
    counted, worst = int(np.isfinite(values[:, 0]).sum()), float(np.nanmin(values[:, 4], initial=np.inf))
    return Smoothness(counted, pose, expression, same, drift_per_minute, worst)


@dataclass(frozen=True)
class Clip:
    """Properties that an edit must keep: exact counts and hashes."""

    frames: int  # number of shown frames, by decoding them all
    rate: Fraction | None  # average frame rate by the container
    times: str  # sha256 of the frames' presentation times, as fractions of a second from the first
    audio: str | None  # sha256 of the audio packets' bytes, in order; None without sound


def clip_of(file: Any) -> Clip:
    """Read a clip, a path or a seekable binary file, to its end."""
    sound, times, count, rate = hashlib.sha256(), hashlib.sha256(), 0, None
    has_sound, first = False, None
    with av.open(file) as container:
        if container.streams.video:
            rate = container.streams.video[0].average_rate
        for packet in container.demux([*container.streams.video[:1], *container.streams.audio[:1]]):
            if packet.stream.type == "audio":
                has_sound = has_sound or packet.size > 0
                sound.update(bytes(packet) if packet.size else b"")
                continue
            for frame in packet.decode():
                first = frame.pts if first is None else first
                # microseconds: two containers may count in different ticks
                time_us = round((frame.pts - first) * frame.time_base * 1_000_000) if frame.pts is not None else count
                times.update(f"{time_us};".encode())
                count += 1
    return Clip(count, rate, times.hexdigest(), sound.hexdigest() if has_sound else None)


def differences(output: Clip, driving: Clip) -> list[str]:
    """Differences as sentences; empty if frame count, frame rate, times and sound are the same."""
    out = []
    if output.frames != driving.frames:
        out.append(f"{output.frames} frames instead of {driving.frames}")
    if output.rate != driving.rate:
        out.append(f"{output.rate} frames a second instead of {driving.rate}")
    if output.frames == driving.frames and output.times != driving.times:
        out.append("frames have other times")
    if output.audio != driving.audio:
        missing = "is missing" if output.audio is None else "is not the same, byte for byte"
        out.append("sound was added" if driving.audio is None else f"the sound {missing}")
    return out
