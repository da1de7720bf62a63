"""The audit log: files, shared folders, and the check of its hash chain."""

import json
import socket
from concurrent.futures import ThreadPoolExecutor

import pytest

from serve.__main__ import main
from serve.security.audit_log import AuditLog, check


def wrote(path, count, first=0):
    for number in range(first, first + count):
        AuditLog(path)({"edit": number})


def test_hosts_share_folder_and_replicas_share_file(tmp_path, monkeypatch, capsys):
    folder = f"{tmp_path}/log/"
    with ThreadPoolExecutor(4) as replicas:
        list(replicas.map(lambda number: AuditLog(folder)({"edit": number}), range(20)))
    monkeypatch.setattr(socket, "gethostname", lambda: "pod/7")
    wrote(tmp_path / "log", 3)  # an existing folder needs no slash
    assert len(list((tmp_path / "log").iterdir())) == 2
    assert check(tmp_path / "log" / "pod_7.jsonl").lines == 3
    assert main(["audit", "check", folder]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sorted(int(line.split(": ")[1].split()[0]) for line in lines) == [3, 20]


@pytest.mark.parametrize("change", ["changed", "removed", "put in", "first removed"])
def test_audit_check_names_line_after_change(tmp_path, capsys, change):
    path = tmp_path / "audit.jsonl"
    wrote(path, 4)
    lines = path.read_text().splitlines(keepends=True)
    changed = {
        "changed": [lines[0], lines[1].replace('"edit": 1', '"edit": 9'), *lines[2:]],
        "removed": [lines[0], *lines[2:]],
        "put in": [*lines[:2], lines[1], *lines[2:]], "first removed": lines[1:],
    }  # fmt: skip
    path.write_text("".join(changed[change]))
    assert main(["audit", "check", str(path)]) == 1
    after = {"changed": 3, "removed": 2, "put in": 3, "first removed": 1}
    assert f"the lines before line {after[change]} were changed" in capsys.readouterr().err


def test_audit_check_finds_truncation_by_stored_hash(tmp_path, capsys):
    path = tmp_path / "audit.jsonl"
    wrote(path, 3)
    kept = check(path).hash
    wrote(path, 2, first=3)
    assert main(["audit", "check", str(path), "--contains", kept]) == 0
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:2]))
    assert main(["audit", "check", str(path)]) == 0  # the chain alone does not show it
    assert main(["audit", "check", str(path), "--contains", kept]) == 1
    assert "was truncated" in capsys.readouterr().err


def test_partial_line_is_counted_and_chain_continues(tmp_path, capsys):
    path = tmp_path / "audit.jsonl"
    wrote(path, 2)
    with path.open("a") as file:
        file.write('{"before": "12')
    wrote(path, 2, first=2)
    result = check(path)
    assert (result.lines, result.broken) == (4, 1)
    assert [json.loads(line)["edit"] for line in path.read_text().splitlines() if line.endswith("}")] == [0, 1, 2, 3]
    assert main(["audit", "check", str(path)]) == 0
    assert "1 incomplete lines" in capsys.readouterr().out


def test_missing_audit_log_is_an_error(tmp_path, capsys):
    assert main(["audit", "check", str(tmp_path / "none.jsonl")]) == 1
    assert main(["audit", "check", str(tmp_path)]) == 1
    assert capsys.readouterr().err.count("there is no audit log") == 2
