"""API keys with scopes and rate limits. Only hashes are stored.

Path: `Authorization: Bearer rf_...` -> `KeyRing.find` -> `Key` -> limits, scopes, logs.

A key is 256 random bits, so one round of SHA-256 is enough; slow hashes are for passwords. The file has one JSON
object a line and is read again when it changes, so a key can be revoked while the service runs. Without a file the
service is open, which is meant for loopback: all callers have the key `open`.
"""

import hashlib
import hmac
import json
import os
import secrets
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from rigface.storage.whole_file import write_whole
from serve.problems import ApiError

SCOPES = ("edit", "jobs", "verify", "metrics")
PREFIX = "rf_"
BURST_S = 3.0


@dataclass(frozen=True)
class Key:
    """A caller; ValueError for an unknown scope, or a limit that allows no request.

    The id is kept when the secret is rotated, and new for a name that is used again.
    """

    name: str  # public, in logs
    digest: str = ""  # SHA-256 of the secret, hex
    scopes: tuple[str, ...] = SCOPES
    rate: float = 20.0  # requests per second on average
    burst: float = 60.0  # requests at once
    max_concurrent: int = 16
    id: str = ""  # owner of jobs and pictures, and the key in the audit log; the name in files without ids

    def __post_init__(self) -> None:
        object.__setattr__(self, "id", self.id or self.name)
        if unknown := sorted(set(self.scopes) - set(SCOPES)):
            raise ValueError(f"scopes: want some of {', '.join(SCOPES)}, got {unknown}")
        if not (self.rate > 0 and self.burst >= 1 and self.max_concurrent >= 1):
            got = f"{self.rate:g}, {self.burst:g} and {self.max_concurrent}"
            raise ValueError(f"want rate > 0, burst >= 1 and max_concurrent >= 1, got {got}")

    def need(self, scope: str) -> None:
        """Refuse a key that lacks a scope, by an ApiError `forbidden`."""
        if scope not in self.scopes:
            raise ApiError("forbidden", f"the key {self.name!r} lacks the scope {scope!r}")


OPEN = Key("open", rate=200.0, burst=400.0, max_concurrent=64)


class KeyRing:
    """The keys of a file; without a file the service is open."""

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        self._path = Path(path) if path else None
        self.is_open = not path
        self._read_at = -1
        self._keys: dict[str, Key] = {}

    def find(self, authorization: str | None) -> Key:
        """The caller's key; ApiError `unauthorized` if it is none of the file."""
        if self._path is None:
            return OPEN
        scheme, _, secret = (authorization or "").partition(" ")
        digest = digest_of(secret.strip())
        key = next((k for d, k in self._current().items() if hmac.compare_digest(d, digest)), None)
        if scheme.lower() != "bearer" or key is None:
            raise ApiError("unauthorized", "send `Authorization: Bearer <key>`")
        return key

    def _current(self) -> dict[str, Key]:
        assert self._path is not None
        changed = self._path.stat().st_mtime_ns
        if changed != self._read_at:
            self._keys, self._read_at = {k.digest: k for k in read(self._path)}, changed
        return self._keys


def digest_of(secret: str) -> str:
    """The stored hash of a secret."""
    return hashlib.sha256(secret.encode()).hexdigest()


def read(path: Path) -> list[Key]:
    """All keys of a file; ValueError names an invalid line."""
    out = []
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        if line.strip():
            try:
                row = json.loads(line)
                out.append(Key(**{**row, "scopes": tuple(row["scopes"])}))
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(
                    f"{path}: line {number}: want a key, made by `rigface serve key add`: {error}"
                ) from None
    return out


def add(path: Path, name: str, scopes: tuple[str, ...] = SCOPES, **limits: float) -> str:
    """Make a key, store its hash, and return the secret; without a burst, it gets `BURST_S` seconds of the rate.

    ValueError if the name is empty or taken, a scope unknown, or a limit allows no request.
    """
    if not name:
        raise ValueError("a key needs a name")
    limits = {"burst": max(1.0, BURST_S * limits.get("rate", Key.rate)), **limits}
    old = read(path) if path.exists() else []
    if any(k.name == name for k in old):
        raise ValueError(f"there is a key named {name!r}")
    secret, key_id = PREFIX + secrets.token_urlsafe(32), f"{name}#{secrets.token_hex(4)}"
    _write(path, [*old, Key(name, digest_of(secret), tuple(scopes), id=key_id, **limits)])  # type: ignore[arg-type]
    return secret


def rotate(path: Path, name: str) -> str:
    """Replace the secret of a key, which keeps its jobs; returns the new secret."""
    key, secret = named(path, name), PREFIX + secrets.token_urlsafe(32)
    _write(path, [replace(k, digest=digest_of(secret)) if k == key else k for k in read(path)])
    return secret


def named(path: Path, name: str) -> Key:
    """The key of this name; ValueError if there is none."""
    key = next((k for k in read(path) if k.name == name), None)
    if key is None:
        raise ValueError(f"{path}: no key {name!r}")
    return key


def remove(path: Path, name: str) -> None:
    """Revoke a key; raises as `named`."""
    key = named(path, name)
    _write(path, [k for k in read(path) if k != key])


def _write(path: Path, keys: list[Key]) -> None:
    write_whole(path, "".join(json.dumps(asdict(k)) + "\n" for k in keys).encode(), 0o600)
