"""Layers of the import statements, length of files, cost of imports."""

import ast
import gc
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = sorted(p for d in ("rigface", "pipelines", "serve") for p in (ROOT / d).rglob("*.py"))
MAX_LINES = 400
MAX_FILES = 21  # Python files in a folder, `__init__.py` counted
FORBIDDEN = {  # folder -> modules that nothing in it may import
    "rigface": {"ray", "fastapi", "pipelines", "serve"},
    "rigface/storage": {"rigface.face", "rigface.model", "rigface.video", "rigface.metrics", "rigface.evaluation"},
    "rigface/video": {"rigface.face", "rigface.model", "rigface.metrics", "rigface.evaluation", "torch"},
    "rigface/face": {"diffusers", "transformers", "rigface.model", "rigface.conditions", "rigface.editor"},
    "rigface/model": {"rigface.face", "rigface.conditions", "rigface.editor"},
    "rigface/metrics": {"rigface.evaluation", "rigface.model", "rigface.editor"},
    "rigface/evaluation": {"rigface.model", "rigface.editor"},
    "pipelines": {"serve", "fastapi"},
    "serve": {"pipelines"},
}
# A face parser is a transformers network where its weights are on disk; nothing else in `face/` may need the package.
# `read_faces` makes a dataset of Ray; the rest of the library may be called by Ray, and does not need it.
ALLOWED = {("rigface/face/reconstruction/parsers.py", "transformers"), ("rigface/ray/dataset.py", "ray")}
REMOVED_NAMES = {"utils", "common", "helpers", "core", "manager"}


@cache
def parsed(path: Path) -> ast.Module:
    """The syntax tree of a file."""
    gc.disable()  # an object that is collected inside of ast.parse upsets its count of recursions (Python 3.11)
    try:
        return ast.parse(path.read_text())
    finally:
        gc.enable()


def statements(node: ast.AST) -> Iterator[ast.AST]:
    """All statements inside of a node, at any depth; expressions, which hold no imports, are left out."""
    for field in ("body", "handlers", "orelse", "finalbody", "cases"):
        for child in getattr(node, field, ()):
            yield child
            yield from statements(child)


@cache
def imports(path: Path) -> set[str]:
    """Every module a file names in an import, with all its parents."""
    names: set[str] = set()
    for node in statements(parsed(path)):
        if isinstance(node, ast.Import):
            names |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {node.module or "", *(f"{node.module}.{a.name}" for a in node.names)}
    return {".".join(n.split(".")[:k]) for n in names for k in range(1, n.count(".") + 2)}


def dependencies() -> dict[str, set[str]]:
    """Product module -> product modules it imports; lazy imports and those for type checkers are counted."""
    names = {
        p.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__"): p for p in FILES
    }
    return {name: (imports(path) & names.keys()) - parents(name) for name, path in names.items()}


def parents(name: str) -> set[str]:
    """A module and the packages it is in: importing a module imports these first, which is no arrow of its own."""
    return {".".join(name.split(".")[:k]) for k in range(1, name.count(".") + 2)}


def circle(arrows: dict[str, set[str]]) -> list[str]:
    """Modules each of which imports the next, the last one being the first; empty if there are none."""
    try:
        TopologicalSorter(arrows).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def test_a_circle_is_found():
    assert {*circle({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}})} == {"a", "b", "c"}
    assert circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def test_no_two_files_import_each_other():
    assert circle(dependencies()) == []


def test_no_folder_holds_more_files_than_one_can_take_in():
    counts = Counter(path.parent.relative_to(ROOT).as_posix() for path in FILES)
    assert {folder: count for folder, count in counts.items() if count > MAX_FILES} == {}


def test_there_is_something_to_check():
    assert len(FILES) > 40


def test_every_file_keeps_the_rules():
    assert [breach for path in FILES for breach in breaches(path)] == []


def breaches(path: Path) -> list[str]:
    """The rules that a file breaks, each with its name."""
    where, found = path.relative_to(ROOT).as_posix(), []
    for folder, banned in FORBIDDEN.items():
        if where.startswith(folder + "/"):
            names = {name for name in imports(path) & banned if (where, name) not in ALLOWED}
            found += [f"{where} may not import {name}" for name in sorted(names)]
    if path.read_text().count("\n") > MAX_LINES:
        found.append(f"{where} is longer than {MAX_LINES} lines")
    if not ast.get_docstring(parsed(path)):
        found.append(f"{where} lacks a module docstring")
    if path.stem in REMOVED_NAMES:
        found.append(f"{where}: say what it is about")
    return found


def test_breaches_are_found(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    (tmp_path / "serve").mkdir()
    path = tmp_path / "serve" / "utils.py"
    path.write_text("import pipelines.edit\n" * 401)
    assert len(breaches(path)) == 4


# Imports in turn, and what none of them may have loaded up to there; the second process is that of torch.
CHEAP = (
    {
        "rigface": {"torch", "ray", "diffusers", "cv2"},
        "pipelines.cli.editing, pipelines.edit.sliders": {"torch", "scipy", "cv2", "av", "pyarrow"},
        "rigface.types, rigface.schema, rigface.errors, rigface.edits": {"torch", "ray", "cv2"},
        "pipelines.extract.job": {"torch", "ray", "boto3", "mediapipe"},
        "pipelines.cli.main": {"torch", "mediapipe", "diffusers"},
        # of the children that decode and detect
        "pipelines.extract.frame_processor": {"torch", "diffusers", "scipy.optimize"},
        "serve.app, serve.config, serve.inference.diffusion_worker": {"torch", "diffusers"},
    },
    {
        "pipelines.edit.job, rigface.refiner.preview_refiner": {
            "diffusers", "transformers", "ray", "boto3", "pandas", "torch._dynamo", "scipy", "pyarrow",
        },
        "serve.inference.face_worker": {"diffusers", "transformers"},
    },
)  # fmt: skip


@pytest.mark.parametrize("bans", CHEAP, ids=["without torch", "with torch"])
def test_an_import_is_cheap(bans):
    code = "import sys"
    for modules, banned in bans.items():
        code += f"\nimport {modules}\nprint({modules!r}, sorted(set({sorted(banned)!r}) & sys.modules.keys()))"
    said = subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True)
    assert said.splitlines() == [f"{modules} []" for modules in bans]
