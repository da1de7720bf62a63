"""Transfer traits between faces, and turn an edit's numbers into coefficients.

Path: reconstruct(source), reconstruct(target), EditSpec -> transfer -> render, warp, compose.
Deviates: upstream's `compute_renders.py` swaps the light the wrong way round when the pose is kept (line 81) and lets
the target's identity through when it is taken (line 63). Here `TRAIT_FIELDS` lists the fields of each trait, and
shape and albedo stay the source's unless they are asked for by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace

import numpy as np
import torch

from rigface.edits import EXPRESSION_RANGE, NAMED_EXPRESSIONS, EditSpec, LightEdit, Trait
from rigface.errors import BadEdit
from rigface.face.controls import named_curves
from rigface.face.controls.blendshape_transfer import named_axes
from rigface.face.controls.local_blendshapes import isolated_change, skull_motion
from rigface.face.geometry.rotation import from_degrees, to_axis_angle, to_degrees, to_matrix
from rigface.face.head.open_head import OpenHead
from rigface.face.reconstruction.albedo_light import AMBIENT
from rigface.face.rendering.lighting import lamp_harmonics, mean_shading
from rigface.types import FaceParams, HeadSpec

TRAIT_FIELDS = {  # the camera is of no trait: a pose is a turn of the face, not a move within the source's image
    "pose": ("head_rotation", "neck_rotation"),
    "expression": ("expression", "jaw_rotation", "eyelids", "eye_rotations", "bfm_expression"),
    "light": ("light",),
    "shape": ("shape",),
    "identity": ("shape", "albedo"),
}
FAINTEST = 0.1
_EYES = ("eye", "brow", "cheek")


def transfer(source: FaceParams, edit: EditSpec, head: HeadSpec, target: FaceParams | None = None) -> FaceParams:
    """The source's face with the edit done, as coefficients.

    Args:
        source: the face before the edit; one face, numpy.
        edit: what to change.
        head: the head model of both.
        target: the face to copy; needed if `edit.take` is not empty.

    Returns:
        New coefficients; no array is changed.

    Raises:
        ValueError: a trait is to be taken and there is no target. BadEdit: an expression's name is not the head's, or
            a region is asked for whose axes this head does not name.
    """
    if edit.needs_target and target is None:
        raise ValueError(f"take: {', '.join(sorted(edit.take))} must be copied from a target, and none was given")
    taken = {name: getattr(target, name) for trait in edit.take for name in TRAIT_FIELDS[trait]}
    inside = _inside(edit.region, head)
    wanted = _confined(source, replace(source, **taken), edit.region, inside)
    if edit.expression:
        if head.expression_names:
            wanted = _expressed(wanted, edit, head, inside)
        else:
            asked = [(axes_of(name, head), value) for name, value in edit.expression.items()]
            wanted = named_axes(head).set(wanted, asked)
    if any(n is not None for n in (edit.yaw_deg, edit.pitch_deg, edit.roll_deg)):
        wanted = replace(wanted, head_rotation=_pose(wanted.head_rotation, edit))
    if edit.light is not None:
        wanted = replace(wanted, light=light_coefficients(edit.light, white_point(source.light)))
    return wanted if edit.strength == 1 else _between(source, wanted, edit.strength)


def targets_of(source: FaceParams, targets: Mapping[Trait, FaceParams]) -> FaceParams:
    """Merge several targets into one: each trait is its target's, the rest the source's.

    A light is scaled, by colour, to the source's own exposure and white balance: one photograph does not tell a bright
    or warm light from such a skin for certain, so another person's light would bring some of their skin along. What is
    copied is how the light differs between directions.
    """
    out = source
    for trait, target in targets.items():
        out = replace(out, **{name: getattr(target, name) for name in TRAIT_FIELDS[trait]})
        if trait == "light":
            gain = white_point(source.light) / white_point(target.light)
            out = replace(out, light=(np.asarray(target.light) * gain).astype(np.float32))
    return out


def axes_of(name: str, head: HeadSpec) -> dict[str, float]:
    """Axes of the head, and the share of each, that make an expression in full; BadEdit for an unknown name."""
    axes, names = NAMED_EXPRESSIONS.get(name, {name: 1.0}), axis_names(head)
    if missing := sorted(set(axes) - set(names)):
        known = ", ".join([*NAMED_EXPRESSIONS, *names])
        raise BadEdit(f"expression.{name}: the head {head.name!r} has no {missing[0]!r}; it has {known}")
    return dict(axes)


def axis_names(head: HeadSpec) -> tuple[str, ...]:
    """Names of single axes: the head's own, or those of the open head, which are fitted to heads without any."""
    return head.expression_names or OpenHead.load().spec.expression_names


def expression_amount(params: FaceParams, name: str, head: HeadSpec) -> float:
    """How much of a named expression the coefficients of one face have; BadEdit for an unknown name."""
    axes = axes_of(name, head)
    if not head.expression_names:
        return named_axes(head).amount(params, axes)
    shares = np.array(list(axes.values()))
    values = params.expression[[head.expression_names.index(axis) for axis in axes]]
    return float(values @ shares / (shares @ shares))


def drawn_edit(source: FaceParams, edit: EditSpec, head: HeadSpec) -> EditSpec:
    """The edit whose preview of this face shows what `edit` asks for, by the curves of `named_curves.py`."""
    drawn, smile = dict(edit.expression), _smile(source, edit, head)
    for name in set(drawn) & set(named_curves.EXPRESSIONS):
        own = expression_amount(source, name, head)
        change = named_curves.drawn_change(name, drawn[name] - own, head, smile)
        drawn[name] = float(np.clip(own + change, *EXPRESSION_RANGE))
    light = edit.light
    if light is not None and light.sh is None:
        light = replace(light, azimuth_deg=named_curves.drawn_azimuth(light.azimuth_deg, head))
    return replace(edit, expression=drawn, light=light)


def asked_amount(source: FaceParams, wanted: FaceParams, name: str, edit: EditSpec, head: HeadSpec) -> float:
    """How much of a named expression was asked for, by an edit that turned `source` into `wanted` by `drawn_edit`."""
    own, drawn = (expression_amount(params, name, head) for params in (source, wanted))
    if name not in named_curves.EXPRESSIONS:
        return drawn
    return own + named_curves.wanted_change(name, drawn - own, head, _smile(source, edit, head))


def _smile(source: FaceParams, edit: EditSpec, head: HeadSpec) -> float:
    """How much the face smiles after an edit: as asked, or else as before."""
    asked = edit.expression.get("smile")
    return expression_amount(source, "smile", head) if asked is None else asked


def _inside(region: str, head: HeadSpec) -> np.ndarray:
    """(E,) bool: the axes of an expression that a region may change, by their names."""
    if region in ("face", "hair"):
        return np.ones(head.expression, bool)
    if not head.expression_names:
        raise BadEdit(f"region: the axes of the head {head.name!r} have no names that distinguish eyes and mouth")
    return np.array([name.startswith(_EYES) == (region == "eyes") for name in head.expression_names])


def _confined(source: FaceParams, wanted: FaceParams, region: str, inside: np.ndarray) -> FaceParams:
    """Limit a copied expression to the region. The jaw belongs to the mouth, a code without names to the whole face."""
    if region in ("face", "hair"):
        return wanted
    jaw = wanted.jaw_rotation if region == "mouth" else source.jaw_rotation
    expression = np.where(inside, wanted.expression, source.expression)
    return replace(wanted, expression=expression, jaw_rotation=jaw, bfm_expression=source.bfm_expression)


def _expressed(params: FaceParams, edit: EditSpec, head: HeadSpec, inside: np.ndarray) -> FaceParams:
    """The coefficients with the named expressions of the region set, and the skull held in place."""
    asked: dict[int, float] = {}
    for name, value in edit.expression.items():
        for axis, share in axes_of(name, head).items():
            k = head.expression_names.index(axis)
            asked[k] = asked.get(k, 0.0) + share * value  # two names may share an axis
    # Set, not added: 0.5 asked of a face that has 0.3 gives 0.5, and asking twice does not give 1.
    change = isolated_change(head, {k: value - float(params.expression[k]) for k, value in asked.items() if inside[k]})
    change = np.where(inside, change, np.float32(0))
    turn, shift = skull_motion(head, change)
    out = replace(params, expression=params.expression + change)
    if not (turn.any() or shift.any()):
        return out
    before = to_matrix(params.head_rotation[None].astype(np.float64))[0]
    after = before @ to_matrix(-turn[None])[0]
    camera = params.camera - np.array([0, *(after @ shift)[:2]])
    rotation = to_axis_angle(after[None])[0]
    return replace(out, head_rotation=rotation.astype(np.float32), camera=camera.astype(np.float32))


def _pose(rotation: np.ndarray, edit: EditSpec) -> np.ndarray:
    degrees = to_degrees(to_matrix(rotation[None]))[0]
    asked = (edit.yaw_deg, edit.pitch_deg, edit.roll_deg)
    new = [own if a is None else own + a if edit.relative else a for own, a in zip(degrees, asked)]
    return np.asarray(to_axis_angle(from_degrees(np.array([new], np.float32)))[0].astype(np.float32))


def exposure(light: np.ndarray) -> float:
    """Brightness of a light (9, 3) as the camera sees it, in white ambient lights of strength 1."""
    return float(mean_shading(torch.tensor(np.asarray(light))).mean().clamp_min(1e-4))


def white_point(light: np.ndarray) -> np.ndarray:
    """(3,) `exposure` by colour: the colour of white paper that faces the camera in this light (9, 3).

    No colour is below `FAINTEST` of the exposure: what a fit says of a colour that is hardly there is noise.
    """
    colour = mean_shading(torch.from_numpy(np.asarray(light, np.float32))).numpy()
    return np.asarray(np.maximum(colour, FAINTEST * max(float(colour.mean()), 1e-3)))


def light_coefficients(edit: LightEdit, unit: float | np.ndarray) -> np.ndarray:
    """(9, 3) float32 coefficients of a lamp over a surround.

    Strengths of a relative edit are multiples of `unit`, a linear radiance as one number or by colour (3,): the
    source's `exposure` or `white_point`.
    """
    scale = unit if edit.relative else 1.0
    if edit.sh is not None:
        return (np.array(edit.sh, np.float32) * scale).astype(np.float32)
    azimuth, elevation = np.radians([edit.azimuth_deg, edit.elevation_deg])
    towards = np.array([np.sin(azimuth) * np.cos(elevation), np.sin(elevation), np.cos(azimuth) * np.cos(elevation)])
    out = np.outer(lamp_harmonics(torch.from_numpy(towards)).numpy() * edit.intensity, edit.colour)
    out[0] += AMBIENT * edit.ambient
    return (out * scale).astype(np.float32)


def _between(source: FaceParams, wanted: FaceParams, strength: float) -> FaceParams:
    """Coefficients on the way from the source (0) to the edit (1) and beyond; rotations along their arc."""
    start, stop = to_matrix(source.head_rotation[None]), to_matrix(wanted.head_rotation[None])
    arc = to_axis_angle(stop @ start.swapaxes(-1, -2)) * strength
    rotation = to_axis_angle(to_matrix(arc) @ start)[0].astype(np.float32)
    blended = {}
    for f in fields(FaceParams):
        a, b = getattr(source, f.name), getattr(wanted, f.name)
        blended[f.name] = a if a is None or b is None else (a + strength * (b - a)).astype(np.float32)
    return FaceParams(**{**blended, "head_rotation": rotation})
