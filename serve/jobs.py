"""Work that takes longer than a request: many edits of one picture, queued on disk, so that a restart loses none.

Path: `POST /v1/jobs` -> `Jobs.submit` -> a folder per job -> the worker, one edit after the other through eye and painter ->
results as files. The folder is the queue: `job.json` is replaced whole, a result counts when its file has its name. A job
that was under way when the service stopped goes on with the first result it lacks.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from rigface.edits import EditSpec
from serve.api import EditRequest, JobState, Wish
from serve.edits import Editing
from serve.front import Numbers
from serve.keys import Key
from serve.limits import Limits
from serve.problems import Trouble, problem_of

MOST_WAITING = 64
KINDS = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}


class Jobs:
    """The queue of one folder and its worker. One process works on a folder at a time."""

    def __init__(self, folder: str | Path, eye: Any, painter: Any, limits: Limits | None = None) -> None:
        self._folder = Path(folder)
        self._folder.mkdir(parents=True, exist_ok=True)
        house = SimpleNamespace(eye=eye, painter=painter, limits=limits or Limits(), audit=None)
        self._editing = Editing(house, Numbers())
        self._more = asyncio.Event()
        self._worker: asyncio.Task | None = None

    async def submit(self, asked: EditRequest, wish: Wish, edits: list[Any], owner: str) -> JobState:
        """Queue it; it is on disk when this returns.

        Raises:
            Trouble: `busy`, where the queue is full.
        """
        waiting = sum(j["state"] in ("queued", "running") for j in self._all())
        if waiting >= MOST_WAITING:
            raise Trouble("busy", f"{waiting} jobs are waiting", 30)
        name = f"{time.time_ns():020d}-{secrets.token_hex(8)}"
        folder = self._folder / name
        folder.mkdir()
        for key, data in wish.pictures.items():
            (folder / key.removeprefix("sha256:")).write_bytes(data or b"")
        job = {
            "id": name, "owner": owner, "state": "queued", "total": len(edits), "error": None,
            "asked": asked.model_dump(mode="json", exclude={"picture", "target", "targets", "edit", "edits"}),
            "picture": wish.picture, "traits": wish.traits, "edits": [e.to_dict() for e in edits],
        }  # fmt: skip
        self._write(job)
        self.start()
        return self._state(job)

    async def status(self, name: str, owner: str) -> JobState:
        """How far it is; `unknown-job` for somebody else's."""
        return self._state(self._read(name, owner))

    async def cancel(self, name: str, owner: str) -> JobState:
        """Take it out of the queue, or stop it after the edit under way; results so far stay."""
        job = self._read(name, owner)
        if job["state"] in ("queued", "running"):
            job["state"] = "cancelled"
            self._write(job)
        return self._state(job)

    async def result(self, name: str, owner: str, number: int) -> tuple[bytes, str]:
        """A result's bytes and type."""
        job = self._read(name, owner)
        kind = job["asked"]["format"] or "png"
        path = self._folder / name / f"{number:06d}.{kind}"
        if not path.is_file():
            raise Trouble("not-found", f"result {number} is not there (yet)")
        return path.read_bytes(), KINDS[kind]

    async def ready(self) -> bool:
        """Whether it takes jobs; also wakes what an earlier life left behind."""
        self.start()
        return True

    def start(self) -> None:
        """Have the worker."""
        if self._worker is None or self._worker.done():
            self._worker = asyncio.get_running_loop().create_task(self._work())
        self._more.set()

    async def _work(self) -> None:
        while True:
            self._more.clear()
            job = next((j for j in self._all() if j["state"] in ("queued", "running")), None)
            if job is None:
                await self._more.wait()
                continue
            try:
                await self._run(job)
            except Exception as error:  # this job's trouble, not the queue's
                self._finish(job["id"], "failed", problem_of(error).document())

    async def _run(self, job: dict[str, Any]) -> None:
        folder = self._folder / job["id"]
        self._write({**job, "state": "running"})
        names = {job["picture"], *job["traits"].values()}
        pictures: dict[str, bytes | None] = {n: (folder / n.removeprefix("sha256:")).read_bytes() for n in names}
        base = EditRequest.model_validate(job["asked"])
        kind = base.format or "png"
        for number, edit in enumerate(job["edits"]):
            path = folder / f"{number:06d}.{kind}"
            if path.exists():
                continue
            if self._load(job["id"])["state"] == "cancelled":
                return
            asked = base.model_copy(update={"edit": EditSpec.from_dict(edit)})
            taken = asked.edit.take | set(job["traits"])
            wish = Wish(job["picture"], replace(asked.edit, take=frozenset(taken)), pictures, job["traits"], asked.face)
            plan = self._editing.plan(asked, wish, KINDS[kind], Key(job["owner"]), job["id"])
            done = await self._editing.whole(plan)
            aside = path.with_suffix(".new")
            aside.write_bytes(done.data)
            aside.replace(path)
        self._finish(job["id"], "done", None)

    def _finish(self, name: str, state: str, error: dict[str, Any] | None) -> None:
        job = self._load(name)
        if job["state"] != "cancelled":
            self._write({**job, "state": state, "error": error})

    def _all(self) -> list[dict[str, Any]]:
        """All jobs, the oldest first; a folder without `job.json` was not accepted."""
        return [json.loads(p.read_text()) for p in sorted(self._folder.glob("*/job.json"))]

    def _load(self, name: str) -> dict[str, Any]:
        return json.loads((self._folder / name / "job.json").read_text())

    def _read(self, name: str, owner: str) -> dict[str, Any]:
        good = all(c in "0123456789abcdef-" for c in name) and (self._folder / name / "job.json").is_file()
        job = self._load(name) if good and name else None
        if job is None or job["owner"] != owner:
            raise Trouble("unknown-job")
        return job

    def _write(self, job: dict[str, Any]) -> None:
        path = self._folder / job["id"] / "job.json"
        aside = path.with_suffix(".new")
        aside.write_text(json.dumps(job))
        aside.replace(path)

    def _state(self, job: dict[str, Any]) -> JobState:
        kind = job["asked"]["format"] or "png"
        finished = len(list((self._folder / job["id"]).glob(f"*.{kind}")))
        return JobState(id=job["id"], state=job["state"], total=job["total"], finished=finished, error=job["error"])
