"""Edits that `rigface evaluate` judges per second, and processor time for each.

    python benchmarks/evaluate.py out/faces                # a dataset of faces
    python benchmarks/evaluate.py out/faces --limit 4      # fewer edits

The preview and the controls, all people, in this process: reading, edits, measuring and writing; loading the networks
counts. Other work on the machine changes the seconds, and little else the processor time. To compare two versions, run
their `rigface` by this script in turns: `PYTHONPATH=OTHER python benchmarks/evaluate.py out/faces`.
"""

import argparse
import tempfile
import time

import harness

from pipelines.evaluate.config import EvaluateConfig
from pipelines.evaluate.job import evaluate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("faces", help="dataset of faces")
    parser.add_argument("--limit", type=int, default=12, help="self-edits, and as many of other people's traits")
    options = parser.parse_args()
    times = list[tuple[str, float, float]]()
    with tempfile.TemporaryDirectory() as folder:
        config = EvaluateConfig(
            options.faces, f"{folder}/card", ("preview",), ("self", "cross"), limit=options.limit, all_people=True
        )
        evaluate(config, lambda line: times.append((line, time.perf_counter(), time.process_time())))
    units = [at for at in times if " units, " in at[0]]  # before the first unit, and now and then after one
    (_, began, cpu_began), (last, ended, cpu_ended) = units[0], units[-1]
    edits = int(last.split(" edits")[0].split()[-1].replace(",", ""))
    result = {"edits": edits, "s_per_edit": (ended - began) / edits, "cpu_s_per_edit": (cpu_ended - cpu_began) / edits}
    harness.write("evaluate", result | harness.environment())
    print(result)


if __name__ == "__main__":
    main()
