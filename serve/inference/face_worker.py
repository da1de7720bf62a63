"""Analyses images, previews and composites edits: all of an edit but the diffusion. Independent of HTTP and Ray.

Path: `EditInput` -> `FaceCache` (decode, detect, reconstruct, mask; by content hash) -> preview, or compose ->
diffusion worker -> finish (composite, measure).
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import NamedTuple

import cv2
import numpy as np
import torch

from rigface.conditions import Composed as ComposedFace
from rigface.conditions import Composer
from rigface.editor import Editor, numbers, profile_of
from rigface.edits import NAMED_EXPRESSIONS, EditSpec, EditWarning, LightEdit
from rigface.face.analyzer import FaceAnalyzer, choose_faces, chosen_faces
from rigface.face.controls.edit_warnings import edit_warnings
from rigface.face.controls.transfer import exposure
from rigface.face.geometry.contours import CONTOURS, POINTS
from rigface.face.preview.compositing import paste_crop
from rigface.face.reconstruction.albedo_light import AMBIENT
from rigface.face.region_masks import bounded, region_prompts
from rigface.face.rendering.lighting import lamp_harmonics, light_direction
from rigface.image import encode_png, sniff
from rigface.model.checkpoint_folder import refiner_folder
from rigface.profile import OWN, ConditionSpec, FaceProfile
from rigface.refiner.preview_refiner import PreviewRefiner
from rigface.types import Face, FaceParams, HeadSpec
from serve.content_cache import LruCache
from serve.inference.batched_reconstruction import with_batched_reconstructor, with_serialized_detector
from serve.inference.edit_pipeline import EditPipeline
from serve.inference.face_cache import FaceAnalysis, FaceCache
from serve.inference.mesh_export import export_mesh
from serve.inference.watchdog import WatchdogExecutor
from serve.messages import ComposedEdit, EditInput, FinishedEdit, OutputOptions, Preview
from serve.problems import ApiError
from serve.protocols import DiffusionService, EditService, FaceService, MeshFormat
from serve.provenance.encoder import NoSigner, Signer
from serve.schemas import Reconstruction, SeenFace, Verified
from serve.security.consent import Policy
from serve.telemetry import tracing

PREVIEW_CROP_PX = 768
"""Crop size of previews: a face that fills the image costs by its area, 130 ms at 896 px, 90 at 768."""
RESIDUAL_SCALE = 0.08  # residual, in outer-eye distances, at which confidence is 1/e
MAX_VIDEO_CHECKS = 2  # videos verified at a time; each has a decoder process
_SLIDERS = EditSpec(yaw_deg=0, expression=dict.fromkeys(NAMED_EXPRESSIONS, 0.0), light=LightEdit())


class _PreparedFace(NamedTuple):
    """A face with its edit."""

    face: Face
    wanted: FaceParams  # the parameters that the edit gives it
    edit: EditSpec
    donor: Face | None  # whose identity the edit takes
    mask: np.ndarray | None  # (H, W, 3) uint8 that bounds it, see `FaceEdit`


@dataclass(frozen=True, eq=False)
class _Layout:
    """Edits prepared for a model: each edited face and its composed conditions."""

    analysis: FaceAnalysis
    edits: list[_PreparedFace]
    composed: list[ComposedFace]

    @property
    def size(self) -> int:
        """Bytes, with those of the analysis, which may be in no other cache any more."""
        return self.analysis.size + sum(c.mask.nbytes + 4 * c.image.nbytes for c in self.composed)


@dataclass(frozen=True, eq=False)
class _ProfileEditors:
    """The editors of one profile: of sources, and of results, which are measured in batches."""

    editor: Editor
    measuring_editor: Editor

    @property
    def head(self) -> HeadSpec:
        """The head model of the coefficients."""
        return self.editor.analyzer.head


class FaceWorker(FaceService):
    """A `FaceService` in this process. Methods are coroutines that work in threads.

    Analyses are cached by content hash, and layouts until the sampled images come back. Previews and all else without a
    model are analysed with this project's own profile, edits by a model with the model's.

    Args:
        analyzer: of the own profile.
        load: makes the analyzer of another profile at its first use; None: there is no other.
    """

    def __init__(
        self, analyzer: FaceAnalyzer, *, load: Callable[[FaceProfile], FaceAnalyzer] | None = None,
        cache_mb: int = 384, signer: Signer | None = None, policy: Policy | None = None,
    ) -> None:  # fmt: skip
        self.analyzer, self._load, self._signer = analyzer, load, signer or NoSigner()
        self._faces = FaceCache(self._analyzer_of, policy or Policy(), cache_mb)
        self._layouts = LruCache(cache_mb * 2**20, lambda layout: layout.size, "layouts")
        self._own, self._preview_editor = self._made(analyzer), Editor(analyzer, max_px=PREVIEW_CROP_PX)
        self._by_profile, self._loading = {OWN: self._own}, threading.Lock()
        self._refined: dict[str, Editor] = {}  # editors with a refiner, by its name
        self._composers: dict[ConditionSpec, Composer] = {}
        self._threads, self._video_threads = WatchdogExecutor(), WatchdogExecutor(max_threads=MAX_VIDEO_CHECKS)

    @classmethod
    def load(
        cls, checkpoints: Mapping[str, str] | None = None, *,
        load_analyzer: Callable[[FaceProfile], FaceAnalyzer] = FaceAnalyzer.load, cache_mb: int = 384,
        signer: Signer | None = None, policy: Policy | None = None,
    ) -> FaceWorker:  # fmt: skip
        """A worker with the analyzers that these checkpoints, by name, need, and with the refiners; warmed up.

        Raises:
            MissingAsset: a network of a checkpoint's profile is not on this machine.
        """

        def load(profile: FaceProfile) -> FaceAnalyzer:
            return with_serialized_detector(load_analyzer(profile))

        worker = cls(load(OWN), load=load, cache_mb=cache_mb, signer=signer, policy=policy)
        for name, checkpoint in (checkpoints or {}).items():
            worker._editors_of(profile_of(checkpoint))
            if (folder := refiner_folder(checkpoint)) is not None:
                worker._refined[name] = Editor(worker.analyzer, refiner=PreviewRefiner.load(folder))
        worker.warm()
        return worker

    def _editors_of(self, profile: FaceProfile) -> _ProfileEditors:
        with self._loading:
            if profile not in self._by_profile:
                if self._load is None:
                    raise ApiError("internal", f"no analyzer of the profile {profile} is loaded")
                self._by_profile[profile] = self._made(self._load(profile))
            return self._by_profile[profile]

    def _made(self, analyzer: FaceAnalyzer) -> _ProfileEditors:
        measuring = analyzer if self._load is None else with_batched_reconstructor(analyzer)
        return _ProfileEditors(Editor(analyzer), Editor(measuring))

    def _analyzer_of(self, profile: FaceProfile) -> FaceAnalyzer:
        return self._editors_of(profile).editor.analyzer

    def warm(self) -> None:
        """Compile what is compiled at first use, with a flat grey image and a neutral face."""
        head = self.analyzer.head
        sizes = {"S": head.shape, "E": head.expression, "A": head.albedo}
        shapes = {f.name: f.metadata["shape"] for f in fields(FaceParams) if not f.metadata["optional"]}
        params = FaceParams(**{n: np.zeros([sizes.get(a, a) for a in s], np.float32) for n, s in shapes.items()})
        params = replace(params, camera=np.array([8.0, 0, 0], np.float32), light=np.ones((9, 3), np.float32))
        grey = np.full((64, 64, 3), 128, np.uint8)
        warped = self._own.editor._composer.preview(grey, params, params, grey[..., 0]).image
        paste_crop(grey, warped, np.array([[8.0, 0, 0], [0, 8.0, 0]], np.float32))
        self._signer.mark(grey, 0)
        self._faces.decoders.picture(encode_png(grey), grey.size)
        self.analyzer(np.full((128, 128, 3), 128, np.uint8))

    async def ready(self) -> bool:
        """True; RuntimeError if a thread of this process hangs, so it has to be replaced."""
        if self._threads.is_stuck or self._video_threads.is_stuck:
            raise RuntimeError("a thread hangs with an image or a video")
        return True

    async def reconstruct(self, edit_input: EditInput) -> Reconstruction:
        return await self._threads(self._reconstruct, edit_input)

    async def mesh(self, edit_input: EditInput, kind: MeshFormat) -> bytes:
        return await self._threads(self._mesh, edit_input, kind)

    async def preview(self, edit_input: EditInput, output_options: OutputOptions) -> Preview:
        return await self._threads(self._preview, edit_input, output_options)

    async def encode_progress(self, image: np.ndarray, edit_input: EditInput, output_options: OutputOptions) -> bytes:
        """An image between two sampling steps, signed as every result."""
        return await self._threads(self._signer, image, _without_images(edit_input), output_options)

    async def edit_without_diffusion(
        self, edit_input: EditInput, output_options: OutputOptions, refiner: str = ""
    ) -> FinishedEdit:
        return await self._threads(self._edit, edit_input, output_options, refiner)

    async def compose(self, edit_input: EditInput, input_spec: ConditionSpec) -> ComposedEdit:
        """The model's conditions, per face."""
        return await self._threads(self._compose, edit_input, input_spec)

    async def finish(
        self, edit_input: EditInput, input_spec: ConditionSpec, crops: list[np.ndarray], output_options: OutputOptions
    ) -> FinishedEdit:
        """The sampled crops composited into the image; measured and signed."""
        return await self._threads(self._finish, edit_input, input_spec, crops, output_options)

    async def verify(self, data: bytes) -> Verified:
        threads = self._video_threads if sniff(data) == "video" else self._threads
        return Verified(**asdict(await threads(self._signer.verify, data)))

    def edit_service(self, diffusion_worker: DiffusionService) -> EditService:
        return EditPipeline(self, diffusion_worker)

    def _mesh(self, edit_input: EditInput, kind: MeshFormat) -> bytes:
        analysis = self._faces.analyze(edit_input, edit_input.picture)
        self._faces.check_consent(edit_input)
        return export_mesh(choose_faces(analysis.faces, edit_input.edits[0].face)[0], self._own.head, kind)

    def _prepared(self, edit_input: EditInput, faces: list[Face], profile: FaceProfile = OWN) -> list[_PreparedFace]:
        """Each chosen face with its edit."""
        editor, edits = self._editors_of(profile).editor, edit_input.edits
        names = {name for one in edits for name in one.targets.values()}
        seen = {name: self._faces.analyze(edit_input, name, profile) for name in names}
        people = {name: choose_faces(analysis.faces, "largest")[0] for name, analysis in seen.items()}
        prepared = []
        for face, k in chosen_faces(faces, edits):
            targets = {trait: people[name] for trait, name in edits[k].targets.items()}
            wanted = editor.edited_params(face.params, edits[k].edit, targets)
            name = edits[k].mask
            mask = None if name is None else self._faces.analyze(edit_input, name, profile).image
            prepared.append(_PreparedFace(face, wanted, edits[k].edit, targets.get("identity"), mask))
        return prepared

    def _warped(
        self, editor: Editor, edit_input: EditInput, analysis: FaceAnalysis
    ) -> tuple[np.ndarray, list[_PreparedFace]]:
        """The edits without a model, at the size of the analysis."""
        image, edits = analysis.image, self._prepared(edit_input, analysis.faces)
        for face, wanted, edit, donor, mask in edits:
            if not edit.is_nothing:
                image, _ = editor.apply(image, face, wanted, edit=edit, donor=donor, mask=mask)
        return image, edits

    def _preview(self, edit_input: EditInput, output_options: OutputOptions) -> Preview:
        times = [time.perf_counter()]
        self._faces.check_consent(edit_input)
        analysis = self._faces.resized(edit_input)
        times.append(time.perf_counter())
        image, edits = self._warped(self._preview_editor, edit_input, analysis)
        times.append(time.perf_counter())
        data = self._signer(image, _without_images(edit_input), output_options)
        times.append(time.perf_counter())
        seconds = dict(zip(("look", "warp", "sign"), np.diff(times).tolist()))
        head = self._own.head
        return Preview(data, _asked(edits, head), seconds, _warnings(edits, head, analysis.image))

    def _edit(self, edit_input: EditInput, output_options: OutputOptions, refiner: str) -> FinishedEdit:
        self._faces.check_consent(edit_input)
        analysis = self._faces.analyze(edit_input, edit_input.picture)
        editor = self._refined[refiner] if refiner else self._own.editor
        image, edits = self._warped(editor, edit_input, analysis)
        return self._finished(self._with_origins(edit_input, analysis), image, edits, output_options)

    def _compose(self, edit_input: EditInput, input_spec: ConditionSpec) -> ComposedEdit:
        self._faces.check_consent(edit_input, input_spec.profile)
        layout = self._layout(edit_input, input_spec)
        asked = _asked(layout.edits, self._editors_of(input_spec.profile).head)
        size = layout.analysis.image.shape[:2]
        return ComposedEdit(
            [c.conditions for c in layout.composed], asked, [one.edit.prompt for one in layout.edits],
            [region_prompts(one.edit, one.face, one.wanted, one.mask, size) for one in layout.edits],
        )  # fmt: skip

    def _layout(self, edit_input: EditInput, input_spec: ConditionSpec) -> _Layout:
        faces = tuple(one.face for one in edit_input.edits)
        key = edit_input.picture, faces, json.dumps(edit_input.record(), sort_keys=True), input_spec
        layout = self._layouts.get(key)
        if layout is None:
            profile, composer = input_spec.profile, self._composer(input_spec)
            analysis = self._faces.analyze(edit_input, edit_input.picture, profile)
            edits = self._prepared(edit_input, analysis.faces, profile)
            begun = [self._begun(analysis.image, one, profile)[1] for one in edits]
            composed = [composer(face, one.wanted, donor=one.donor) for face, one in zip(begun, edits)]
            layout = _Layout(analysis, edits, composed)
            self._layouts.put(key, layout)
        return layout

    def _finish(
        self, edit_input: EditInput, input_spec: ConditionSpec, crops: list[np.ndarray], output_options: OutputOptions
    ) -> FinishedEdit:
        layout, profile = self._layout(edit_input, input_spec), input_spec.profile
        image = layout.analysis.image
        editor = Editor(self._analyzer_of(profile), composer=self._composer(input_spec))
        for one, composed, crop in zip(layout.edits, layout.composed, crops):
            begun, face = self._begun(image, one, profile)
            painted, _ = editor.paste(begun, face, one.wanted, composed, crop)
            image = bounded(image, painted, one.face, one.wanted, one.edit, one.mask)
        edit_input = self._with_origins(edit_input, layout.analysis, profile)
        return self._finished(edit_input, image, layout.edits, output_options, profile)

    def _begun(self, image: np.ndarray, one: _PreparedFace, profile: FaceProfile) -> tuple[np.ndarray, Face]:
        """The image and the face that a model begins with: of a swap, with the donor's face."""
        if one.donor is None:
            return image, one.face
        return self._editors_of(profile).editor.swapped(image, one.face, one.donor)

    def _composer(self, input_spec: ConditionSpec) -> Composer:
        if input_spec not in self._composers:
            self._composers[input_spec] = Composer(input_spec)
        return self._composers[input_spec]

    def _finished(
        self,
        edit_input: EditInput,
        image: np.ndarray,
        edits: list[_PreparedFace],
        output_options: OutputOptions,
        profile: FaceProfile = OWN,
    ) -> FinishedEdit:
        editors = self._editors_of(profile)
        with tracing.span("face_worker.measure"):
            measured = editors.measuring_editor.measure(image, [one.face for one in edits])
        achieved = [None if p is None else numbers(p, one.edit, editors.head) for p, one in zip(measured, edits)]
        with tracing.span("sign", {tracing.FORMAT: output_options.format}):
            data = self._signer(image, edit_input, output_options)
        return FinishedEdit(data, _asked(edits, editors.head), achieved, _warnings(edits, editors.head, image))

    def _with_origins(self, edit_input: EditInput, analysis: FaceAnalysis, profile: FaceProfile = OWN) -> EditInput:
        """The input with the bytes of its source and of the donors of swaps."""
        donors = {one.targets["identity"] for one in edit_input.edits if "identity" in one.targets}
        data = {name: self._faces.analyze(edit_input, name, profile).data for name in donors}
        return replace(edit_input, pictures={**data, edit_input.picture: analysis.data})

    def _reconstruct(self, edit_input: EditInput) -> Reconstruction:
        analysis = self._faces.analyze(edit_input, edit_input.picture)
        height, width = analysis.image.shape[:2]
        head = self._own.head
        known = {n: v for n, v in NAMED_EXPRESSIONS.items() if set(v) <= set(head.expression_names)}
        sliders = replace(_SLIDERS, expression=dict.fromkeys(known, 0.0))
        return Reconstruction(
            picture=edit_input.picture,
            width=width,
            height=height,
            head=f"{head.name} {head.version}",
            faces=[
                _wire_face(face, numbers(face.params, sliders, head) | lamp_of(face.params)) for face in analysis.faces
            ],
            contours=CONTOURS if analysis.faces and len(analysis.faces[0].landmarks) == POINTS else [],
        )


def _asked(edits: list[_PreparedFace], head: HeadSpec) -> list[dict[str, float]]:
    return [numbers(one.wanted, one.edit, head, one.face.params) for one in edits]


def _warnings(edits: list[_PreparedFace], head: HeadSpec, image: np.ndarray) -> list[list[EditWarning]]:
    size = image.shape[:2]
    return [edit_warnings(one.face, one.wanted, one.edit, head, size, one.donor) for one in edits]


def _without_images(edit_input: EditInput) -> EditInput:
    """The input without bytes, for intermediate images: reading the source's manifests again costs up to 40 ms each."""
    return replace(edit_input, pictures={})


def lamp_of(params: FaceParams) -> dict[str, float]:
    """The lamp and ambient light nearest to a face's light, in the units of `LightEdit`: start values of sliders."""
    light = np.asarray(params.light, np.float64).mean(1)
    towards = light_direction(torch.from_numpy(np.asarray(params.light, np.float32)))
    lobe = lamp_harmonics(towards).numpy()
    share = float(np.nan_to_num(lobe[1:4] @ lobe[1:4]))  # uniform light has no direction
    intensity = float(light[1:4] @ lobe[1:4]) / share if share > 0 else 0.0
    ambient = float((light[0] - (intensity * lobe[0] if intensity else 0)) / AMBIENT)
    unit = exposure(params.light)
    return {"light_intensity": max(0.0, intensity) / unit, "light_ambient": max(0.0, ambient) / unit}


def _wire_face(face: Face, values: dict[str, float]) -> SeenFace:
    to_frame = cv2.invertAffineTransform(face.frame_to_crop.astype(np.float64))
    points = face.landmarks[:, :2] @ to_frame[:, :2].T + to_frame[:, 2]
    coefficients = {f.name: getattr(face.params, f.name) for f in fields(FaceParams)}
    return SeenFace(
        box=[round(float(v), 2) for v in face.box],
        landmarks=np.round(points, 2).tolist(),
        confidence=round(float(np.exp(-face.residual / RESIDUAL_SCALE)), 4),
        numbers={name: round(float(np.nan_to_num(value)), 4) for name, value in values.items()},
        coefficients={n: np.round(v, 5).tolist() for n, v in coefficients.items() if v is not None},
    )
