"""Model card of a checkpoint: README.md with the hub's front matter, written beside the weights.

Path: `ModelConfig`, `Trained` -> `card` -> README.md. Source: the hub's *Model Cards* (front matter: `ModelCardData`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from huggingface_hub import ModelCardData

from rigface.model.checkpoint_folder import is_sd15
from rigface.model.hub.repository import is_id
from rigface.model.model_config import READS_IDENTITY, ModelConfig, RecipeName

SD15_ID, SD15_LICENCE = "stable-diffusion-v1-5/stable-diffusion-v1-5", "creativeml-openrail-m"
TRAINED: dict[RecipeName, str] = {  # recipe -> what of the start was trained
    "rigface": "all parameters of the identity network and the denoiser",
    "frozen": "the layers that take the conditions, alone",
    "attention": "the attention layers, and the layers that take the conditions",
    "lora": "low-rank layers on attention (merged here), and the layers that take the conditions",
    "controlnet": "a ControlNet on render and background, beside a frozen denoiser",
    "t2i": "a T2I-Adapter on render and background, beside a frozen denoiser",
    "ip_adapter": "an IP-Adapter on identity vectors, beside a frozen denoiser",
    "instantid": "an IP-Adapter on identity vectors and a ControlNet on five points, beside a frozen denoiser",
    "dreambooth": "the denoiser, for one person under a rare word",
    "dreambooth_lora": "low-rank layers of the denoiser (merged here), for one person under a rare word",
    "textual_inversion": "rows of the token table, for one person",
}
NAMED = ("mini", "rigface", "scratch", "tiny")  # starts without a name on the hub
MODEL_USAGE = """```python
from rigface.model.pipeline import RigFacePipeline

pipe = RigFacePipeline.from_pretrained("this folder, or org/name")
```

```
rigface edit photo.jpg out.png --checkpoint FOLDER --yaw 15 --smile 0.6
```
"""
PERSONAL: tuple[RecipeName, ...] = ("dreambooth", "dreambooth_lora", "textual_inversion")


@dataclass(frozen=True)
class Trained:
    """Facts of a training run."""

    start: str  # what it began with, as `rigface train --start`
    steps: int  # of the optimizer
    batch: int  # examples a step
    learning_rate: float  # its maximum
    figures: Mapping[str, float] = field(default_factory=dict)  # measured on held-out people at the last validation
    commit: str = ""  # of this project's code


def card(config: ModelConfig, trained: Trained | None = None, is_adapter: bool = False) -> str:
    """The text of README.md, of a whole model or of what was trained alone; paths of this machine are left out."""
    start = "" if trained is None else trained.start
    data = ModelCardData(
        license=SD15_LICENCE if is_sd15(start) else "other",
        base_model=SD15_ID if is_sd15(start) else start.partition("@")[0] if is_id(start) else None,
        library_name="diffusers",
        pipeline_tag="image-to-image",
        tags=sorted({"rigface", "face-editing", config.recipe}),
        base_model_relation="adapter" if is_adapter and start else None,
    )
    process, head = config.process, config.head
    made = {
        "trained": TRAINED[config.recipe],
        "process": f"{process.kind}, {process.steps} steps of {process.scheduler}",
        "pictures": f"{config.size} px, render condition in the style `{config.render_style}`",
        "head model": "not recorded" if head is None else f"{head.name} {head.version}",
    }
    if config.recipe in READS_IDENTITY:
        made["identity vectors"] = config.identity
    if trained is not None:
        made |= {
            "began with": str(data.base_model or "") or (start if start in NAMED else "a local model"),
            "training": f"{trained.steps:,} steps of {trained.batch:,} examples, rate {trained.learning_rate:g}",
            "code": f"commit {trained.commit}" if trained.commit else "not recorded",
        }
    facts = "".join(f"| {name} | {value} |\n" for name, value in made.items())
    figures = "No figure was measured when these weights were written."
    if trained is not None and trained.figures:
        rows = "".join(f"| {name.replace('_', ' ')} | {value:.4g} |\n" for name, value in trained.figures.items())
        figures = f"On held-out people, at the last validation of the run:\n\n| figure | value |\n|---|---|\n{rows}"
    own = "\n* It was trained to draw one person. Ask them before you share it." if config.recipe in PERSONAL else ""
    usage = (
        MODEL_USAGE
        if not is_adapter
        else "This folder is what was trained alone, without its start. It loads"
        + (
            " with `--adapter`, and in diffusers.\n"
            if "lora" in config.recipe
            else " with `rigface train --recipe-weights`, and in the libraries of its format.\n"
        )
    )
    return f"""---
{data.to_yaml().strip()}
---

# A RigFace model (`{config.recipe}`)

A diffusion model of RigFace on Ray. It changes pose, expression and light of a face in a photograph and keeps the
person.

{usage}
## Training

| | |
|---|---|
{facts}
The pictures that it was trained on are not described by the run. **State here whose they are, under which licence, and
what the people agreed to**; the licence above is that of the start, or `other`.

## Figures

{figures.strip()}

`rigface evaluate FACES OUT --models FOLDER` measures it on your own held-out people, beside the preview and controls,
by groups of pose, skin tone and face size.

## Limits

* What the photograph does not show (teeth, the far side of a head) is invented.
* Results follow the training pictures: expect worse ones for people, poses and lights that are rare there.{own}
* Edit people with their consent. `rigface edit` marks and signs its results; leave the mark in.
"""
