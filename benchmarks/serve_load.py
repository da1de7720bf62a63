"""The service under load: gain of batching in flight, cost of Ray Serve, delay of a second diffusion worker.

    python benchmarks/serve_load.py [--model tiny] [--seconds 6]

Writes benchmarks/results/serve_load.json; about five minutes on two cores. The callers are processes of their own
(`serve_callers.py`), so are the services, one after the other:

* `painter alone`: in one process, without eyes and HTTP: edits a second of `serve.inference.diffusion_worker` with one
  row at a time and with 16.
* `service`, `one at a time`: the whole service over HTTP, with 16 rows to a batch and with one: closed loops of 1, 4
  and 16 callers, an open loop at 0.7 of what the closed one reached. The medians of an edit's phases say where its time
  goes, and `cpu_ms_per_edit` which processes' time the machine spends on it at 16.
* `serve_overhead_ms`: `GET /healthz` through Ray Serve less the same through uvicorn, without and with HAProxy in
  front.
* `scale`: seconds from the beginning of load to a second painter that runs, and from its end to one again, with the
  delays given.
* `cold_start_s`: from nothing to an answer of /readyz.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import harness
import numpy as np

STEPS = (4, 8, 12)
DELAYS = {"upscale_delay_s": 2.0, "downscale_delay_s": 5.0, "look_back_period_s": 2.0, "metrics_interval_s": 0.5}
HA_PROXY = {"RAY_SERVE_ENABLE_HA_PROXY": "1", "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1"}


def callers(url: str, *words: Any) -> dict[str, Any]:
    """Figures of one process of callers."""
    command = [sys.executable, str(Path(__file__).with_name("serve_callers.py")), url, *map(str, words)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | {"PYTHONPATH": str(harness.ROOT)}
    )
    if done.returncode:
        raise RuntimeError(f"the callers failed: {done.stderr[-800:]}")
    return json.loads(done.stdout.splitlines()[-1])


# ---- each of these runs in a process of its own, and prints what it found


def painter_alone(model: str, seconds: float) -> dict[str, Any]:
    """Closed loops in one process: the same model, conditions and steps; only the rows of a batch differ."""
    from rigface.types import Conditions
    from serve.inference.diffusion_worker import DiffusionWorker
    from serve.messages import SamplingOptions

    async def load(diffusion_worker: DiffusionWorker, count: int, length: float) -> dict[str, float]:
        size = (await diffusion_worker.input_spec("m")).size
        codes = diffusion_worker.pool.loaded["m"].pipeline.model.expression_size
        end, waited = time.monotonic() + length, list[float]()
        steps, rows = diffusion_worker.steps_taken, diffusion_worker.rows_sampled

        async def one(number: int) -> None:
            random = np.random.default_rng(number)
            pictures = [random.integers(0, 256, (size, size, 3), np.uint8) for _ in range(3)]
            edit_input, turn = Conditions(*pictures, random.normal(size=codes).astype(np.float32)), number
            while time.monotonic() < end:
                since = time.monotonic()
                await diffusion_worker.sample_image("m", edit_input, SamplingOptions(seed=turn, steps=STEPS[turn % 3]))
                waited.append(time.monotonic() - since)
                turn += 1

        began = time.monotonic()
        await asyncio.gather(*(one(n) for n in range(count)))
        batch = (diffusion_worker.rows_sampled - rows) / max(diffusion_worker.steps_taken - steps, 1)
        found = {"edits_per_s": len(waited) / (time.monotonic() - began), "mean_batch": batch}
        found |= {f"p{q}_s": float(np.percentile(waited, q)) for q in (50, 95, 99)}
        return {name: round(value, 4) for name, value in found.items()}

    out: dict[str, Any] = {}
    for label, rows in (("one at a time", 1), ("in flight", 16)):
        diffusion_worker = DiffusionWorker.load({"m": model}, max_rows=rows)
        asyncio.run(load(diffusion_worker, 2, 0.5))  # warm
        for count in (1, 4, 16):
            out[f"{label}, {count} callers"] = asyncio.run(load(diffusion_worker, count, seconds))
        diffusion_worker.close()
        diffusion_worker._thread.join()  # a thread inside the networks would take the process down at its end
    out["ratio_at_16"] = ratio(out["in flight, 16 callers"], out["one at a time, 16 callers"])
    return out


def ratio(one: dict[str, float], other: dict[str, float]) -> float:
    """Of what they got done."""
    return round(one["edits_per_s"] / other["edits_per_s"], 2)


def plain(model: str, seconds: float) -> dict[str, Any]:
    """The door's pings under uvicorn, without Ray."""
    import uvicorn

    from serve.api.dependencies import Services
    from serve.api.routes import make_api
    from serve.local import free_port

    port = free_port("127.0.0.1", 0)
    server = uvicorn.Server(
        uvicorn.Config(make_api(Services(SimpleNamespace(), SimpleNamespace())), port=port, log_level="error")
    )
    threading.Thread(target=server.run, daemon=True).start()
    while not server.started:
        time.sleep(0.02)
    return callers(f"http://127.0.0.1:{port}", "ping")


def overhead(model: str, seconds: float) -> dict[str, Any]:
    """Pings through Ray Serve, in the mode that the environment says; and how long the start took."""
    from serve.local import free_port, serving

    port, began = free_port("127.0.0.1", 0), time.monotonic()
    with (
        tempfile.TemporaryDirectory() as folder,
        serving(port=port, quiet=True, model=model, signing_folder=folder) as url,
    ):
        return {"cold_start_s": round(time.monotonic() - began, 1), **callers(url, "ping")}


def loads(model: str, seconds: float) -> dict[str, Any]:
    """The service over HTTP: batches of 16 rows, of one, and painters that come and go; on one cluster."""
    import ray

    from serve import app
    from serve.local import RAY_SETTINGS, free_port, serving

    for name, value in {**RAY_SETTINGS, "RAY_AUTH_MODE": "disabled"}.items():
        os.environ.setdefault(name, value)
    ray.init(address="local", num_cpus=8, object_store_memory=300 * 2**20, include_dashboard=False, log_to_driver=False)
    out: dict[str, Any] = {}
    diffusion_worker = app.DiffusionWorkerDeployment
    with tempfile.TemporaryDirectory() as folder:
        common = {"quiet": True, "model": model, "signing_folder": folder}
        app.DiffusionWorkerDeployment = diffusion_worker.options(
            autoscaling_config=None, num_replicas=1
        )  # the batch, not the replicas
        for label, rows in (("service", 16), ("one at a time", 1)):
            with serving(port=free_port("127.0.0.1", 0), max_batch_rows=rows, **common) as url:
                for count in (1, 4, 16):
                    before = spent()
                    found = callers(url, "closed", "--callers", count, "--seconds", seconds)
                    out[f"{label}, {count} callers"] = found
                out[f"{label}, 16 callers"]["cpu_ms_per_edit"] = {
                    part: round(1e3 * (now - before.get(part, 0.0)) / found["edits"], 1)
                    for part, now in sorted(spent().items(), key=lambda item: -item[1])
                }
                if rows > 1:
                    rate = round(0.7 * out[f"{label}, 16 callers"]["edits_per_s"], 2)
                    found = callers(url, "open", "--rate", rate, "--seconds", seconds)
                    out[f"{label}, open loop"] = {"rate_per_s": rate, **found}
        limits = {"min_replicas": 1, "max_replicas": 2, "target_ongoing_requests": 4}
        app.DiffusionWorkerDeployment = diffusion_worker.options(autoscaling_config={**limits, **DELAYS})
        with serving(port=free_port("127.0.0.1", 0), **common) as url:
            out["scale"] = scale(url)
    out["ratio_at_16"] = ratio(out["service, 16 callers"], out["one at a time, 16 callers"])
    out["ratio_at_16_to_1"] = ratio(out["service, 16 callers"], out["service, 1 callers"])
    ray.shutdown()
    return out


def spent() -> dict[str, float]:
    """CPU seconds so far of this process' children, by part of the service."""
    import psutil

    out: dict[str, float] = {}
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            name = process.name() + " ".join(process.cmdline())
            part = next(
                (
                    p
                    for p in (
                        "Gateway",
                        "FaceWorker",
                        "DiffusionWorker",
                        "JobQueue",
                        "Proxy",
                        "Controller",
                        "raylet",
                        "gcs",
                    )
                    if p in name
                ),
                "other",
            )
            out[part] = out.get(part, 0.0) + sum(process.cpu_times()[:2])
    return out


def scale(url: str) -> dict[str, Any]:
    """Seconds of load until a second diffusion worker is decided on and runs; without load, until one is left."""
    from ray import serve

    def painters(*states: str) -> int:
        found = serve.status().applications["rigface"].deployments["DiffusionWorker"]
        return sum(n for state, n in found.replica_states.items() if not states or state in states)

    def until(count: int, *states: str, most_s: float = 90.0) -> float | None:
        while painters(*states) != count:
            if time.monotonic() > began + most_s:
                return None
            time.sleep(0.1)
        return round(time.monotonic() - began, 1)

    began = time.monotonic()
    words = [
        sys.executable,
        str(Path(__file__).with_name("serve_callers.py")),
        url,
        "closed",
        "--callers",
        "16",
        "--seconds",
        "90",
    ]
    load = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    up = {"second_starts_s": until(2), "second_runs_s": until(2, "RUNNING")}
    load.terminate()
    load.wait()
    began = time.monotonic()
    return {**DELAYS, **up, "back_to_one_s": until(1)}


PASSES = {p.__name__: p for p in (painter_alone, plain, overhead, loads)}


def apart(name: str, options: argparse.Namespace, **environment: str) -> dict[str, Any]:
    """One of the above in its own process."""
    words = [sys.executable, __file__, "--part", name, "--model", options.model, "--seconds", str(options.seconds)]
    done = subprocess.run(
        words,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | environment | {"PYTHONPATH": str(harness.ROOT)},
    )
    if done.returncode:
        raise SystemExit(f"{name} failed:\n{done.stdout[-1500:]}\n{done.stderr[-3000:]}")
    found = json.loads(next(line for line in reversed(done.stdout.splitlines()) if line.startswith("{")))
    print(f"{name}: {json.dumps(found, indent=1)}", flush=True)
    return found


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--seconds", type=float, default=6.0, help="of each loop")
    parser.add_argument("--part", choices=PASSES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        print(json.dumps(PASSES[options.part](options.model, options.seconds)))
        return
    began = time.monotonic()
    results: dict[str, Any] = {
        "benchmark": "serve_load", "model": Path(options.model).name,
        "load_before": os.getloadavg()[0], **harness.environment(),
    }  # fmt: skip
    results["painter alone"] = apart("painter_alone", options, OMP_NUM_THREADS="1")  # as Ray gives a replica of one CPU
    bare, default, haproxy = apart("plain", options), apart("overhead", options), apart("overhead", options, **HA_PROXY)
    results["cold_start_s"] = default["cold_start_s"]
    results["healthz_ms"] = {
        label: {k: v for k, v in found.items() if k.endswith("_ms")}
        for label, found in (("uvicorn", bare), ("Serve", default), ("Serve with HAProxy", haproxy))
    }
    results["serve_overhead_ms"] = {
        label: round(found["p50_ms"] - bare["p50_ms"], 2)
        for label, found in (("default", default), ("HAProxy", haproxy))
    }
    results |= apart("loads", options)
    results["took_s"] = round(time.monotonic() - began)
    harness.write("serve_load", results)


if __name__ == "__main__":
    main()
