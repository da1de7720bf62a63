"""Parsers of a crop by name: colours, the selfie network, a SegFormer, or BiSeNet.

Path: 512 px crop -> Parser -> the person mask. `segmentation.py` has the mask by colours.

The person is the face, hair, neck and what is worn on them; clothes are background. With `everything` clothes are the
person, too: the released RigFace model was trained with such backgrounds.
"""

import json
import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from rigface import assets
from rigface.errors import MissingAsset
from rigface.face.networks.bisenet import CLASSES, MEAN, SIZE, STD, load_bisenet
from rigface.face.networks.selfie_segmentation import SelfieSegmentation
from rigface.face.reconstruction.matting import matte
from rigface.face.reconstruction.segmentation import (
    Box,
    Parser,
    face_outline,
    head_share,
    joined,
    person_mask,
    within_frame,
)
from rigface.image import to_tensor

PARSERS = ("colours", "selfie", "segformer", "bisenet")
_BACKGROUND = "background"
_PERSON = re.compile(
    r"^(skin|face|nose|(l|r|left|right)?_?(eye|brow|eyebrow|ear)s?(_g|_r)?|eye_?glass(es)?|glasses|mouth|(u|l|upper|lower)_?lip"
    r"|hair|hat|neck|neck_?(l|lace)|necklace|earring)$"
)


def load_parser(
    name: str = "colours", folder: str | Path | None = None, device: str = "cpu", *, everything: bool = False
) -> Parser:
    """Load a parser by name.

    Args:
        name: one of `PARSERS`.
        folder: the network's file or folder, or an assets folder; None looks in `RIGFACE_ASSETS`.
        everything: the mask has all classes but the background, clothes too.

    Raises:
        MissingAsset: its network is not there.
        ValueError: there is no such parser, or it knows no clothes.
    """
    if name == "selfie":
        return SelfieParser(folder, everything=everything)
    if name == "segformer":
        return SegformerParser(folder, device=device, everything=everything)
    if name == "bisenet":
        return BisenetParser(folder, device=device, everything=everything)
    if name != "colours":
        raise ValueError(f"no parser is called {name!r}; there are {', '.join(PARSERS)}")
    if everything:
        raise ValueError("the parser 'colours' cannot tell clothes from background; use selfie")
    return person_mask


def is_person(label: str, everything: bool) -> bool:
    """True if a class of this name, as CelebAMask-HQ spells it, belongs to the mask."""
    return label.lower() != _BACKGROUND if everything else bool(_PERSON.match(label.lower()))


class SelfieParser:
    """A Parser with MediaPipe's selfie segmentation, and a matte's soft edges.

    Args:
        folder: the network's file, or an assets folder; None looks in `RIGFACE_ASSETS`, then in this package.
        everything: the mask has the clothes, too.

    Raises:
        MissingAsset: it is not on this machine.
    """

    def __init__(self, folder: str | Path | None = None, *, everything: bool = False) -> None:
        self._network, self._everything = SelfieSegmentation(folder), everything
        self.version = f"selfie-{self._network.version}"

    def __call__(
        self, crop: np.ndarray, landmarks: np.ndarray, inside: Box | None = None, size: int | None = None
    ) -> np.ndarray:
        """See `person_mask`; values between 0 and 255 are shares of the pixel."""
        size = size or len(crop)
        person = self._network(crop)
        if not self._everything:
            share = head_share(person, crop, landmarks)
            person = person * cv2.resize(share, person.shape, interpolation=cv2.INTER_LINEAR)
        face = face_outline(landmarks[:, :2] * (len(person) / len(crop)), len(person))
        person = np.where(face, 1, person * joined(person, face)).astype(np.float32)
        return within_frame(matte(person, crop, size), inside, size / len(crop))


class SegformerParser:
    """A Parser with a SegFormer (Xie et al., NeurIPS 2021) trained for face parsing, as `transformers` saves it.

    Which classes are the person is read from the labels' names, which the face parsers trained on CelebAMask-HQ
    share; a network without such names is refused, since a guess could be wrong silently. Weights trained on that set
    are for non-commercial research only; none ship with this project.

    Args:
        folder: the network's folder, or an assets folder; None looks in `RIGFACE_ASSETS`.
        size: side of the network's input.
        device: of the network.
        everything: the mask has all classes but the background.

    Raises:
        MissingAsset: it is not on this machine, has no safetensors, or its labels are not those of a face parser.
    """

    def __init__(
        self, folder: str | Path | None = None, *, size: int = 512, device: str = "cpu", everything: bool = False
    ) -> None:
        path = assets.find("segformer_face_parsing", folder)
        if not (weights := path / "model.safetensors").is_file():
            raise MissingAsset(f"{path} has no model.safetensors; weights in another format are not read")
        from transformers import SegformerForSemanticSegmentation  # seconds, once it is known that they are needed
        from transformers.utils import logging

        self.version = f"segformer-{assets.fingerprint(weights)}"
        quiet: Any = logging.disable_progress_bar
        quiet()  # a bar of a second, in every worker, across the progress display
        network: Any = SegformerForSemanticSegmentation.from_pretrained(
            path, local_files_only=True, use_safetensors=True
        )
        self._network = network.eval().to(device)
        labels = self._network.config.id2label
        person = [int(k) for k, name in labels.items() if is_person(str(name), everything)]
        heads = [name for name in labels.values() if is_person(str(name), everything=False)]
        if not heads or len(person) == len(labels):
            raise MissingAsset(f"{path} is no face parser: which of {list(labels.values())} are a person's head?")
        self._person = torch.tensor([k in person for k in range(len(labels))], device=device)
        mean, spread = list(MEAN), list(STD)
        if (settings := path / "preprocessor_config.json").exists():
            preprocessor = json.loads(settings.read_text())
            mean, spread = preprocessor.get("image_mean", mean), preprocessor.get("image_std", spread)
        self._mean, self._spread = (torch.tensor(v, device=device).view(3, 1, 1) for v in (mean, spread))
        self._size = size

    def __call__(
        self, crop: np.ndarray, landmarks: np.ndarray, inside: Box | None = None, size: int | None = None
    ) -> np.ndarray:
        """See `person_mask`; the landmarks are ignored."""
        size = size or len(crop)
        with torch.inference_mode():
            x = to_tensor(crop)[None].to(self._mean.device)
            x = F.interpolate(x, (self._size, self._size), mode="bilinear", antialias=True, align_corners=False)
            logits = self._network((x - self._mean) / self._spread).logits
            share = logits.softmax(1)[:, self._person].sum(1, keepdim=True)
            share = F.interpolate(share, (size, size), mode="bilinear", align_corners=False)[0, 0]
        return within_frame((share > 0.5).cpu().numpy().astype(np.uint8) * 255, inside, size / len(crop))


class BisenetParser:
    """A Parser with BiSeNet's 19 classes (`79999_iter.pth`), by the class of each pixel, as its authors cut people out.

    Args:
        folder: the weights' file, or an assets folder; None looks in `RIGFACE_ASSETS`.
        device: of the network.
        everything: the mask has all classes but the background.

    Raises:
        MissingAsset, BadCheckpoint, UnsafeFile: see `load_bisenet`.
    """

    def __init__(self, folder: str | Path | None = None, *, device: str = "cpu", everything: bool = False) -> None:
        path = assets.find("bisenet", folder)
        self._network, self._device = load_bisenet(path, device), device
        self.version = f"bisenet-{assets.fingerprint(path)}"
        self._person = np.array([255 * is_person(name, everything) for name in CLASSES], np.uint8)

    def labels(self, crop: np.ndarray) -> np.ndarray:
        """Classes (512, 512) uint8, numbers of `bisenet.CLASSES`, of a crop (H, H, 3) uint8 RGB."""
        with torch.inference_mode():
            x = to_tensor(crop)[None].to(self._device)
            if len(crop) != SIZE:
                x = F.interpolate(x, (SIZE, SIZE), mode="bilinear", antialias=True, align_corners=False)
            scores = F.interpolate(self._network(x), (SIZE, SIZE), mode="bilinear", align_corners=True)
            return scores[0].argmax(0).byte().cpu().numpy()

    def __call__(
        self, crop: np.ndarray, landmarks: np.ndarray, inside: Box | None = None, size: int | None = None
    ) -> np.ndarray:
        """See `person_mask`; the landmarks are ignored."""
        size = size or len(crop)
        mask = self._person[self.labels(crop)]
        if size != SIZE:
            mask = cv2.resize(mask, (size, size), interpolation=cv2.INTER_NEAREST)
        return within_frame(mask, inside, size / len(crop))
