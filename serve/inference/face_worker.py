"""Sees, previews, composes and pastes: everything of an edit but the diffusion. Knows nothing of HTTP or Ray.

Path: `EditInput` -> `look` (decode, detect, reconstruct, mask; cached by content hash) -> `preview`, or `compose` -> painter ->
`finish` (paste, look again, achieved numbers).

Pictures are named by content hash. A wish may come without bytes, which saves the way of megabytes at each move of a
slider; an eye that has forgotten the picture raises `unknown-picture`, and the door sends the bytes after it.
"""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass, fields, replace
from typing import Any

import cv2
import numpy as np
import torch

from rigface.conditions import Composed as Laid
from rigface.conditions import Composer
from rigface.editor import Editor, numbers
from rigface.edits import NAMED_EXPRESSIONS, EditSpec, LightEdit
from rigface.face.analyzer import FaceAnalyzer, choose_faces
from rigface.face.controls.transfer import exposure
from rigface.face.geometry.contours import CONTOURS, POINTS
from rigface.face.preview.compositing import paste_crop
from rigface.face.reconstruction.albedo_light import AMBIENT
from rigface.face.rendering.lighting import lamp_harmonics, light_direction
from rigface.image import decode, sniff
from rigface.types import Conditions, Face, FaceParams
from serve.content_cache import LruCache
from serve.inference.batched_reconstruction import in_turn, together
from serve.inference.watchdog import WatchdogExecutor
from serve.limits import MAX_PIXELS
from serve.messages import EditInput, ModelInputSpec, OutputOptions
from serve.problems import ApiError
from serve.provenance.encoder import NoSigner, Signer
from serve.schemas import Reconstruction, SeenFace, Verified
from serve.security.consent import TAKES_IDENTITY, Policy
from serve.telemetry import tracing

QUICK_PX = 768
"""Of a crop while sliders move: a face that fills the picture costs as its area, 130 ms at 896 px, 90 at 768."""
AGREES = 0.08  # residual, in outer-eye distances, at which confidence is 1/e
CLIPS_AT_ONCE = 2  # that are verified; each is a decoder's process
_SLIDERS = EditSpec(yaw_deg=0, expression=dict.fromkeys(NAMED_EXPRESSIONS, 0.0), light=LightEdit())


@dataclass(frozen=True, eq=False)
class FaceAnalysis:
    """A picture and its faces.

    Args:
        image: (H, W, 3) uint8.
        data: as it came, which what is made of it names as its source; empty at a size of ours.
    """

    image: np.ndarray
    faces: list[Face]
    data: bytes = b""

    @property
    def size(self) -> int:
        """Bytes it keeps alive."""
        return len(self.data) + self.image.nbytes + sum(f.crop.nbytes + f.mask.nbytes for f in self.faces)


@dataclass(frozen=True, eq=False)
class Previewed:
    """A preview, encoded, the numbers asked, and where the time went, by phase."""

    data: bytes
    asked: list[dict[str, float]]
    seconds: dict[str, float]


@dataclass(frozen=True, eq=False)
class Composed:
    """Conditions of each face that is edited, in the order of `asked`."""

    conditions: list[Conditions]
    asked: list[dict[str, float]]


@dataclass(frozen=True, eq=False)
class Finished:
    """The whole picture after an edit, encoded, and the numbers."""

    data: bytes
    asked: list[dict[str, float]]
    achieved: list[dict[str, float] | None]


@dataclass(frozen=True, eq=False)
class _Laid:
    """An edit laid out for a model: the faces with what is wanted of each, and what the model is given."""

    seen: FaceAnalysis
    pairs: list[tuple[Face, FaceParams]]
    composed: list[Laid]

    @property
    def size(self) -> int:
        """Bytes it keeps alive, of its own."""
        return sum(c.preview.invented.nbytes + 4 * c.preview.image.nbytes for c in self.composed)


class FaceWorker:
    """One pair of eyes. Methods are coroutines that work in threads; see `sharing.py` for how those share detector and fit.

    What was read of a picture is kept by its content, and what was laid out for a painter until its picture comes back.

    Args:
        measuring: the same eyes as results are looked at with; None: those of the sources.
    """

    def __init__(
        self, see: FaceAnalyzer, *, measuring: FaceAnalyzer | None = None, cache_mb: int = 384, signer: Signer | None = None,
        policy: Policy | None = None,
    ) -> None:  # fmt: skip
        self.see, self._signer, self._policy = see, signer or NoSigner(), policy or Policy()
        self._seen = LruCache(cache_mb * 2**20, lambda seen: seen.size, "seen")
        self._small = LruCache(cache_mb * 2**18, lambda seen: seen.size, "small")
        self._who = LruCache(10_000, lambda vector: 1, "who")
        self._laid = LruCache(cache_mb * 2**18, lambda laid: laid.size, "laid")
        self._looking = [threading.Lock() for _ in range(16)]  # by picture: one that is asked for twice is read once
        self._editor, self._quick, self._judge = Editor(see), Editor(see, most_px=QUICK_PX), Editor(measuring or see)
        self._composers: dict[ModelInputSpec, Composer] = {}
        self._threads, self._clips = WatchdogExecutor(), WatchdogExecutor(most=CLIPS_AT_ONCE)

    @classmethod
    def load(cls, device: str = "cpu", **options: Any) -> FaceWorker:
        """The default eyes, warmed: the first caller does not wait for a compiler."""
        see = in_turn(FaceAnalyzer.load(device))
        face_worker = cls(see, measuring=together(see), **options)
        face_worker.warm()
        return face_worker

    def warm(self) -> None:
        """Compile what is compiled at first use, on a flat grey face that is nobody."""
        head = self.see.head
        sizes = {"S": head.shape, "E": head.expression, "A": head.albedo}
        shapes = {f.name: f.metadata["shape"] for f in fields(FaceParams) if not f.metadata["optional"]}
        params = FaceParams(**{n: np.zeros([sizes.get(a, a) for a in s], np.float32) for n, s in shapes.items()})
        params = replace(params, camera=np.array([8.0, 0, 0], np.float32), light=np.ones((9, 3), np.float32))
        grey = np.full((64, 64, 3), 128, np.uint8)
        moved = self._editor._composer.preview(grey, params, params, grey[..., 0]).image
        paste_crop(grey, moved, np.array([[8.0, 0, 0], [0, 8.0, 0]], np.float32))
        self._signer.mark(grey, 0)
        self.see(np.full((128, 128, 3), 128, np.uint8))

    async def ready(self) -> bool:
        """Whether it can see; it could not have been made otherwise.

        Raises:
            RuntimeError: a picture hangs in this process, which has to be replaced.
        """
        if self._threads.is_stuck or self._clips.is_stuck:
            raise RuntimeError("a picture hangs in its thread")
        return True

    async def reconstruct(self, edit_input: EditInput) -> Reconstruction:
        """All faces of the picture."""
        return await self._threads(self._reconstruct, edit_input)

    async def mesh(self, edit_input: EditInput, kind: str) -> bytes:
        """The head of the chosen face, textured with its photograph: `glb`, or `obj`."""
        from serve.inference.mesh_export import mesh_of

        seen = await self._threads(self._look, edit_input, edit_input.picture)
        await self._threads(self._check, edit_input)
        return await self._threads(mesh_of, choose_faces(seen.faces, edit_input.face)[0], kind)

    async def preview(self, edit_input: EditInput, output_options: OutputOptions) -> Previewed:
        """The edit without a model, at most `max_side` px, sealed as all that is made."""
        return await self._threads(self._preview, edit_input, output_options)

    async def on_the_way(self, image: np.ndarray, edit_input: EditInput, output_options: OutputOptions) -> bytes:
        """A painter's picture between two steps, sealed likewise."""
        return await self._threads(self._signer, image, _without(edit_input), output_options)

    async def edit_without_model(self, edit_input: EditInput, output_options: OutputOptions) -> Finished:
        """The preview at the photograph's own resolution, measured."""
        return await self._threads(self._edit, edit_input, output_options)

    async def compose(self, edit_input: EditInput, input_spec: ModelInputSpec) -> Composed:
        """What the model sees, per face."""
        return await self._threads(self._compose, edit_input, input_spec)

    async def verify(self, data: bytes) -> Verified:
        """Whether this service made the picture, or video, in these bytes."""
        threads = self._clips if sniff(data) == "video" else self._threads
        return await threads(self._signer.verify, data)

    async def finish(
        self, edit_input: EditInput, input_spec: ModelInputSpec, crops: list[np.ndarray], output_options: OutputOptions
    ) -> Finished:
        """Painted crops back into the picture; the numbers measured on it."""
        return await self._threads(self._finish, edit_input, input_spec, crops, output_options)

    def _look(self, edit_input: EditInput, name: str) -> FaceAnalysis:
        seen = self._seen.get(name)
        if seen is None:
            data = edit_input.pictures.get(name)
            if data is None:
                raise ApiError("unknown-picture", more={"picture": name})
            with self._looking[hash(name) % len(self._looking)], tracing.span("eye.look"):
                seen = self._seen.get(name)
                if seen is None:
                    image = decode(data, max_pixels=MAX_PIXELS)
                    seen = FaceAnalysis(image, self.see(image), data)
                    self._seen.put(name, seen)
        return seen

    def _smaller(self, edit_input: EditInput) -> FaceAnalysis:
        """The source at a preview's size; seen at its own."""
        seen = self._look(edit_input, edit_input.picture)
        side = max(seen.image.shape[:2])
        if side <= edit_input.max_side:
            return seen
        small = self._small.get((edit_input.picture, edit_input.max_side))
        if small is None:
            scale = edit_input.max_side / side
            size = (max(1, round(seen.image.shape[1] * scale)), max(1, round(seen.image.shape[0] * scale)))
            image = cv2.resize(seen.image, size, interpolation=cv2.INTER_AREA)
            shrink = np.array([1 / scale, 1 / scale, 1], np.float32)
            faces = [replace(f, frame_to_crop=f.frame_to_crop * shrink, box=f.box * scale) for f in seen.faces]
            small = FaceAnalysis(image, faces)
            self._small.put((edit_input.picture, edit_input.max_side), small)
        return small

    def _wanted(self, edit_input: EditInput, faces: list[Face]) -> list[tuple[Face, FaceParams]]:
        given = {
            name: choose_faces(self._look(edit_input, name).faces, "largest")[0]
            for name in set(edit_input.traits.values())
        }
        givers = {trait: given[name].params for trait, name in edit_input.traits.items()}
        chosen = choose_faces(faces, edit_input.face)
        return [(face, self._editor.wanted(face.params, edit_input.edit, givers)) for face in chosen]  # type: ignore[arg-type]

    def _check(self, edit_input: EditInput) -> None:
        """Whether the faces to be edited, and those whose identity is taken, may be."""
        if self._policy.is_active:
            takes = {edit_input.traits[trait]: "largest" for trait in TAKES_IDENTITY if trait in edit_input.traits}
            for name, which in ((edit_input.picture, edit_input.face), *takes.items()):
                seen = self._look(edit_input, name)
                self._policy.check([self._vector(name, seen, face) for face in choose_faces(seen.faces, which)])

    def _vector(self, name: str, seen: FaceAnalysis, face: Face) -> np.ndarray | None:
        key = name, face.box.tobytes()
        known = self._who.get(key)
        if known is None:
            known = (self._policy.vector(seen.image, face),)
            self._who.put(key, known)
        return known[0]

    def _moved(
        self, editor: Editor, edit_input: EditInput, seen: FaceAnalysis
    ) -> tuple[np.ndarray, list[tuple[Face, FaceParams]]]:
        """The edit without a model, at the size of what was seen."""
        out, pairs = seen.image, self._wanted(edit_input, seen.faces)
        for face, wanted in pairs if not edit_input.edit.is_nothing else []:
            out, _ = editor.apply(out, face, wanted)
        return out, pairs

    def _preview(self, edit_input: EditInput, output_options: OutputOptions) -> Previewed:
        marks = [time.perf_counter()]
        self._check(edit_input)
        small = self._smaller(edit_input)
        marks.append(time.perf_counter())
        out, pairs = self._moved(self._quick, edit_input, small)
        marks.append(time.perf_counter())
        data = self._signer(out, _without(edit_input), output_options)
        marks.append(time.perf_counter())
        seconds = dict(zip(("look", "move", "seal"), np.diff(marks).tolist()))
        return Previewed(data, self._asked(edit_input, pairs), seconds)

    def _edit(self, edit_input: EditInput, output_options: OutputOptions) -> Finished:
        self._check(edit_input)
        seen = self._look(edit_input, edit_input.picture)
        out, pairs = self._moved(self._editor, edit_input, seen)
        return self._measured(_with(edit_input, seen), out, pairs, output_options)

    def _compose(self, edit_input: EditInput, input_spec: ModelInputSpec) -> Composed:
        self._check(edit_input)
        laid = self._lay(edit_input, input_spec)
        return Composed([one.conditions for one in laid.composed], self._asked(edit_input, laid.pairs))

    def _lay(self, edit_input: EditInput, input_spec: ModelInputSpec) -> _Laid:
        key = (
            edit_input.picture,
            edit_input.face,
            json.dumps(edit_input.edit.to_dict(), sort_keys=True),
            *edit_input.traits.items(),
            input_spec,
        )
        laid = self._laid.get(key)
        if laid is None:
            seen, composer = self._look(edit_input, edit_input.picture), self._composer(input_spec)
            pairs = self._wanted(edit_input, seen.faces)
            laid = _Laid(seen, pairs, [composer(face, wanted) for face, wanted in pairs])
            self._laid.put(key, laid)
        return laid

    def _finish(
        self, edit_input: EditInput, input_spec: ModelInputSpec, crops: list[np.ndarray], output_options: OutputOptions
    ) -> Finished:
        laid = self._lay(edit_input, input_spec)
        out = laid.seen.image
        editor = Editor(self.see, composer=self._composer(input_spec))
        for (face, wanted), composed, crop in zip(laid.pairs, laid.composed, crops):
            out = editor.put_back(out, face, wanted, composed, crop)
        return self._measured(_with(edit_input, laid.seen), out, laid.pairs, output_options)

    def _composer(self, input_spec: ModelInputSpec) -> Composer:
        if input_spec not in self._composers:
            self._composers[input_spec] = composer_of(input_spec)
        return self._composers[input_spec]

    def _asked(self, edit_input: EditInput, pairs: list[tuple[Face, FaceParams]]) -> list[dict[str, float]]:
        return [numbers(wanted, edit_input.edit, self.see.head) for _, wanted in pairs]

    def _measured(
        self,
        edit_input: EditInput,
        image: np.ndarray,
        pairs: list[tuple[Face, FaceParams]],
        output_options: OutputOptions,
    ) -> Finished:
        with tracing.span("eye.measure"):
            found = self._judge.measured(image, [face for face, _ in pairs])
        achieved = [None if p is None else numbers(p, edit_input.edit, self.see.head) for p in found]
        with tracing.span("seal", format=output_options.format):
            data = self._signer(image, edit_input, output_options)
        return Finished(data, self._asked(edit_input, pairs), achieved)

    def _reconstruct(self, edit_input: EditInput) -> Reconstruction:
        seen = self._look(edit_input, edit_input.picture)
        height, width = seen.image.shape[:2]
        head = self.see.head
        known = {n: v for n, v in NAMED_EXPRESSIONS.items() if set(v) <= set(head.expression_names)}
        sliders = replace(_SLIDERS, expression=dict.fromkeys(known, 0.0))
        return Reconstruction(
            picture=edit_input.picture,
            width=width,
            height=height,
            head=f"{head.name} {head.version}",
            faces=[_wire(face, numbers(face.params, sliders, head) | lamp_of(face.params)) for face in seen.faces],
            contours=CONTOURS if seen.faces and len(seen.faces[0].landmarks) == POINTS else [],
        )


def _with(edit_input: EditInput, seen: FaceAnalysis) -> EditInput:
    """The wish with its source's bytes."""
    return replace(edit_input, pictures={edit_input.picture: seen.data})


def _without(edit_input: EditInput) -> EditInput:
    """The wish without any, for what is not the last word: to read the source's own manifests again costs up to 40 ms a picture."""
    return replace(edit_input, pictures={})


def composer_of(input_spec: ModelInputSpec) -> Composer:
    """Composes for a model."""
    field: Any = input_spec.expression_field
    return Composer(input_spec.style, input_spec.size, expression_field=field, detail=input_spec.detail)  # type: ignore[arg-type]


def lamp_of(params: FaceParams) -> dict[str, float]:
    """The lamp and the surround that come nearest to a face's light, in the units of `LightEdit`: where sliders begin."""
    light = np.asarray(params.light, np.float64).mean(1)
    towards = light_direction(torch.from_numpy(np.asarray(params.light, np.float32)))
    one = lamp_harmonics(towards).numpy()
    share = float(np.nan_to_num(one[1:4] @ one[1:4]))  # a light from everywhere has no direction
    intensity = float(light[1:4] @ one[1:4]) / share if share > 0 else 0.0
    ambient = float((light[0] - (intensity * one[0] if intensity else 0)) / AMBIENT)
    unit = exposure(params.light)
    return {"light_intensity": max(0.0, intensity) / unit, "light_ambient": max(0.0, ambient) / unit}


def _wire(face: Face, values: dict[str, float]) -> SeenFace:
    to_frame = cv2.invertAffineTransform(face.frame_to_crop.astype(np.float64))
    points = face.landmarks[:, :2] @ to_frame[:, :2].T + to_frame[:, 2]
    coefficients = {f.name: getattr(face.params, f.name) for f in fields(FaceParams)}
    return SeenFace(
        box=[round(float(v), 2) for v in face.box],
        landmarks=np.round(points, 2).tolist(),
        confidence=round(float(np.exp(-face.residual / AGREES)), 4),
        numbers={name: round(float(np.nan_to_num(value)), 4) for name, value in values.items()},
        coefficients={n: np.round(v, 5).tolist() for n, v in coefficients.items() if v is not None},
    )
