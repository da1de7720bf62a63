"""Load generator of the service, in its own process: a closed loop, an open loop, or pings.

Used by `serve_load.py`.

    python benchmarks/serve_callers.py URL closed --callers 16 --seconds 6
    python benchmarks/serve_callers.py URL open --rate 2 --seconds 6
    python benchmarks/serve_callers.py URL ping --count 400

Prints one JSON object. Edits are of one face, by hash, with 4, 8 and 12 steps in turn; in the open loop they arrive as
a Poisson process, and what one waited counts from when it should have been sent.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from rigface.image import encode_jpeg
from rigface.video.decode import read_frames

STEPS = (4, 8, 12)
LIMIT_S = 130.0
CLIP = Path(__file__).parent.parent / "tests" / "fixtures" / "clip.mp4"


class Callers:
    """Counts of answers and refusals, and the parts of an edit's time."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client
        self.waited: list[float] = []
        self.refused = 0
        self.phases: dict[str, list[float]] = {}
        self._picture: dict[str, str] = {}

    async def begin(self) -> None:
        """Send the picture, and make one edit that does not count."""
        photo = encode_jpeg(next(read_frames(str(CLIP))).image)
        sent = await self._client.post("/v1/reconstruct", files={"picture": ("a.jpg", photo)})
        self._picture = {"id": sent.raise_for_status().json()["picture"]}
        await self.edit(0, time.perf_counter())
        self.waited.clear()
        self.phases.clear()

    async def edit(self, turn: int, since: float) -> None:
        """One edit; it has waited since `since`."""
        edit_input = {
            "picture": self._picture,
            "edit": {"yaw_deg": 4 + turn % 9},
            "seed": turn,
            "steps": STEPS[turn % 3],
        }
        answer = await self._client.post("/v1/edits", json=edit_input, headers={"Accept": "application/json"})
        if answer.status_code in (429, 503):
            self.refused += 1
            return
        body = answer.raise_for_status().json()
        self.waited.append(time.perf_counter() - since)
        for phase, value in body["seconds"].items():
            self.phases.setdefault(phase, []).append(value)

    async def closed(self, callers: int, seconds: float) -> float:
        """So many callers, each with one request at a time; the seconds until all are done."""
        began = time.perf_counter()

        async def one(number: int) -> None:
            turn = number
            while time.perf_counter() < began + seconds:
                await self.edit(turn, time.perf_counter())
                turn += 1

        await asyncio.gather(*(one(n) for n in range(callers)))
        return time.perf_counter() - began

    async def open(self, rate: float, seconds: float) -> float:
        """Requests that do not wait for each other."""
        gaps = np.random.default_rng(0).exponential(1 / rate, int(rate * seconds) + 1)
        began, tasks = time.perf_counter(), []
        for turn, due in enumerate(began + np.cumsum(gaps)):
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            tasks.append(asyncio.ensure_future(self.edit(turn, due)))
        await asyncio.gather(*tasks)
        return time.perf_counter() - began

    async def pings(self, count: int) -> dict[str, float]:
        """Milliseconds of `GET /healthz`, one after the other on one connection."""
        took = []
        for _ in range(count + 20):
            began = time.perf_counter()
            (await self._client.get("/healthz")).raise_for_status()
            took.append(1e3 * (time.perf_counter() - began))
        return {f"p{q}_ms": round(float(np.percentile(took[20:], q)), 3) for q in (50, 95)}

    def found(self, took: float) -> dict[str, Any]:
        """Edits a second, percentiles, and the median seconds of each phase as the service reports them."""
        out: dict[str, Any] = {"edits": len(self.waited), "refused": self.refused}
        if self.waited:
            out["edits_per_s"] = round(len(self.waited) / took, 3)
            out |= {f"p{q}_s": round(float(np.percentile(self.waited, q)), 3) for q in (50, 95, 99)}
            out["phases_s"] = {name: round(float(np.median(v)), 3) for name, v in self.phases.items()}
        return out


async def run(options: argparse.Namespace) -> dict[str, Any]:
    """As the command line says."""
    pool = httpx.Limits(max_connections=256)
    async with httpx.AsyncClient(base_url=options.url, timeout=LIMIT_S, limits=pool) as client:
        callers = Callers(client)
        if options.how == "ping":
            return await callers.pings(options.count)
        await callers.begin()
        if options.how == "closed":
            return callers.found(await callers.closed(options.callers, options.seconds))
        return callers.found(await callers.open(options.rate, options.seconds))


def main() -> None:
    """Call, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("url")
    parser.add_argument("how", choices=("closed", "open", "ping"))
    parser.add_argument("--callers", type=int, default=1)
    parser.add_argument("--rate", type=float, default=1.0)
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--count", type=int, default=400)
    print(json.dumps(asyncio.run(run(parser.parse_args()))))


if __name__ == "__main__":
    main()
