"""Training on a cluster that grows: one node with room for one worker, and a second node once training has begun.

    python -m tests.drills.grow EXAMPLES START OUT STEPS

Prints the successive numbers of workers. Ray adds nodes in the main thread only, so training runs in another.
"""

from __future__ import annotations

import sys
import threading
import time
from dataclasses import replace

import psutil
import ray
from ray.cluster_utils import Cluster

from pipelines.train import job, metric_log
from pipelines.train.config import debug
from rigface.storage.store import Store

STORE = 100 * 2**20


def workers() -> int:
    return sum("RayTrainWorker" in " ".join(p.info["cmdline"] or []) for p in psutil.process_iter(["cmdline"]))


def main(examples: str, start: str, out: str, steps: str) -> None:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": STORE})
    ray.init(address=cluster.address, log_to_driver=False)
    job.RESIZE_S = 1.0
    config = replace(
        debug(), examples=examples, start=start, out=out, steps=int(steps), micro_batches=2, batch=2,
        learning_rate=1e-3, shuffle_window=4,
        checkpoint_every=5, validate_every=int(steps), validation_examples=0, workers=1, max_workers=2, cpus=1,
        address=cluster.address,
    )  # fmt: skip
    training = threading.Thread(target=job.train, args=(config, lambda words: None), daemon=True)
    training.start()
    seen: list[int] = []
    grown = False
    while training.is_alive():
        time.sleep(0.2)
        seen += [now for now in [workers()] if not seen or now != seen[-1]]
        if not grown and sum("loss" in line for line in metric_log.lines(Store(out))) >= 10:
            cluster.add_node(num_cpus=1, object_store_memory=STORE)
            grown = True
    print(*seen, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
