"""`model_index.json` and `scheduler/` of a checkpoint folder, by which diffusers and the hub know its parts.

Path: `checkpoint.save` -> `write`. A folder with `unet/`, `text_encoder/` and `tokenizer/` (recipes on a plain
denoiser) is also one that stock `StableDiffusionPipeline.from_pretrained` reads.
"""

import json
from pathlib import Path
from typing import Any

import diffusers

from rigface.model.model_config import Process
from rigface.model.sampling import make_scheduler

FILE = "model_index.json"
PIPELINE = "RigFacePipeline"


def write(folder: Path, process: Process) -> None:
    """Write both, for the networks that are in the folder."""
    scheduler = make_scheduler(process, process.scheduler, process.steps)
    scheduler.save_pretrained(folder / "scheduler")
    index: dict[str, Any] = {"_class_name": PIPELINE, "_diffusers_version": diffusers.__version__}
    for config in sorted(folder.glob("*/*config.json")):
        kind = json.loads(config.read_text()).get("_class_name")
        if kind is not None:
            index[config.parent.name] = ["diffusers", kind]
    has_text = (folder / "text_encoder").is_dir(), (folder / "tokenizer").is_dir()
    index["text_encoder"] = ["transformers", "CLIPTextModel"] if has_text[0] else [None, None]
    index["tokenizer"] = ["transformers", "CLIPTokenizer"] if has_text[1] else [None, None]
    (folder / FILE).write_text(json.dumps(index, indent=2) + "\n")
