"""Jobs for a cluster elsewhere: what is sent, what is refused before it is sent, and all of it against a real Ray head."""

import contextlib
import json
import os
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest

from pipelines.cli.cluster import SubmitCommand, split
from pipelines.cli.main import main, parse
from pipelines.cluster import budget
from pipelines.cluster.budget import CostMeter
from pipelines.cluster.submit import PACKAGES, described, request

LINE = ["extract", "s3://b/videos/", "s3://b/faces", "--preset", "cluster"]


def requested(job, meter, **options):
    return request(job, parse(job), meter, **options)


# --- words


def test_the_words_of_submit_are_told_from_those_of_the_job():
    own, job = split(
        [*LINE, "--hours", "3", "--fps", "2", "--cluster=http://h:1", "--dry-run", "--env", "A", "--env", "B"]
    )
    assert own == ["--hours", "3", "--cluster=http://h:1", "--dry-run", "--env", "A", "--env", "B"]
    assert job == [*LINE, "--fps", "2"]
    command = parse(["submit", *LINE, "--hours", "3", "--env", "A", "--env", "B"])
    assert (command.job, command.hours, command.env) == (tuple(LINE), 3.0, ("A", "B"))


def test_no_job_has_a_flag_that_submit_would_take_away():
    from dataclasses import fields

    own = {f.name for f in fields(SubmitCommand)} - {"job", "command", "dry_run"}  # that one says what would be sent
    for words in (
        ["extract"],
        ["identities", "x"],
        ["pair", "a", "b"],
        ["encode", "a", "b"],
        ["train"],
        ["autoencoder", "a", "b"],
        ["evaluate", "a", "b"],
        ["evaluate", "a", "b"],
    ):
        command = parse(words)
        taken = {f.name for part in (command, getattr(command, "job", command)) for f in fields(part)}
        assert not own & taken, words


def test_help_is_that_of_the_job_where_there_is_one(capsys):
    with pytest.raises(SystemExit):
        main(["submit", "--help"])
    assert "--dollars" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["submit", "extract", "--help"])
    assert "--small-faces" in capsys.readouterr().out


# --- what is sent


def test_the_entrypoint_is_the_job_under_its_budget():
    asked = requested([*LINE, "--fps", "2"], CostMeter(hours=12, dollars=300, price=0.35))
    words = shlex.split(asked.entrypoint)
    assert words[:3] == ["python", "-m", "pipelines.cluster.budget"]
    assert words[words.index("--") + 1 :] == [*LINE, "--fps", "2"]
    assert words[3 : words.index("--")] == ["--hours", "12", "--dollars", "300", "--price", "0.35"]


def test_odd_names_survive_the_shell():
    job = ["extract", "s3://b/it's $HOME; rm *", "s3://b/faces", "--preset", "cluster"]
    assert shlex.split(requested(job, CostMeter()).entrypoint)[4:] == job


def test_one_job_has_one_name_whatever_its_budget():
    first, second = (requested(LINE, meter) for meter in (CostMeter(hours=1), CostMeter(hours=2)))
    assert first.name == second.name
    assert first.name != requested([*LINE, "--fps", "2"], CostMeter()).name
    assert first.name.startswith("rigface-extract-")


def test_variables_are_sent_by_name_and_shown_without_their_values(monkeypatch):
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    asked = requested(LINE, CostMeter(hours=2), env=["AWS_REGION"])
    assert asked.runtime_env["env_vars"]["AWS_REGION"] == "eu-central-1"
    text = described(asked, "http://h:8265")
    assert "AWS_REGION" in text
    assert "eu-central-1" not in text
    assert "2 h" in text


def test_code_is_sent_along_only_where_asked():
    assert "py_modules" not in requested(LINE, CostMeter()).runtime_env
    folders = requested(LINE, CostMeter(), upload=True).runtime_env["py_modules"]
    assert [Path(f).name for f in folders] == list(PACKAGES)
    assert all((Path(f) / "__init__.py").is_file() for f in folders)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ([], "want a job to submit"),
        (["serve"], "is nothing for a cluster"),
        (["edit", "a.jpg", "b.png"], "is nothing for a cluster"),
        (["extract", "clips", "s3://b/faces"], "does not see this machine's folders"),
        (["train", "cluster", "s3://b/latents", "runs/a"], "runs/a: the cluster does not see"),
        (["pair", "out/faces", "s3://b/pairs"], "out/faces"),
        (["evaluate", "out/faces", "s3://b/card"], "out/faces"),
        ([*LINE, "--dollars", "5"], "--dollars wants --price"),
        ([*LINE, "--env", "RIGFACE_NOT_SET"], "is not set here"),
        ([*LINE, "--env", "RIGFACE_TEST_SECRET_KEY"], "looks like a secret"),
        ([*LINE, "--fps", "0"], "above 0"),
        ([*LINE, "--cluster", "head:6379"], "address of a Ray dashboard"),
        ([*LINE, "--cluster", "http://127.0.0.1:9"], "no Ray dashboard answers"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(words, complaint, monkeypatch, capsys):
    monkeypatch.setenv("RIGFACE_TEST_SECRET_KEY", "hush")
    assert main(["submit", *words]) == 1
    err = capsys.readouterr().err
    assert complaint in err
    assert err.count("\n") == 1
    assert "hush" not in err


def test_a_flag_the_job_does_not_know_is_refused_here(capsys):
    with pytest.raises(SystemExit):
        main(["submit", *LINE, "--fsp", "2"])
    assert "--fsp" in "".join(capsys.readouterr())


def test_dry_run_asks_nobody(capsys):
    assert main(["submit", *LINE, "--cluster", "http://127.0.0.1:9", "--dry-run"]) == 0
    assert "pipelines.cluster.budget" in capsys.readouterr().out


# --- a real head


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in held:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in held]


@pytest.fixture(scope="module")
def head():
    """A head of its own, as `ray up` starts one: dashboard on loopback, a token. Its address, and an environment with the token."""
    folder = tempfile.mkdtemp(prefix="rf")  # short: sockets are in it
    gcs, dashboard, agent, client, metrics = _free_ports(5)
    env = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}"
    env.pop("RAY_ADDRESS", None)
    command = [
        "ray",
        "start",
        "--head",
        "--block",
        "--num-cpus=3",
        "--object-store-memory=100000000",
        "--disable-usage-stats",
    ]
    command += [f"--temp-dir={folder}", "--dashboard-host=127.0.0.1", "--node-ip-address=127.0.0.1"]
    command += [f"--port={gcs}", f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={agent}"]
    command += [f"--ray-client-server-port={client}", f"--metrics-export-port={metrics}"]
    process = subprocess.Popen(
        command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
    )
    try:
        yield f"http://127.0.0.1:{dashboard}", env
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for left in psutil.process_iter(["cmdline"]):  # workers have groups of their own
            if folder in " ".join(left.info["cmdline"] or ()):
                with contextlib.suppress(psutil.NoSuchProcess):
                    left.kill()
        shutil.rmtree(folder, ignore_errors=True)


# One process for all: each would import Ray anew. A line of it: arguments as JSON; its answer: status, then what was said.
TALK = """
import contextlib, io, json, sys, time
from pipelines.cli.main import main
for line in sys.stdin:
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            code = main(json.loads(line))
        except SystemExit as e:
            code = e.code
    print(json.dumps([code, said.getvalue()]), flush=True)
"""


@pytest.mark.slow
def test_jobs_go_to_a_real_head_and_come_back(head, finished, zoo, tmp_path):
    """Stopped by its budget, sent again, found at work, cancelled, listed; another with our code; a stranger is not let in.

    What is tested is the way there and back: that an interrupted job goes on is tested elsewhere.
    """
    url, env = head
    out = shutil.copytree(finished, tmp_path / "faces")
    short = ["submit", "identities", str(out), "--cluster", url]
    long = ["submit", "extract", str(zoo), str(tmp_path / "new"), "--preset", "debug", "--cluster", url]
    env_here = {**env, "RAY_ADDRESS": "127.0.0.1:9"}  # Ray would prefer it to --cluster
    with subprocess.Popen(
        [sys.executable, "-c", TALK], env=env_here, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as talk:

        def say(*words):
            talk.stdin.write(json.dumps(words) + "\n")
            talk.stdin.flush()
            return json.loads(talk.stdout.readline())

        def until(wanted, *words):
            end = time.monotonic() + 240
            while wanted not in (said := say(*words, "--cluster", url)[1]):
                assert time.monotonic() < end, said
                time.sleep(0.3)
            return said

        until("no jobs of ours", "jobs", "list")  # the head is up

        code, said = say(*long, "--dollars", "0.001", "--price", "1000")
        assert code == budget.SPENT, said
        assert "The budget is spent" in said
        assert said.count("Submit the same line") == 1

        code, said = say(*short, "--upload")
        assert code == 0, said
        assert "-1: submitted" in said
        assert said.count(" people in ") == 1, "what the job itself says, once"

        assert say(*long, "--detach")[1].endswith("-2: submitted\n")
        assert say(*long, "--detach")[1].endswith("-2: is at work already\n")
        until(" running ", "jobs", "status")
        assert "-2: asked to stop" in say("jobs", "cancel", "--cluster", url)[1]
        until(" stopped ", "jobs", "status")

        states = [shown.split()[1] for shown in say("jobs", "list", "--cluster", url)[1].splitlines()]
        assert states == ["budget", "succeeded", "stopped"]
        talk.stdin.close()

    stranger = {**env, "RAY_AUTH_TOKEN": "0" * 64}
    command = [sys.executable, "-m", "pipelines", "jobs", "list", "--cluster", url]
    done = subprocess.run(command, env=stranger, capture_output=True, text=True)
    assert done.returncode == 1
    assert "asks for a token" in done.stderr


def test_the_commands_of_the_documentation_are_understood():
    text = (Path(__file__).parents[3] / "docs" / "clusters.md").read_text().replace("\\\n", " ")
    lines = [line.split("#")[0] for line in text.splitlines() if line.startswith(("rigface submit", "rigface jobs"))]
    assert len(lines) > 4
    for line in lines:
        command = parse(shlex.split(line)[1:])
        if isinstance(command, SubmitCommand):
            meter = CostMeter(command.hours, command.dollars, command.price, command.gpu_price)
            assert request(command.job, command.command, meter).job == command.job
