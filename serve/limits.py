"""How much is let in: bytes, pixels, time, requests by key. Every number has one place, here or in `Limits`.

Path: the first thing a request meets. Nothing is read beyond what is allowed.
"""

from __future__ import annotations

from dataclasses import dataclass

MAX_PIXELS = 40_000_000
CLIP_PIXELS = 3840 * 2160  # of a frame
MAX_PART_FILES = 8  # a source, a target, one for each of five traits, and a clip


@dataclass(frozen=True)
class Limits:
    """What an operator may set.

    Args:
        body_bytes: of one request.
        edit_s: until an edit is given up. preview_s: likewise a preview or a reconstruction.
        in_flight: requests at work in one door at a time; beyond it callers are asked to come again.
        store_mb: of pictures that clients may name by hash, in one door.
        clip_bytes, clip_s, clip_frames, clip_pixels: of a clip, the last of one frame.
        job_s: until a job is given up. keep_s: how long a job that has ended is kept.
        jobs_waiting: in the queue. jobs_each: of one key among them. jobs_at_once: at work at a time.
        edits_at_once: of one job.
        links_s: for how long a caller may fetch a result from S3 itself, where jobs are there; 0: it comes through the door.
    """

    body_bytes: int = 32 * 2**20
    edit_s: float = 120.0
    preview_s: float = 20.0
    in_flight: int = 64
    store_mb: int = 256
    clip_bytes: int = 64 * 2**20
    clip_s: float = 120.0
    clip_frames: int = 7200
    clip_pixels: int = CLIP_PIXELS
    job_s: float = 7200.0
    keep_s: float = 7 * 86400.0
    jobs_waiting: int = 64
    jobs_each: int = 16
    jobs_at_once: int = 2
    edits_at_once: int = 4
    links_s: float = 0.0
