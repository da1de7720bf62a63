"""Allow-list of outgoing requests: pre-signed files of an object store, and webhooks.

Path: a URL in a request -> `UrlAllowlist.get` (bytes) or `UrlAllowlist.post` (a status).

The operator lists URL prefixes, such as `https://bucket.s3.amazonaws.com/photos/`. All else is refused: another host,
port or folder, a user name, a redirect. A host name is resolved once, its addresses are checked, and the connection
goes to a checked address, so the name cannot resolve to another one in between. Private addresses (loopback, cloud
metadata, the cluster itself) are refused unless a prefix names one itself, or a network of the list, such as
`10.0.0.0/8`, contains it.
"""

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
    """A list of URL prefixes and networks for one purpose; ValueError if an item is neither.

    `trust`: TLS context; None: the certificates of the system.
    """

    def __init__(self, allowed: Sequence[str] = (), trust: ssl.SSLContext | None = None) -> None:
        self._prefixes: list[httpx.URL] = []
        self._networks: list[Any] = []
        self._trust: Any = True if trust is None else trust
        for line in allowed:
            if "://" not in line:
                self._networks.append(ipaddress.ip_network(line))
                continue
            prefix = httpx.URL(line)
            if prefix.scheme not in PORTS or not prefix.host or prefix.userinfo or prefix.query or prefix.fragment:
                raise ValueError(f"{line}: want a URL prefix such as https://bucket.example.com/photos/")
            self._prefixes.append(prefix)

    def check(self, address: str, field: str) -> httpx.URL:
        """An address of the list as a URL, else ApiError `bad-request`. Nothing is resolved or connected to."""
        try:
            url = httpx.URL(address)
        except (httpx.InvalidURL, ValueError):
            raise ApiError("bad-request", f"{field}: not a URL") from None
        plain = not url.userinfo and not url.fragment and "\\" not in url.path
        plain = plain and not {".", ".."} & set(url.path.split("/"))
        if not plain or not any(_has_prefix(url, prefix) for prefix in self._prefixes):
            raise ApiError("bad-request", f"{field}: this address is not on the allow-list of the service")
        return url

    async def get(self, address: str, field: str, most: int, limit_s: float) -> bytes:
        """A file; ApiError `bad-request` if it is not allowed or the store refuses it, `too-large`."""
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
        """POST a body; the status of the response, which is not read. ApiError `bad-request` without one."""
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
            raise ApiError("bad-request", f"{field}: no response from that address") from None

    async def _resolved(self, url: httpx.URL, field: str) -> Address:
        """Resolve the host; all its addresses must be allowed."""
        port = url.port or PORTS[url.scheme]
        entries = await asyncio.get_running_loop().getaddrinfo(url.host, port, type=socket.SOCK_STREAM)
        listed_hosts = {prefix.host for prefix in self._prefixes}
        addresses = [ipaddress.ip_address(entry[4][0]) for entry in entries]
        for address in addresses:
            if not (
                (url.host in listed_hosts and _literal(url.host)) or _is_public(address) or self._is_listed(address)
            ):
                raise ApiError("bad-request", f"{field}: the host has an address that is not allowed")
        return addresses[0]

    def _is_listed(self, address: Address) -> bool:
        return any(address.version == network.version and address in network for network in self._networks)


def _has_prefix(url: httpx.URL, prefix: httpx.URL) -> bool:
    same = (url.scheme, url.host) == (prefix.scheme, prefix.host)
    same = same and (url.port or PORTS[url.scheme]) == (prefix.port or PORTS[prefix.scheme])
    folder = prefix.path if prefix.path.endswith("/") else prefix.path + "/"
    return same and (url.path.startswith(folder) or url.path == prefix.path)


def _literal(host: str) -> bool:
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True


def _is_public(address: Address) -> bool:
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped.is_global
        if (
            address.sixtofour is not None
            or address.teredo is not None
            or address in ipaddress.ip_network("64:ff9b::/96")
        ):
            return False  # embeds another address
    return address.is_global and not address.is_multicast
