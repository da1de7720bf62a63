"""Limits on requests and jobs: bytes, pixels, frames, seconds, counts."""

from dataclasses import dataclass

MAX_PIXELS = 40_000_000
CLIP_PIXELS = 3840 * 2160  # of a frame
MAX_JSON_VALUES = 50_000  # of a body; a batch of 1,000 edits has some 20,000
MAX_PART_FILES = 64  # a source, a clip, and a target for each trait of some ten faces


@dataclass(frozen=True)
class Limits:
    """Limits that an operator may set."""

    max_body_bytes: int = 32 * 2**20  # of one request
    edit_timeout_s: float = 120.0
    preview_timeout_s: float = 20.0  # of a preview or a reconstruction
    max_concurrent_requests: int = 64  # of one gateway
    picture_store_mb: int = 256  # memory of one gateway for pictures that clients may name by hash
    max_clip_bytes: int = 64 * 2**20
    max_clip_s: float = 120.0
    max_clip_frames: int = 7200
    max_clip_pixels: int = CLIP_PIXELS  # of one frame
    job_timeout_s: float = 7200.0
    keep_jobs_s: float = 7 * 86400.0  # after their end
    max_queued_jobs: int = 64  # in all
    max_queued_jobs_per_key: int = 16
    max_running_jobs: int = 2
    max_edits_per_job: int = 4  # concurrent edits or frames of one job
    result_link_s: float = 0.0  # lifetime of a pre-signed address of a result on S3; 0: through the gateway
