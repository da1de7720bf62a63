"""Settings of the service that an operator may set: Ray Serve checks the `args` of its YAML against them."""

import os
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveFloat, PositiveInt

from rigface.model.checkpoint_folder import refiner_folder
from rigface.model.model_config import config_of
from rigface.profile import FaceProfile
from rigface.provenance.signing_keys import default_folder
from serve.limits import Limits
from serve.security.audit_log import AuditLog
from serve.security.consent import FALSE_ACCEPT_RATE, IdentityName, Policy

if TYPE_CHECKING:
    from rigface.face.analyzer import FaceAnalyzer


class ServiceConfig(BaseModel):
    """Settings of all deployments."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    model: str = ""  # a checkpoint; without any the service has the preview only
    models: dict[str, str] = {}  # checkpoints by name; the first is the default
    clip: str = ""  # folder of a CLIP model, by which prompts guide the sampling if a request asks for it
    device: str = "cpu"  # of the diffusion workers
    face_device: str = "cpu"  # of the face workers
    detector: Literal["", "mediapipe", "insightface"] = ""  # of faces; empty: that of each model's profile
    parser: Literal["", "selfie", "colours", "bisenet", "segformer"] = ""  # masks; empty: that of each model's profile
    keys: str = ""  # file of API keys; empty leaves the service open
    fetch_urls: list[str] = []  # URL prefixes of files to fetch, and networks (`serve.security.url_allowlist`)
    webhook_urls: list[str] = []  # likewise of webhooks, signed with the environment's RIGFACE_WEBHOOK_SECRET
    consent: str = ""  # list of people (`serve.security.consent`)
    deny: str = ""  # list of people
    identity: IdentityName = "dlib"  # network that recognises people; `arcface` needs a model pack
    identity_folder: str = ""  # of that pack; empty: an assets folder
    same_person_distance: PositiveFloat | None = None  # maximum between vectors of one person; dlib: 0.6
    false_accept_rate: float = Field(FALSE_ACCEPT_RATE, gt=0, lt=1)  # chance that a stranger passes the consent list
    signing_folder: str = ""  # of the signing key, shared by all replicas; empty is a folder of the user
    audit_log: str = ""  # file that each edit adds a line to, or a folder with a file per host
    jobs: str = Field(default_factory=lambda: os.environ.get("RIGFACE_JOBS", ""))  # folder or s3://; empty: no jobs
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
    max_edits_per_job: PositiveInt = 4  # edits or frames sampled at a time, each a row of a batch
    result_link_s: NonNegativeFloat = 0.0  # lifetime of a pre-signed address of a result; 0: through the gateway
    max_batch_rows: PositiveInt = 16  # shared by jobs and interactive requests
    max_loaded_models: PositiveInt = 2  # per diffusion worker
    face_cache_mb: PositiveInt = 384
    traces: Literal["", "otlp", "console"] = ""  # exporter of spans (`serve.telemetry.tracing`)

    def signing_path(self) -> Path:
        return Path(self.signing_folder) if self.signing_folder else default_folder()

    def limits(self) -> Limits:
        same_name = {f.name: getattr(self, f.name) for f in fields(Limits) if f.name in ServiceConfig.model_fields}
        megabytes = {"max_body_bytes": self.max_body_mb * 2**20, "max_clip_bytes": self.max_clip_mb * 2**20}
        return Limits(keep_jobs_s=self.keep_jobs_h * 3600, **megabytes, **same_name)

    def policy(self) -> Policy:
        """Lists of the people who may or may not be edited."""
        return Policy(
            self.consent, self.deny, None, self.same_person_distance, self.false_accept_rate, self.identity,
            self.identity_folder,
        )  # fmt: skip

    def check(self) -> None:
        """Raise what a replica would raise at its start, late and at length: a checkpoint or a list that is missing."""
        for name in self.checkpoints().values():
            if not name.startswith("s3://") and refiner_folder(name) is None:
                config_of(name)
        self.policy()

    def open_audit_log(self) -> AuditLog | None:
        return AuditLog(self.audit_log) if self.audit_log else None

    def load_analyzer(self, profile: FaceProfile) -> "FaceAnalyzer":
        """The analyzer of a model's profile."""
        from rigface.face.analyzer import FaceAnalyzer  # imports torch

        return FaceAnalyzer.load(profile.adjusted(self.detector, self.parser), self.face_device)

    def checkpoints(self) -> dict[str, str]:
        """Checkpoints by name, the default first."""
        unnamed = {self.model.rstrip("/").rpartition("/")[2]: self.model} if self.model else {}
        return {**unnamed, **self.models}
