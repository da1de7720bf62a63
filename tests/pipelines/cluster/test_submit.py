"""Jobs on a remote cluster: submissions, refused submissions, and a real Ray head."""

import contextlib
import itertools
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
from pipelines.cli.main import main
from pipelines.cli.parser import parse
from pipelines.cluster import budget
from pipelines.cluster.budget import CostMeter
from pipelines.cluster.submit import PACKAGES, describe, prepare
from pipelines.extract.config import ExtractConfig
from tests.pipelines.conftest import faces_of, identities_of

LINE = ["extract", "s3://b/videos/", "s3://b/faces", "--preset", "cluster"]


def prepared(job, meter, **options):
    return prepare(job, parse(job), meter, **options)


# --- command lines


def test_split_separates_flags_of_submit_and_job():
    own, job = split(
        [*LINE, "--hours", "3", "--fps", "2", "--cluster=http://h:1", "--dry-run", "--env", "A", "--env", "B"]
    )
    assert own == ["--hours", "3", "--cluster=http://h:1", "--dry-run", "--env", "A", "--env", "B"]
    assert job == [*LINE, "--fps", "2"]
    command = parse(["submit", *LINE, "--hours", "3", "--env", "A", "--env", "B"])
    assert (command.job, command.hours, command.env) == (tuple(LINE), 3.0, ("A", "B"))


def test_no_job_has_a_flag_of_submit():
    from dataclasses import fields

    own = {f.name for f in fields(SubmitCommand)} - {
        "job",
        "command",
        "dry_run",
    }  # --dry-run of submit prints the submission
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


def test_help_is_that_of_the_job_if_one_is_named(capsys):
    with pytest.raises(SystemExit):
        main(["submit", "--help"])
    assert "--dollars" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["submit", "extract", "--help"])
    assert "--small-faces" in capsys.readouterr().out


# --- submissions


def test_entrypoint_is_the_job_under_its_budget():
    submission = prepared([*LINE, "--fps", "2"], CostMeter(hours=12, dollars=300, price=0.35))
    words = shlex.split(submission.entrypoint)
    assert words[:3] == ["python", "-m", "pipelines.cluster.budget"]
    assert words[words.index("--") + 1 :] == [*LINE, "--fps", "2"]
    assert words[3 : words.index("--")] == ["--hours", "12", "--dollars", "300", "--price", "0.35"]


def test_odd_names_are_quoted_for_the_shell():
    job = ["extract", "s3://b/it's $HOME; rm *", "s3://b/faces", "--preset", "cluster"]
    assert shlex.split(prepared(job, CostMeter()).entrypoint)[4:] == job


def test_name_of_a_job_does_not_depend_on_its_budget():
    first, second = (prepared(LINE, meter) for meter in (CostMeter(hours=1), CostMeter(hours=2)))
    assert first.name == second.name
    assert first.name != prepared([*LINE, "--fps", "2"], CostMeter()).name
    assert first.name.startswith("rigface-extract-")


def test_variables_are_sent_and_shown_without_their_values(monkeypatch):
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    submission = prepared(LINE, CostMeter(hours=2), env=["AWS_REGION"])
    assert submission.runtime_env["env_vars"]["AWS_REGION"] == "eu-central-1"
    text = describe(submission, "http://h:8265")
    assert "AWS_REGION" in text
    assert "eu-central-1" not in text
    assert "2 h" in text


def test_code_is_uploaded_only_with_upload():
    assert "py_modules" not in prepared(LINE, CostMeter()).runtime_env
    folders = prepared(LINE, CostMeter(), upload=True).runtime_env["py_modules"]
    assert [Path(f).name for f in folders] == list(PACKAGES)
    assert all((Path(f) / "__init__.py").is_file() for f in folders)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ([], "name a job to submit"),
        (["serve"], "does not run on a cluster"),
        (["edit", "a.jpg", "b.png"], "does not run on a cluster"),
        (["extract", "clips", "s3://b/faces"], "does not see this machine's folders"),
        (["train", "cluster", "s3://b/latents", "runs/a"], "runs/a: the cluster does not see"),
        (["pair", "out/faces", "s3://b/pairs"], "out/faces"),
        (["evaluate", "out/faces", "s3://b/card"], "out/faces"),
        (["identities", "s3://b/one", "out/two"], "out/two"),
        ([*LINE, "--dollars", "5"], "--dollars needs --price"),
        ([*LINE, "--env", "RIGFACE_NOT_SET"], "is not set here"),
        ([*LINE, "--env", "RIGFACE_TEST_SECRET_KEY"], "looks like a secret"),
        ([*LINE, "--fps", "0"], "above 0"),
        ([*LINE, "--cluster", "head:6379"], "address of a Ray dashboard"),
        ([*LINE, "--cluster", "http://127.0.0.1:9"], "no Ray dashboard answers"),
    ],
)
def test_unworkable_submission_is_refused_in_one_line(words, complaint, monkeypatch, capsys):
    monkeypatch.setenv("RIGFACE_TEST_SECRET_KEY", "hush")
    assert main(["submit", *words]) == 1
    err = capsys.readouterr().err
    assert complaint in err
    assert err.count("\n") == 1
    assert "hush" not in err


def test_unknown_flag_of_the_job_is_refused(capsys):
    with pytest.raises(SystemExit):
        main(["submit", *LINE, "--fsp", "2"])
    assert "--fsp" in "".join(capsys.readouterr())


def test_dry_run_makes_no_request(capsys):
    assert main(["submit", *LINE, "--cluster", "http://127.0.0.1:9", "--dry-run"]) == 0
    assert "pipelines.cluster.budget" in capsys.readouterr().out


# --- a real head


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(socket.socket()) for _ in range(count)]
        for held_socket in held:
            held_socket.bind(("127.0.0.1", 0))
        return [held_socket.getsockname()[1] for held_socket in held]


@pytest.fixture(scope="module")
def head():
    """A head of its own, as `ray up` starts one: dashboard on loopback, a token. Its address, and an environment
    with the token.
    """
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
    command += ["--no-monitor", "--include-log-monitor=false"]  # nothing scales it, and a job's log is its driver's
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


# One process for all commands, since each would import Ray anew: arguments as JSON in, status and text out.
TALK = """
import contextlib, io, json, sys, time
from pipelines.cli.main import main
for line in sys.stdin:
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        try:
            code = main(json.loads(line))
        except SystemExit as e:
            code = e.code
    print(json.dumps([code, output.getvalue()]), flush=True)
"""


@pytest.mark.slow
def test_jobs_on_a_real_head_are_submitted_cancelled_and_listed(head, zoo, tmp_path):
    """Stopped by its budget, submitted again, found running, cancelled, listed; uploaded code and two drivers, each
    with one picture; a wrong token is refused.

    That an interrupted job continues, and a driver that dies, is tested elsewhere.
    """
    url, env = head
    out, pictures = tmp_path / "faces", tmp_path / "pictures"
    pictures.mkdir()
    for share in ("1/2", "2/2"):
        is_mine = ExtractConfig((str(zoo),), str(out), shard=share).is_mine
        names = (str(pictures / f"{k}.jpg") for k in itertools.count())
        shutil.copy(zoo / "portrait.jpg", next(filter(is_mine, names)))
    options = ["--preset", "debug", "--jobs", "2", "--cluster", url]
    short = ["submit", "extract", str(pictures), str(out), *options]
    long = ["submit", "extract", str(zoo), str(tmp_path / "new"), *options]
    env_here = {**env, "RAY_ADDRESS": "127.0.0.1:9"}  # Ray would prefer it to --cluster
    with subprocess.Popen(
        [sys.executable, "-c", TALK], env=env_here, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as talk:

        def call(*words):
            talk.stdin.write(json.dumps(words) + "\n")
            talk.stdin.flush()
            return json.loads(talk.stdout.readline())

        def until(wanted, *words):
            end = time.monotonic() + 240
            while wanted not in (output := call(*words, "--cluster", url)[1]):
                assert time.monotonic() < end, output
                time.sleep(0.3)
            return output

        until("no RigFace jobs", "jobs", "list")  # the head is up

        code, output = call(*long, "--dollars", "0.001", "--price", "1000")
        assert code == budget.SPENT, output
        assert "The budget is spent" in output
        assert output.count("Submit the same command") == 1

        code, output = call(*short, "--upload", "--columns", "landmarks,identity_vector")
        assert code == 0, output
        assert "-1: submitted" in output
        assert output.count("Spent: ") == 1, "output of the job, once"
        assert all(f"\n{share} [" in output for share in ("1/2", "2/2"))
        assert len(faces_of(out)) == len(identities_of(out)) == 2

        assert call(*long, "--detach")[1].endswith("-2: submitted\n")
        assert call(*long, "--detach")[1].endswith("-2: is running already\n")
        until(" running ", "jobs", "status")
        assert "-2: stopping" in call("jobs", "cancel", "--cluster", url)[1]
        until(" stopped ", "jobs", "status")

        states = [shown.split()[1] for shown in call("jobs", "list", "--cluster", url)[1].splitlines()]
        assert states == ["budget", "succeeded", "stopped"]
        talk.stdin.close()

    wrong_token = {**env, "RAY_AUTH_TOKEN": "0" * 64}
    command = [sys.executable, "-m", "pipelines", "jobs", "list", "--cluster", url]
    done = subprocess.run(command, env=wrong_token, capture_output=True, text=True)
    assert done.returncode == 1
    assert "needs a token" in done.stderr


def test_commands_of_the_documentation_are_parsed():
    text = (Path(__file__).parents[3] / "docs" / "clusters.md").read_text().replace("\\\n", " ")
    lines = [line.split("#")[0] for line in text.splitlines() if line.startswith(("rigface submit", "rigface jobs"))]
    assert len(lines) > 4
    for line in lines:
        command = parse(shlex.split(line)[1:])
        if isinstance(command, SubmitCommand):
            meter = CostMeter(command.hours, command.dollars, command.price, command.gpu_price)
            assert prepare(command.job, command.command, meter).job == command.job
