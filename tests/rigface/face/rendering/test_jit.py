"""JIT compilation: one process compiles, others read its result."""

import importlib
import subprocess
import sys
from pathlib import Path

import numpy as np

from rigface.face.rendering import jit

ROOT = Path(__file__).parents[4]
LOOP = """
def double(x):
    for i in range(x.size):
        x[i] *= 2
"""
OTHER = """
import numpy as np
from numba.core import event
from doubling_loop import double
from rigface.face.rendering.jit import compiled
x = np.ones(3)
print("calls", flush=True)
with event.install_recorder("numba:compile") as compilations:
    compiled(double)(x)
print(*x, len(compilations.buffer))
"""


def test_process_waits_for_another_that_compiles_and_reads_its_result(tmp_path, monkeypatch):
    (tmp_path / "doubling_loop.py").write_text(LOOP)
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("doubling_loop")
    with jit._held(tmp_path / "__pycache__" / "doubling_loop.double.lock"):
        words = [sys.executable, "-c", OTHER]
        places = {"PYTHONPATH": f"{tmp_path}:{ROOT}"}
        other = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=places)
        assert other.stdout.readline() == "calls\n"
        from numba import njit

        njit(cache=True, nogil=True, error_model="numpy")(module.double)(np.ones(3))
    said, _ = other.communicate()
    assert said.split() == ["2.0", "2.0", "2.0", "0"]
