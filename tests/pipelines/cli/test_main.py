"""Command line: overview, parsing, errors, quiet ends, dry runs."""

import os
import signal
import subprocess
import sys
from importlib import import_module

import pytest

import rigface
from pipelines.cli import main as main_module
from pipelines.cli.commands import MODULES
from pipelines.cli.main import main
from pipelines.cli.parser import parse
from pipelines.extract.config import cluster, laptop
from rigface.terminal import CLOSED_PIPE, INTERRUPTED
from tests.conftest import ROOT


def test_flags_change_single_fields_of_the_preset():
    command = parse(
        ["extract", "a", "b", "out", "--preset", "cluster", "--workers", "9", "--fps", "2", "--detect-faces.cpus", "2"]
    )
    assert command.paths == ("a", "b", "out")
    assert command.job.detect_faces.max_actors == cluster(workers=9).detect_faces.max_actors == 9
    assert (command.job.settings.fps, command.job.detect_faces.cpus) == (2.0, 2.0)
    assert command.job.address == "auto"


def test_default_preset_is_laptop_at_five_frames_per_second():
    command = parse(["extract", "clips", "out"])
    assert command.job == laptop()
    assert command.job.settings.fps == 5.0
    assert parse(["extract", "clips", "out", "--fps", "all"]).job.settings.fps == "all"


def test_help_shows_both_forms_of_a_switch(capsys):
    with pytest.raises(SystemExit):
        main(["train", "one_gpu", "--help"])
    assert "--gpu, --no-gpu" in capsys.readouterr().out


def test_switches_set_boolean_fields():
    job = parse(["extract", "a", "b", "--overwrite", "--retry-errors", "--no-identities", "--small-faces"]).job
    assert (job.overwrite, job.retry_errors, job.identities, job.settings.small_faces) == (True, True, False, True)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["extract", "only-one"], "VIDEOS... OUT"),
        (["extract", "a", "b", "--fps", "0"], "above 0"),
        (["extract", "/no/such/folder", "out/never", "--preset", "debug"], "no such file or folder"),
        (["extract", "a", "b", "--detector", "insightface", "--detect-faces.gpus", "1"], "runs on CPUs"),
        (["status", "/no/such/dataset"], "not a RigFace dataset"),
        (["forecast"], "VIDEOS..."),
    ],
)
def test_errors_are_one_line(words, message, capsys):
    assert main(words) == 1
    err = capsys.readouterr().err
    assert message in err
    assert err.startswith("rigface: ")
    assert err.count("\n") == 1


def test_unknown_preset_is_refused_with_known_presets(capsys):
    with pytest.raises(SystemExit):
        parse(["extract", "a", "b", "--preset", "moon"])
    assert "laptop" in "".join(capsys.readouterr())


def test_overview_lists_every_command_on_one_line(capsys):
    assert main(["--help"]) == main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    modules = [import_module(f"pipelines.cli.{name}") for name in set(MODULES.values()) - {""}]
    parsed = {name for module in modules for name in module.COMMANDS}
    assert {"serve", *parsed} == set(MODULES)
    assert all(sum(line.startswith(f"  {name} ") for line in lines) == 2 for name in MODULES)  # both calls
    assert max(map(len, lines)) <= 100


@pytest.mark.parametrize("name", sorted(set(MODULES) - {"serve"}))
def test_every_command_has_help(name, capsys):
    with pytest.raises(SystemExit) as end:
        main([name, "--help"])
    assert end.value.code == 0
    assert f"usage: rigface {name}" in capsys.readouterr().out


def test_version_is_printed(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"rigface {rigface.__version__}\n"


def test_unknown_command_is_refused_with_the_nearest_name(capsys):
    assert main(["exract", "a", "b"]) == 2
    assert "Did you mean `rigface extract`?" in capsys.readouterr().err


def imported(code, modules):
    code += f"; import sys; print(sorted({modules!r} & set(sys.modules)), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return done.stderr.strip()


def test_overview_and_version_import_no_parser():
    code = "from pipelines.cli.main import main; main(['--help']); main(['--version'])"
    assert imported(code, {"tyro", "numpy", "torch", "ray"}) == "[]"


def test_parsing_a_command_imports_nothing_heavy():
    code = "from pipelines.cli.parser import parse; parse(['extract', 'a', 'b'])"
    assert imported(code, {"ray", "torch", "cv2", "pyarrow"}) == "[]"


# A reader that is gone before the first write, as `rigface ... | head -0`: on standard output, or on both outputs.
@pytest.mark.parametrize(
    ("words", "with_errors"), [("--help", False), ("edit --help", True), ("sliders", True), ("jobs --help", False)]
)
def test_closed_pipe_is_a_quiet_end(words, with_errors):
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "pipelines", *words.split()],
        cwd=ROOT, stdout=writing, stderr=writing if with_errors else subprocess.PIPE, text=True, timeout=60,
    )  # fmt: skip
    os.close(writing)
    assert done.returncode == CLOSED_PIPE
    assert not done.stderr


@pytest.mark.parametrize(("name", "message"), [("extract", f"{main_module.INTERRUPTED}\n"), ("edit", "")])
def test_interrupt_is_a_quiet_end(name, message):
    code = (
        "import sys, time; from types import SimpleNamespace; from pipelines.cli import main, parser; "
        "parser.parse = lambda words: SimpleNamespace(run=lambda: (print('at work', flush=True), time.sleep(60))); "
        f"sys.exit(main.main(['{name}']))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background job ignores SIGINT
    ) as process:  # fmt: skip
        assert process.stdout.readline() == "at work\n"
        process.send_signal(signal.SIGINT)
        rest = process.communicate(timeout=60)
    assert process.returncode == INTERRUPTED
    assert rest == ("", message)


def test_dry_run_counts_and_writes_nothing(zoo, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["extract", str(zoo), str(out), "--preset", "debug", "--dry-run"]) == 0
    text = capsys.readouterr().out
    assert "8 inputs" in text
    assert "12 units of work with 71 sampled frames" in text
    assert "of 8 surveyed, 2 cannot be read" in text
    assert not out.exists()


@pytest.mark.slow
def test_status_and_dry_run_of_a_finished_dataset(finished, zoo, capsys):
    assert main(["status", str(finished)]) == 0
    text = capsys.readouterr().out
    assert "8 of 8 known inputs finished: 5 ok, 2 error, 1 no_face" in text
    assert "11 of 11 shards done, 9 of them with faces" in text
    assert "no run is writing to it" in text
    assert main(["extract", str(zoo), str(finished), "--preset", "debug", "--dry-run"]) == 0
    assert "0 units of work" in capsys.readouterr().out


def test_dry_run_reads_plans_in_windows(tmp_path, monkeypatch):
    """Of 33 inputs, 24 known and 20 of those unchanged, whatever the window."""
    from pipelines.extract import dry_run
    from pipelines.extract.config import debug
    from pipelines.extract.dataset import FaceDataset
    from pipelines.extract.plan import Plan
    from pipelines.inputs import sources
    from rigface.storage.store import Store

    folder, out = tmp_path / "clips", str(tmp_path / "out")
    folder.mkdir()
    names = [folder / f"{k:02}.mp4" for k in range(33)]
    for path in names:
        path.write_bytes(b"x")
    config = debug((str(folder),), out)
    head, detector = dry_run.components.specs(config.settings)
    name = FaceDataset(Store(out)).begin_run(config.settings, head, detector, False)
    known = [
        Plan(str(p), sources.stamp(str(p)) if k < 20 else "", "image", chunks=(None, None), expected=(3, 4))
        for k, p in enumerate(names[:24])
    ]  # fmt: skip
    FaceDataset(Store(out)).add_plans(known, {}, name)
    asked, looked = [], []
    real = FaceDataset.stamps
    monkeypatch.setattr(FaceDataset, "stamps", lambda self, uris: asked.append(uris) or real(self, uris))
    new = {"chunks": (None,), "expected": (10,)}
    monkeypatch.setattr(dry_run, "survey", lambda uris, *_: looked.append(uris) or [Plan(u, **new) for u in uris])
    monkeypatch.setattr(dry_run, "MAX_SURVEYED", 5)
    monkeypatch.setattr(dry_run, "WINDOW", 8)
    text = dry_run.preview(config)
    assert [len(window) for window in asked] == [8, 8, 8, 8, 1]
    assert (len(looked[0]), set(looked[0]) <= {str(p) for p in names[20:]}) == (5, True)
    assert "33 inputs" in text
    assert "13 of them new or changed" in text
    assert "about 53 units of work with about 270 sampled frames" in text  # 2 x 20 + 13, 7 x 20 + 10 x 13
