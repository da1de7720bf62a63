"""HTTP proxy before an S3 server that injects faults by a seeded schedule, or is unreachable.

Each request draws one fault or none. Requests and answers pass through unread.
"""

from __future__ import annotations

import contextlib
import http.client
import random
import socket
import struct
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

FAULTS = ("500", "503", "silent", "slow", "truncated", "reset", "lost")
XML = '<?xml version="1.0" encoding="UTF-8"?><Error><Code>{0}</Code><Message>made by the test</Message></Error>'


class Proxy:
    """Proxy on its own port; a context manager.

    Args:
        upstream: http://host:port of the real server.
        share: of the requests that meet a fault. faults: of which kinds: `500`, `503` (SlowDown), `silent` (no answer
            for `hold_s`), `slow` (the answer drips), `truncated` (half of the body, then the end), `reset` (TCP RST
            instead of an answer), `lost` (done, but the answer is a RST).
        address: to listen on.
    """

    def __init__(
        self,
        upstream: str,
        share: float = 0.0,
        faults: tuple[str, ...] = FAULTS,
        seed: int = 0,
        hold_s: float = 3.0,
        address: str = "127.0.0.1",
    ) -> None:
        self.upstream, self.share, self.faults, self.hold_s = urlsplit(upstream), share, faults, hold_s
        self.made: Counter[str] = Counter()  # faults, by kind
        self.requests = 0
        self.bytes_out = 0
        self.down = False
        self._random, self._lock = random.Random(seed), threading.Lock()
        proxy = self

        class Handler(_Handler):
            owner = proxy

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, request, client_address):  # a peer that went away is what we are here for
                pass

        self._server = Server((address, 0), Handler)
        self.url = f"http://{address}:{self._server.server_port}"

    def __enter__(self) -> Proxy:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def draw(self) -> str:
        """The fault of the next request; empty: none."""
        with self._lock:
            self.requests += 1
            fault = self._random.choice(self.faults) if self._random.random() < self.share else ""
            if self.down:
                fault = "reset"
            if fault:
                self.made[fault] += 1
            return fault


class _Handler(BaseHTTPRequestHandler):
    owner: Proxy
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def handle_expect_100(self) -> bool:
        return True

    def _serve(self) -> None:
        fault = self.owner.draw()
        if "100-continue" in self.headers.get("Expect", "") and fault != "reset":
            self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if fault == "reset":
            return self._reset()
        body = self._body()
        if fault == "500":
            return self._say(500, XML.format("InternalError").encode())
        if fault == "503":
            return self._say(503, XML.format("SlowDown").encode())
        if fault == "silent":
            time.sleep(self.owner.hold_s)
            return self._reset()
        status, headers, data = self._ask(body)
        if fault == "lost":
            return self._reset()
        self._answer(status, headers, data, fault)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _serve

    def _ask(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        there = self.owner.upstream
        connection = http.client.HTTPConnection(there.hostname, there.port, timeout=60)
        left_out = ("connection", "expect", "transfer-encoding")
        headers = {k: v for k, v in self.headers.items() if k.lower() not in left_out}
        connection.request(self.command, self.path, body or None, headers)
        answer = connection.getresponse()
        data = answer.read()
        kept = [(k, v) for k, v in answer.getheaders() if k.lower() not in ("connection", "transfer-encoding")]
        connection.close()
        return answer.status, kept, data

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):  # as pyarrow uploads
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return b"".join(parts)

    def _answer(self, status: int, headers: list[tuple[str, str]], data: bytes, fault: str) -> None:
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() != "content-length" or self.command == "HEAD":
                self.send_header(name, value)
        if self.command != "HEAD" and status not in (204, 304):
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if fault == "truncated" and data:
            self.wfile.write(data[: len(data) // 2])
            self.close_connection = True
            return
        if fault == "slow":
            step = max(len(data) // 8, 1)
            for at in range(0, len(data), step):
                self.wfile.write(data[at : at + step])
                self.wfile.flush()
                time.sleep(0.05)
        else:
            self.wfile.write(data)
        self.owner.bytes_out += len(data)

    def _say(self, status: int, data: bytes) -> None:
        self._answer(status, [("Content-Type", "application/xml")], data, "")

    def _reset(self) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
