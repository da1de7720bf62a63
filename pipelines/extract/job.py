"""Extract job: videos in, `OUT/faces` and `OUT/inputs` out, exactly once.

    find -> survey (Ray tasks) -> shards of units -> detect_faces -> reconstruct -> mask_and_score -> write
         (on Ray Data: dataflow.py, or in this process if they are few: in_process.py)
         -> finalize every input -> identities

A shard is done when its object exists, an input when its row does; see dataset.py. The driver only counts: each unit
sends it a record of a few hundred bytes. Killed at any moment and run again, the job does the missing work, and
nothing twice.

Several drivers may share the work (`--shard 1/4`, or `--jobs 4` for all of them), each with its own inputs; then a run
without --shard does what they left, such as changed inputs, which means to rewrite objects, and the identities.

The driver's memory is bounded, see planning.py: it lists and plans a window of inputs, and processes it group by group,
before it lists the next.
"""

import contextlib
import os
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from itertools import chain

from pipelines.cluster import session
from pipelines.cluster.drivers import run_drivers
from pipelines.extract import components, dataflow, in_process, stages
from pipelines.extract.config import STAGES, ExtractConfig
from pipelines.extract.dataset import FaceDataset
from pipelines.extract.finalize import InputFinalizer
from pipelines.extract.identities import identify
from pipelines.extract.plan import Plan, UnitPlan, shard_name, units_of
from pipelines.extract.planning import Planner
from pipelines.extract.progress import Progress
from pipelines.extract.summary import StatusCount, Summary
from pipelines.extract.unit import Record
from pipelines.inputs import sources
from pipelines.inputs.compact_set import CompactSet
from rigface import schema
from rigface.errors import JobBroken, PlanError, RigFaceError
from rigface.storage import lock
from rigface.storage.store import Store
from rigface.types import DetectorSpec, HeadSpec

CRASH_WINDOW = 40  # latest units in which crashes are counted
LOCK_CHECK_S = 1.0  # between two looks at the lock while units are counted


def extract(
    config: ExtractConfig, progress: Progress | None = None, on_unit: Callable[[Record], None] | None = None
) -> Summary:
    """Run the job.

    Args:
        progress: the display; None: on standard error.
        on_unit: called with the record of every unit.

    Raises:
        PlanError: settings do not fit each other or the output.
        OutputBusy: another run writes to this output.
        MissingAsset: a model is not on this machine.
        JobBroken: most units crash in the same way, or none finishes.
    """
    head, detector = components.specs(config.settings)
    check_stages(config, head, detector)
    dataset = FaceDataset(Store(config.out))
    dataset.check(config.settings, head, detector, config.overwrite)
    uris = sources.find_all(config.videos, config.settings.root)
    uris = chain([next(uris)], uris)  # raises before anything is written if there is no input
    uris = filter(config.is_mine, uris)
    with lock.hold(dataset.store, config.part) as check_lock, contextlib.ExitStack() as stack:
        shown = stack.enter_context(progress or Progress())
        run = _Run(config, dataset, (head, detector), shown, check_lock, stack, on_unit)
        return run.all(uris)


def extract_with_drivers(config: ExtractConfig, jobs: int, display: type[Progress] = Progress) -> Summary:
    """Run the job with so many drivers, each a process with its share of the inputs, and join what they did.

    Pools are divided among them. A driver that dies is replaced; what is left in the end, and all that means to change
    objects, is done here. Raises as `extract`, PlanError also if there is no cluster to share.
    """
    if not (config.address or os.environ.get("RAY_ADDRESS") or config.in_process == "always"):
        raise PlanError("--jobs shares a cluster among several drivers: name it with --address")
    specs, dataset = components.specs(config.settings), FaceDataset(Store(config.out))
    next(sources.find_all(config.videos, config.settings.root))  # raises before anything is written
    with lock.hold(dataset.store):
        dataset.begin_run(config.settings, *specs, config.overwrite)
    config = replace(config, overwrite=False)
    pools = {name: getattr(config, name).divided(jobs) for name in STAGES}
    shared = replace(config, retry_errors=False, **pools)
    run_drivers(partial(_drive, shared, jobs, display), jobs, display().message)
    return extract(config, display())


def _drive(config: ExtractConfig, jobs: int, display: type[Progress], number: int) -> None:
    """Be one of several drivers."""
    share = f"{number + 1}/{jobs}"
    try:
        extract(replace(config, shard=share), display(label=f"{share} "))
    except (RigFaceError, KeyboardInterrupt) as error:
        sys.exit(f"{share} {error}" if isinstance(error, RigFaceError) else 130)


def check_stages(config: ExtractConfig, head: HeadSpec, detector: DetectorSpec) -> None:
    """Check that --columns are columns, and that every stage finds those that it needs; else PlanError."""
    arguments = dataflow.stage_arguments(config, head, detector)
    try:
        columns = schema.faces_schema(head, detector, config.settings.kept).names
    except ValueError as e:
        raise PlanError(f"--columns: {e}") from e
    stages.check_columns([arguments[name][0] for name in STAGES], columns)


class _Run:
    """One run, on a dataset whose lock it holds."""

    def __init__(
        self,
        config: ExtractConfig,
        dataset: FaceDataset,
        specs: tuple[HeadSpec, DetectorSpec],
        progress: Progress,
        check_lock: Callable[[], None],
        stack: contextlib.ExitStack,
        on_unit: Callable[[Record], None] | None,
    ) -> None:
        self.config, self.dataset, self.specs, self.progress = config, dataset, specs, progress
        self._check_lock, self._stack, self._on_unit, self._on_ray = check_lock, stack, on_unit, False
        self._existing: tuple[CompactSet, CompactSet] | None = None  # shards and rows; read again after a removal
        self._known = CompactSet()  # shards of the present plans among the existing ones
        self.summary = Summary()
        self.name = dataset.begin_run(config.settings, *specs, config.overwrite, config.part)
        self._planner = Planner(config, dataset, self.name, self._connect, progress.message)
        finalizer = InputFinalizer(dataset, self.name, progress.input_done, config.part)
        self._finalizer = stack.enter_context(finalizer)

    def all(self, uris: Iterator[str]) -> Summary:
        began = time.monotonic()
        wanted = CompactSet()

        def noted() -> Iterator[str]:
            for uri in uris:
                wanted.add(uri)
                yield uri

        for plans in self._planner.groups(noted()):
            self._process(plans)
            plans.clear()  # before the next are read
        if self._existing and len(self._existing[0]) > len(self._known) and not self.config.part:
            self.dataset.sweep_orphans()
        if self.config.identities and not self.config.part:
            self._identities()
        self._count_inputs(wanted)
        self.summary.wall_s = time.monotonic() - began
        return self.summary

    def _count_inputs(self, wanted: CompactSet) -> None:
        count, away, kept = self.summary.count_input, self._planner.unreachable, 0
        columns = ["uri", "status", "stage", "reason", "frames", "faces"]
        for table in self.dataset.inputs_by_part(columns):
            for uri, status, stage, reason, frames, faces in zip(*(table[name].to_pylist() for name in columns)):
                if uri in away:
                    count(uri, "unreachable", "", "cannot be read now; its rows are kept", frames, faces)
                    kept += 1
                elif uri in wanted:
                    count(uri, status, stage, reason, frames, faces)
        if unfinished := len(away) - kept:
            outcome = self.summary.outcomes.setdefault(("unreachable", ""), StatusCount())
            outcome.inputs += unfinished
            outcome.example = outcome.example or "cannot be read now"

    def _connect(self) -> None:
        if not self._on_ray:
            self.progress.message("starting Ray")
            self._stack.enter_context(
                session.connected(self.config.address, self.config.cpus, self.config.object_store_mb)
            )
            self._on_ray = True

    # --- processing

    def _process(self, plans: dict[str, Plan]) -> None:
        shards, waiting = self._missing(plans)
        is_small = in_process.is_chosen(self.config, chain.from_iterable(shards))
        if shards and not is_small:
            self._connect()
        if shards:
            self._run_shards(plans, waiting, shards, is_small)
        self._finalizer.flush(wait=True)

    def _missing(self, plans: dict[str, Plan]) -> tuple[list[list[UnitPlan]], dict[str, set[str]]]:
        """The units to run, by shard, and those of each input that lacks several; the row of one that lacks none is
        made.
        """
        if self._existing is None or self._planner.has_removed:
            self._planner.has_removed = False
            rows = (uri for table in self.dataset.inputs_by_part(["uri"]) for uri in table["uri"].to_pylist())
            self._existing = self.dataset.done(), CompactSet(rows)
        done, has_row = self._existing
        units = {uri: list(units_of(plan, self.name)) for uri, plan in plans.items()}
        for shard in {unit.shard for of_input in units.values() for unit in of_input}:
            if shard in done:
                self._known.add(shard)
        unfinished = [unit.shard for uri, of_input in units.items() if uri not in has_row for unit in of_input]
        held = self.dataset.units_in(shard for shard in dict.fromkeys(unfinished) if shard in done)
        missing = {
            uri: [u for u in of_input if u.shard not in done or not (uri in has_row or u.unit_id in held)]
            for uri, of_input in units.items()
            if not (self.config.part and uri in has_row)  # to repair a finished input is for the run without --shard
        }
        missing = {uri: of_input for uri, of_input in missing.items() if of_input}
        self.dataset.reopen([uri for uri in missing if uri in has_row])  # shards of a finished input were deleted
        shards = self._bundled(plans, list(chain.from_iterable(missing.values())))
        complete = [plan for uri, plan in plans.items() if uri not in missing and uri not in has_row]
        expected = [unit.expected for of_shard in shards for unit in of_shard]
        self.progress.expect(len(missing) + len(complete), len(expected), sum(expected))
        for plan in complete:
            self._finalizer.add(plan, [held[unit.unit_id] for unit in units[plan.uri]])
        return shards, {uri: {unit.unit_id for unit in us} for uri, us in missing.items() if len(us) > 1}

    def _bundled(self, plans: dict[str, Plan], units: list[UnitPlan]) -> list[list[UnitPlan]]:
        """The missing units by shard. Those of a shard that lacks others, changed, removed or not wanted now, are
        bundled anew, and the new plans kept.
        """
        shards = _by_shard(units)
        torn = {unit.unit_id: unit for name, us in shards.items() if shard_name(us) != name for unit in us}
        if torn:
            again = []
            for plan in (plans[uri] for uri in dict.fromkeys(unit.uri for unit in torn.values())):
                left = tuple("" if u.unit_id in torn else u.shard for u in units_of(plan, self.name))
                again.append(replace(plan, shards=left))
            again = self._planner.bundled(again)
            self.dataset.plans.add(again)
            plans.update((plan.uri, plan) for plan in again)
            new = {u.unit_id: u for plan in again for u in units_of(plan, self.name) if u.unit_id in torn}
            shards = _by_shard(new.get(unit.unit_id, unit) for unit in units)
        return list(shards.values())

    def _run_shards(
        self,
        plans: dict[str, Plan],
        waiting: dict[str, set[str]],
        shards: list[list[UnitPlan]],
        is_small: bool,
    ) -> None:
        crashes: deque[str | None] = deque(maxlen=CRASH_WINDOW)
        crashed: set[str] = set()  # inputs
        began, checked = time.monotonic(), 0.0
        where = "in this process (--workers, --address: on Ray)" if is_small else "starting the actors"
        about = f"{sum(map(len, shards)):,} units of work in {len(shards):,} shards"
        self.progress.message(f"{about}, {where}")
        run_shards = in_process.run_shards if is_small else dataflow.run_shards
        config = self.config
        if self._on_ray and self.summary.done["units"]:  # the cluster has grown with an earlier group
            import ray

            config = config.grown(ray.cluster_resources(), len(shards))
        done = run_shards(config, *self.specs, shards, lambda sentence: self.progress.message(sentence or about))
        for record in chain.from_iterable(done):
            if not self.summary.done["units"]:
                self.summary.start_s = time.monotonic() - began
                self.progress.message(about)
            if time.monotonic() - checked > LOCK_CHECK_S:  # each publication is checked besides
                self._check_lock()
                checked = time.monotonic()
            if self._on_unit is not None:
                self._on_unit(record)
            self.summary.add(record)
            self.progress.unit_done(record, plans[record.uri].expected[record.index])
            if record.crash is None or record.uri not in crashed:  # an input counts once, however many units it has
                crashes.append(record.crash)
            if record.crash is not None:
                crashed.add(record.uri)
                check_crashes(crashes)
            left = waiting.get(record.uri, set())
            left.discard(record.unit_id)
            if not left:
                self._finalizer.add(plans[record.uri], [record])
            self._finalizer.flush()

    def _identities(self) -> None:
        self.progress.message("clustering identities")
        self.summary.identities = str(identify(self.dataset.store))
        self.progress.message(self.summary.identities)


def _by_shard(units: Iterable[UnitPlan]) -> dict[str, list[UnitPlan]]:
    shards: dict[str, list[UnitPlan]] = {}
    for unit in units:
        shards.setdefault(unit.shard, []).append(unit)
    return shards


def check_crashes(crashes: deque[str | None]) -> None:
    """Check that the latest units, at most one of each crashing input, did not mostly crash in one and the same way.

    JobBroken if they did: the fault is the installation's or the machine's, not the inputs'.
    """
    if len(crashes) == crashes.maxlen:
        how, count = Counter(crashes).most_common(1)[0]
        if how is not None and 2 * count > len(crashes):
            raise JobBroken(
                f"{count} of the last {len(crashes)} units crashed with {how}. The cause is probably not in the files: "
                "check the installation (or the network), then run again with --retry-errors."
            )
