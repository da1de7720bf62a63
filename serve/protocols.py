"""Interfaces of the services that an edit passes through, implemented in process and behind Ray Serve handles.

In process: `serve.inference.face_worker.FaceWorker`, `serve.inference.diffusion_worker.DiffusionWorker`,
`serve.jobs.queue.JobQueue`. Behind handles: `serve.remote`. Callers hold either.
"""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Literal, Protocol

from rigface.profile import ConditionSpec
from serve.messages import (
    EditedImage,
    EditInput,
    FinishedEdit,
    JobResult,
    JobSubmission,
    ModelEdit,
    OutputOptions,
    Preview,
    ResultRequest,
    SampledImage,
    SampleRequest,
    Step,
)
from serve.problems import ApiError
from serve.schemas import EditProgress, JobState, ModelInfo, Reconstruction, Verified

MeshFormat = Literal["glb", "obj"]


class Service(Protocol):
    """A part of the application that can be asked for its health."""

    async def ready(self) -> bool:
        """True, or an exception that says why it cannot work."""


class DiffusionService(Service, Protocol):
    """Samples images with trained models."""

    async def models(self) -> list[ModelInfo]:
        """The models that an edit may name; the preview comes last, or alone."""

    async def input_spec(self, model: str) -> ConditionSpec:
        """The conditions that a model takes."""

    def sample(self, request: SampleRequest) -> AsyncGenerator[Step | SampledImage, None]:
        """Sample one image. Closing the iterator takes the request out of the batch."""


REFINER = "refiner"  # kind of a model that corrects previews; face workers run it


async def chosen_model(service: DiffusionService, name: str | None) -> ModelInfo:
    """A model that exists, by default the default; else ApiError `unknown-model`."""
    models = await service.models()
    chosen = next((m for m in models if (m.default if name is None else m.name == name)), None)
    if chosen is None:
        raise ApiError("unknown-model", f"{name!r}; there are {', '.join(m.name for m in models)}")
    return chosen


async def sample_image(service: DiffusionService, request: SampleRequest) -> SampledImage:
    """The image of a request, without the steps."""
    async with aclosing(service.sample(request)) as events:
        async for event in events:
            if isinstance(event, SampledImage):
                return event
    raise RuntimeError("the sampling ended without an image")


class EditService(Protocol):
    """Runs whole edits by a model."""

    def edit(self, edit: ModelEdit) -> AsyncGenerator[EditProgress | EditedImage, None]:
        """Progress events, then `EditedImage`. Closing the iterator ends the edit."""


class FaceService(Service, Protocol):
    """Analyses images and composites edits."""

    async def reconstruct(self, edit_input: EditInput) -> Reconstruction:
        """All faces of the image."""

    async def mesh(self, edit_input: EditInput, kind: MeshFormat) -> bytes:
        """The textured head of the chosen face."""

    async def preview(self, edit_input: EditInput, output_options: OutputOptions) -> Preview:
        """The edit without a model, at most `max_side` px."""

    async def edit_without_diffusion(
        self, edit_input: EditInput, output_options: OutputOptions, refiner: str = ""
    ) -> FinishedEdit:
        """The preview at the image's own resolution, corrected by a refiner if one is named."""

    async def verify(self, data: bytes) -> Verified:
        """The provenance of an image or a video."""

    def edit_service(self, diffusion_worker: DiffusionService) -> EditService:
        """Edits by this service's analysis and that service's models."""


class JobService(Service, Protocol):
    """Queues batches and videos, and keeps their results."""

    async def submit(self, submission: JobSubmission, owner: str, idempotency_key: str = "") -> JobState:
        """Queue a job; it is durable when this returns."""

    async def status(self, job_id: str, owner: str) -> JobState:
        """The state of an owner's job; `unknown-job` for another owner's, here and below."""

    async def jobs_of(self, owner: str) -> list[JobState]:
        """An owner's jobs, the newest first."""

    async def cancel(self, job_id: str, owner: str) -> JobState:
        """Stop a job; its results stay."""

    async def remove(self, job_id: str, owner: str) -> None:
        """Stop a job and delete its files."""

    async def result(self, job_id: str, owner: str, request: ResultRequest) -> JobResult:
        """A result's bytes, or its address in the bucket."""
