"""The service on this machine: who may reach its cluster, and where it says that it is."""

import os

import httpx
import pytest

from serve.local import address, serving


class Started(Exception):
    """As far as these tests go."""


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0"])
def test_a_cluster_of_our_own_asks_for_a_token_wherever_the_service_listens(monkeypatch, host):
    """Ray's own ports are on the machine's address: whoever reached them could run code."""
    import ray

    asked = []

    def init(**options):
        asked.append((os.environ["RAY_AUTH_MODE"], os.environ["RAY_AUTH_TOKEN"], options["address"]))
        raise Started

    monkeypatch.setenv("RAY_AUTH_TOKEN", "")  # so that the one that is set goes with the test
    monkeypatch.delenv("RAY_AUTH_MODE")
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    for _ in range(2):
        monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
        with pytest.raises(Started), serving(host):
            pass
    (one, first, where), (two, second, _) = asked
    assert one == two == "token"
    assert len(first) == len(second) == 64
    assert first != second
    assert where == "local"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_an_address_is_one_that_clients_can_read(host):
    assert httpx.URL(address(host, 8000)).host == host
