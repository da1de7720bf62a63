"""Reading ahead of an object: equal to a plain file, with few requests."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rigface.storage import read_ahead


class Remote:
    """Counts its requests."""

    def __init__(self, data: bytes):
        self.data, self.requests, self.closed = data, [], False

    def size(self):
        return len(self.data)

    def read_at(self, count, offset):
        self.requests.append((offset, count))
        return self.data[offset : offset + count]

    def close(self):
        self.closed = True


@given(st.lists(st.tuples(st.sampled_from([0, 1, 2]), st.integers(-80, 80), st.integers(0, 60)), max_size=30))
def test_read_ahead_equals_a_plain_file(steps):
    data = np.random.default_rng(0).bytes(100)
    plain = io.BytesIO(data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(read_ahead, "FIRST_WINDOW", 7)
        patch.setattr(read_ahead, "MAX_WINDOW", 20)
        ahead = read_ahead.ReadAhead(Remote(data))
        for whence, offset, count in steps:
            if offset + (0, plain.tell(), 100)[whence] < 0:
                continue
            assert ahead.seek(offset, whence) == plain.seek(offset, whence)
            assert ahead.read(count) == plain.read(count)
            assert ahead.tell() == plain.tell()
        assert sum(len(content) for _, content in ahead._windows) <= 4 * 20


def test_read_ahead_makes_few_requests_and_keeps_little():
    remote = Remote(bytes(64 * 2**20))
    ahead = read_ahead.ReadAhead(remote)
    while ahead.read(65536):
        assert sum(len(content) for _, content in ahead._windows) <= 32 * 2**20
    assert len(remote.requests) <= 13
    ahead.close()
    assert remote.closed
    assert ahead.closed


def test_object_that_shrank_is_an_error():
    remote = Remote(bytes(1000))
    ahead = read_ahead.ReadAhead(remote)
    remote.data = b""
    with pytest.raises(OSError, match="replaced while it was read"):
        ahead.read(10)
