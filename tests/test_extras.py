"""Missing optional packages: the error names the extra to install."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from rigface.errors import MissingExtra, RigFaceError
from rigface.extras import extra

ROOT = Path(__file__).parent.parent
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


def test_missing_package_names_its_extra():
    with pytest.raises(MissingExtra, match=r"pip install 'rigface\[serve\]'") as caught, extra("serve"):
        import no_such_package  # noqa: F401
    assert isinstance(caught.value, RigFaceError)
    assert isinstance(caught.value, ImportError)


@pytest.mark.parametrize(
    ("code", "package", "name"),
    [
        ("import serve.client.client", "httpx", "client"),
        ("import serve.security.url_allowlist", "httpx", "serve"),
        ("from serve.telemetry.tracing import start; start('otlp', 'x')", "opentelemetry.exporter.otlp", "traces"),
    ],
)
def test_import_without_package_names_extra(code, package, name):
    assert name in EXTRAS
    block = f"import sys; sys.modules[{package!r}] = None; {code}"
    done = subprocess.run([sys.executable, "-c", block], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert f"pip install 'rigface[{name}]'" in done.stderr
