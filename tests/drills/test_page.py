"""The page about the drills: each drill is named, was counted, and lost nothing."""

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


def test_each_drill_is_on_the_page_and_was_counted():
    page = (ROOT / "docs" / "drills.md").read_text()
    assert set(re.findall(r"^\| `(\w+)` \| (?:short|long) \|", page, re.M)) == drills() == COUNTED.keys()


def test_counted_drills_found_all_rows_once():
    for name, count in COUNTED.items():
        assert count["expected"] == count["found"] > 0, name
        assert not any(count.get(word) for word in ("duplicates", "lost", "extra", "different", "blamed")), name
