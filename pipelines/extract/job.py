"""Extract job: videos in, `OUT/faces` and `OUT/inputs` out, exactly once.

    find -> survey (Ray tasks) -> units -> detect_faces -> reconstruct -> mask_and_score -> write
         (on Ray Data: dataflow.py, or in this process if they are few: in_process.py)
         -> finalize every input -> identities

A unit is done when its object exists, an input when its row does; see dataset.py. The driver only counts: each unit
sends it a record of a few hundred bytes. Killed at any moment and run again, the job does the missing work, and
nothing twice.

The driver's memory is bounded, see planning.py: it lists and plans a window of inputs, and processes it group by group,
before it lists the next.
"""

import contextlib
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from itertools import chain

from pipelines.cluster import session
from pipelines.extract import components, dataflow, in_process, stages
from pipelines.extract.config import STAGES, ExtractConfig
from pipelines.extract.dataset import FaceDataset
from pipelines.extract.finalize import InputFinalizer
from pipelines.extract.identities import identify
from pipelines.extract.plan import Plan, UnitPlan, units_of
from pipelines.extract.planning import Planner
from pipelines.extract.progress import Progress
from pipelines.extract.summary import Summary
from pipelines.extract.unit import Record
from pipelines.inputs import sources
from pipelines.inputs.compact_set import CompactSet
from rigface import schema
from rigface.errors import JobBroken
from rigface.storage import lock
from rigface.storage.store import Store
from rigface.types import DetectorSpec, HeadSpec

CRASH_WINDOW = 40  # latest units in which crashes are counted


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
    with lock.hold(dataset.store) as check_lock, contextlib.ExitStack() as stack:
        shown = stack.enter_context(progress or Progress())
        run = _Run(config, dataset, (head, detector), shown, check_lock, stack, on_unit)
        return run.all(uris)


def check_stages(config: ExtractConfig, head: HeadSpec, detector: DetectorSpec) -> None:
    """Check that every stage finds the columns it needs, else PlanError."""
    arguments = dataflow.stage_arguments(config, head, detector)
    columns = {column.name for column in schema.face_columns(head, detector)}
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
        self._existing: tuple[CompactSet, CompactSet] | None = None  # units and rows; read again after a removal
        self._known = 0  # units of the present plans among the existing ones
        self.summary = Summary()
        self.name = dataset.begin_run(config.settings, *specs, config.overwrite)
        self._planner = Planner(config, dataset, self.name, self._connect, progress.message)
        self._finalizer = stack.enter_context(InputFinalizer(dataset, self.name, progress.input_done))

    def all(self, uris: Iterator[str]) -> Summary:
        began = time.monotonic()
        wanted = CompactSet()

        def noted() -> Iterator[str]:
            for uri in uris:
                wanted.add(uri)
                yield uri

        for plans in self._planner.groups(noted()):
            self._process(plans)
        if self._existing and len(self._existing[0]) > self._known:
            self.dataset.sweep_orphans(self.name)
        if self.config.identities:
            self._identities()
        self._count_inputs(wanted)
        self.summary.wall_s = time.monotonic() - began
        return self.summary

    def _count_inputs(self, wanted: CompactSet) -> None:
        count, unreachable = self.summary.count_input, set(self._planner.unreachable)
        for table in self.dataset.inputs_by_part(["uri", "status", "stage", "reason", "frames", "faces"]):
            for row in table.to_pylist():
                if row["uri"] in unreachable:
                    unreachable.remove(row["uri"])
                    count(
                        row | {"status": "unreachable", "stage": "", "reason": "cannot be read now; its rows are kept"}
                    )
                elif row["uri"] in wanted:
                    count(row)
        for uri in unreachable:
            count({"uri": uri, "status": "unreachable", "reason": "cannot be read now"})

    def _connect(self) -> None:
        if not self._on_ray:
            self.progress.message("starting Ray")
            self._stack.enter_context(
                session.connected(self.config.address, self.config.cpus, self.config.object_store_mb)
            )
            self._on_ray = True

    # --- processing

    def _process(self, plans: dict[str, Plan]) -> None:
        if self._existing is None or self._planner.has_removed:
            self._planner.has_removed = False
            rows = (uri for table in self.dataset.inputs_by_part(["uri"]) for uri in table["uri"].to_pylist())
            self._existing = self.dataset.done(), CompactSet(rows)
        done, has_row = self._existing
        units: list[UnitPlan] = []
        waiting: dict[str, set[str]] = {}
        for plan in plans.values():
            missing = [unit for unit in units_of(plan, self.name) if unit.unit_id not in done]
            self._known += len(plan.chunks) - len(missing)
            if missing:
                waiting[plan.uri] = {unit.unit_id for unit in missing}
                units += missing
        self.dataset.reopen([uri for uri in waiting if uri in has_row])  # parts of a finished input were deleted
        complete = [plan for uri, plan in plans.items() if uri not in waiting and uri not in has_row]
        self.progress.expect(len(waiting) + len(complete), len(units), sum(unit.expected for unit in units))
        is_small = in_process.is_chosen(self.config, units)
        if units and not is_small:
            self._connect()
        for plan in complete:
            self._finalizer.add(plan)
        if units:
            self._run_units(plans, waiting, units, is_small)
        self._finalizer.flush(wait=True)

    def _run_units(
        self, plans: dict[str, Plan], waiting: dict[str, set[str]], units: list[UnitPlan], is_small: bool
    ) -> None:
        expected = {unit.unit_id: unit.expected for unit in units}
        crashes: deque[str | None] = deque(maxlen=CRASH_WINDOW)
        crashed: set[str] = set()  # inputs
        began = time.monotonic()
        where = "in this process (--workers, --address: on Ray)" if is_small else "starting the actors"
        self.progress.message(f"{len(units):,} units of work, {where}")
        run_units = in_process.run_units if is_small else dataflow.run_units
        for record in run_units(self.config, *self.specs, units):
            if not self.summary.done["units"]:
                self.summary.start_s = time.monotonic() - began
                self.progress.message(f"{len(units):,} units of work")
            self._check_lock()
            if self._on_unit is not None:
                self._on_unit(record)
            self.summary.add(record)
            self.progress.unit_done(record, expected[record.unit_id])
            if record.crash is None or record.uri not in crashed:  # an input counts once, however many units it has
                crashes.append(record.crash)
                check_crashes(crashes)
            if record.crash is not None:
                crashed.add(record.uri)
            waiting[record.uri].discard(record.unit_id)
            if not waiting[record.uri]:
                self._finalizer.add(plans[record.uri], [record])
            self._finalizer.flush()

    def _identities(self) -> None:
        self.progress.message("clustering identities")
        self.summary.identities = str(identify(self.dataset.store))
        self.progress.message(self.summary.identities)


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
