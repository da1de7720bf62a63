"""Settings of the service that an operator may set: Ray Serve checks the `args` of its YAML against them."""

from __future__ import annotations

import os
from dataclasses import fields
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveFloat, PositiveInt

from rigface.provenance.signing_keys import default_folder
from serve.limits import Limits
from serve.security.audit_log import AuditLog
from serve.security.consent import FALSE_ACCEPT_RATE, MAX_DISTANCE, Policy


class ServiceConfig(BaseModel):
    """Settings of all deployments.

    Args:
        model: a checkpoint; none at all serves the preview only. models: checkpoints by name; the first is the default.
        device: of the diffusion workers. face_device: of the face workers.
        keys: file of API keys; empty leaves the service open.
        fetch_urls: URL prefixes that files may be fetched from, and networks (`serve.security.url_allowlist`).
        webhook_urls: likewise, for messages about ended jobs, signed with the environment's RIGFACE_WEBHOOK_SECRET.
        consent, deny: lists of people (`serve.security.consent`).
        same_person_distance: distance of identity vectors below which two faces are of one person, at most.
        false_accept_rate: chance that a stranger passes the consent list; a longer list wants closer matches for it.
        signing_folder: of the signing key, shared by all replicas; empty is a folder of the user.
        audit_log: file that each edit adds a line to, or a folder with a file per host.
        jobs: folder or s3:// of the queue, by default the environment's RIGFACE_JOBS; empty accepts no jobs.
        max_running_jobs: jobs that run at a time. max_edits_per_job: edits or frames of one job sampled at a time; each
            is a row of a batch (`max_batch_rows`) that jobs share with interactive requests.
        result_link_s: lifetime of a pre-signed address of a job's result in the bucket; 0: results through the gateway.
        max_loaded_models: models that a diffusion worker keeps in memory.
        traces: exporter of spans (`serve.telemetry.tracing`).
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    model: str = ""
    models: dict[str, str] = {}
    device: str = "cpu"
    face_device: str = "cpu"
    keys: str = ""
    fetch_urls: list[str] = []
    webhook_urls: list[str] = []
    consent: str = ""
    deny: str = ""
    same_person_distance: PositiveFloat = MAX_DISTANCE
    false_accept_rate: float = Field(FALSE_ACCEPT_RATE, gt=0, lt=1)
    signing_folder: str = ""
    audit_log: str = ""
    jobs: str = Field(default_factory=lambda: os.environ.get("RIGFACE_JOBS", ""))
    edit_timeout_s: PositiveFloat = 120.0
    max_body_mb: PositiveInt = 32
    max_clip_mb: PositiveInt = 64
    max_clip_s: PositiveFloat = 120.0
    max_clip_frames: PositiveInt = 7200
    job_timeout_s: PositiveFloat = 7200.0
    keep_jobs_h: PositiveFloat = 168.0
    max_queued_jobs: PositiveInt = 64
    max_queued_jobs_per_key: PositiveInt = 16
    max_running_jobs: PositiveInt = 2
    max_edits_per_job: PositiveInt = 4
    result_link_s: NonNegativeFloat = 0.0
    max_batch_rows: PositiveInt = 16
    max_loaded_models: PositiveInt = 2
    face_cache_mb: PositiveInt = 384
    traces: Literal["", "otlp", "console"] = ""

    def signing_path(self) -> Path:
        """Folder of the signing key."""
        return Path(self.signing_folder) if self.signing_folder else default_folder()

    def limits(self) -> Limits:
        """Limits on requests and jobs."""
        same_name = {f.name: getattr(self, f.name) for f in fields(Limits) if f.name in ServiceConfig.model_fields}
        megabytes = {"max_body_bytes": self.max_body_mb * 2**20, "max_clip_bytes": self.max_clip_mb * 2**20}
        return Limits(keep_jobs_s=self.keep_jobs_h * 3600, **megabytes, **same_name)

    def policy(self) -> Policy:
        """Lists of the people who may or may not be edited."""
        rate = self.false_accept_rate
        return Policy(self.consent, self.deny, max_distance=self.same_person_distance, false_accept_rate=rate)

    def open_audit_log(self) -> AuditLog | None:
        """The audit log, if there is one."""
        return AuditLog(self.audit_log) if self.audit_log else None

    def checkpoints(self) -> dict[str, str]:
        """Checkpoints by name, the default first."""
        unnamed = {self.model.rstrip("/").rpartition("/")[2]: self.model} if self.model else {}
        return {**unnamed, **self.models}
