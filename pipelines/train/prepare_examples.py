"""Training examples for a run that is given a dataset of faces: pairs and latents in the run's folder."""

from collections.abc import Callable

from pipelines.examples.config import EncodeConfig, PairConfig, PairSettings
from pipelines.examples.encode import encode
from pipelines.examples.frame_index import people_in
from pipelines.examples.layout import autoencoder_place, has_examples
from pipelines.examples.pair import pair
from pipelines.examples.split import HELD_OUT
from pipelines.train.config import TrainConfig
from rigface.errors import PlanError
from rigface.model.model_config import READS_IDENTITY, READS_POINTS, ModelConfig, config_of
from rigface.profile import PROFILES
from rigface.storage.store import Store

MIN_PEOPLE = 10  # to hold out one in ten of them
MIN_PAIRS, MAX_PAIRS = 64, 20_000


def prepare_examples(config: TrainConfig, say: Callable[[str], None]) -> str:
    """The folder of examples: the given one, or one made from the faces in it."""
    given = Store(config.examples)
    if config.more_examples:
        if bare := [folder for folder in config.folders if not has_examples(Store(folder))]:
            raise PlanError(f"{bare[0]} has no examples: of several folders each is an output of `pair` or `encode`")
        return config.examples
    if has_examples(given) or not next(iter(given.paths("faces", ".parquet")), None):
        return config.examples
    is_scratch = config.start == "scratch"
    model = ModelConfig(size=128, render_style="texture") if is_scratch else config_of(config.start)
    pairs, latents = f"{config.out.rstrip('/')}/pairs", f"{config.out.rstrip('/')}/latents"
    count = min(MAX_PAIRS, max(MIN_PAIRS, 2 * config.steps * config.batch * config.scaled().micro_batches))
    few_people = people_in(given) < MIN_PEOPLE
    if few_people:
        say(f"fewer than {MIN_PEOPLE} people: all are used for training, none for validation")
    profile = next((name for name, known in PROFILES.items() if known == model.profile), None)
    if profile is None:
        raise PlanError(f"{config.start}: no profile of `rigface pair` has the conditions of this model")
    settings = PairSettings(
        profile=profile,  # type: ignore[arg-type]
        style="points" if config.recipe in READS_POINTS else model.render_style,
        size=model.size,
        pairs=count,
        relit=count // 3,
        held_out_fraction=0.0 if few_people else HELD_OUT,
        identity="dlib" if config.recipe in READS_IDENTITY else "",
    )
    pair(PairConfig(config.examples, pairs, settings), say)
    if config.augment or config.start == "tiny":
        return pairs
    autoencoder = autoencoder_place(config.autoencoder or config.start.removeprefix("sd15:"))
    encode(EncodeConfig(pairs, latents, str(autoencoder)), say)
    return latents
