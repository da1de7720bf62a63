"""The commands `pair`, `autoencoder`, `encode`, `train`, `evaluate` and `judge`.

rigface extract clips/ out/faces
rigface pair out/faces out/pairs
rigface encode out/pairs out/latents --autoencoder sd15
rigface train one_gpu out/latents runs/mine --start sd15
rigface evaluate out/faces out/card --models preview runs/mine/model
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

from tyro.conf import Positional, arg

from pipelines.evaluate.config import EvaluateConfig
from pipelines.examples.config import AutoencoderConfig, EncodeConfig, PairConfig
from pipelines.judge.config import JudgeConfig
from pipelines.refine.config import RefineConfig
from pipelines.train.compare import CompareConfig
from pipelines.train.config import PRESETS, TrainConfig, mini_cpu
from rigface.errors import PlanError


def _say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


@dataclass(frozen=True)
class PairCommand(PairConfig):
    """Make training examples from a dataset of faces: two frames of one person, and the conditions of the edit between.

    Pairs are spread evenly over turns, expressions and lights, people in turns; every tenth person is held out. The two
    frames are of one input: the background of another input differs, so the target could not be laid over the source.

      rigface pair out/faces out/pairs
      rigface pair s3://bucket/faces s3://bucket/pairs --size 512 --pairs 2000000 --workers 64
    """

    def run(self) -> int:
        from pipelines.examples.coverage_report import print_report
        from pipelines.examples.pair import pair

        print_report(pair(self, _say))
        return 0


@dataclass(frozen=True)
class EncodeCommand(EncodeConfig):
    """Encode training examples as latents, so that training runs no autoencoder.

    rigface encode out/pairs out/latents --autoencoder runs/mini/autoencoder
    """

    def run(self) -> int:
        from pipelines.examples.encode import encode

        encode(self, _say)
        return 0


@dataclass(frozen=True)
class AutoencoderCommand:
    """Make a small autoencoder from the crops of a dataset, for a model trained from scratch; seconds, not hours."""

    faces: Positional[str]  # The dataset of faces.
    out: Positional[str]  # Folder to write to.
    job: Annotated[AutoencoderConfig, arg(name="")] = AutoencoderConfig()

    def run(self) -> int:
        from pipelines.examples.autoencoder import make_autoencoder

        make_autoencoder(self.faces, self.out, self.job, _say)
        return 0


@dataclass(frozen=True)
class RefineCommand(RefineConfig):
    """Train the small network that corrects previews, on a tight crop of the face: lips, teeth, lids, cheeks.

    Single photographs suffice: the preview gives each another expression, and the network learns to bring it back.
    Several photographs of a person teach more; --people says who is on which. Run the command again after a stop: it
    goes on, and --steps may have changed.

      rigface refine out/faces runs/mine --people portraits/people.csv
      rigface refine out/faces runs/mine --start refiner --learning-rate 5e-4 --steps 1000
      rigface edit photo.jpg out.png --checkpoint runs/mine/model --smile 0.6
    """

    def run(self) -> int:
        from pipelines.refine.job import refine

        refine(self, _say)
        return 0


@dataclass(frozen=True)
class TrainCommand:
    """Fine-tune a model on examples, or train a small one from scratch.

    EXAMPLES is the output of `pair` or `encode`, or a dataset of faces; then pairs and latents are made in OUT.
    Of several folders of examples, --weights gives each its share of every step.
    Run the command again after a stop: it goes on with the next batch.

      rigface train one_gpu out/latents runs/mine --start sd15
      rigface train one_gpu out/clips out/portraits runs/both --weights 3 1
      rigface train one_gpu out/latents runs/mine --lr-groups 'identity.*=0.1' --decay matrices --dry-run
      rigface train mini_cpu out/demo runs/mine --start mini --steps 20
    """

    words: Annotated[Positional[tuple[str, ...]], arg(metavar="PRESET EXAMPLES... OUT")] = ()
    """A preset for the defaults of the options (debug, mini_cpu, one_gpu, eight_gpus, cluster), the folder or s3://
    prefix of examples or faces, or several of examples, and that of the run."""
    dry_run: bool = False  # Print what would be trained, on what and how, and stop.
    job: Annotated[TrainConfig, arg(name="")] = mini_cpu()

    def run(self) -> int:
        from pipelines.train.job import preview, train
        from pipelines.train.prepare_examples import prepare_examples

        if len(self.words) < 3 or self.words[0] not in PRESETS:
            raise PlanError(f"want PRESET EXAMPLES... OUT, where PRESET is one of {', '.join(PRESETS)}")
        examples, *more = self.words[1:-1]
        config = replace(self.job, examples=examples, more_examples=tuple(more), out=self.words[-1])
        if self.dry_run:
            print(preview(config))
            return 0
        train(replace(config, examples=prepare_examples(config, _say)), _say)
        return 0


@dataclass(frozen=True)
class CompareCommand(CompareConfig):
    """Train the same start by every recipe, on the same examples, steps and seed, at three learning rates each;
    evaluate the best of each, and write one card: quality, numbers trained, memory, seconds.

    At CPU size (tiny, mini) this proves the machinery only; with Stable Diffusion 1.5 and a GPU it is the experiment.
    Run the command again after a stop: it goes on.

      rigface compare out/faces out/compare --recipes rigface lora controlnet --size tiny
      rigface compare out/faces out/compare --size sd15:weights/sd15 --steps 20000 --gpu
    """

    def run(self) -> int:
        from pipelines.train.compare import compare

        print(compare(self, _say))
        return 0


@dataclass(frozen=True)
class EvaluateCommand(EvaluateConfig):
    """Evaluate models on held-out people, beside the preview and control editors, and write a report card.

    FACES is a dataset of faces. Edits are made as `rigface edit` makes them. Run the command again after a stop: it
    goes on.

      rigface evaluate out/faces out/card
      rigface evaluate out/faces out/card --models preview mini mine=runs/mine/model --tasks self sweep
      rigface evaluate out/faces out/new --against out/card
    """

    def run(self) -> int:
        from pipelines.evaluate.job import evaluate

        card = evaluate(self, _say)
        if card is not None:
            from rigface.evaluation.card_page import print_tables

            print_tables(card)
            print(f"{self.out.rstrip('/')}/card.html")
        return 0


@dataclass(frozen=True)
class JudgeCommand(JudgeConfig):
    """Compare results of any editors (LivePortrait, FLUX, FaceFusion, ours ...) in one report card, beside controls.

    TABLE is a .csv or .parquet with a row for each edit, or a folder. Paths are relative to it; nothing is fetched.

      editor   name of the editor             source   picture that was edited
      output   its result; empty: it failed   seconds  how long it took
      what was asked, at least one of:
      yaw pitch roll                          degrees, signs as in `rigface edit --help`; with `relative`: turns
      smile jaw_open blink brows_up ...       0 to 1; `rigface sliders` lists them
      light_azimuth light_elevation light_intensity light_ambient
      edit                                    JSON, as `rigface edit --save-edit` writes
      target, take                            picture, and the traits copied from it: pose, expression, light, identity
      truth                                   true picture of the result, in the source's framing
      name, person, target_person             name of the edit in the card; who is seen (default: the file)

    A folder holds NAME.source.png, NAME.output.png or one NAME.output.EDITOR.png per editor, NAME.target.png,
    NAME.truth.png, and the other columns in NAME.json.

    An output of another size is scaled; other proportions are refused. Rows that cannot be measured are in
    OUT/bad_rows.csv. Run the command again after a stop, or with more rows: it goes on.

      rigface judge edits.csv out/card
      rigface judge results/ out/card --second-identity w600k_mbf.onnx
      rigface judge edits.parquet out/card --baseline LivePortrait --workers 8
    """

    def run(self) -> int:
        from pipelines.judge.job import judge

        card = judge(self, _say)
        if card is not None:
            from rigface.evaluation.card_page import print_tables

            print_tables(card)
            print(f"{self.out.rstrip('/')}/card.html")
        return 0


COMMANDS = {
    "pair": PairCommand,
    "autoencoder": AutoencoderCommand,
    "encode": EncodeCommand,
    "train": TrainCommand,
    "refine": RefineCommand,
    "compare": CompareCommand,
    "evaluate": EvaluateCommand,
    "judge": JudgeCommand,
}


def default_of(name: str, words: Sequence[str]) -> dict[str, Any]:
    """The default of a command for tyro: a train command has those of the preset that the words name."""
    if name != "train":
        return {}
    preset = next((word for word in words if word in PRESETS), "mini_cpu")
    return {"default": TrainCommand(job=PRESETS[preset]())}
