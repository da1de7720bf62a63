"""The command line: words to configuration, complaints in words, dry runs that write nothing."""

import subprocess
import sys

import pytest

from pipelines.cli.main import COMMANDS, main, parse
from pipelines.extract.config import cluster, laptop


def test_flags_change_single_fields_of_the_preset():
    command = parse(
        ["extract", "a", "b", "out", "--preset", "cluster", "--workers", "9", "--fps", "2", "--detect-faces.cpus", "2"]
    )
    assert command.paths == ("a", "b", "out")
    assert command.job.detect_faces.max_actors == cluster(workers=9).detect_faces.max_actors == 9
    assert (command.job.settings.fps, command.job.detect_faces.cpus) == (2.0, 2.0)
    assert command.job.address == "auto"


def test_plain_command_is_the_laptop_at_five_frames_a_second():
    command = parse(["extract", "clips", "out"])
    assert command.job == laptop()
    assert command.job.settings.fps == 5.0
    assert parse(["extract", "clips", "out", "--fps", "all"]).job.settings.fps == "all"


def test_switches():
    job = parse(["extract", "a", "b", "--overwrite", "--retry-errors", "--no-identities", "--small-faces"]).job
    assert (job.overwrite, job.retry_errors, job.identities, job.settings.small_faces) == (True, True, False, True)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["extract", "only-one"], "VIDEOS... OUT"),
        (["extract", "a", "b", "--fps", "0"], "above 0"),
        (["extract", "/no/such/folder", "out/never", "--preset", "debug"], "no such file or folder"),
        (["extract", "a", "b", "--detect-faces.gpus", "1"], "runs on CPUs"),
        (["status", "/no/such/dataset"], "not a RigFace dataset"),
        (["forecast"], "VIDEOS..."),
    ],
)
def test_complaints_are_one_line(words, complaint, capsys):
    assert main(words) == 1
    err = capsys.readouterr().err
    assert complaint in err
    assert err.startswith("rigface: ")
    assert err.count("\n") == 1


def test_unknown_preset_is_refused_with_the_known_ones(capsys):
    with pytest.raises(SystemExit):
        parse(["extract", "a", "b", "--preset", "moon"])
    assert "laptop" in "".join(capsys.readouterr())


def test_help_teaches_every_command(capsys):
    from pipelines.cli import learning

    with pytest.raises(SystemExit):
        parse(["--help"])
    text = capsys.readouterr().out
    assert all(name in text for name in set(COMMANDS) - {"serve"})
    assert set(learning.COMMANDS) < set(COMMANDS)


def test_choosing_a_command_imports_nothing_heavy():
    code = "import sys; from pipelines.cli.main import parse; parse(['extract', 'a', 'b']); "
    code += "print(sorted({'ray', 'torch', 'cv2', 'pyarrow'} & set(sys.modules)))"
    text = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert text.strip() == "[]"


def test_dry_run_counts_and_writes_nothing(zoo, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["extract", str(zoo), str(out), "--preset", "debug", "--dry-run"]) == 0
    text = capsys.readouterr().out
    assert "8 inputs" in text
    assert "12 units of work with 71 sampled frames" in text
    assert "2 of 8 looked into cannot be read" in text
    assert not out.exists()


@pytest.mark.slow
def test_status_and_dry_run_of_a_finished_dataset(finished, zoo, capsys):
    assert main(["status", str(finished)]) == 0
    text = capsys.readouterr().out
    assert "8 of 8 known inputs finished: 5 ok, 2 error, 1 no_face" in text
    assert "12 of 12 units done, 10 of them with faces" in text
    assert "no run is writing to it" in text
    assert main(["extract", str(zoo), str(finished), "--preset", "debug", "--dry-run"]) == 0
    assert "0 units of work" in capsys.readouterr().out


def test_a_dry_run_reads_the_plans_of_a_window_at_a_time(tmp_path, monkeypatch):
    """Of 33 inputs, 24 known and 20 of those unchanged, whatever the window."""
    from pipelines.extract import dry_run
    from pipelines.extract.config import debug
    from pipelines.extract.dataset import FaceDataset
    from pipelines.extract.plan import Plan
    from pipelines.extract.plan_store import PlanStore
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
    real = PlanStore.load
    monkeypatch.setattr(PlanStore, "load", lambda self, uris: asked.append(list(uris)) or real(self, asked[-1]))
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
