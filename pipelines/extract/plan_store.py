"""Plans of a dataset's inputs, kept in OUT/.rigface/plans.

Path: survey -> `add` -> one Parquet object per batch (columns uri, planned, plan) -> `by_part` -> the next run.

The latest plan of an input counts. In memory is the number of the part that holds it, 16 bytes per input; so a part is
read only for plans that it holds, in whatever order inputs are listed.
"""

import time
from collections.abc import Iterable, Iterator

import pyarrow as pa

from pipelines.extract.layout import publish_by_hash
from pipelines.extract.plan import Plan
from pipelines.inputs.compact_set import CompactMap, CompactSet
from rigface.storage.store import INTERNAL, Store

PLANS = f"{INTERNAL}/plans"


class PlanStore:
    """The plans of one dataset."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._parts: list[tuple[float, str]] | None = None  # time and path of each; None: not listed yet
        self._latest = 0.0  # of these times
        self._part_of = CompactMap()  # an input: the number of the part with its latest plan

    def load(self, uris: Iterable[str]) -> dict[str, Plan]:
        """The latest plans of some inputs, by uri."""
        return {uri: plan for plans in self.by_part(uris) for uri, plan in plans.items()}

    def by_part(self, uris: Iterable[str]) -> Iterator[dict[str, Plan]]:
        """The latest plans of some inputs, by uri, as the parts come that hold them: about `FLUSH_ROWS` at a time."""
        parts = self._listed()
        wanted: dict[int, set[str]] = {}
        for uri in uris:
            if (number := self._part_of.get(uri)) is not None:
                wanted.setdefault(number, set()).add(uri)
        for number in sorted(wanted):
            rows, here = self._rows(parts[number][1]), wanted.pop(number)
            yield {uri: Plan.from_json(text) for uri, text in rows if uri in here}

    def latest(self) -> Iterator[Plan]:
        """The latest plan of every input."""
        for number, (_, path) in enumerate(self._listed()):
            for uri, text in self._rows(path):
                if self._part_of.get(uri) == number:
                    yield Plan.from_json(text)

    def count(self) -> tuple[int, int]:
        """The numbers of planned inputs and of shards in their latest plans."""
        inputs, shards = 0, CompactSet()
        for plan in self.latest():
            inputs += 1
            for shard in plan.shards:
                shards.add(shard)
        return inputs, len(shards)

    def add(self, plans: list[Plan]) -> None:
        if not plans:
            return
        parts = self._listed()
        # Later than all plans before, even if this machine's clock is behind.
        self._latest = max(time.time(), self._latest + 1e-3)
        columns = {
            "uri": [p.uri for p in plans],
            "planned": [self._latest] * len(plans),
            "plan": [p.to_json() for p in plans],
        }
        parts.append((self._latest, publish_by_hash(self._store, PLANS, pa.table(columns))))
        for plan in plans:
            self._part_of[plan.uri] = len(parts) - 1

    def _rows(self, path: str) -> Iterator[tuple[str, str]]:
        table = self._store.table(path, ["uri", "plan"])
        return zip(table["uri"].to_pylist(), table["plan"].to_pylist())

    def _listed(self) -> list[tuple[float, str]]:
        """The parts. They are listed once, as only the lock's holder adds some; all plans of a part have one time."""
        if self._parts is None:
            self._parts = []
            for path in self._store.paths(PLANS, ".parquet"):
                table = self._store.table(path, ["uri", "planned"])
                planned = table["planned"][0].as_py()
                for uri in table["uri"].to_pylist():
                    before = self._part_of.get(uri)
                    if before is None or self._parts[before][0] < planned:
                        self._part_of[uri] = len(self._parts)
                self._parts.append((planned, path))
                self._latest = max(self._latest, planned)
        return self._parts
