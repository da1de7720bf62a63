"""Who may run code on a Ray cluster: the token that it asks for, as the environment tells it to Ray.

Path: before `import ray` in `pipelines/cluster/session.py` and `serve/local.py`; nothing here knows Ray, which reads
these variables.

Ray 2.60 lets anyone who reaches a cluster's ports run code on it unless a token is asked for, and a local cluster
listens on the machine's address, whatever address a service on it listens on. So a cluster of our own gets a token that
lives as long as the run, and one that is joined is joined with the token that is lying around, if one is.
RAY_AUTH_MODE, when set, is left alone: tests use `disabled`.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path


def authenticate(joining: bool) -> None:
    """Set RAY_AUTH_MODE, and a fresh RAY_AUTH_TOKEN for a cluster that is not joined but started."""
    if "RAY_AUTH_MODE" in os.environ:
        return
    if not joining:
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    there = "RAY_AUTH_TOKEN" in os.environ or "RAY_AUTH_TOKEN_PATH" in os.environ
    there = there or (Path.home() / ".ray" / "auth_token").exists()
    os.environ["RAY_AUTH_MODE"] = "token" if there else "disabled"
