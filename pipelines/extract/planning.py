"""Plans of a job's inputs: what is known, what has changed, what is new, a bounded number of plans at a time.

Path: uris -> `Planner.groups`: a window is checked and surveyed (Ray tasks, or here if it is small), its units are
bundled into shards, its plans are kept in OUT/.rigface/plans and read back in groups -> job.py.

However many and however long the inputs are, the driver holds the names and dates of a window, the plans of one group's
units and of one part of the kept plans, and 12 to 16 bytes for every name in each of five sets.
"""

import time
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

from pipelines.cluster.shortage import Need, watching
from pipelines.extract import in_process
from pipelines.extract.config import OPENING, ExtractConfig
from pipelines.extract.dataset import FaceDataset
from pipelines.extract.finalize import FLUSH_ROWS, FLUSH_S
from pipelines.extract.plan import Plan, with_shards
from pipelines.extract.survey import survey
from pipelines.inputs import open_input
from pipelines.inputs.compact_set import CompactSet
from rigface.errors import JobBroken

WINDOW = 250_000  # inputs that are surveyed together, so that a large cluster has work
GROUP_UNITS = 250_000  # units that run together: 500 MB; 17 core hours of clips of ten frames. Then actors start anew
SURVEY_BATCH = 16  # inputs per survey task
SURVEY_CPUS = 0.5  # of such a task
SURVEYS_AT_ONCE = 64  # finished tasks that are asked for at once; each such question is about all that are left
SHARDS_PER_ACTOR = 8  # at least: a small job has smaller shards, so that all actors work to its end
MAX_LOCAL_BATCHES = 16  # for fewer inputs, Ray's workers would take longer to start than the survey takes


class Planner:
    """Plans the inputs of one run, whose configuration has this name.

    Attributes:
        unreachable: known inputs that cannot be read now; they keep all they have.
        has_removed: units and rows of the dataset were removed, because of changed inputs or to be tried again.
    """

    def __init__(
        self,
        config: ExtractConfig,
        dataset: FaceDataset,
        name: str,
        connect: Callable[[], None],
        say: Callable[[str], None],
    ) -> None:
        self._config, self._dataset, self._name = config, dataset, name
        self._connect, self._say = connect, say
        self.unreachable = CompactSet()
        self.has_removed = False
        self._failed: CompactSet | None = None  # inputs that failed in earlier runs; None: not read

    def groups(self, uris: Iterator[str]) -> Iterator[dict[str, Plan]]:
        """The plans of all inputs that can be read, in groups of at most `GROUP_UNITS` units or one input."""
        while window := list(islice(uris, WINDOW)):
            away = self._plan(window)
            group: dict[str, Plan] = {}
            units = 0
            for plans in self._dataset.plans.by_part(uri for uri in window if uri not in away):
                for uri, plan in plans.items():
                    if group and units + len(plan.chunks) > GROUP_UNITS:
                        yield group
                        group, units = {}, 0
                    group[uri] = plan
                    units += len(plan.chunks)
            yield group

    def _plan(self, uris: list[str]) -> set[str]:
        """Have a plan of every input of a window; returns those that cannot be read now."""
        self._say(f"{len(uris):,} inputs; checking which are new")
        stamps = self._dataset.stamps(uris)
        known = stamps.keys()
        new, unreachable = open_input.changed(uris, stamps, self._config.settings.root)
        self._say(f"{len(uris):,} inputs, {len(known):,} known, {len(new):,} new or changed")
        check_reachable(unreachable, known)
        if self._config.part and (changed_later := known & set(new)):
            self._say(f"{len(changed_later):,} changed inputs wait for the run without --shard")
            new = [uri for uri in new if uri not in changed_later]
        if self._config.retry_errors:
            new += self._forget_errors(known - unreachable - set(new))
        unreachable |= self._survey(new, known)
        for uri in unreachable:
            self.unreachable.add(uri)
        return unreachable

    def bundled(self, plans: Collection[Plan], inputs: int = 0) -> list[Plan]:
        """The plans with a shard for each unit; `inputs` is the number of inputs that are planned, if these are some of
        them.
        """
        pool = self._config.detect_faces
        work = sum(OPENING * len(plan.chunks) + sum(plan.expected) for plan in plans)
        share = work * max(inputs / max(len(plans), 1), 1) / (SHARDS_PER_ACTOR * max(pool.actors, pool.max_actors))
        return with_shards(plans, self._name, min(share, self._config.shard_frames))

    def _forget_errors(self, uris: set[str]) -> list[str]:
        """Undo earlier failures of unchanged inputs; returns those that must be surveyed again."""
        if self._failed is None:
            self._failed = self._dataset.failed()
        again: list[str] = []
        for plans in self._dataset.plans.by_part(uri for uri in uris if uri in self._failed):
            self._dataset.retry(list(plans.values()), self._name)
            self.has_removed = True
            again += [uri for uri, plan in plans.items() if plan.status == "error"]
        return again

    def _survey(self, uris: list[str], known: Collection[str]) -> set[str]:
        """Survey new inputs and keep their plans; returns known inputs whose content could not be read."""
        batches = [uris[i : i + SURVEY_BATCH] for i in range(0, len(uris), SURVEY_BATCH)]
        new: list[Plan] = []
        unreachable: set[str] = set()
        count, flushed = 0, time.monotonic()
        for plans in self._surveyed(batches):
            new += plans
            count += len(plans)
            if count == len(uris) or len(new) >= FLUSH_ROWS or time.monotonic() - flushed > FLUSH_S:
                self._say(f"surveying new inputs: {count:,} of {len(uris):,}")
                unreachable |= self._keep(new, known, len(uris))
                new, flushed = [], time.monotonic()
        return unreachable

    def _keep(self, plans: list[Plan], known: Collection[str], inputs: int) -> set[str]:
        """Keep some of the plans of so many inputs, except of known ones whose content could not be read, which are
        returned.
        """
        before = self._dataset.plans.load(plan.uri for plan in plans if plan.uri in known)
        lost = {p.uri for p in plans if not p.sha256 and p.uri in before and before[p.uri].sha256}
        kept = self.bundled([p.following(before.get(p.uri)) for p in plans if p.uri not in lost], inputs)
        if self._dataset.add_plans(kept, before, self._name):
            self.has_removed = True
        return lost

    def _surveyed(self, batches: list[list[str]]) -> Iterator[list[Plan]]:
        """A few batches in this process, while Ray starts if it will be needed; many in Ray tasks."""
        settings, silence_s = self._config.settings, self._config.silence_s
        if len(batches) <= MAX_LOCAL_BATCHES:
            thread = ThreadPoolExecutor(1)
            try:
                planned = [thread.submit(survey, batch, settings, silence_s) for batch in batches]
                if in_process.is_excluded(self._config, sum(map(len, batches))) and batches:
                    self._connect()
                yield from (plans.result() for plans in planned)
            finally:
                thread.shutdown(wait=False, cancel_futures=True)
            return
        self._connect()
        import ray

        task = ray.remote(num_cpus=SURVEY_CPUS)(survey)
        waiting = [task.remote(batch, settings, silence_s) for batch in batches]
        with watching([Need("the survey", SURVEY_CPUS)], self._say) as came:
            while waiting:
                ready, waiting = ray.wait(waiting, num_returns=min(len(waiting), SURVEYS_AT_ONCE), timeout=1.0)
                if ready:
                    came()
                    yield from ray.get(ready)


def check_reachable(unreachable: set[str], known: Collection[str]) -> None:
    """Check that most known inputs can be read.

    JobBroken if not: the disk, network or credentials are at fault, not the inputs.
    """
    if 2 * len(unreachable) > len(known):
        raise JobBroken(
            f"{len(unreachable):,} of {len(known):,} known inputs cannot be read, such as {min(unreachable)}. Nothing "
            "was changed: mount the disk or renew the credentials, then run again. Inputs that are gone for good are "
            "removed by `rigface forget OUT INPUT...`."
        )
