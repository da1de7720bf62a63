"""Small jobs in this process, without Ray: the same stages on the same units, hence the same rows bit for bit.

Path: the units of each shard -> StageActor (all stages, one shard after another) -> the record of each unit.

Starting Ray costs as much as some hundred frames. What may crash is apart here, too: decoding and detection run in the
child process of `DetectFaces`, which loads its models while this process loads those of the other stages.
"""

import importlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import cv2

from pipelines.cluster.ray_errors import RESUME
from pipelines.extract import components, dataflow
from pipelines.extract.config import ExtractConfig, Settings
from pipelines.extract.plan import UnitPlan
from pipelines.extract.stages import StageActor
from pipelines.extract.unit import Record, Shard, Unit
from rigface.errors import StorageGone
from rigface.terminal import os_error_sentence
from rigface.types import DetectorSpec, HeadSpec

MAX_WORK_S = 10.0  # of one core; Ray takes longer to start
UNIT_S, FRAME_S = 0.1, 0.025  # of one core, measured with the default models
HEAVY_FRAME_S = 0.5  # with a search in tiles, or with networks that the user provides
LIGHT_MODELS = {"detector": "mediapipe", "identity": "dlib", "parser": "colours", "reconstructor": "fit"}


def is_chosen(config: ExtractConfig, units: Iterable[UnitPlan]) -> bool:
    """True if these units are to run in this process: by `in_process`, else by the work and the named resources."""
    if config.in_process != "auto":
        return config.in_process == "always"
    named = config.address or os.environ.get("RAY_ADDRESS") or any(pool.gpus for _, pool in config.pools)
    return not named and work_s(config.settings, units) <= MAX_WORK_S


def is_excluded(config: ExtractConfig, inputs: int) -> bool:
    """True if so many new inputs, whatever they are, will not run in this process."""
    is_much = config.in_process == "auto" and inputs * UNIT_S > MAX_WORK_S
    return is_much or not is_chosen(config, ())


def work_s(settings: Settings, units: Iterable[UnitPlan]) -> float:
    """Estimated seconds of one core."""
    is_light = all(getattr(settings, name) in (model, "fake", "none") for name, model in LIGHT_MODELS.items())
    frame_s = FRAME_S if is_light and not settings.small_faces else HEAVY_FRAME_S
    return sum(UNIT_S + frame_s * unit.expected for unit in units)


def run_shards(
    config: ExtractConfig,
    head: HeadSpec,
    detector: DetectorSpec,
    shards: Sequence[Sequence[UnitPlan]],
    say: Callable[[str], None],
) -> Iterator[list[Record]]:
    """Run the shards in their order; the records of each once it is committed. `say` is not called.

    StorageGone if the output cannot be written.
    """
    (detect_faces, arguments), *later = dataflow.stage_arguments(config, head, detector).values()
    detect = detect_faces(**arguments)  # its child loads while torch is imported here
    with _one_thread(config.settings):
        actor = StageActor([(lambda: detect, {}), *later], config.out, config.part)
        for plans in shards:
            shard = Shard([Unit(plan) for plan in plans])
            try:
                actor.run(shard)
            except OSError as e:
                raise StorageGone(f"{os_error_sentence(e)}. {RESUME}") from e
            yield shard.records


@contextmanager
def _one_thread(settings: Settings) -> Iterator[None]:
    """Compute on one thread inside, as the actors do: sums of several threads have other last bits."""
    torch = None if components.is_fake(settings) else importlib.import_module("torch")  # not for those who run on Ray
    before = cv2.getNumThreads(), torch.get_num_threads() if torch else 0
    if torch:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before[0])
        if torch:
            torch.set_num_threads(before[1])
