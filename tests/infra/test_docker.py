"""The Dockerfile: hadolint, user, build context, pinned versions, health check."""

import contextlib
import functools
import http.server
import importlib.metadata
import os
import re
import runpy
import shutil
import subprocess
import sys
import threading

import pytest
from packaging.requirements import Requirement

from tests.infra.conftest import INFRA, ROOT, normal, pinned, project, tool

DOCKERFILE = INFRA / "docker" / "Dockerfile"


def stages(text):
    """Target -> (base, instructions) of a Dockerfile, continued lines joined, comments left out."""
    found, base = {}, None
    lines = re.sub(r"^\s*#.*\n", "", text, flags=re.M)
    for line in re.sub(r"\\\n\s*", " ", lines).splitlines():
        word, _, rest = line.partition(" ")
        if word == "FROM":
            base, _, name = rest.partition(" AS ")
            found[name] = (base, [])
        elif base is not None and word:
            found[name][1].append((word, rest))
    return found


def instructions_of(targets, name):
    """All instructions of a target, from those of its oldest base on."""
    base, own = targets[name]
    return [*(instructions_of(targets, base) if base in targets else []), *own]


def complaints(text):
    """Violations of the project rules in a Dockerfile."""
    targets = stages(text)
    found = []
    bases = {base for base, _ in targets.values() if base not in targets}
    arguments = dict(re.findall(r"^ARG (\w+)=(\S+)", text, re.M))
    for base in bases:
        name = re.sub(r"\$\{(\w+)\}", lambda m: arguments.get(m[1], ""), base)
        if not re.search(r":\d+\.\d+\.\d+", name):
            found.append(f"{base}: not pinned to a full version")
    for target in ("cpu", "cuda", "efa"):
        instructions = instructions_of(targets, target)
        users = [rest for word, rest in instructions if word == "USER"]
        if not users or users[-1].split(":")[0] in ("root", "0"):
            found.append(f"{target}: runs as root")
        if not [1 for word, _ in instructions if word == "HEALTHCHECK"]:
            found.append(f"{target}: has no health check")
    for name, (_, instructions) in targets.items():
        for word, rest in instructions:
            if word == "ADD":
                found.append(f"{name}: ADD")
            if word == "RUN" and "apt-get install" in rest and "rm -rf /var/lib/apt/lists/*" not in rest:
                found.append(f"{name}: package lists stay in the layer")
            if word == "RUN" and re.search(r"\b(curl|wget|git clone)\s+\S*://", rest):
                found.append(f"{name}: fetches by address")
            if word in ("ENV", "ARG") and re.search(r"PASSWORD|SECRET|TOKEN|ACCESS_KEY", rest):
                found.append(f"{name}: a secret in {word}")
            if word == "COPY" and "--from=" not in rest and rest.split()[0] == ".":
                found.append(f"{name}: copies the whole context")
    return found


def test_dockerfile_passes_hadolint():
    done = subprocess.run(
        [tool("hadolint"), "--failure-threshold", "style", DOCKERFILE], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


def test_dockerfile_passes_project_rules():
    assert complaints(DOCKERFILE.read_text()) == []


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("PYTHON=3.11.14-slim-bookworm", "PYTHON=latest", "not pinned"),
        ("USER 1000:1000", "USER root", "runs as root"),
        ("HEALTHCHECK", "LABEL", "no health check"),
        ("    && rm -rf /var/lib/apt/lists/* \\\n", "", "lists stay"),
        ("COPY rigface rigface", "ADD rigface rigface", "ADD"),
        ("COPY rigface rigface", "COPY . .", "whole context"),
        ('ARG TORCH_INDEX=""', "ARG INDEX_TOKEN", "a secret"),
    ],
)
def test_project_rules_find_mistake(old, new, complaint):
    text = DOCKERFILE.read_text()
    assert old in text
    assert complaint in "; ".join(complaints(text.replace(old, new)))


def test_image_python_is_project_python():
    (version,) = re.findall(r"^ARG PYTHON=(\d+\.\d+)", DOCKERFILE.read_text(), re.M)
    assert version == "{}.{}".format(*sys.version_info[:2]), "constraints.txt was resolved for this version"
    assert project()["requires-python"] == f">={version}"


def test_dependencies_are_pinned_and_below_code():
    targets = stages(DOCKERFILE.read_text())
    for name in ("cpu-dependencies", "cuda-dependencies"):
        runs = [rest for word, rest in instructions_of(targets, name) if word == "RUN"]
        assert runs[-1].endswith("--no-build-isolation --require-hashes --requirement requirements.lock")
        copied = [rest for word, rest in instructions_of(targets, name) if word == "COPY"]
        assert copied == ["infra/docker/requirements.lock ./"], "a change of code would install everything again"
    for _, instructions in targets.values():
        installs = [rest for _, run in instructions for rest in re.findall(r"pip install .*?(?= && |$)", run)]
        assert all("--require-hashes" in rest or "--no-deps" in rest for rest in installs)
    for name in ("cpu", "cuda"):
        layers = [rest.split()[1] for word, rest in targets[name][1] if word == "COPY"]
        assert layers == ["/opt/venv", "/opt/rigface"], "dependencies below, code above"
    extras = [name for names in project()["optional-dependencies"].values() for name in names]
    wanted = {normal(name) for name in (*project()["dependencies"], *extras)} - {"rigface"}
    assert wanted <= set(pinned())


def locked():
    """requirements.lock: package -> version; each with one hash."""
    lines = (INFRA / "docker" / "requirements.lock").read_text().splitlines()[1:]
    found = [re.fullmatch(r"(\S+)==(\S+) --hash=sha256:[0-9a-f]{64}", line) for line in lines]
    return {normal(line[1]): line[2] for line in found}


def test_lock_holds_what_serving_training_and_traces_need():
    extras, lock = project()["optional-dependencies"], locked()
    wanted = [*project()["dependencies"], *extras["serve"], *extras["train"], *extras["traces"], "setuptools"]
    assert {normal(name) for name in wanted} <= set(lock)
    assert lock == {name: version for name, version in pinned().items() if name in lock}
    for name in lock:  # and what these need
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            for text in importlib.metadata.requires(name) or ():
                needed = Requirement(text)
                if needed.marker is None or needed.marker.evaluate({"extra": ""}):
                    assert normal(needed.name) in lock, (name, text)


def test_cpu_wheel_of_pytorch_replaces_the_cuda_libraries(tmp_path):
    (run,) = [rest for word, rest in stages(DOCKERFILE.read_text())["cpu-dependencies"][1] if word == "RUN"]
    shutil.copy(INFRA / "docker" / "requirements.lock", tmp_path)
    edit = run.partition(" && ")[0]
    arguments = {"TORCH_INDEX": "index", "TORCH_SHA256": "0" * 64}
    subprocess.run(["sh", "-c", edit], cwd=tmp_path, env={**os.environ, **arguments}, check=True)
    lines = (tmp_path / "requirements.lock").read_text().splitlines()
    assert f"torch=={pinned()['torch']} --hash=sha256:{'0' * 64}" in lines
    assert not [line for line in lines if line.startswith(("nvidia", "cuda", "triton"))]


def test_lock_of_a_file_without_a_hash_is_refused():
    lock = runpy.run_path(str(ROOT / "scripts" / "lock_requirements.py"))["lock"]
    hashed = {
        "metadata": {"name": "Zlib_NG", "version": "1.0"},
        "download_info": {"archive_info": {"hashes": {"sha256": "ab"}}},
    }
    assert lock({"install": [hashed]}).splitlines()[1:] == ["zlib-ng==1.0 --hash=sha256:ab"]
    with pytest.raises(ValueError, match=r"Zlib_NG 1\.0: the index gives no hash"):
        lock({"install": [hashed | {"download_info": {}}]})


def test_build_context_is_what_is_copied():
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert lines[0] == "*"
    let_in = {line[1:] for line in lines if line.startswith("!")}
    copied = set()
    for _, instructions in stages(DOCKERFILE.read_text()).values():
        for word, rest in instructions:
            if word == "COPY" and "--from=" not in rest:
                copied |= set(rest.split()[:-1])
    assert let_in == copied
    assert all((ROOT / name).exists() for name in let_in)


def test_image_command_parses():
    (command,) = [r for w, r in instructions_of(stages(DOCKERFILE.read_text()), "cpu") if w == "CMD"]
    words = [w.strip('" ') for w in command.strip("[]").split(",")]
    assert words[:2] == ["rigface", "serve"]
    import tyro

    from serve.__main__ import Start

    start = tyro.cli(Start, args=words[2:])
    assert start.keys, "it listens on all addresses"


def test_image_records_commit_of_its_build(monkeypatch):
    from pipelines import run_info

    (variable,) = [
        r.split("=")[0] for w, r in stages(DOCKERFILE.read_text())["cpu"][1] if w == "ENV" and "${COMMIT}" in r
    ]
    monkeypatch.setenv(variable, "abc123")
    assert run_info.git_commit() != "abc123", "a checkout knows better"
    monkeypatch.setenv("PATH", "/nowhere")  # an image has no git
    assert run_info.git_commit() == "abc123"


# --- the health check, run


@functools.cache
def _server(status):
    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status)
            self.end_headers()

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}/healthz"


@pytest.mark.parametrize(
    ("url", "code"),
    [(lambda: _server(200), 0), (lambda: _server(503), 1), (lambda: "http://127.0.0.1:9/healthz", 1), (lambda: "", 0)],
    ids=["well", "ill", "silent", "nothing to ask"],
)
def test_health_check_exit_code(url, code):
    env = {"RIGFACE_HEALTH_URL": url(), "http_proxy": "http://127.0.0.1:9"}  # a proxy cannot reach the container
    done = subprocess.run([sys.executable, "-S", INFRA / "docker" / "health.py"], env=env, capture_output=True)
    assert done.returncode == code, done.stderr
