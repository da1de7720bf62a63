"""The whole project in one object: a picture and a wish in, a picture out, with the numbers it reached.

Path: picture -> FaceAnalyzer -> mix -> compose -> model (or the preview, where there is none) -> pasted back -> seen
again.

    editor = Editor.load()                                  # or Editor.load("runs/mine/model")
    result = editor.edit(picture, EditSpec(yaw_deg=15, expression={"smile": 0.6}))
    result.image, result.asked, result.achieved
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch

from rigface import assets
from rigface.conditions import MASK_MARGIN, Composed, Composer
from rigface.edits import PREVIEW, EditSpec, Trait
from rigface.errors import BadEdit
from rigface.face.analyzer import FaceAnalyzer, choose_faces
from rigface.face.controls.transfer import axes_of, exposure, targets_of, transfer
from rigface.face.geometry import alignment
from rigface.face.geometry.rotation import to_degrees, to_matrix
from rigface.face.preview.compositing import paste_crop
from rigface.face.reconstruction.reconstructor import FitReconstructor
from rigface.face.rendering.lighting import light_direction
from rigface.model_editor import ModelEditor, check_codes, check_head
from rigface.types import Detection, Face, FaceParams, HeadSpec

PREVIEW_PX = 2048  # a preview is made at the photograph's own resolution up to this crop

EditModel = Callable[..., np.ndarray]
"""Conditions and a seed to an (S, S, 3) uint8 picture: what a model is to the editor.

Where an edit has a prompt it comes third.
"""

Target = np.ndarray | Face
"""A person to copy from: a picture, whose largest face is meant, or an analysed face."""


@dataclass(frozen=True, eq=False)
class Edited:
    """The result of one edit.

    Args:
        image: (H, W, 3) uint8, the whole picture.
        crops: the edited crops, one per face edited, (S, S, 3) uint8.
        asked: one row of numbers per face: what the edit asked for, by name.
        achieved: the same numbers measured on the result; None where no face was found in it.
        sources: the faces as they were.
        wanted: their coefficients as asked for.
        found: their coefficients measured on the result; None where no face was found in it.
    """

    image: np.ndarray
    crops: list[np.ndarray]
    asked: list[dict[str, float]]
    achieved: list[dict[str, float] | None]
    sources: list[Face]
    wanted: list[FaceParams]
    found: list[FaceParams | None]


class Editor:
    """Edits faces. Without a model it shows the preview, which is an edit too.

    Args:
        analyzer: detects and reconstructs faces.
        model: edits crops; None: the preview is the result.
        composer: makes what the model sees, in the style it was trained with.
        max_px: a preview's crop is made at the photograph's own resolution up to this side; None: `PREVIEW_PX`.
    """

    def __init__(
        self,
        analyzer: FaceAnalyzer,
        model: EditModel | None = None,
        composer: Composer | None = None,
        max_px: int | None = None,
    ) -> None:
        self.analyzer, self._max_px = analyzer, max_px
        self._model = model
        self._composer = composer or Composer("texture", 512)

    @property
    def has_model(self) -> bool:
        """Whether a model paints; else edits are previews."""
        return self._model is not None

    @classmethod
    def load(
        cls,
        checkpoint: str | None = None,
        device: str = "cpu",
        analyzer: FaceAnalyzer | None = None,
        *,
        compile: bool = False,
        adapter: str | None = None,
        **sampling: Any,
    ) -> Editor:
        """The default eyes, and a model.

        Args:
            checkpoint: `mini`, a folder of weights (ours, or the released layout), `tiny`, `sd15:FOLDER`; `preview`: no
                model. None: `usual_checkpoint()`.
            device: of the model.
            analyzer: another than the default.
            compile: compile the denoiser at its first use: tens of seconds, then faster steps.
            adapter: see `use_adapter`.
            sampling: how the model paints, as in a call of `RigFacePipeline`: `steps`, `scheduler`, `identity_scale`
                ...

        Raises:
            MissingAsset, BadCheckpoint: the weights are not there, or belong to another head.
            BadEdit: sampling that this model cannot do; the message names the option.
        """
        analyzer = analyzer or FaceAnalyzer.load()
        checkpoint = usual_checkpoint() if checkpoint is None else checkpoint
        if checkpoint == PREVIEW:
            if adapter is not None:
                raise BadEdit("adapter: the preview has no model to adapt; name a checkpoint")
            return cls(analyzer)
        from rigface.model.checkpoint import config_of
        from rigface.model.pipeline import RigFacePipeline

        check_codes(config_of(checkpoint), own_reconstructor=not isinstance(analyzer.reconstructor, FitReconstructor))
        pipe = RigFacePipeline.from_pretrained(checkpoint, device, autocast="auto", compile=compile)
        check_head(pipe, analyzer.head)
        config = pipe.config
        composer = Composer(
            config.render_style,  # type: ignore[arg-type]
            config.size,
            expression_field=config.expression_field,  # type: ignore[arg-type]
            detail=config.detail,
        )
        if adapter is not None:
            pipe.use_adapter(adapter)
        return cls(analyzer, ModelEditor(pipe, **sampling), composer)

    def use_adapter(self, name: str | None) -> None:
        """Switch the model to a LoRA adapter (a folder or s3:// prefix, read at first use); None: to the model alone.

        Raises:
            BadEdit: there is no model to adapt.
            MissingAsset, BadCheckpoint: there is no adapter, or it belongs to another model.
        """
        if not isinstance(self._model, ModelEditor):
            raise BadEdit("adapter: this editor has no model to adapt")
        self._model.use_adapter(name)

    def edit(
        self,
        image: np.ndarray,
        edit: EditSpec,
        target: Target | Mapping[Trait, Target] | None = None,
        *,
        face: str | int = "largest",
        seed: int = 0,
        measure: bool = True,
    ) -> Edited:
        """Edit the faces of a picture.

        Args:
            image: (H, W, 3) uint8.
            edit: what to change.
            target: whom to copy, where the edit takes a trait; a mapping says whom for each trait.
            face: which face or faces; see `analyzer.choose`.
            seed: of the model's noise.
            measure: look at the result again for the achieved numbers.

        Raises:
            NoFace: the picture, or the target's, shows no such face.
            ValueError: the edit asks for what it cannot have; the message names the field.
        """
        self.check_prompt(edit)
        targets = self.target_params(target, edit)
        sources = choose_faces(self.analyzer(image), face)
        wanted = [self.wanted(source.params, edit, targets) for source in sources]
        out, crops = image.copy(), []
        for source, params in zip(sources, wanted):
            if edit.is_nothing:
                crops.append(source.crop)
                continue
            out, crop = self.apply(out, source, params, seed, edit.prompt)
            crops.append(crop)
        found: list[FaceParams | None] = [None] * len(sources)
        if measure:
            found = self.measured(out, sources)
        head = self.analyzer.head
        return Edited(
            out,
            crops,
            [numbers(p, edit, head) for p in wanted],
            [None if p is None else numbers(p, edit, head) for p in found],
            sources,
            wanted,
            found,
        )

    def target_params(self, target: Target | Mapping[Trait, Target] | None, edit: EditSpec) -> dict[Trait, FaceParams]:
        """Whose coefficients each trait that is taken has; a picture is looked at once.

        Raises:
            ValueError: a trait is taken from nobody.
            NoFace: a picture to copy from shows nobody.
        """
        if target is None:
            target = {}
        named = target if isinstance(target, Mapping) else dict.fromkeys(edit.take, target)
        if missing := sorted(set(edit.take) - set(named)):
            raise ValueError(f"take: {', '.join(missing)} need a target to be copied from, and none was given")
        faces = {
            id(g): choose_faces(self.analyzer(g), "largest")[0] if isinstance(g, np.ndarray) else g
            for g in named.values()
        }
        return {trait: faces[id(named[trait])].params for trait in sorted(edit.take)}

    def wanted(self, source: FaceParams, edit: EditSpec, targets: Mapping[Trait, FaceParams]) -> FaceParams:
        """A face's coefficients after the edit; see `transfer.mix` and `transfer.borrowed`."""
        return transfer(source, edit, self.analyzer.head, targets_of(source, targets) if edit.needs_target else None)

    def compose(self, source: Face, wanted: FaceParams) -> Composed:
        """What the model is given."""
        return self._composer(source, wanted)

    def check_prompt(self, edit: EditSpec) -> None:
        """Refuse a prompt that no text encoder takes.

        Raises:
            BadEdit: the preview edits, or a model without a text encoder.
        """
        if edit.prompt and self._model is None:
            raise BadEdit("prompt: needs a model with a text encoder; the preview has none")
        if edit.prompt and not getattr(self._model, "has_text_encoder", True):
            raise BadEdit("prompt: needs a model with a text encoder; this one has none")

    def apply(
        self, image: np.ndarray, source: Face, wanted: FaceParams, seed: int = 0, prompt: str = ""
    ) -> tuple[np.ndarray, np.ndarray]:
        """One face edited and pasted back.

        Args:
            image: (H, W, 3) uint8, in which the source was seen.
            prompt: of the edit.

        Returns:
            The whole picture, and the crop (S, S, 3), both uint8.
        """
        crop, where = self._edited_crop(image, source, wanted, seed, prompt)
        return paste_crop(image, crop, source.frame_to_crop, where), crop

    def _edited_crop(
        self, image: np.ndarray, source: Face, wanted: FaceParams, seed: int, prompt: str
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """The crop, and where it may show: for a model, on the person before and after."""
        if self._model is None:
            return self._previewed(image, source, wanted)
        composed = self._composer(source, wanted)
        crop = self._model(composed.conditions, seed, *([prompt] if prompt else []))
        return self._fitting(image, source, wanted, composed, crop)

    def put_back(
        self, image: np.ndarray, source: Face, wanted: FaceParams, composed: Composed, crop: np.ndarray
    ) -> np.ndarray:
        """The whole picture with what a model made of `composed`, pasted where it differs; (H, W, 3) uint8.

        Args:
            crop: (S, S, 3) uint8, the model's picture.
        """
        crop, where = self._fitting(image, source, wanted, composed, crop)
        return paste_crop(image, crop, source.frame_to_crop, where)

    def _fitting(
        self, image: np.ndarray, source: Face, wanted: FaceParams, composed: Composed, crop: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """A model's picture as it goes back: with the photograph's detail where it keeps that, and where it may
        show.
        """
        size = self._composer.size
        people = [source.mask, *([] if composed.preview.mask is None else [composed.preview.mask])]
        both = np.maximum.reduce([cv2.resize(m, (size, size), interpolation=cv2.INTER_AREA) for m in people])
        if self._composer.detail:
            crop = refined(crop, composed.conditions.render, self._previewed(image, source, wanted)[0])
        return crop, _widened(both)

    def _previewed(self, image: np.ndarray, source: Face, wanted: FaceParams) -> tuple[np.ndarray, np.ndarray | None]:
        """The preview at the photograph's own resolution, and where it may show; None: everywhere."""
        side = round(512 / float(source.frame_to_crop[0, 0]))
        size = min(max(side, 64), self._max_px or PREVIEW_PX)
        crop = alignment.crop(image, source.frame_to_crop * (size / len(source.crop)), size)
        mask = cv2.resize(source.mask, (size, size), interpolation=cv2.INTER_LINEAR)
        made = self._composer.preview(crop, source.params, wanted, mask).image
        if size == side:
            return made, None
        red, green, blue = cv2.split(cv2.absdiff(made, crop))
        changed = cv2.max(cv2.max(red, green), blue) > 1  # elsewhere the photograph's own pixels are finer
        return made, _widened(changed.astype(np.uint8) * 255)

    def measured(self, image: np.ndarray, sources: list[Face]) -> list[FaceParams | None]:
        """Coefficients of the faces that are now where the sources were; None where there is none.

        Only there is looked, and nothing is made but coefficients: faces elsewhere are not fitted, and no mask is
        drawn.
        """
        before = [Detection(source.box, None, 1.0) for source in sources]
        seen = self.analyzer.detector(image, second_look=False, before=before)
        there: list[Detection | None] = []
        for source in sources:
            middle = (source.box[:2] + source.box[2:]) / 2
            near = [d for d in seen if (d.box[:2] < middle).all() and (middle < d.box[2:]).all()]
            there.append(min(near, key=lambda d: float(np.abs(d.box - source.box).sum()), default=None))
        fitted = iter(self.analyzer.coefficients(image, [d for d in there if d is not None]))
        return [None if d is None else next(fitted) for d in there]


def usual_checkpoint() -> str:
    """What edits where nobody says: `mini` where it is, else `preview`."""
    return "mini" if assets.is_here("mini") else PREVIEW


def numbers(params: FaceParams, edit: EditSpec, head: HeadSpec) -> dict[str, float]:
    """The numbers of a face that an edit is about: pose where it asks for a pose, and so on; all, where it takes.

    Args:
        params: one face, numpy.
    """
    out: dict[str, float] = {}
    if "pose" in edit.take or any(v is not None for v in (edit.yaw_deg, edit.pitch_deg, edit.roll_deg)):
        degrees = to_degrees(to_matrix(np.asarray(params.head_rotation)[None]))[0]
        out |= {f"{name}_deg": float(value) for name, value in zip(("yaw", "pitch", "roll"), degrees)}
    for name in edit.expression:
        axes = axes_of(name, head)
        shares = np.array(list(axes.values()))
        values = params.expression[[head.expression_names.index(axis) for axis in axes]]
        out[name] = float(values @ shares / (shares @ shares))
    if "light" in edit.take or edit.light is not None:
        x, y, z = light_direction(torch.from_numpy(np.asarray(params.light, np.float32))).tolist()
        out["light_azimuth_deg"] = float(np.degrees(np.arctan2(x, z)))
        out["light_elevation_deg"] = float(np.degrees(np.arcsin(np.clip(y, -1, 1))))
        out["exposure"] = exposure(np.asarray(params.light))
    return out


def refined(made: np.ndarray, preview: np.ndarray, fine: np.ndarray) -> np.ndarray:
    """What a model changed about a small preview, done to the same preview at a higher resolution.

    Hair and skin stay as sharp as the photograph; only what the model did is as coarse as its pixels.

    Args:
        made, preview: (S, S, 3) uint8, the model's picture and the preview it began at.
        fine: (T, T, 3) uint8, the preview at another size.

    Returns:
        (T, T, 3) uint8.
    """
    size = fine.shape[:2]
    change = made.astype(np.float32) - preview
    change = cv2.resize(change, size, interpolation=cv2.INTER_CUBIC if len(fine) > len(made) else cv2.INTER_AREA)
    result: np.ndarray = (fine + change + 0.5).clip(0, 255).astype(np.uint8)
    return result


def _widened(mask: np.ndarray) -> np.ndarray:
    """(S, S) uint8: a mask grown by a margin, over which it fades."""
    width = 2 * max(1, round(MASK_MARGIN * len(mask))) + 1
    grown = cv2.dilate(mask, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (width, width)))
    return cv2.blur(grown, (width, width))
