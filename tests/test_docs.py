"""README and docs/: commands parse, links and imports resolve, generated tables are up to date."""

import ast
import importlib
import re
import runpy
import shlex
from pathlib import Path

import pytest
import tyro

from pipelines.cli.parser import parse
from serve.__main__ import COMMANDS, Start

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.M | re.S)
pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def shell_lines(text: str) -> list[str]:
    """Lines of the shell blocks of a page, continued lines joined, comments removed."""
    blocks = [body for language, body in BLOCK.findall(text) if language in ("", "sh", "bash")]
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    lines += [line for line in re.findall(r"^    (\S.*)$", text, re.M)]
    return [line.partition(" #")[0].strip() for line in lines]


def commands(text: str) -> list[str]:
    """`rigface` commands of a page: lines of its blocks, and inline code that has arguments."""
    inline = re.findall(r"`(rigface [^`\n]+ [^`\n]+)`", BLOCK.sub("", text))
    found = [part.strip() for line in shell_lines(text) for part in re.split(r"&&|\|", line)]
    lines = [line.removesuffix(" --help") for line in (*found, *inline) if "..." not in line]
    return [line for line in lines if line.startswith("rigface ")]


def check(line: str) -> None:
    """Parse a command as the command line does."""
    words = shlex.split(line)[1:]
    if words[0].startswith("--"):  # rigface --help, --version
        return
    if words[0] != "serve":
        parse(words)
        return
    words = words[1:]
    kind = COMMANDS.get(words[0]) if words else None
    tyro.cli(kind or Start, args=words[1:] if kind else words)


@pages
def test_rigface_commands_parse(page):
    for line in commands(page.read_text()):
        try:
            check(line)
        except SystemExit as error:
            pytest.fail(f"{page.name}: {line!r} does not parse (exit {error.code})")


def test_commands_are_found_in_pages():
    found = {page.name: len(commands(page.read_text())) for page in PAGES}
    assert found["README.md"] > 12
    assert found["clusters.md"] > 4
    assert found["weights.md"] > 8


@pages
def test_make_targets_exist(page):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    assert set(re.findall(r"(?:^|`)make ([a-z-]+)", page.read_text(), re.M)) <= targets


@pages
def test_named_scripts_exist(page):
    named = re.findall(r"\b((?:scripts|benchmarks)/\w+\.(?:py|sh))\b", page.read_text())
    assert [name for name in named if not (ROOT / name).is_file()] == []


@pages
def test_named_modules_exist(page):
    named = re.findall(r"`((?:rigface|pipelines|serve|tests|infra)/[\w/.-]+)`", page.read_text())
    assert [name for name in named if not (ROOT / name).exists()] == []


@pages
def test_linked_files_exist(page):
    links = re.findall(r"\]\((?!https?:|#)([^)#\s]+)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


@pages
def test_python_blocks_compile_and_import(page):
    for language, body in BLOCK.findall(page.read_text()):
        if language != "python":
            continue
        for node in ast.walk(ast.parse(body)):
            if isinstance(node, ast.ImportFrom) and node.module:
                module = importlib.import_module(node.module)
                assert [a.name for a in node.names if not hasattr(module, a.name)] == [], node.module


def test_readme_is_short():
    lines = (ROOT / "README.md").read_text().splitlines()
    assert 150 <= len(lines) <= 200
    assert max(map(len, lines)) <= 220


def test_readme_names_every_page_of_docs():
    readme = (ROOT / "README.md").read_text()
    assert [page.name for page in (ROOT / "docs").glob("*.md") if f"(docs/{page.name})" not in readme] == []


def test_layout_of_readme_names_every_folder_of_pipelines_and_serve():
    readme = (ROOT / "README.md").read_text()
    layout = readme.partition("## Layout")[2].partition("\n## ")[0]
    named = re.findall(r"^(  )?(\w+)/", layout, re.M)
    parent, paths = "", []
    for indent, name in named:
        parent = parent if indent else name
        paths.append(ROOT / parent / name if indent else ROOT / name)
    assert [str(path) for path in paths if not path.is_dir()] == []


def test_help_of_make_lists_every_target():
    makefile = (ROOT / "Makefile").read_text()
    phony = re.search(r"^\.PHONY: (.+)$", makefile, re.M)[1].split()
    assert set(re.findall(r"^([a-z-]+):.*## \S", makefile, re.M)) == set(phony)


def test_generated_tables_are_up_to_date(monkeypatch, capsys):
    monkeypatch.syspath_prepend(ROOT / "scripts")
    monkeypatch.setattr("sys.argv", ["docs.py", "--check"])
    assert runpy.run_path(str(ROOT / "scripts" / "docs.py"))["main"]() == 0, capsys.readouterr().out
