"""Limits on requests and jobs: bytes, pixels, frames, seconds, counts."""

from __future__ import annotations

from dataclasses import dataclass

MAX_PIXELS = 40_000_000
CLIP_PIXELS = 3840 * 2160  # of a frame
MAX_PART_FILES = 8  # a source, a target, one for each of five traits, and a clip


@dataclass(frozen=True)
class Limits:
    """Limits that an operator may set.

    Args:
        body_bytes: of one request.
        edit_s: time limit of an edit. preview_s: of a preview or a reconstruction. job_s: of a job.
        in_flight: concurrent requests of one gateway.
        store_mb: memory of one gateway for pictures that clients may name by hash.
        clip_bytes, clip_s, clip_frames, clip_pixels: of a video; pixels of one frame.
        keep_s: time that an ended job is kept.
        jobs_waiting: queued jobs. jobs_each: queued jobs of one key. jobs_at_once: running jobs.
        edits_at_once: concurrent edits or frames of one job.
        links_s: lifetime of a pre-signed address of a result on S3; 0 sends results through the gateway.
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
