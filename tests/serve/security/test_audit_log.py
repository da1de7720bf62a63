"""The audit log: one file or a folder for many machines, and what its chain shows."""

import json
import socket
from concurrent.futures import ThreadPoolExecutor

import pytest

from serve.__main__ import main
from serve.security.audit_log import AuditLog, check


def wrote(path, count, first=0):
    for number in range(first, first + count):
        AuditLog(path)({"edit": number})


def test_hosts_share_a_folder_and_the_replicas_of_one_its_file(tmp_path, monkeypatch, capsys):
    folder = f"{tmp_path}/log/"
    with ThreadPoolExecutor(4) as replicas:
        list(replicas.map(lambda number: AuditLog(folder)({"edit": number}), range(20)))
    monkeypatch.setattr(socket, "gethostname", lambda: "pod/7")
    wrote(tmp_path / "log", 3)  # a folder that is there needs no slash
    assert len(list((tmp_path / "log").iterdir())) == 2
    assert check(tmp_path / "log" / "pod_7.jsonl").lines == 3
    assert main(["audit", "check", folder]) == 0
    said = capsys.readouterr().out.splitlines()
    assert sorted(int(line.split(": ")[1].split()[0]) for line in said) == [3, 20]


@pytest.mark.parametrize("change", ["changed", "removed", "put in", "first removed"])
def test_the_command_names_the_line_after_a_change(tmp_path, capsys, change):
    path = tmp_path / "audit.jsonl"
    wrote(path, 4)
    lines = path.read_text().splitlines(keepends=True)
    made = {
        "changed": [lines[0], lines[1].replace('"edit": 1', '"edit": 9'), *lines[2:]], "removed": [lines[0], *lines[2:]],
        "put in": [*lines[:2], lines[1], *lines[2:]], "first removed": lines[1:],
    }  # fmt: skip
    path.write_text("".join(made[change]))
    assert main(["audit", "check", str(path)]) == 1
    after = {"changed": 3, "removed": 2, "put in": 3, "first removed": 1}
    assert f"the lines before line {after[change]} were changed" in capsys.readouterr().err


def test_an_end_that_was_cut_off_shows_by_a_hash_that_was_kept(tmp_path, capsys):
    path = tmp_path / "audit.jsonl"
    wrote(path, 3)
    kept = check(path).hash
    wrote(path, 2, first=3)
    assert main(["audit", "check", str(path), "--contains", kept]) == 0
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:2]))
    assert main(["audit", "check", str(path)]) == 0  # the chain alone does not show it
    assert main(["audit", "check", str(path), "--contains", kept]) == 1
    assert "an end was cut off" in capsys.readouterr().err


def test_half_a_line_of_a_machine_that_failed_is_told_and_the_chain_goes_on(tmp_path, capsys):
    path = tmp_path / "audit.jsonl"
    wrote(path, 2)
    with path.open("a") as file:
        file.write('{"before": "12')
    wrote(path, 2, first=2)
    found = check(path)
    assert (found.lines, found.broken) == (4, 1)
    assert [json.loads(line)["edit"] for line in path.read_text().splitlines() if line.endswith("}")] == [0, 1, 2, 3]
    assert main(["audit", "check", str(path)]) == 0
    assert "1 incomplete lines" in capsys.readouterr().out


def test_a_log_that_is_not_there_is_said(tmp_path, capsys):
    assert main(["audit", "check", str(tmp_path / "none.jsonl")]) == 1
    assert main(["audit", "check", str(tmp_path)]) == 1
    assert capsys.readouterr().err.count("there is no audit log") == 2
