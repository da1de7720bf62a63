"""Plans of a dataset's inputs, kept in OUT/.rigface/plans.

Path: survey -> `add` -> one Parquet object per batch (columns uri, planned, plan) -> `load` -> the next run.

The latest plan of an input counts.
"""

import time
from collections.abc import Iterable, Iterator

import pyarrow as pa

from pipelines.extract.layout import publish_by_hash
from pipelines.extract.plan import Plan
from pipelines.inputs.compact_set import CompactSet
from rigface.storage.store import INTERNAL, Store

PLANS = f"{INTERNAL}/plans"


class PlanStore:
    """The plans of one dataset."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._spans: dict[str, tuple[str, str] | None] | None = None  # of parts: first and last uri, None: not read yet
        self._latest = 0.0

    def load(self, uris: Iterable[str] | None = None) -> dict[str, Plan]:
        """The latest plans of some inputs, or of all, by uri.

        Parts are listed once, as only the lock's holder adds some. One is read twice only if its first and
        last uri allow it to hold a wanted one.
        """
        wanted = None if uris is None else set(uris)
        first, last = (min(wanted), max(wanted)) if wanted else ("", "")
        latest: dict[str, tuple[float, str]] = {}
        if self._spans is None:
            self._spans = dict.fromkeys(self._store.paths(PLANS, ".parquet"))
        for path, span in self._spans.items():
            if wanted is not None and span is not None and (span[1] < first or last < span[0]):
                continue
            table = self._store.table(path)
            names = table["uri"].to_pylist()
            self._spans[path] = min(names), max(names)
            for uri, planned, text in zip(names, *(table[n].to_pylist() for n in ("planned", "plan"))):
                self._latest = max(self._latest, planned)
                if (wanted is None or uri in wanted) and (uri not in latest or latest[uri][0] < planned):
                    latest[uri] = planned, text
        return {uri: Plan.from_json(text) for uri, (_, text) in latest.items()}

    def count(self) -> tuple[int, int]:
        """The numbers of planned inputs and of shards in their latest plans."""
        inputs, shards = 0, CompactSet()
        for plan in self.latest():
            inputs += 1
            for shard in plan.shards:
                shards.add(shard)
        return inputs, len(shards)

    def latest(self) -> Iterator[Plan]:
        """The latest plan of every input; takes 12 bytes of memory a plan. All plans of a part have one time."""
        paths = self._store.paths(PLANS, ".parquet")
        times = sorted(
            ((self._store.table(path, ["planned"])["planned"][0].as_py(), path) for path in paths), reverse=True
        )
        seen = CompactSet()
        for _, path in times:
            table = self._store.table(path, ["uri", "plan"])
            for uri, text in zip(table["uri"].to_pylist(), table["plan"].to_pylist()):
                if seen.add(uri):
                    yield Plan.from_json(text)

    def add(self, plans: list[Plan]) -> None:
        if not plans:
            return
        # Later than all plans before, even if this machine's clock is behind.
        self._latest = max(time.time(), self._latest + 1e-3)
        uris = [p.uri for p in plans]
        columns = {
            "uri": uris,
            "planned": [self._latest] * len(plans),
            "plan": [p.to_json() for p in plans],
        }
        path = publish_by_hash(self._store, PLANS, pa.table(columns))
        if self._spans is not None:
            self._spans[path] = min(uris), max(uris)
