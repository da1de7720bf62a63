"""Each overlay as it was last looked at: a change of a base shows in what becomes of it, and is reviewed there.

`make snapshots` writes them anew.
"""

import os
from pathlib import Path

import pytest
import yaml

from tests.infra.conftest import OVERLAYS, rendered, rendered_text

FOLDER = Path(__file__).parent / "snapshots"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_overlay_is_the_one_that_was_looked_at(overlay):
    path = FOLDER / f"{overlay}.yaml"
    if os.environ.get("UPDATE_SNAPSHOTS"):
        path.write_text(rendered_text(f"overlays/{overlay}"))
    before = list(yaml.load_all(path.read_text(), yaml.CSafeLoader))
    names = [(d["kind"], d["metadata"]["name"]) for d in before]
    assert names == [(d["kind"], d["metadata"]["name"]) for d in rendered(overlay)], "run `make snapshots`"
    for old, new in zip(before, rendered(overlay)):
        assert new == old, f"{new['kind']}/{new['metadata']['name']} has changed; look at it, then run `make snapshots`"
