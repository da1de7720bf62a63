"""Pages are checked: their tree, tables and commands are those of the code."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_the_generated_parts_are_true():
    if not (ROOT / ".git").exists():
        pytest.skip("needs the git checkout: the tree lists the files git knows")
    done = subprocess.run([sys.executable, "scripts/readme.py", "--check"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_every_linked_file_is_there():
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_every_make_target_it_names_exists():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))
    named = set(re.findall(r"(?:^|`)make ([a-z]+)", README, re.M))
    assert {"demo", "test"} <= named <= targets


def test_every_command_it_names_exists():
    from pipelines.cli.main import COMMANDS

    named = set(re.findall(r"^(?:\$ )?rigface ([a-z]+)", README, re.M))
    assert {"extract", "inspect"} <= named <= set(COMMANDS)
