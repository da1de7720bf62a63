"""Limits on requests and jobs: bytes, pixels, frames, seconds, counts."""

from __future__ import annotations

from dataclasses import dataclass

MAX_PIXELS = 40_000_000
CLIP_PIXELS = 3840 * 2160  # of a frame
MAX_JSON_VALUES = 50_000  # of a body; a batch of 1,000 edits has some 20,000
MAX_PART_FILES = 8  # a source, a target, one for each of five traits, and a clip


@dataclass(frozen=True)
class Limits:
    """Limits that an operator may set.

    Args:
        max_body_bytes: of one request.
        edit_timeout_s: of an edit. preview_timeout_s: of a preview or a reconstruction. job_timeout_s: of a job.
        max_concurrent_requests: concurrent requests of one gateway.
        picture_store_mb: memory of one gateway for pictures that clients may name by hash.
        max_clip_bytes, max_clip_s, max_clip_frames, max_clip_pixels: of a video; pixels of one frame.
        keep_jobs_s: time that an ended job is kept.
        max_queued_jobs: in all. max_queued_jobs_per_key: of one key. max_running_jobs: at a time.
        max_edits_per_job: concurrent edits or frames of one job.
        result_link_s: lifetime of a pre-signed address of a result on S3; 0 sends results through the gateway.
    """

    max_body_bytes: int = 32 * 2**20
    edit_timeout_s: float = 120.0
    preview_timeout_s: float = 20.0
    max_concurrent_requests: int = 64
    picture_store_mb: int = 256
    max_clip_bytes: int = 64 * 2**20
    max_clip_s: float = 120.0
    max_clip_frames: int = 7200
    max_clip_pixels: int = CLIP_PIXELS
    job_timeout_s: float = 7200.0
    keep_jobs_s: float = 7 * 86400.0
    max_queued_jobs: int = 64
    max_queued_jobs_per_key: int = 16
    max_running_jobs: int = 2
    max_edits_per_job: int = 4
    result_link_s: float = 0.0
