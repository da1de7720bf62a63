"""Time of a whole edit with the released RigFace model, relative to a straightforward port of its authors' chain.

    python benchmarks/released_edit.py small           minutes on two cores; narrow networks, every step is run
    python benchmarks/released_edit.py sd15            the released size at 256 px, 16 GB; some steps are timed for all

One edit takes pose, expression and light from a second photograph. The port does what the authors' scripts do: both
faces go through DECA, d3dfr and BiSeNet, one picture at a time, FLAME is rendered by PyTorch3D at 512 px, then come 50
UniPC steps with a doubled batch and joined queries in float32 (`benchmarks/model_step.py`). Ours is what `rigface edit
--checkpoint rigface --quick` does: by default the few steps of the checkpoint, in bfloat16 if the processor has it;
with `--precise` the authors' sampling. Detecting the faces is part of both.

Networks have the real layouts and stand-in weights (`rigface.testing.official`), the UNets random ones of either size.
All begin with the same noise, and `--precise` has to arrive at the port's picture. Seconds are the process's own on all
cores, which other processes disturb less than the clock on the wall. Beside the whole stands the ratio of the port's
sampling alone to our whole edit, as PyTorch3D is slow on a processor.
"""

import argparse
import copy
import json
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import harness
import numpy as np
import torch
from edit_latency import PORT_SAMPLER, PORT_STEPS, SIZES
from model_step import Port

from pipelines.cli import main as cli
from pipelines.edit.config import PRECISE
from rigface import assets
from rigface.conditions import Composer
from rigface.editor import Editor
from rigface.edits import EditSpec
from rigface.face.analyzer import FaceAnalyzer, choose_faces
from rigface.face.rendering import rasterizer, renderer
from rigface.image import resized, to_tensor
from rigface.metrics.image import psnr
from rigface.model.checkpoint import fresh
from rigface.model.model_config import RELEASED
from rigface.model.pipeline import RigFacePipeline
from rigface.model.sampling import make_scheduler, seeded
from rigface.model_editor import ModelEditor
from rigface.testing.official.downloads import write_downloads
from rigface.types import Conditions
from rigface.video.decode import read_frames

MIN_PSNR = 40.0  # dB, of --precise against the port: their renders differ by pixels of the outline
LIMITS = {"default": 10.0, "precise": 2.0}  # times the port's speed
PORT_PX = 512  # of the port's render
EDIT = EditSpec(take=frozenset({"pose", "expression", "light"}))
TIMED_STEPS = {"small": PORT_STEPS, "sd15": 3}  # of the port; the time of the others is that of these
FEW_STEPS = (2, 6)  # of two edits, whose difference is the time of a step of --precise


class AuthorsChain:
    """The port; `seconds` are those of its last edit by part, with the steps that were not run."""

    def __init__(self, editor: Editor, pipe: RigFacePipeline, timed_steps: int) -> None:
        self._editor, self._pipe, self._port, self._steps = editor, pipe, Port(pipe.model), timed_steps
        self._composer = Composer(replace(pipe.model_config.conditions, size=PORT_PX))
        self.seconds: dict[str, float] = {}

    def __call__(self, photo: np.ndarray, target: np.ndarray) -> np.ndarray:
        """(S, S, 3) uint8 crop of the edit; unfinished if not every step is run."""
        began = time.process_time()
        source, other = (choose_faces(self._editor.analyzer(image), "largest")[0] for image in (photo, target))
        wanted = self._editor.edited_params(source.params, EDIT, dict.fromkeys(EDIT.take, other.params))
        analysed = time.process_time()
        with pytorch3d():
            conditions = self._composer(source, wanted).conditions
        rendered = time.process_time()
        crop, steps_s = self._sample(conditions)
        rest_s = time.process_time() - rendered - steps_s
        steps_s *= PORT_STEPS / self._steps
        self.seconds = {
            "analysis": analysed - began, "render": rendered - analysed, "steps": steps_s, "encode_decode": rest_s
        }  # fmt: skip
        return crop

    @torch.inference_mode()
    def _sample(self, conditions: Conditions) -> tuple[np.ndarray, float]:
        pipe, size = self._pipe, self._pipe.model_config.size
        pictures = [to_tensor(resized(p, size))[None] for p in (conditions.reference, conditions.background)]
        reference, background, render = pipe._encode(*pictures, to_tensor(resized(conditions.render, size))[None])
        text = pipe.model.default_text[None]
        self._port.encode_reference(reference, text)
        scheduler = make_scheduler(pipe.model_config.process, PORT_SAMPLER, PORT_STEPS)
        latents = seeded([0], tuple(background.shape[1:]))[0] * scheduler.init_noise_sigma
        code = torch.from_numpy(conditions.expression_code)[None]
        question = {"background": background, "render": render, "expression_code": code, "text": text}
        began = time.process_time()
        with self._port.installed():
            for t in scheduler.timesteps[: self._steps]:
                scaled = scheduler.scale_model_input(latents, t)
                answer = self._port.step({"latents": scaled, "timestep": t.expand(1), **question})
                latents = scheduler.step(answer, t, latents, return_dict=False)[0]
        steps_s = time.process_time() - began
        return pipe.pictures(latents)[0], steps_s


@contextmanager
def pytorch3d() -> Iterator[None]:
    """PyTorch3D's rasteriser in place of ours."""
    before = renderer.rasterize
    renderer.rasterize = lambda points, faces, size, cull=False: rasterizer.rasterize_pytorch3d(
        points, faces, (size, size), cull=cull
    )
    try:
        yield
    finally:
        renderer.rasterize = before


def timed_edit(editor: Editor, photo: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, float]:
    """The crop of our edit, and its seconds."""
    began = time.process_time()
    edited = editor.edit(photo, EDIT, target, seed=0, measure=False)
    return edited.crops[0], time.process_time() - began


def measure(name: str, threads: int) -> dict[str, Any]:
    """All figures of one size."""
    torch.set_num_threads(threads)
    size, steps = SIZES[name], TIMED_STEPS[name]
    config = replace(RELEASED, size=size["px"])
    made = fresh(config, size["channels"], size["vae"], expression=64, text=size["text"])
    frames = [frame.image for frame in read_frames(str(harness.CLIP))]
    photo, target = frames[0], frames[len(frames) // 2]
    analyzer = FaceAnalyzer.load(config.profile)
    composer, plain = Composer(config.conditions), RigFacePipeline.of(made)
    port = AuthorsChain(Editor(analyzer), plain, steps)
    analyzer(photo)  # what is compiled and allocated at first use
    theirs = port(photo, target)
    port_s = sum(port.seconds.values())
    result: dict[str, Any] = {"px": config.size, "port_s": port_s, "port_parts_s": port.seconds, "port_steps": steps}
    if steps == PORT_STEPS:
        ours, precise_s = timed_edit(Editor(analyzer, ModelEditor(plain, **PRECISE), composer), photo, target)
        result["precise_psnr_db"] = psnr(ours, theirs)
    else:
        few, more = (
            timed_edit(Editor(analyzer, ModelEditor(plain, **PRECISE | {"steps": n}), composer), photo, target)[1]
            for n in FEW_STEPS
        )
        precise_s = few + (PORT_STEPS - FEW_STEPS[0]) * (more - few) / (FEW_STEPS[1] - FEW_STEPS[0])
    shipped = RigFacePipeline.of(copy.deepcopy(made) if name == "small" else made, autocast="auto", half_weights=True)
    default = Editor(analyzer, ModelEditor(shipped), composer)
    _, default_s = timed_edit(default, photo, target)
    sampling_s = port.seconds["steps"] + port.seconds["encode_decode"]
    return {
        **result,
        "precise_s": precise_s,
        "default_s": default_s,
        "default_sampler": f"{config.process.scheduler}, {config.process.steps} steps",
        "precise_times_faster": port_s / precise_s,
        "default_times_faster": port_s / default_s,
        "port_sampling_by_precise_whole": sampling_s / precise_s,
        "port_sampling_by_default_whole": sampling_s / default_s,
        "limits": LIMITS,
        "parameters": sum(p.numel() for p in made.model.parameters()),
    }


def main() -> None:
    """Measure one size, print it, and put it into the results file beside the others."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("size", choices=TIMED_STEPS, nargs="?", default="small")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ[assets.FOLDER_VARIABLE] = f"{folder}/assets"
        cli.main(["assets", "adopt", str(write_downloads(f"{folder}/downloads"))])
        result = measure(args.size, args.threads)
    result |= {"threads": args.threads, "torch": torch.__version__, **harness.environment()}
    print(json.dumps(result, indent=1))
    harness.write("released_edit", {**harness.read("released_edit"), args.size: result})
    if result.get("precise_psnr_db", MIN_PSNR) < MIN_PSNR:
        raise SystemExit("--precise and the port do not make the same picture")


if __name__ == "__main__":
    main()
