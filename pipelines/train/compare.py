"""`rigface compare`: every recipe on the same examples, steps, seed and rates, evaluated alike, in one card.

Path: faces -> pairs and latents in OUT -> `train` for each recipe and rate -> the rate with the lowest validation loss
-> `evaluate` of the chosen models -> OUT/compare.md, compare.json.

    OUT/pairs  OUT/latents        the examples, the same for all; for `instantid` with points in place of the render
    OUT/runs/RECIPE/RATE          a training each
    OUT/card                      the evaluation of the chosen models

Run again after a stop: finished trainings and evaluations are not repeated.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, get_args

from tyro.conf import Positional

from pipelines.evaluate.config import EvaluateConfig
from pipelines.examples.config import EncodeConfig, PairConfig, PairSettings
from pipelines.train.config import TrainConfig
from rigface.errors import PlanError
from rigface.model.model_config import READS_POINTS, RecipeName
from rigface.profile import RenderStyle
from rigface.ranges import in_range
from rigface.storage.store import Store

if TYPE_CHECKING:
    from rigface.evaluation.report_card import ReportCard

METRICS = (  # of the evaluation, beside the training's own numbers
    "identity", "truth_distance", "pose_deg", "expression_mm", "light_ball", "psnr_face", "background_psnr",
)  # fmt: skip
MACHINERY = (
    "This was run on a CPU at a toy size: random networks of 32 px, a few steps. **It proves that the machinery works, "
    "and says nothing of which recipe is better.**"
)
SMALL = (
    "This was run on a CPU with the small model `mini` as the start, for a few steps. **It proves that the machinery "
    "works; `mini` is no picture prior, so it says little of which recipe is better.**"
)


@dataclass(frozen=True)
class Size:
    """What a size of comparison means."""

    pixels: int
    steps: int
    batch: int
    rates: tuple[float, float, float]
    start_step_fraction: float = 0.0  # of `TrainConfig`
    caution: str = ""


SIZES = {
    "tiny": Size(32, 40, 8, (1e-3, 3e-3, 1e-2), caution=MACHINERY),
    "mini": Size(128, 20, 16, (1e-4, 3e-4, 1e-3), 1.0, SMALL),
    "sd15": Size(512, 2000, 8, (1e-5, 1e-4, 1e-3)),
}


@dataclass(frozen=True)
class CompareConfig:
    """One comparison; the text beside or under a field is its help."""

    faces: Positional[str]  # The dataset of faces.
    out: Positional[str]  # Folder or s3:// prefix to write to.
    recipes: tuple[RecipeName, ...] = get_args(RecipeName)
    size: str = "tiny"
    """tiny: random toy networks; mini: the small model that ships; sd15 or sd15:FOLDER: Stable Diffusion 1.5."""
    steps: int = 0  # Of each training; 0: that of the size (40, 20, 2000).
    batch: int = 0  # Examples per step; 0: that of the size (8, 16, 8).
    rates: tuple[float, ...] = ()  # Learning rates to try for each recipe; none: three of the size.
    pairs: int = 0  # Training examples; 0: as many as the steps show.
    limit: int = 32  # Edits per task of the evaluation.
    gpu: bool = False
    threads: int = 1  # CPU threads; 0: torch's own choice.
    seed: int = 0

    def __post_init__(self) -> None:
        if self.size.partition(":")[0] not in SIZES:
            raise PlanError(f"--size: want tiny, mini, sd15 or sd15:FOLDER, got {self.size!r}")
        in_range(self, "[0, inf)", "steps", "batch", "pairs", "threads", "seed")
        in_range(self, "[1, inf)", "limit")
        in_range(self, "(0, 1]", "rates")

    @property
    def of_size(self) -> Size:
        """The settings of the size."""
        return SIZES[self.size.partition(":")[0]]


@dataclass(frozen=True)
class Trained:
    """One training of the comparison."""

    recipe: str
    rate: float
    loss: float  # of validation, at fixed draws
    parameters: int  # trained
    memory_mb: float
    step_s: float
    model: str  # its folder


def compare(config: CompareConfig, say: Callable[[str], None] = print) -> str:
    """Train, choose, evaluate and write the card; its text in Markdown.

    Raises:
        PlanError: the faces give no examples, no recipe could be trained, or nobody is held out.
        MissingAsset, BadCheckpoint: the start is missing.
    """
    from pipelines.evaluate.job import evaluate

    start = start_of(config)
    styles: dict[str, RenderStyle] = {name: "points" if name in READS_POINTS else "texture" for name in config.recipes}
    examples = {style: prepare(config, start, style, say) for style in sorted(set(styles.values()))}
    sweeps: dict[str, list[Trained]] = {}
    refused: dict[str, str] = {}
    for recipe in config.recipes:
        try:
            sweeps[recipe] = [
                trained(config, recipe, rate, examples[styles[recipe]], start, say)
                for rate in config.rates or config.of_size.rates
            ]
        except PlanError as error:
            refused[recipe] = str(error)
            say(f"{recipe}: {error}")
    if not sweeps:
        raise PlanError("compare: no recipe could be trained on this start")
    chosen = {recipe: min(runs, key=lambda run: run.loss) for recipe, runs in sweeps.items()}
    models = tuple(f"{recipe}={run.model}" for recipe, run in chosen.items())
    settings = EvaluateConfig(
        config.faces, f"{config.out}/card", ("preview", *models), ("self", "cross"), limit=config.limit, seeds=1,
        sweeps=0, clips=0, threads=config.threads, seed=config.seed,
    )  # fmt: skip
    card = evaluate(settings, say)
    assert card is not None  # it is no dry run
    text = page(config, sweeps, chosen, refused, card)
    store = Store(config.out)
    store.publish("compare.md", text.encode())
    numbers = {
        "settings": asdict(config),
        "refused": refused,
        "runs": [asdict(run) for runs in sweeps.values() for run in runs],
    }
    store.publish("compare.json", json.dumps(numbers, indent=1).encode())
    return text


def start_of(config: CompareConfig) -> str:
    """The start of all; of size `tiny` it is written."""
    if config.size != "tiny":
        return config.size
    from rigface.testing import toy_start

    folder = f"{config.out.rstrip('/')}/toy"
    toy_start.write(Path(folder))
    return f"sd15:{folder}"


def prepare(config: CompareConfig, start: str, style: RenderStyle, say: Callable[[str], None]) -> str:
    """The folder of latents of examples with a style of render; sources and targets are the same for all styles."""
    from pipelines.examples.encode import encode
    from pipelines.examples.pair import pair

    size, out = config.of_size, config.out.rstrip("/")
    count = config.pairs or max(64, (config.steps or size.steps) * (config.batch or size.batch))
    settings = PairSettings(
        style=style, size=size.pixels, pairs=count, relit=count // 3, identity="dlib", seed=config.seed
    )
    pair(PairConfig(config.faces, f"{out}/pairs/{style}", settings), say)
    encode(EncodeConfig(f"{out}/pairs/{style}", f"{out}/latents/{style}", start.removeprefix("sd15:")), say)
    return f"{out}/latents/{style}"


def trained(
    config: CompareConfig, recipe: RecipeName, rate: float, examples: str, start: str, say: Callable[[str], None]
) -> Trained:
    """One training, or its numbers if it was done before."""
    from pipelines.train.job import train
    from pipelines.train.metric_log import lines

    out, size = f"{config.out.rstrip('/')}/runs/{recipe}/{rate:g}", config.of_size
    steps = config.steps or size.steps
    settings = TrainConfig(
        examples=examples, out=out, start=start, recipe=recipe, steps=steps, batch=config.batch or size.batch,
        start_step_fraction=size.start_step_fraction, learning_rate=rate, warmup_steps=max(1, steps // 10),
        weight_decay=1e-3, ema_decay=0.99, seed=config.seed, workers=0, gpu=config.gpu, threads=config.threads,
        reader="thread", checkpoint_every=steps, validate_every=steps, validation_examples=8, validate_faces=False,
        log_every=max(1, steps // 10),
    )  # fmt: skip
    store = Store(out)
    if not store.exists("compare.json"):
        numbers = train(settings, say)
        seconds = median([line["step_s"] for line in lines(store) if "step_s" in line] or [numbers["step_s"]])
        run = Trained(
            recipe, rate, numbers.get("validation/loss", math.nan), int(numbers["trained_parameters"]),
            numbers["memory_mb"], seconds, f"{out}/model",
        )  # fmt: skip
        store.publish("compare.json", json.dumps(asdict(run)).encode())
    return Trained(**json.loads(store.read("compare.json")))


def page(
    config: CompareConfig,
    sweeps: Mapping[str, list[Trained]],
    chosen: Mapping[str, Trained],
    refused: Mapping[str, str],
    card: ReportCard,
) -> str:
    """The card as Markdown: one table of trainings, one of the evaluation."""
    size = config.of_size
    lines = [
        size.caution,
        "",
        f"Start `{config.size}`, {size.pixels} px; every recipe on the same examples, with "
        f"{config.steps or size.steps} steps of {config.batch or size.batch} and seed {config.seed}, at each rate. The "
        "rate is chosen by the loss on held-out people, with the same noise for all.",
        "",
        "| recipe | numbers trained | memory, MB | seconds a step | validation loss by rate | rate |",
        "|---|---|---|---|---|---|",
    ]
    for recipe, runs in sweeps.items():
        best = chosen[recipe]
        losses = ", ".join(f"{run.loss:.4f}" for run in runs)
        cost = f"{best.parameters:,} | {best.memory_mb:.1f} | {best.step_s:.3f}"
        lines.append(f"| `{recipe}` | {cost} | {losses} | {best.rate:g} |")
    lines += [f"| `{recipe}` | not trained: {why} | | | | |" for recipe, why in refused.items()]
    memory = "the peak of the GPU" if config.gpu else "weights, gradients, optimizer and weight average, computed"
    lines += ["", f"Memory is {memory}. Rates: {', '.join(f'{r:g}' for r in config.rates or size.rates)}.", ""]
    labels = {metric.name: metric for metric in card.metrics}
    shown = [labels[name] for name in METRICS if name in labels]
    for edit in dict.fromkeys(row.edit for row in card.rows):
        rows = [row for row in card.rows if row.edit == edit]
        own = [metric for metric in shown if any(metric.name in row.cells for row in rows)]
        lines += [f"### {edit} ({max(row.edits for row in rows)} edits)", ""]
        lines += ["| editor | no face | " + " | ".join(f"{m.label}, {m.unit}" for m in own) + " |"]
        lines += ["|---" * (len(own) + 2) + "|"]
        for row in rows:
            found = ((m, row.cells.get(m.name)) for m in own)
            cells = ("" if cell is None else f"{cell.with_failures * m.scale:.{m.digits}f}" for m, cell in found)
            lines.append(f"| {row.model} | {row.fail_share:.0%} | " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines).strip() + "\n"
