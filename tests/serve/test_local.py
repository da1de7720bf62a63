"""Local service: token of its cluster, address."""

import http.server
import os
import threading

import httpx
import pytest

from rigface.errors import MissingAsset
from serve import local
from serve.client.client import Client
from serve.local import address, serving


class Started(Exception):
    """As far as these tests go."""


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0"])
def test_own_cluster_needs_a_token_on_every_host(monkeypatch, host):
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
        with pytest.raises(Started), serving(host, keys="keys.jsonl"):
            pass
    (first_mode, first, where), (second_mode, second, _) = asked
    assert first_mode == second_mode == "token"
    assert len(first) == len(second) == 64
    assert first != second
    assert where == "local"


def test_service_for_other_machines_needs_keys():
    with pytest.raises(ValueError, match="is not loopback: name a file of API keys"), serving("0.0.0.0"):
        pass


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"model": "/nowhere"}, MissingAsset),
        ({"consent": "/nowhere.jsonl"}, FileNotFoundError),
        ({"deny": "/nowhere.jsonl"}, FileNotFoundError),
    ],
)
def test_missing_file_is_found_before_ray_is_started(monkeypatch, options, error):
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr("ray.init", lambda **options: pytest.fail("Ray is started first"))
    with pytest.raises(error, match="/nowhere"), serving(**options):
        pass


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_address_is_a_valid_url(host):
    assert httpx.URL(address(host, 8000)).host == host


def test_readiness_and_client_ask_loopback_without_proxy(monkeypatch):
    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"models": [], "body_bytes": 1, "clip_bytes": 1, "jobs": false}')

        def log_message(self, *args):
            pass

    for name in ("http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setattr(local, "READY_S", 1.0)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = address("127.0.0.1", server.server_port)
        local._wait(url)
        with Client(url, tries=1) as client:
            assert client.models() == []
        server.shutdown()
