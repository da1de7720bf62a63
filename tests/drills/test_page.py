"""The page about the drills names each of them, and each was counted, with nothing lost."""

import ast
import json
import re
from pathlib import Path

from tests.conftest import ROOT

COUNTED = json.loads((ROOT / "benchmarks" / "results" / "drills.json").read_text())


def drills() -> set[str]:
    """Names of all drills, without `test_`."""
    files = [path for path in Path(__file__).parent.glob("test_*.py") if path != Path(__file__)]
    found = (node for path in files for node in ast.parse(path.read_text()).body)
    return {node.name.removeprefix("test_") for node in found if getattr(node, "name", "").startswith("test_")}


def test_each_drill_is_explained_and_was_counted():
    page = (ROOT / "docs" / "drills.md").read_text()
    assert set(re.findall(r"^\| `(\w+)` \| (?:short|long) \|", page, re.M)) == drills() == COUNTED.keys()


def test_what_was_expected_was_found_once():
    for name, one in COUNTED.items():
        assert one["expected"] == one["found"] > 0, name
        assert not any(one.get(word) for word in ("duplicates", "lost", "extra", "different", "blamed")), name
