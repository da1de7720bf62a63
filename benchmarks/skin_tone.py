"""Light and skin apart: fitted light and albedo against the skin tone as photographed.

    python benchmarks/skin_tone.py ../shared/data [--ship 0]

Reads the people of DATA/manifest.csv with that `ship`: 0 are those who shaped nothing, 1 those whose pictures the
constants of `skin_tone.py` were chosen on. The largest face of each picture, and of eight frames of each clip as one
track; faces whose confidence is below 0.2 are left out. Writes benchmarks/results/skin_tone.json, with means by skin
tone, the worst first: by how far the group's light is from everybody's. The photographed tone is the skin's only where
the light is ordinary, so the figures are given without the pictures tagged `dark-light`, and for those tagged
`dark-skin`, too. `one_skin` has the figures after people are told by their identity vectors and share their skin, as
`rigface convert --shared-skin` does.

Goals: |r| of ambient light and photographed tone at most 0.3, Spearman of the albedo's and the photographed tone at
least 0.8, one person's albedo in different pictures within 8 degrees (ITA), and under a halved exposure the same
albedo and half the light.
"""

import argparse
import csv
import json
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path

import harness
import numpy as np
from scipy.stats import spearmanr

from rigface.colour import ita_deg
from rigface.face.detection.factory import load_detector
from rigface.face.geometry.rotation import to_degrees, to_matrix
from rigface.face.head.open_head import OpenHead
from rigface.face.identity.dlib_embedding import DlibIdentity, cluster_identities
from rigface.face.reconstruction.albedo_light import AMBIENT
from rigface.face.reconstruction.protocol import Fit
from rigface.face.reconstruction.reconstructor import FitReconstructor
from rigface.face.steps import align, assess, reconstruct
from rigface.image import decode, linear_to_srgb, srgb8_to_linear
from rigface.metrics.light import ita_class
from rigface.video.decode import read_frames

FRAMES = 8
MIN_CONFIDENCE = 0.2


@dataclass(frozen=True)
class Seen:
    """One input."""

    person: str
    notes: str  # of the manifest
    tone: float  # ITA as photographed, degrees
    albedo: float  # ITA of the fitted albedo, degrees
    ambient: float
    colour: np.ndarray  # (3,) fitted albedo, linear RGB
    vector: np.ndarray  # (128,) identity
    residual: float
    halved_albedo: float  # change of the albedo's ITA when the exposure is halved
    halved_light: float  # ratio of the lights


def pictures(path: Path, frames: int) -> list[np.ndarray]:
    """The picture, or frames spread over the clip."""
    if frames < 2:
        return [decode(path.read_bytes())]
    step = max(frames // FRAMES, 1)
    return [frame.image for frame in read_frames(str(path), None) if frame.index % step == 0][:FRAMES]


def look(row: dict[str, str], images: list[np.ndarray], fit: FitReconstructor, detector, identity) -> Seen | None:
    """One input; None if it shows no clear face in colour."""
    pairs = []
    for image in images:
        if found := detector(image):
            pairs.append((image, max(found, key=lambda d: float(np.prod(d.box[2:] - d.box[:2])))))
    if not pairs:
        return None
    faces = align(*zip(*pairs))
    darker = [(linear_to_srgb(srgb8_to_linear(image) / 2) * 255).round().astype(np.uint8) for image, _ in pairs]
    half = align(darker, [detection for _, detection in pairs])
    bright, dim = (reconstruct(fit, part, np.zeros(len(pairs), int)) for part in (faces, half))
    degrees = to_degrees(to_matrix(bright.params.head_rotation))
    residuals = np.stack([bright.landmark_residual, bright.photometric_residual, bright.occlusion], 1)
    whole = np.full((512, 512), 255, np.uint8)
    quality = [assess(faces, i, whole, degrees[i], residuals[i]) for i in range(len(faces))]
    if quality[0].is_grey or quality[0].is_suspect or np.mean([q.confidence for q in quality]) < MIN_CONFIDENCE:
        return None
    return Seen(
        row["person"],
        row["notes"],
        float(np.mean([q.skin_tone_ita_deg for q in quality])),
        tone_of(bright),
        float(bright.params.light[:, 0].mean() / AMBIENT),
        OpenHead.load().skin_colour(bright.params.albedo)[0],
        np.mean([identity(image, detection) for image, detection in pairs[:2]], axis=0),
        float(np.nanmean(bright.photometric_residual)),
        abs(tone_of(dim) - tone_of(bright)),
        float(dim.params.light[:, 0].mean() / bright.params.light[:, 0].mean()),
    )


def tone_of(fit: Fit) -> float:
    """ITA of the albedo, degrees; one track."""
    return float(ita_deg(OpenHead.load().skin_colour(fit.params.albedo)[0]))


def sharing(seen: list[Seen]) -> list[Seen]:
    """The inputs after those of one found person share the median skin."""
    labels, _ = cluster_identities(np.stack([s.vector for s in seen]))
    out = []
    for s, label in zip(seen, labels):
        own = np.median(np.log([o.colour for o, other in zip(seen, labels) if other == label]), axis=0)
        light = np.mean(s.colour / np.exp(own))
        out.append(replace(s, albedo=float(ita_deg(np.exp(own))), ambient=s.ambient * light, colour=np.exp(own)))
    return out


def report(seen: list[Seen]) -> dict:
    """The figures of all inputs."""
    tone, albedo, ambient = (np.array([getattr(s, name) for s in seen]) for name in ("tone", "albedo", "ambient"))
    people = defaultdict(list)
    for s in seen:
        people[s.person].append(s.albedo)
    apart = [max(values) - min(values) for values in people.values() if len(values) > 1]
    dark = np.array(["dark-skin" in s.notes for s in seen])
    classes = np.array([ita_class(angle) for angle in tone])
    groups = [
        {
            "tone": str(name),
            "inputs": int((classes == name).sum()),
            "ambient": ambient[classes == name].mean(),
            "albedo_ita_deg": albedo[classes == name].mean(),
            "photographed_ita_deg": tone[classes == name].mean(),
            "residual": np.mean([s.residual for s, c in zip(seen, classes) if c == name]),
        }
        for name in np.unique(classes)
    ]
    lit = np.array(["dark-light" not in s.notes for s in seen])
    return {
        name: {
            "inputs": int(chosen.sum()),
            "ambient_against_tone_r": np.corrcoef(ambient[chosen], tone[chosen])[0, 1],
            "albedo_against_tone_spearman": spearmanr(albedo[chosen], tone[chosen])[0],
        }
        for name, chosen in (("all", np.ones(len(seen), bool)), ("without_dark_light", lit))
    } | {
        "people_in_several_inputs": len(apart),
        "their_albedo_apart_deg": {"median": np.median(apart), "each": sorted(apart)} if apart else {},
        "tagged_dark_skin": {
            "inputs": int(dark.sum()),
            "ambient_over_mean": ambient[dark].mean() / ambient.mean(),
            "albedo_ita_deg": sorted(albedo[dark]),
            "photographed_ita_deg": tone[dark].mean(),
        },
        "exposure_halved": {
            "albedo_changes_deg_p95": np.percentile([s.halved_albedo for s in seen], 95),
            "light_ratio_median": np.median([s.halved_light for s in seen]),
            "light_ratio_p95_from_half": np.percentile([abs(s.halved_light - 0.5) for s in seen], 95),
        },
        "worst_first": sorted(groups, key=lambda g: -abs(np.log(g["ambient"] / ambient.mean()))),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder with manifest.csv, images/ and videos/")
    parser.add_argument("--ship", default="0")
    options = parser.parse_args()
    detector, fit, identity, seen = load_detector("mediapipe"), FitReconstructor(), DlibIdentity(), []
    for row in csv.DictReader((options.data / "manifest.csv").open()):
        if row["ship"] == options.ship and not row["person"].startswith("g"):
            images = pictures(options.data / row["file"], int(row["frames"] or 1))
            if one := look(row, images, fit, detector, identity):
                seen.append(one)
            print(f"  {row['file']} {one}", flush=True)
    result = {"benchmark": "skin_tone", "ship": options.ship, **report(seen)}
    result |= {"one_skin": report(sharing(seen)), **harness.environment()}
    harness.write("skin_tone", result)
    print(json.dumps(result, indent=1, default=float))


if __name__ == "__main__":
    main()
