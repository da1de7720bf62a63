"""Addresses outside that this service talks to: pre-signed files of an object store, and webhooks. All others are refused.

Path: an address in a request -> `UrlAllowlist.get` (bytes) or `UrlAllowlist.post` (a status).

The operator lists beginnings, `https://bucket.s3.amazonaws.com/photos/`, and nothing else is asked for: no other host, port or
folder, no user name, no redirect. A name is resolved once, its addresses are looked at, and the connection goes to the one that
was looked at, so that a name cannot change its mind in between. Private addresses (loopback, cloud metadata, the cluster itself)
are refused unless the beginning has one itself, or a network of the list, such as `10.0.0.0/8`, holds it.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from rigface.extras import extra
from serve.problems import ApiError

with extra("serve"):
    import httpx

CONNECT_S = 5.0
PORTS = {"http": 80, "https": 443}
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class UrlAllowlist:
    """The list of one purpose.

    Args:
        allowed: beginnings of addresses, and networks.
        trust: of TLS; None: the certificates of the system.

    Raises:
        ValueError: a line of the list is neither.
    """

    def __init__(self, allowed: Sequence[str] = (), trust: ssl.SSLContext | None = None) -> None:
        self._starts: list[httpx.URL] = []
        self._networks: list[Any] = []
        self._trust: Any = True if trust is None else trust
        for line in allowed:
            if "://" not in line:
                self._networks.append(ipaddress.ip_network(line))
                continue
            start = httpx.URL(line)
            if start.scheme not in PORTS or not start.host or start.userinfo or start.query or start.fragment:
                raise ValueError(f"{line}: want the beginning of addresses, such as https://bucket.example.com/photos/")
            self._starts.append(start)

    def check(self, address: str, field: str) -> httpx.URL:
        """The address, taken apart.

        Raises:
            Trouble: `bad-request`: it is not on the list. Nothing was resolved or connected to.
        """
        try:
            url = httpx.URL(address)
        except (httpx.InvalidURL, ValueError):
            raise ApiError("bad-request", f"{field}: not an address") from None
        plain = not url.userinfo and not url.fragment and "\\" not in url.path
        plain = plain and not {".", ".."} & set(url.path.split("/"))
        if not plain or not any(_begins(url, start) for start in self._starts):
            raise ApiError("bad-request", f"{field}: this service does not talk to that address")
        return url

    async def get(self, address: str, field: str, most: int, limit_s: float) -> bytes:
        """A file.

        Raises:
            Trouble: `bad-request`: not allowed, or the store did not give it; `too-large`.
        """
        chunks, size = [], 0
        async with self._answered("GET", address, field, limit_s) as answer:
            if answer.status_code != 200:
                raise ApiError("bad-request", f"{field}: the store answered {answer.status_code}")
            if answer.headers.get("content-encoding", "identity") != "identity":
                raise ApiError("bad-request", f"{field}: the store sent it compressed")
            async for chunk in answer.aiter_raw():
                size += len(chunk)
                if size > most:
                    raise ApiError("too-large", f"{field}: a file may have {most} bytes")
                chunks.append(chunk)
        return b"".join(chunks)

    async def post(self, address: str, field: str, body: bytes, headers: Mapping[str, str], limit_s: float) -> int:
        """Send something; the status of the answer, which is not read.

        Raises:
            Trouble: `bad-request`: not allowed, or nobody answers.
        """
        async with self._answered("POST", address, field, limit_s, body, headers) as answer:
            return answer.status_code

    @asynccontextmanager
    async def _answered(
        self, method: str, address: str, field: str, limit_s: float, body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> AsyncIterator[httpx.Response]:  # fmt: skip
        url = self.check(address, field)
        own = {"Host": url.netloc.decode("ascii"), "Accept-Encoding": "identity", "User-Agent": "RigFace"}
        try:
            async with asyncio.timeout(limit_s):
                pinned = url.copy_with(host=str(await self._resolved(url, field)))
                async with (
                    httpx.AsyncClient(
                        follow_redirects=False, timeout=httpx.Timeout(limit_s, connect=CONNECT_S), trust_env=False,
                        verify=self._trust,
                    ) as client,
                    client.stream(
                        method, pinned, content=body, headers={**(headers or {}), **own},
                        extensions={"sni_hostname": url.host},
                    ) as answer,
                ):  # fmt: skip
                    yield answer
        except (httpx.HTTPError, TimeoutError, OSError):
            raise ApiError("bad-request", f"{field}: there is no answer from that address") from None

    async def _resolved(self, url: httpx.URL, field: str) -> Address:
        """Where the connection goes; every address of the name must be fit for it."""
        port = url.port or PORTS[url.scheme]
        found = await asyncio.get_running_loop().getaddrinfo(url.host, port, type=socket.SOCK_STREAM)
        named = {start.host for start in self._starts}
        addresses = [ipaddress.ip_address(entry[4][0]) for entry in found]
        for one in addresses:
            if not ((url.host in named and _literal(url.host)) or _is_public(one) or self._is_listed(one)):
                raise ApiError("bad-request", f"{field}: that name has an address this service does not talk to")
        return addresses[0]

    def _is_listed(self, one: Address) -> bool:
        return any(one.version == network.version and one in network for network in self._networks)


def _begins(url: httpx.URL, start: httpx.URL) -> bool:
    same = (url.scheme, url.host) == (start.scheme, start.host)
    same = same and (url.port or PORTS[url.scheme]) == (start.port or PORTS[start.scheme])
    folder = start.path if start.path.endswith("/") else start.path + "/"
    return same and (url.path.startswith(folder) or url.path == start.path)


def _literal(host: str) -> bool:
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True


def _is_public(one: Address) -> bool:
    if isinstance(one, ipaddress.IPv6Address):
        if one.ipv4_mapped is not None:
            return one.ipv4_mapped.is_global
        if one.sixtofour is not None or one.teredo is not None or one in ipaddress.ip_network("64:ff9b::/96"):
            return False  # another address inside, which would have to be looked at
    return one.is_global and not one.is_multicast
