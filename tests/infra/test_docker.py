"""The image: hadolint, and what hadolint does not know: the last user, the context, the versions, the health check."""

import functools
import http.server
import re
import subprocess
import sys
import threading

import pytest

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


def whole(made, name):
    """All instructions of a target, from those of its oldest base on."""
    base, own = made[name]
    return [*(whole(made, base) if base in made else []), *own]


def complaints(text):
    """What our own rules say of a Dockerfile."""
    made = stages(text)
    said = []
    bases = {base for base, _ in made.values() if base not in made}
    arguments = dict(re.findall(r"^ARG (\w+)=(\S+)", text, re.M))
    for base in bases:
        name = re.sub(r"\$\{(\w+)\}", lambda m: arguments.get(m[1], ""), base)
        if not re.search(r":\d+\.\d+\.\d+", name):
            said.append(f"{base}: not pinned to a full version")
    for target in ("cpu", "cuda", "efa"):
        instructions = whole(made, target)
        users = [rest for word, rest in instructions if word == "USER"]
        if not users or users[-1].split(":")[0] in ("root", "0"):
            said.append(f"{target}: runs as root")
        if not [1 for word, _ in instructions if word == "HEALTHCHECK"]:
            said.append(f"{target}: has no health check")
    for name, (_, instructions) in made.items():
        for word, rest in instructions:
            if word == "ADD":
                said.append(f"{name}: ADD")
            if word == "RUN" and "apt-get install" in rest and "rm -rf /var/lib/apt/lists/*" not in rest:
                said.append(f"{name}: package lists stay in the layer")
            if word == "RUN" and re.search(r"\b(curl|wget|git clone)\s+\S*://", rest):
                said.append(f"{name}: fetches by address")
            if word in ("ENV", "ARG") and re.search(r"PASSWORD|SECRET|TOKEN|ACCESS_KEY", rest):
                said.append(f"{name}: a secret in {word}")
            if word == "COPY" and "--from=" not in rest and rest.split()[0] == ".":
                said.append(f"{name}: copies the whole context")
    return said


def test_hadolint_has_nothing_to_say():
    done = subprocess.run(
        [tool("hadolint"), "--failure-threshold", "style", DOCKERFILE], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


def test_our_rules_have_nothing_to_say():
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
def test_our_rules_find(old, new, complaint):
    text = DOCKERFILE.read_text()
    assert old in text
    assert complaint in "; ".join(complaints(text.replace(old, new)))


def test_python_is_the_one_of_the_project():
    (version,) = re.findall(r"^ARG PYTHON=(\d+\.\d+)", DOCKERFILE.read_text(), re.M)
    assert version == "{}.{}".format(*sys.version_info[:2]), "constraints.txt was made for this one"
    assert project()["requires-python"] == f">={version}"


def test_dependencies_are_installed_from_the_lock_file_and_before_the_code():
    made = stages(DOCKERFILE.read_text())
    for name in ("cpu-dependencies", "cuda-dependencies"):
        runs = [rest for word, rest in whole(made, name) if word == "RUN"]
        assert "--constraint constraints.txt --requirement requirements.txt" in runs[-1]
        copied = [rest for word, rest in whole(made, name) if word == "COPY"]
        assert copied == ["pyproject.toml constraints.txt ./"], "a change of code would install everything again"
    for name in ("cpu", "cuda"):
        layers = [rest.split()[1] for word, rest in made[name][1] if word == "COPY"]
        assert layers == ["/opt/venv", "/opt/rigface"], "dependencies below, code above"
    extras = [name for names in project()["optional-dependencies"].values() for name in names]
    wanted = {normal(name) for name in (*project()["dependencies"], *extras)} - {"rigface"}
    assert wanted <= set(pinned())


def test_image_installs_what_serving_training_and_traces_need():
    (listing,) = re.findall(r'python -c "(.+?)" > requirements', stages(DOCKERFILE.read_text())["build"][1][-1][1])
    done = subprocess.run([sys.executable, "-c", listing], cwd=ROOT, capture_output=True, text=True)
    extras = project()["optional-dependencies"]
    assert done.stdout.split() == [*project()["dependencies"], *extras["serve"], *extras["train"], *extras["traces"]]


def test_the_context_holds_what_is_copied_and_nothing_else():
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


def test_the_image_starts_what_the_command_line_knows():
    (command,) = [r for w, r in whole(stages(DOCKERFILE.read_text()), "cpu") if w == "CMD"]
    words = [w.strip('" ') for w in command.strip("[]").split(",")]
    assert words[:2] == ["rigface", "serve"]
    import tyro

    from serve.__main__ import Start

    start = tyro.cli(Start, args=words[2:])
    assert start.keys, "it listens on all addresses"


def test_outputs_of_an_image_name_the_commit_it_was_built_of(monkeypatch):
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
def test_health(url, code):
    done = subprocess.run(
        [sys.executable, "-S", INFRA / "docker" / "health.py"], env={"RIGFACE_HEALTH_URL": url()}, capture_output=True
    )
    assert done.returncode == code, done.stderr
