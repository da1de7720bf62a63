"""Face editor: analyse an image, edit its faces with a model or the preview, and measure the result.

Path: image -> FaceAnalyzer -> `transfer` -> Composer -> model, or the preview without one -> paste -> measure.

An edit that takes the identity is a face swap: the donor's face is drawn in the place of the source's
(`face/preview/face_swap.py`), and the rest of the edit, or the model, begins with that picture; the model takes the
identity from the donor's own crop.

    editor = Editor.load()                                  # or Editor.load("runs/mine/model")
    result = editor.edit(picture, EditSpec(yaw_deg=15, expression={"smile": 0.6}))
    result.image, result.asked, result.achieved
    editor.edit(picture, [FaceEdit(0, EditSpec(yaw_deg=10)), FaceEdit(1, EditSpec(expression={"smile": 0.5}))])
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any

import cv2
import numpy as np
import torch

from rigface import assets
from rigface.conditions import Composed, Composer
from rigface.edits import PREVIEW, EditSpec, EditWarning, FaceEdit, Trait
from rigface.errors import BadEdit
from rigface.face.analyzer import FaceAnalyzer, choose_faces, chosen_faces
from rigface.face.controls.edit_warnings import edit_warnings
from rigface.face.controls.named_curves import wanted_azimuth
from rigface.face.controls.transfer import asked_amount, drawn_edit, exposure, expression_amount, targets_of, transfer
from rigface.face.geometry import alignment
from rigface.face.geometry.rotation import to_degrees, to_matrix
from rigface.face.preview.compositing import paste_crop
from rigface.face.preview.face_swap import FaceSwapper
from rigface.face.region_masks import bounded, region_prompts
from rigface.face.rendering.lighting import light_direction
from rigface.image import resized
from rigface.model.checkpoint_folder import refiner_folder
from rigface.model.model_config import config_of
from rigface.model_editor import ModelEditor, check_head, refined
from rigface.profile import OWN, ConditionSpec, FaceProfile
from rigface.refiner.preview_refiner import PreviewRefiner
from rigface.types import CROP_PX, Detection, Face, FaceParams, HeadSpec

PASTE_MARGIN = 0.03  # of the crop's side, over which a pasted person fades into the photograph
PREVIEW_PX = 2048  # maximum side of a preview's crop, which else has the photograph's own resolution

EditModel = Callable[..., np.ndarray]
"""A model: (conditions, seed[, prompt[, list of `RegionPrompt`]]) -> (S, S, 3) uint8; an edit without passes none."""

Target = np.ndarray | Face
"""A person to copy from: a picture, of which the largest face is used, or an analysed face."""


@dataclass(frozen=True, eq=False)
class Edited:
    """The result of one edit."""

    image: np.ndarray  # (H, W, 3) uint8, the whole picture
    crops: list[np.ndarray]  # the edited crops, one per face edited, (S, S, 3) uint8
    asked: list[dict[str, float]]  # one row of numbers per face: what the edit asked for, by name
    achieved: list[dict[str, float] | None]  # the same numbers measured on the result; None if there is no face now
    sources: list[Face]  # the faces before the edit
    asked_params: list[FaceParams]  # the coefficients that were drawn, for the edit to show what it asks for
    achieved_params: list[FaceParams | None]  # their coefficients measured on the result; None if there is no face now
    warnings: list[list[EditWarning]] = field(default_factory=list)  # per face, what may look wrong
    edits: list[EditSpec] = field(default_factory=list)  # per face
    faces: list[int] = field(default_factory=list)  # per face, its number in the picture, counted from the left


class Editor:
    """Edits faces with a model, or without one as previews.

    Args:
        analyzer: detects and reconstructs faces.
        model: edits crops; None: the preview is the result.
        composer: makes the model's conditions, in the style it was trained with.
        max_px: maximum side of a preview's crop; None: `PREVIEW_PX`.
        refiner: corrects previews.
    """

    def __init__(
        self,
        analyzer: FaceAnalyzer,
        model: EditModel | None = None,
        composer: Composer | None = None,
        max_px: int | None = None,
        refiner: PreviewRefiner | None = None,
    ) -> None:
        self.analyzer, self._max_px, self._refiner = analyzer, max_px, refiner
        self._model = model
        self._composer = composer or Composer(ConditionSpec(size=512))

    @property
    def has_model(self) -> bool:
        """True if a model edits or corrects previews; else edits are previews."""
        return self._model is not None or self._refiner is not None

    @property
    def model(self) -> EditModel | None:
        """The model that edits crops; None for previews, corrected or not."""
        return self._model

    @classmethod
    def load(
        cls,
        checkpoint: str | None = None,
        device: str = "cpu",
        analyzer: FaceAnalyzer | None = None,
        *,
        autocast: str | None = "auto",
        compile: bool = False,
        adapter: str | None = None,
        **sampling: Any,
    ) -> Editor:
        """Load an editor with a model and the analyzer of the model's profile.

        Args:
            checkpoint: `refiner`, `mini`, `rigface`, a folder of weights (own or released layout), `tiny`,
                `sd15:FOLDER`; `preview`: no model. None: `usual_checkpoint()`.
            device: of the model.
            analyzer: instead of the profile's.
            autocast: type that the networks run in, see `RigFacePipeline`.
            compile: compile the denoiser at its first use: tens of seconds, then faster steps.
            adapter: see `use_adapter`.
            sampling: arguments of a call of `RigFacePipeline`: `steps`, `scheduler`, `identity_scale` ...

        Raises:
            MissingAsset, BadCheckpoint: the weights are not there, or belong to another head.
            BadEdit: sampling that this model cannot do; the message names the option.
        """
        checkpoint = usual_checkpoint() if checkpoint is None else checkpoint
        analyzer = analyzer or FaceAnalyzer.load(profile_of(checkpoint))
        if checkpoint == PREVIEW:
            if adapter is not None:
                raise BadEdit("adapter: the preview has no model to adapt; name a checkpoint")
            return cls(analyzer)
        if (folder := refiner_folder(checkpoint)) is not None:
            if adapter is not None or sampling:
                raise BadEdit(
                    f"{checkpoint} corrects previews in one step; it takes no adapter and no sampling options"
                )
            return cls(analyzer, refiner=PreviewRefiner.load(folder))
        from rigface.model.pipeline import RigFacePipeline

        pipe = RigFacePipeline.from_pretrained(checkpoint, device, autocast=autocast, compile=compile)
        check_head(pipe, analyzer.head)
        composer = Composer(pipe.model_config.conditions)
        if adapter is not None:
            pipe.use_adapter(adapter)
        return cls(analyzer, ModelEditor(pipe, **sampling), composer)

    def use_adapter(self, name: str | None) -> None:
        """Switch the model to a LoRA adapter (a folder or s3:// prefix, read at first use); None: to the model alone.

        BadEdit if there is no model, MissingAsset or BadCheckpoint without an adapter, or with one of another model.
        """
        if not isinstance(self._model, ModelEditor):
            raise BadEdit("adapter: this editor has no model to adapt")
        self._model.use_adapter(name)

    def edit(
        self,
        image: np.ndarray,
        edit: EditSpec | Sequence[FaceEdit[Any]],
        target: Target | Mapping[Trait, Target] | None = None,
        *,
        face: str | int = "largest",
        seed: int = 0,
        measure: bool = True,
    ) -> Edited:
        """Edit the faces of a picture.

        Args:
            image: (H, W, 3) uint8.
            edit: what to change; or several edits, each with its own face and targets.
            target: the person to copy the edit's `take` from, or one for each trait; of a single edit.
            face: the face or faces to edit; see `analyzer.choose_faces`; of a single edit.
            seed: of the model's noise.
            measure: analyse the result for the achieved numbers.

        Raises:
            NoFace: the picture, or the target's, shows no such face.
            ValueError: the edit asks for what it cannot have; the message names the field.
        """
        edits = [FaceEdit(face, edit, _by_trait(target, edit))] if isinstance(edit, EditSpec) else list(edit)
        for one in edits:
            self.check_prompt(one.edit)
        found = self.analyzer(image)
        chosen = chosen_faces(found, edits)
        of_edits = [self.target_faces(one.targets, one.edit) for one in edits]
        sources, specs, targets = zip(*((source, edits[k].edit, of_edits[k]) for source, k in chosen))
        asked = [self.edited_params(source.params, *rest) for source, *rest in zip(sources, specs, targets)]
        out, crops = image.copy(), [source.crop for source in sources]
        for k, (source, spec) in enumerate(zip(sources, specs)):
            if not spec.is_nothing:
                donor = targets[k].get("identity")
                out, crops[k] = self.apply(out, source, asked[k], seed, spec, None, donor, edits[chosen[k][1]].mask)
        achieved: list[FaceParams | None] = [None] * len(sources)
        if measure:
            achieved = self.measure(out, list(sources))
        head = self.analyzer.head
        achieved_numbers = [None if p is None else numbers(p, spec, head) for p, spec in zip(achieved, specs)]
        asked_numbers = [numbers(p, spec, head, s.params) for s, p, spec in zip(sources, asked, specs)]
        warnings = [
            edit_warnings(s, p, spec, head, image.shape[:2], who.get("identity"))
            for s, p, spec, who in zip(sources, asked, specs, targets)
        ]
        return Edited(
            out, crops, asked_numbers, achieved_numbers, list(sources), asked, achieved, warnings, list(specs),
            [next(k for k, face in enumerate(found) if face is source) for source in sources],
        )  # fmt: skip

    def target_faces(self, targets: Mapping[Trait, Target], edit: EditSpec) -> dict[Trait, Face]:
        """The face to copy from for each trait that the edit takes; a picture is analysed once.

        ValueError if a trait has no target, NoFace if a picture to copy from shows no face.
        """
        if missing := sorted(set(edit.take) - set(targets)):
            raise ValueError(f"take: {', '.join(missing)} need a target to be copied from, and none was given")
        faces = {
            id(g): choose_faces(self.analyzer(g), "largest")[0] if isinstance(g, np.ndarray) else g
            for g in targets.values()
        }
        return {trait: faces[id(targets[trait])] for trait in sorted(edit.take)}

    def edited_params(
        self, source: FaceParams, edit: EditSpec, targets: Mapping[Trait, Face | FaceParams]
    ) -> FaceParams:
        """Coefficients to draw a face with: `transfer.transfer` of `transfer.drawn_edit`; see `transfer.targets_of`.

        Of a swap they are those of the swapped face, with the rest of the edit done.
        """
        head = self.analyzer.head
        taken = {trait: who.params if isinstance(who, Face) else who for trait, who in targets.items()}
        if "identity" in edit.take:
            source = self._swapped_params(source, taken.pop("identity"))
            edit = replace(edit, take=edit.take - {"identity"})
        target = targets_of(source, taken) if edit.needs_target else None
        return transfer(source, drawn_edit(source, edit, head), head, target)

    def _swapped_params(self, source: FaceParams, donor: FaceParams) -> FaceParams:
        swapped = None if self._swapper is None else self._swapper.params(source, donor)
        return swapped or replace(source, shape=donor.shape, albedo=donor.albedo)

    @cached_property
    def _swapper(self) -> FaceSwapper | None:
        """None on heads without a preview, where swaps are the model's alone."""
        return FaceSwapper() if self.analyzer.head.name == "open" else None

    def swapped(self, image: np.ndarray, source: Face, donor: Face) -> tuple[np.ndarray, Face]:
        """The image (H, W, 3) uint8 with the donor's face in the place of one of its faces, and that face.

        On a head without a preview the image is unchanged.
        """
        if self._swapper is None:
            return image, replace(source, params=self._swapped_params(source.params, donor.params))
        return self._swapper.into(image, source, donor, self._max_px or PREVIEW_PX)

    def check_prompt(self, edit: EditSpec) -> None:
        """Raise BadEdit for a prompt if there is no model, or one without a text encoder."""
        if edit.has_prompt and self._model is None:
            raise BadEdit("prompt: needs a model with a text encoder; the preview has none")
        if edit.has_prompt and not getattr(self._model, "has_text_encoder", True):
            raise BadEdit("prompt: needs a model with a text encoder; this one has none, and no CLIP model guides it")

    def apply(
        self, image: np.ndarray, source: Face, wanted: FaceParams, seed: int = 0, edit: EditSpec | None = None,
        back: np.ndarray | None = None, donor: Face | None = None, mask: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
        """Edit one face of an image (H, W, 3), and paste it: the whole picture, and the crop (S, S, 3), uint8.

        Args:
            edit: its prompts and region are read.
            back: (H, W, 3) uint8, the image without the person, if that is known, as in a clip.
            donor: the person whose identity the edit takes.
            mask: see `bounded`.
        """
        before, face, edit = image, source, edit or EditSpec()
        if donor is not None:
            image, source = self.swapped(image, source, donor)
        if donor is not None and self._model is None and _same(source.params, wanted):
            crop = source.crop
        elif self._model is None:
            crop, where = self._preview(image, source, wanted, back)
            image = paste_crop(image, crop, source.frame_to_crop, where)
        else:
            composed = self._composer(source, wanted, donor=donor)
            regions = region_prompts(edit, face, wanted, mask, image.shape[:2])
            texts = [edit.prompt, regions][: 2 if regions else bool(edit.prompt)]
            crop = self._model(composed.conditions, seed, *texts)
            image, crop = self.paste(image, source, wanted, composed, crop)
        return bounded(before, image, face, wanted, edit, mask), crop

    def paste(
        self, image: np.ndarray, source: Face, wanted: FaceParams, composed: Composed, crop: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Paste a model's output for `composed` (S, S, 3) uint8 on the person before and after: whole picture, and
        crop.

        The crop, as pasted, has the photograph's detail if the model keeps it.
        """
        size = self._composer.spec.size
        both = np.maximum(cv2.resize(source.mask, (size, size), interpolation=cv2.INTER_AREA), composed.mask)
        if self._composer.spec.detail:
            crop = refined(crop, composed.conditions.render, self._preview(image, source, wanted)[0])
        return paste_crop(image, crop, source.frame_to_crop, _widened(both)), crop

    def _preview(
        self, image: np.ndarray, source: Face, wanted: FaceParams, back: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """The preview at the photograph's own resolution, and the mask to paste it with; None: all of it."""
        side = round(512 / float(source.frame_to_crop[0, 0]))
        size = min(max(side, 64), self._max_px or PREVIEW_PX)
        to_crop = source.frame_to_crop * (size / len(source.crop))
        crop = alignment.crop(image, to_crop, size)
        back = None if back is None else alignment.crop(back, to_crop, size)
        mask = cv2.resize(source.mask, (size, size), interpolation=cv2.INTER_LINEAR)
        preview = self._composer.preview(crop, source.params, wanted, mask, back)
        image = preview.image
        if self._refiner is not None:
            image = self._refiner(crop, source.params, wanted, preview)
        if size == side:
            return image, None
        red, green, blue = cv2.split(cv2.absdiff(image, crop))
        changed = cv2.max(cv2.max(red, green), blue) > 1  # elsewhere the photograph's own pixels are finer
        changed = resized(changed.astype(np.uint8) * 255, min(size, CROP_PX)) > 0
        return image, _widened(changed.astype(np.uint8) * 255)

    def measure(self, image: np.ndarray, sources: list[Face]) -> list[FaceParams | None]:
        """Coefficients of the faces at the places of the sources; None if there is none.

        Faces elsewhere are not fitted, and no mask is made.
        """
        before = [Detection(source.box, None, 1.0) for source in sources]
        detections = self.analyzer.detector(image, second_look=False, before=before)
        nearest: list[Detection | None] = []
        for source in sources:
            middle = (source.box[:2] + source.box[2:]) / 2
            around = [d for d in detections if (d.box[:2] < middle).all() and (middle < d.box[2:]).all()]
            nearest.append(min(around, key=lambda d: float(np.abs(d.box - source.box).sum()), default=None))
        fitted = iter(self.analyzer.coefficients(image, [d for d in nearest if d is not None]))
        return [None if d is None else next(fitted) for d in nearest]


def _by_trait(target: Target | Mapping[Trait, Target] | None, edit: EditSpec) -> Mapping[Trait, Target]:
    if target is None or isinstance(target, Mapping):
        return target or {}
    return dict.fromkeys(edit.take, target)


def usual_checkpoint() -> str:
    """Default checkpoint: `refiner` or `mini` if one is installed, else `preview`."""
    return assets.default_model() or PREVIEW


def profile_of(checkpoint: str) -> FaceProfile:
    """The profile that a checkpoint, or the preview, wants faces to be analysed with; raises as `config_of`."""
    if checkpoint == PREVIEW or refiner_folder(checkpoint) is not None:
        return OWN
    return config_of(checkpoint).profile


def numbers(params: FaceParams, edit: EditSpec, head: HeadSpec, source: FaceParams | None = None) -> dict[str, float]:
    """Numbers of one face that an edit changes: the pose if it asks for one or takes it, and so on; of a swap also the
    pose, which it should keep.

    With the `source` that was edited, `params` are what the edit makes of it, and the numbers are those asked for.
    """
    out: dict[str, float] = {}
    if edit.take & {"pose", "identity"} or any(v is not None for v in (edit.yaw_deg, edit.pitch_deg, edit.roll_deg)):
        degrees = to_degrees(to_matrix(np.asarray(params.head_rotation)[None]))[0]
        out |= {f"{name}_deg": float(value) for name, value in zip(("yaw", "pitch", "roll"), degrees)}
    for name in edit.expression:
        out[name] = (
            expression_amount(params, name, head) if source is None else asked_amount(source, params, name, edit, head)
        )
    if "light" in edit.take or edit.light is not None:
        x, y, z = light_direction(torch.from_numpy(np.asarray(params.light, np.float32))).tolist()
        azimuth = float(np.degrees(np.arctan2(x, z)))
        is_lamp = source is not None and edit.light is not None and edit.light.sh is None
        out["light_azimuth_deg"] = wanted_azimuth(azimuth, head) if is_lamp else azimuth
        out["light_elevation_deg"] = float(np.degrees(np.arcsin(np.clip(y, -1, 1))))
        out["exposure"] = exposure(np.asarray(params.light))
    return out


def _same(a: FaceParams, b: FaceParams) -> bool:
    """True if two faces, numpy, have the same coefficients."""
    return all(np.array_equal(getattr(a, f.name), getattr(b, f.name)) for f in fields(FaceParams))


def _widened(mask: np.ndarray) -> np.ndarray:
    """(S, S) uint8: a mask grown by a margin over which it fades."""
    width = 2 * max(1, round(PASTE_MARGIN * len(mask))) + 1
    grown = cv2.dilate(mask, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (width, width)))
    return cv2.blur(grown, (width, width))
