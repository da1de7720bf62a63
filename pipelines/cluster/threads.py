"""The number of torch's threads, for a while."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def torch_threads(count: int = 1) -> Iterator[None]:
    """Compute on `count` threads of torch inside.

    One is best for networks that take some 20 ms a picture: threads wait for each other longer than they work, most of
    all on a busy machine, and sums of one thread have the same last bits everywhere.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
