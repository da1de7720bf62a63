"""What an evaluation asks of every editor: tasks chosen among people nobody learned from, and the pictures they begin with.

Path: OUT/examples or OUT/faces -> `Examples.plan`, `Faces.plan` -> items (plain values, so that workers can be sent them)
-> `task` -> `Task`, which gives conditions in any style and size a model wants.

* self-edit: two frames of one person in one input; the second is the truth.
* cross-identity: pose, expression or light of somebody else.
* sweep: one number over seven values, on each person's calmest frame.
* clip: the frames of one track drive its first frame; each frame is the truth.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

import numpy as np

from pipelines.examples import held_out, pair_sampling
from pipelines.examples.compose_example import TAKE, invent_light, make, staged
from pipelines.examples.config import PairSettings
from pipelines.examples.face_reader import FaceReader
from pipelines.examples.frame_index import GATES, read_frames
from pipelines.examples.layout import head_of, parts_of, spec_of
from pipelines.examples.split import split_of
from rigface.conditions import Composer
from rigface.edits import EditSpec
from rigface.errors import PlanError
from rigface.examples import examples_of
from rigface.face.controls.transfer import targets_of, transfer
from rigface.storage.store import Store
from rigface.types import Conditions, HeadSpec

TaskKind = Literal["self", "cross", "sweep", "clip"]
KINDS: tuple[TaskKind, ...] = get_args(TaskKind)
SWEEPS: dict[str, tuple[float, ...]] = {
    "yaw_deg": (-30, -20, -10, 0, 10, 20, 30),
    "pitch_deg": (-21, -14, -7, 0, 7, 14, 21),
    "expression.smile": (0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2),
    "expression.jaw_open": (0, 0.15, 0.3, 0.45, 0.6, 0.75, 0.9),
    "light.azimuth_deg": (-75, -50, -25, 0, 25, 50, 75),
}
SELF_EDITS = {  # kind of example -> row of the card; of all but the first the source is the preview's work
    "pair": "self-edit",
    "relit": "self-edit, re-lit",
    "posed": "self-edit, posed",
}
MIN_CLIP_FRAMES = 5  # frames in a row without which a clip's trembling says nothing

Place = tuple[str, int]  # part and row
Style = tuple[str, int, str]  # render style, size, field of the expression code


@dataclass(frozen=True)
class Item:
    """A task as plain values.

    Args:
        kind: which of the four. name: the row of the card. key: which pair; equal for all models.
        person: whose source. target_person: whose target.
        edit: `EditSpec.to_dict`.
        source, target: rows; a target that is `truth` is the source's person in the source's input.
        relit: the source is given an invented light first.
        sweep: which sweep, and its number. clip: which clip.
        example: the row is one of examples/, which holds everything.
    """

    kind: str
    name: str
    key: str
    person: str
    edit: dict[str, Any]
    source: Place
    target: Place | None = None
    target_person: str | None = None
    truth: bool = False
    relit: bool = False
    sweep: tuple[str, str] | None = None
    clip: str | None = None
    example: bool = False

    @staticmethod
    def of(values: dict[str, Any]) -> Item:
        """From JSON, where tuples became lists."""
        fixed: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
        return Item(**fixed)

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class Task:
    """A task with its pictures.

    Args:
        source, target, truth: (S, S, 3) uint8, the truth in the source's framing.
        conditions: what a model of a style sees of it.
        time_s: of the driving frame.
    """

    item: Item
    edit: EditSpec
    source: np.ndarray
    target: np.ndarray | None
    truth: np.ndarray | None
    conditions: Callable[[Style], Conditions]
    time_s: float = 0.0


class Examples:
    """Tasks of a folder that `pair` wrote: self-edits, conditions and truth ready made."""

    kinds: tuple[TaskKind, ...] = ("self",)

    def __init__(self, source: Store) -> None:
        self._source, self._parts = source, parts_of(source)
        self.spec = spec_of(source, self._parts)
        self._tables: dict[str, Any] = {}

    @property
    def head(self) -> HeadSpec:
        """The head model of the faces behind them."""
        return self.spec.head

    def plan(self, kinds: tuple[TaskKind, ...], limit: int, all_people: bool = False) -> list[Item]:
        """Self-edits, people in turns, in no order within a person (names are hashes).

        Raises:
            PlanError: nobody was held out.
        """
        rows = held_out.rows_of(self._source, self._parts, None if all_people else "test")
        rows = _balanced([row for row in held_out.in_turns(rows, lambda r: r["example"]) if row["take"]], limit)
        if not rows:
            raise PlanError(f"{self._source.uri}: {NOBODY}")
        return [
            Item(
                kind="self",
                name=SELF_EDITS[row["kind"]],
                key=row["example"],
                person=row["identity"],
                edit={"take": sorted(row["take"].split(","))},
                source=(row["part"], row["row"]),
                truth=True,
                example=True,
            )
            for row in rows
        ]

    def task(self, item: Item) -> Task:
        """The pictures of an item."""
        part, number = item.source
        if part not in self._tables:
            self._tables = {part: self._source.table(part)}
        example = examples_of(self._tables[part].slice(number, 1))
        shown, truth = example.conditions.map(lambda a: a[0]), example.target[0]

        return Task(item, EditSpec.from_dict(item.edit), shown.reference, truth, truth, lambda style: shown)


def _balanced(rows: list[dict[str, Any]], limit: int) -> list[dict[str, Any]]:
    """At least half of them pairs of two photographs, where there are so many; the rest shared by what was invented."""
    kinds = {kind: [row for row in rows if row["kind"] == kind] for kind in SELF_EDITS}
    share = limit // (2 * (len(kinds) - 1))
    invented = [row for kind in kinds if kind != "pair" for row in kinds[kind][:share]]
    found = kinds["pair"][: limit - len(invented)] + invented
    rest = [row for row in rows if row not in found]
    return (found + rest)[:limit]


NOBODY = (
    "nobody is held out here (every tenth person is, by name), so there is nothing to evaluate on. More people, "
    "or --all-people where no model learned from these"
)


class Faces:
    """Tasks of a dataset of faces, of all kinds; conditions are composed as each model wants them.

    Args:
        size: of the true pictures; 0: the crops' own.
    """

    kinds = KINDS

    def __init__(self, source: Store, size: int = 0) -> None:
        self._source, self._size, self.head = source, size, head_of(source)
        self._reader = FaceReader(source, self.head)
        self._composers: dict[Style, Composer] = {}

    def plan(
        self,
        kinds: tuple[TaskKind, ...],
        limit: int,
        all_people: bool = False,
        *,
        sweeps: int = 4,
        clips: int = 4,
        clip_frames: int = 12,
        seed: int = 0,
    ) -> list[Item]:
        """Tasks of the kinds wanted.

        Args:
            limit: self-edits, and cross-identity edits, at most. sweeps: people swept over. clips, clip_frames: likewise.

        Raises:
            PlanError: nobody was held out.
        """
        settings = PairSettings()
        least = (settings.min_confidence, settings.min_sharpness, settings.min_face_px)
        frames, places = read_frames(self._source, dict(zip(GATES, least)))
        mine = np.array([all_people or split_of(str(who)) == "test" for who in frames.identity])
        frames = replace(frames, good=frames.good & mine)
        if not frames.good.any():
            raise PlanError(f"{self._source.uri}: {NOBODY}")
        chooser = _Chooser(frames, places, np.random.default_rng(seed))
        made: dict[TaskKind, Callable[[], Iterator[Item]]] = {
            "self": lambda: chooser.self_edits(limit, settings, seed),
            "cross": lambda: chooser.cross_edits(limit),
            "sweep": lambda: chooser.sweeps(sweeps),
            "clip": lambda: chooser.clips(clips, clip_frames),
        }
        return [item for kind in kinds for item in made[kind]()]

    def task(self, item: Item) -> Task | None:
        """The pictures of an item; None where the two frames do not lie over each other (the camera moved, a cut)."""
        settings, edit = PairSettings(), EditSpec.from_dict(item.edit)
        self._reader.read([p[0] for p in (item.source, item.target) if p is not None])
        source = self._reader.face(*item.source)
        target = None if item.target is None else self._reader.face(*item.target)
        if item.truth:
            assert target is not None
            own = self._composer(("texture", self._size or len(source.crop), "expression"))
            if item.relit:
                random = np.random.default_rng(int(hashlib.sha256(item.key.encode()).hexdigest()[:12], 16))
                light = invent_light(source.params.light, np.zeros((0, 9, 3), np.float32), random)
                source = staged(source, replace(source.params, light=light.astype(np.float32)), own)
            first = make(source, target, own, self.head)
            far = first.background_change > settings.max_background_change
            if far or first.covered < settings.min_overlap:
                return None

            def conditions(style: Style) -> Conditions:
                return make(source, target, self._composer(style), self.head).composed.conditions

            time_s = float(self._reader.key(*item.target)["time_s"]) if item.target else 0.0
            return Task(item, edit, first.composed.conditions.reference, first.target, first.target, conditions, time_s)
        targets = {} if target is None else {trait: target.params for trait in edit.take}
        wanted = transfer(source.params, edit, self.head, targets_of(source.params, targets) if targets else None)

        def composed(style: Style) -> Conditions:
            return self._composer(style)(source, wanted).conditions

        return Task(item, edit, source.crop, None if target is None else target.crop, None, composed)

    def _composer(self, style: Style) -> Composer:
        if style not in self._composers:
            self._composers[style] = Composer(style[0], style[1], expression_field=style[2])  # type: ignore[arg-type]
        return self._composers[style]


class _Chooser:
    """Chooses rows of faces for tasks, people in turns."""

    def __init__(self, frames: pair_sampling.Frames, places: np.ndarray, random: np.random.Generator) -> None:
        self.frames, self._places, self._random = frames, places, random
        good = np.flatnonzero(frames.good)
        self._people = {
            str(who): good[frames.identity[good] == who] for who in random.permutation(np.unique(frames.identity[good]))
        }

    def self_edits(self, limit: int, settings: PairSettings, seed: int) -> Iterator[Item]:
        """Pairs spread as `pair` spreads them, three quarters; a quarter frames under an invented light."""
        found, _ = pair_sampling.candidates(self.frames, settings.max_candidates, settings.max_identity_distance, seed)
        busy = np.any([found.deltas[name] >= edges[0] for name, edges in pair_sampling.EDGES.items()], axis=0)
        found = found.take(np.flatnonzero(busy))
        chosen = found.take(pair_sampling.choose(found, limit - limit // 4, seed))
        for k in range(len(chosen)):
            take = [name for name, edges in pair_sampling.EDGES.items() if chosen.deltas[name][k] >= edges[0]]
            s, t = int(chosen.source[k]), int(chosen.target[k])
            yield self._item("self", SELF_EDITS["pair"], s, {"take": sorted(take)}, t, truth=True)
        for s in self._in_turns(limit // 4):
            yield self._item("self", SELF_EDITS["relit"], s, {"take": ["light"]}, s, truth=True, relit=True)

    def cross_edits(self, limit: int) -> Iterator[Item]:
        """One trait of a stranger at a time, as many of each; nothing where there is only one person."""
        names = list(self._people)
        if len(names) < 2:
            return
        for k, s in enumerate(self._in_turns(limit)):
            own = str(self.frames.identity[s])
            other = self._random.choice([name for name in names if name != own])
            trait = ("pose", "expression", "light")[k % 3]
            t = int(self._random.choice(self._people[other]))
            yield self._item("cross", f"{trait} of another", s, {"take": [trait]}, t)

    def sweeps(self, count: int) -> Iterator[Item]:
        """Every number of `SWEEPS` on the frame of each person that looks ahead most."""
        ahead = self.frames.rotation[:, 2, 2]
        for rows in list(self._people.values())[:count]:
            s = int(rows[np.argmax(ahead[rows])])
            for number, values in SWEEPS.items():
                short = number.removeprefix("expression.").removesuffix("_deg").replace("light.", "light ")
                sweep = (f"{self.frames.uri[s]} {self.frames.index[s]} {number}", number)
                for value in values:
                    yield self._item("sweep", f"{short.replace('_', ' ')} sweep", s, _asked(number, value), sweep=sweep)

    def clips(self, count: int, length: int) -> Iterator[Item]:
        """Runs of frames at one distance, the longest of each person."""
        for rows in list(self._people.values()):
            run = self._longest_run(rows)
            if count < 1 or len(run) < MIN_CLIP_FRAMES:
                continue
            count -= 1
            for t in run[1 : length + 1]:
                name = f"{self.frames.uri[run[0]]} {self.frames.index[run[0]]}"
                yield self._item("clip", "clip", run[0], {"take": sorted(TAKE)}, t, truth=True, clip=name)

    def _longest_run(self, rows: np.ndarray) -> list[int]:
        best: list[int] = []
        keys = sorted({(str(self.frames.uri[r]), int(self.frames.track[r])) for r in rows})
        for uri, track in keys:
            own = rows[(self.frames.uri[rows] == uri) & (self.frames.track[rows] == track)]
            own = own[np.argsort(self.frames.index[own])]
            gaps = np.diff(self.frames.index[own])
            if not len(gaps):
                continue
            usual, run = np.bincount(gaps).argmax(), [int(own[0])]
            for row, gap in zip(own[1:], gaps):
                run = [*run, int(row)] if gap == usual else [int(row)]
                best = run if len(run) > len(best) else best
        return best

    def _in_turns(self, count: int) -> list[int]:
        """Rows drawn at random, one of each person, and again."""
        mixed = [self._random.permutation(rows) for rows in self._people.values()]
        deepest = max(map(len, mixed), default=0)
        every = [int(rows[turn]) for turn in range(deepest) for rows in mixed if turn < len(rows)]
        return every[:count]

    def _item(
        self, kind: str, name: str, source: int, edit: dict[str, Any], target: int | None = None, **more: Any
    ) -> Item:
        frames = self.frames
        rows = [source] if target is None else [source, target]
        where = "\0".join(f"{frames.uri[r]}\0{frames.index[r]}\0{frames.track[r]}" for r in rows)
        key = hashlib.sha256(f"{name}\0{where}\0{sorted(edit.items())}".encode()).hexdigest()[:16]
        places = [(str(self._places[r, 0]), int(self._places[r, 1])) for r in rows]
        return Item(
            kind=kind, name=name, key=key, person=str(frames.identity[source]), edit=edit, source=places[0],
            target=None if target is None else places[1],
            target_person=None if target is None else str(frames.identity[target]), **more,
        )  # fmt: skip


def _asked(number: str, value: float) -> dict[str, Any]:
    """An edit of one number, named as `judge.achieved` names it; checked by `EditSpec`."""
    group, _, name = number.rpartition(".")
    return EditSpec.from_dict({group: {name: value}} if group else {name: value}).to_dict()
