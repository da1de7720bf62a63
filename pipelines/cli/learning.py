"""The commands that make a model and judge it: `pair`, `autoencoder`, `encode`, `train`, `evaluate`. Part of `cli.py`.

rigface extract clips/ out/faces
rigface pair out/faces out/pairs
rigface encode out/pairs out/latents --autoencoder sd15
rigface train one_gpu out/latents runs/mine --start sd15:sd15
rigface evaluate out/faces out/card --models preview runs/mine/model
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

from tyro.conf import Positional, arg

from pipelines.evaluate.config import EvaluateConfig
from pipelines.examples.config import PairConfig, PairSettings
from pipelines.examples.encode import EncodeConfig
from pipelines.examples.split import HELD_OUT
from pipelines.train.config import PRESETS, TrainConfig, mini_cpu
from rigface.errors import PlanError


def _say(words: str) -> None:
    import time

    print(f"{time.strftime('%H:%M:%S')} {words}", flush=True)


@dataclass(frozen=True)
class PairCommand:
    """Training examples from a dataset of faces: two frames of one person, and what the model sees of them.

    Pairs are chosen for an even spread of turns, expressions and lights, people in turns; every tenth person is held out. The two
    frames are of one input: in another the background is another, and the target cannot be laid over the source.

      rigface pair out/faces out/pairs
      rigface pair s3://bucket/faces s3://bucket/pairs --size 512 --pairs 2000000 --workers 64
    """

    faces: Positional[str]
    """The dataset of faces."""
    out: Positional[str]
    """Folder or s3:// prefix to write to."""
    job: Annotated[PairConfig, arg(name="")] = PairConfig("", "")

    def run(self) -> int:
        from pipelines.examples.coverage_report import printed
        from pipelines.examples.pair import pair

        printed(pair(replace(self.job, faces=self.faces, out=self.out), _say))
        return 0


@dataclass(frozen=True)
class EncodeCommand:
    """Latents of training examples, so that training runs no autoencoder.

    rigface encode out/pairs out/latents --autoencoder runs/mini/autoencoder
    """

    examples: Positional[str]
    """What `pair` wrote."""
    out: Positional[str]
    """Folder or s3:// prefix to write to."""
    job: Annotated[EncodeConfig, arg(name="")] = EncodeConfig("", "")

    def run(self) -> int:
        from pipelines.examples.encode import encode

        encode(replace(self.job, examples=self.examples, out=self.out), _say)
        return 0


@dataclass(frozen=True)
class AutoencoderCommand:
    """A small autoencoder from the crops of a dataset, for a model that is made from nothing; seconds, not hours."""

    faces: Positional[str]
    """The dataset of faces."""
    out: Positional[str]
    """Folder to write to."""
    size: int = 128
    """Side of the pictures in pixels."""
    patch: int = 8
    """Side in pixels of the squares; latents are as much smaller than pictures."""
    channels: int = 48
    """Numbers kept of each square; a multiple of 4."""

    def run(self) -> int:
        from pipelines.examples.autoencoder import AutoencoderConfig, make_autoencoder

        config = AutoencoderConfig(self.size, self.patch, self.channels)
        make_autoencoder(self.faces, self.out, config, _say)
        return 0


@dataclass(frozen=True)
class TrainCommand:
    """Fine-tune a model on examples, or make a small one from nothing.

    EXAMPLES is what `pair` or `encode` wrote. It may be a dataset of faces, too: pairs and latents are then made in OUT.
    Stopped or killed, run the same command again: it goes on with the next batch.

      rigface train one_gpu out/latents runs/mine --start sd15:sd15
      rigface train mini_cpu out/demo runs/mine --start mini --steps 20
    """

    words: Annotated[Positional[tuple[str, ...]], arg(metavar="PRESET EXAMPLES OUT")] = ()
    """A preset (debug, mini_cpu, one_gpu, eight_gpus, cluster: where the other defaults come from), the folder or s3:// prefix
    of examples or faces, and that of the run."""
    job: Annotated[TrainConfig, arg(name="")] = mini_cpu()

    def run(self) -> int:
        from pipelines.train.job import train

        if len(self.words) != 3 or self.words[0] not in PRESETS:
            raise PlanError(f"want PRESET EXAMPLES OUT, where PRESET is one of {', '.join(PRESETS)}")
        config = replace(self.job, examples=self.words[1], out=self.words[2])
        train(replace(config, examples=_examples_of(config)), _say)
        return 0


@dataclass(frozen=True)
class EvaluateCommand:
    """Judge models on people they never saw, beside the preview and four control editors, and write a report card.

    DATA is a dataset of faces (all tasks, any model) or what `pair` wrote (self-edits only, as those models see them).
    Stopped or killed, run the same command again: it goes on.

      rigface evaluate out/faces out/card
      rigface evaluate out/pairs out/card --models preview mini --limit 24
      rigface evaluate out/faces out/card --models preview mini mine=runs/mine/model --tasks self sweep
    """

    data: Annotated[Positional[str], arg(metavar="DATA")]
    """The dataset of faces, or the folder of examples."""
    out: Positional[str]
    """Folder or s3:// prefix to write to."""
    job: Annotated[EvaluateConfig, arg(name="")] = EvaluateConfig("", "")

    def run(self) -> int:
        from pipelines.evaluate.job import evaluate

        card = evaluate(replace(self.job, data=self.data, out=self.out), _say)
        if card is not None:
            from pipelines.evaluate.report import printed

            printed(card)
            print(f"{self.out.rstrip('/')}/card.html")
        return 0


FEW = 10  # people, of whom one in ten may well be nobody, or the only one


def _examples_of(config: TrainConfig) -> str:
    """The folder of examples: the one given, or one made from the faces in it."""
    from pipelines.examples.encode import encode
    from pipelines.examples.frame_index import people_in
    from pipelines.examples.layout import autoencoder_folder
    from pipelines.examples.pair import pair
    from rigface.storage.store import Store

    given = Store(config.examples)
    if next(iter(given.paths("examples", ".parquet")), None) or not next(iter(given.paths("faces", ".parquet")), None):
        return config.examples
    from rigface.model import checkpoint

    scratch = config.start == "scratch"
    own = checkpoint.ModelConfig(size=128, render_style="texture") if scratch else checkpoint.config_of(config.start)
    pairs, latents = f"{config.out.rstrip('/')}/pairs", f"{config.out.rstrip('/')}/latents"
    wanted = min(20_000, max(64, 2 * config.steps * config.batch * config.micro_batches))
    few = people_in(given) < FEW
    settings = PairSettings(
        style=own.render_style,
        size=own.size,
        pairs=wanted,
        relit=wanted // 3,
        held_out_fraction=0.0 if few else HELD_OUT,
    )
    if few:
        _say(f"fewer than {FEW} people: all are learned from, nobody is held out to look at")
    pair(PairConfig(config.examples, pairs, settings), _say)
    autoencoder = config.autoencoder or config.start.removeprefix("sd15:")
    if config.augment or config.start == "tiny":
        return pairs
    encode(EncodeConfig(pairs, latents, str(autoencoder_folder(autoencoder))), _say)
    return latents


COMMANDS = {
    "pair": PairCommand,
    "autoencoder": AutoencoderCommand,
    "encode": EncodeCommand,
    "train": TrainCommand,
    "evaluate": EvaluateCommand,
}

Command = PairCommand | AutoencoderCommand | EncodeCommand | TrainCommand | EvaluateCommand


def default_of(name: str, words: Sequence[str]) -> dict[str, Any]:
    """For tyro: a train command whose defaults are those of the preset that the words name."""
    if name != "train":
        return {}
    preset = next((word for word in words if word in PRESETS), "mini_cpu")
    return {"default": TrainCommand(job=PRESETS[preset]())}
