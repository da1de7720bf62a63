"""Token authentication of Ray clusters, through the environment variables that Ray reads.

Path: before `import ray` in `pipelines/cluster/session.py` and `serve/local.py`.

Without a token Ray 2.60 lets anyone who reaches a cluster's ports run code on it, and a local cluster listens on the
machine's address, whatever address a service on it listens on. So a cluster that is started gets a token for as long as
the run lasts, and one that is joined is joined with this user's token, if there is one. A RAY_AUTH_MODE that is set
stays: tests use `disabled`.
"""

import os
import secrets
from pathlib import Path


def authenticate(joining: bool) -> None:
    """Set RAY_AUTH_MODE, and a fresh RAY_AUTH_TOKEN for a cluster that is not joined but started."""
    if "RAY_AUTH_MODE" in os.environ:
        return
    if not joining:
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    has_token = bool({"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys())
    has_token = has_token or (Path.home() / ".ray" / "auth_token").exists()
    os.environ["RAY_AUTH_MODE"] = "token" if has_token else "disabled"
