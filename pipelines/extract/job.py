"""The main job: videos in, `OUT/faces` and `OUT/inputs` out, exactly once.

    find -> survey (Ray tasks) -> units -> look -> reconstruct -> finish -> write (Ray Data, a pool of actors each)
         -> close every input -> identities

A unit is done when its object exists, an input when its row does; see `output.py`. The driver only counts: each unit
sends it a record of a few hundred bytes. Killed at any moment and run again, the job does what is missing, and nothing twice.

However many inputs there are, the driver holds the plans of `WINDOW` of them, and 12 bytes for every name: it lists, plans and
works through a window before it lists the next.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain, islice
from typing import Any

from pipelines.cluster import session
from pipelines.extract import components, dataflow, plan
from pipelines.extract.config import STAGES, Extract
from pipelines.extract.dataset import FaceDataset
from pipelines.extract.finalize import finalize_input, summarize_input
from pipelines.extract.identities import identify
from pipelines.extract.layout import error_path
from pipelines.extract.plan import Plan, units_of
from pipelines.extract.progress import Progress
from pipelines.extract.quarantine import Quarantine
from pipelines.extract.summary import StatusCount, Summary
from pipelines.inputs import open_input, sources
from pipelines.inputs.compact_set import CompactSet
from rigface import schema
from rigface.errors import JobBroken
from rigface.storage import lock
from rigface.storage.store import Store
from rigface.types import DetectorSpec, HeadSpec

SURVEY_BATCH, FEW = 16, 16  # inputs per survey task; with few of them, Ray's workers would start longer than it takes
FLUSH_S, FLUSH_ROWS = 20.0, 1000  # plans and rows of inputs are published this often; what a kill loses is found again
CLOSERS = 8  # threads: reading a few columns of the parts of a long video is waiting, mostly
BREAKER = 40  # crashes are looked at over so many units
WINDOW = (
    100_000  # inputs; some 500 MB of plans. Between two windows actors start anew, which is nothing beside its hours
)


def extract(
    config: Extract, progress: Progress | None = None, each: Callable[[dict[str, Any]], None] | None = None
) -> Summary:
    """Run the job.

    Args:
        progress: the display; None: on standard error.
        each: called with the record of every unit.

    Raises:
        PlanError: settings do not fit each other or the output.
        OutputBusy: another run writes to this output.
        MissingAsset: a model is not on this machine.
        JobBroken: it makes no sense to go on.
    """
    head, detector = components.specs(config.settings)
    check_stages(config, head, detector)
    output = FaceDataset(Store(config.out))
    output.check(config.settings, head, detector, config.overwrite)
    uris = sources.find_all(config.videos)
    uris = chain([next(uris)], uris)  # that there is none at all is said before anything is written
    with lock.hold(output.store) as still_ours, contextlib.ExitStack() as stack:
        shown = stack.enter_context(progress or Progress())
        run = _Run(config, output, (head, detector), shown, still_ours, stack, each)
        return run.all(uris)


def check_stages(config: Extract, head: HeadSpec, detector: DetectorSpec) -> None:
    """See that the stages fit together.

    Raises:
        PlanError: one needs what nothing before it adds.
    """
    made = dataflow.arguments(config, head, detector)
    plan.check([made[name][0] for name in STAGES], (), {c.name for c in schema.face_columns(head, detector)})


class _Run:
    """One run, on an output whose lock it holds."""

    def __init__(
        self,
        config: Extract,
        output: FaceDataset,
        specs: tuple[HeadSpec, DetectorSpec],
        progress: Progress,
        still_ours: Callable[[], None],
        stack: contextlib.ExitStack,
        each: Callable[[dict[str, Any]], None] | None,
    ) -> None:
        self.config, self.output, self.specs, self.progress = config, output, specs, progress
        self._still_ours, self._stack, self._each, self._on_ray = still_ours, stack, each, False
        self._rows: list[dict[str, Any]] = []  # of inputs, not yet published
        self._flushed = time.monotonic()
        self._closing: list[Future] = []
        self._there: tuple[CompactSet, CompactSet] | None = (
            None  # units and rows that were there, until something is removed
        )
        self._closers = stack.enter_context(ThreadPoolExecutor(CLOSERS))
        self.summary = Summary()
        self.name = output.open(config.settings, *specs, config.overwrite)

    def all(self, uris: Iterator[str]) -> Summary:
        """From inputs to a finished dataset."""
        began = time.monotonic()
        wanted = CompactSet()
        while window := list(islice(uris, WINDOW)):
            for uri in window:
                wanted.add(uri)
            self._work(self._plans(window))
        if self.config.identities:
            self._identities()
        self._sum_up(wanted)
        self.summary.wall_s = time.monotonic() - began
        return self.summary

    def _sum_up(self, wanted: CompactSet) -> None:
        outcomes = self.summary.outcomes
        for table in self.output.inputs_by_part(["uri", "status", "stage", "reason", "frames", "faces"]):
            for row in table.to_pylist():
                if row["uri"] in wanted:
                    one = outcomes.setdefault((row["status"], row["stage"] or ""), StatusCount())
                    one.inputs, one.frames, one.faces = (
                        one.inputs + 1,
                        one.frames + row["frames"],
                        one.faces + row["faces"],
                    )
                    if row["reason"] and not one.example:
                        one.example = f"{row['uri'].rsplit('/', 1)[-1]}: {row['reason']}"

    def _ray(self) -> None:
        if not self._on_ray:
            self.progress.say("starting Ray")
            self._stack.enter_context(
                session.connected(self.config.address, self.config.cpus, self.config.object_store_mb)
            )
            self._on_ray = True

    # --- what is to be done

    def _plans(self, uris: list[str]) -> dict[str, Plan]:
        known = self.output.plans(uris)
        if self.config.retry_errors:
            self._forget_errors(known)
        self.progress.say(f"{len(uris):,} inputs, {len(known):,} known; looking which have changed")
        new = open_input.changed(uris, {uri: known[uri]["stamp"] for uri in uris if uri in known})
        if new:
            self._survey(new, known)
        return {uri: known[uri] for uri in uris}

    def _forget_errors(self, known: dict[str, Plan]) -> None:
        """Make earlier failures undone: plans that were refused, units that left an error, and their inputs' rows."""
        rows = (row for table in self.output.inputs_by_part(["uri", "status"]) for row in table.to_pylist())
        again = {row["uri"] for row in rows if row["status"] in ("error", "partial") and row["uri"] in known}
        for uri in again:
            Quarantine(self.output.store).forget(uri)
            for unit, _ in units_of(known[uri], self.name):
                self.output.store.delete(error_path(unit))
            if known[uri]["status"] == "error":
                del known[uri]
        self.output.remove_inputs(again)
        if again:
            self._there = None

    def _survey(self, uris: list[str], known: dict[str, Plan]) -> None:
        """Look into new inputs: a few here, many in Ray tasks."""
        batches = [uris[i : i + SURVEY_BATCH] for i in range(0, len(uris), SURVEY_BATCH)]
        found: list[Plan] = []
        count, flushed = 0, time.monotonic()
        for plans in self._surveyed(batches):
            found += plans
            count += len(plans)
            self.progress.say(f"looking into new inputs: {count:,} of {len(uris):,}")
            if count == len(uris) or len(found) >= FLUSH_ROWS or time.monotonic() - flushed > FLUSH_S:
                if self.output.add_plans(found, known, self.name):
                    self._there = None
                known.update({p["uri"]: p for p in found})
                found, flushed = [], time.monotonic()

    def _surveyed(self, batches: list[list[str]]) -> Iterator[list[Plan]]:
        settings, silence_s = self.config.settings, self.config.silence_s
        if len(batches) <= FEW:
            yield from (plan.survey(batch, settings, silence_s) for batch in batches)
            return
        self._ray()
        import ray

        task = ray.remote(num_cpus=0.5)(plan.survey)
        waiting = [task.remote(batch, settings, silence_s) for batch in batches]
        while waiting:
            ready, waiting = ray.wait(waiting)
            yield from ray.get(ready)

    # --- doing it

    def _work(self, plans: dict[str, Plan]) -> None:
        if self._there is None:
            rows = (uri for table in self.output.inputs_by_part(["uri"]) for uri in table["uri"].to_pylist())
            self._there = self.output.done(), CompactSet(rows)
        done, has_row = self._there
        todo: dataflow.Todo = []
        waiting: dict[str, set[str]] = {}
        for one in plans.values():
            missing = [(unit, what) for unit, what in units_of(one, self.name) if unit not in done]
            if missing:
                waiting[one["uri"]] = {unit for unit, _ in missing}
                todo += missing
        self.output.remove_inputs(
            [uri for uri in waiting if uri in has_row]
        )  # somebody deleted parts of a finished input
        closable = [p for uri, p in plans.items() if uri not in waiting and uri not in has_row]
        self.progress.expect(len(waiting) + len(closable), len(todo), sum(what["expected"] for _, what in todo))
        if todo:
            self._ray()
        for one in closable:
            self._close(one)
        if todo:
            self._units(plans, waiting, todo)
        self._flush(wait=True)

    def _units(self, plans: dict[str, Plan], waiting: dict[str, set[str]], todo: dataflow.Todo) -> None:
        expected = {unit: what["expected"] for unit, what in todo}
        crashes: deque[str | None] = deque(maxlen=BREAKER)
        crashed: set[str] = set()  # inputs
        began = time.monotonic()
        self.progress.say(f"{len(todo):,} units of work; starting the actors")
        for record in dataflow.run_units(self.config, *self.specs, todo):
            if not self.summary.done["units"]:
                self.summary.start_s = time.monotonic() - began
                self.progress.say(f"{len(todo):,} units of work")
            self._still_ours()
            self._count(record)
            self.progress.unit(record, expected[record["unit_id"]])
            uri = record["uri"]
            if record["crash"] is None or uri not in crashed:  # however many units it has, an input is one witness
                crashes.append(record["crash"])
                _break(crashes)
            if record["crash"] is not None:
                crashed.add(uri)
            waiting[uri].discard(record["unit_id"])
            if not waiting[uri]:
                self._close(plans[uri], [record])
            self._flush()

    def _count(self, record: dict[str, Any]) -> None:
        summary = self.summary
        if self._each is not None:
            self._each(record)
        summary.done.update(units=1, **{name: record[name] for name in ("frames", "faces", "bytes")})
        summary.cpu_seconds += record["cpu_seconds"]
        for step, value in record["seconds"].items():
            summary.seconds[step] = summary.seconds.get(step, 0.0) + value

    # --- closing

    def _close(self, one: Plan, records: list[dict[str, Any]] | None = None) -> None:
        """Make the row of a finished input: at once where all is at hand, else from what was written, on a thread."""
        if len(one["chunks"]) == 0 or (len(one["chunks"]) == 1 and records):
            self._closed(summarize_input(one, records or []))
        else:
            self._closing.append(self._closers.submit(finalize_input, self.config.out, one, self.name))

    def _closed(self, row: dict[str, Any]) -> None:
        self._rows.append(row)
        self.progress.closed(row)

    def _flush(self, wait: bool = False) -> None:
        self._closing, ended = [], self._closing
        for future in ended:
            if wait or future.done():
                self._closed(future.result())
            else:
                self._closing.append(future)
        if wait or len(self._rows) >= FLUSH_ROWS or time.monotonic() - self._flushed > FLUSH_S:
            self.output.add_inputs(self._rows)
            self._rows, self._flushed = [], time.monotonic()

    def _identities(self) -> None:
        self.progress.say("who is who")
        self.summary.identities = str(identify(self.output.store))
        self.progress.say(self.summary.identities)


def _break(crashes: deque[str | None]) -> None:
    """Stop when most of the latest units, one of each input that crashes, crashed in one and the same way: that is our fault or
    the machine's.

    Raises:
        JobBroken: they did.
    """
    if len(crashes) == crashes.maxlen:
        how, count = Counter(crashes).most_common(1)[0]
        if how is not None and 2 * count > len(crashes):
            raise JobBroken(
                f"{count} of the last {len(crashes)} units crashed with {how}. So many files are not all at fault: look at the "
                "installation (or the network), then run again with --retry-errors."
            )
