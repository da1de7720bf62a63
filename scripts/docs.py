"""Rewrite the generated tables of docs/: dataset columns, problems, log keys, capacity plan, counts of drills.

    python scripts/docs.py           # rewrite docs/*.md in place
    python scripts/docs.py --check   # list pages that are out of date, exit 1

A table stands between `<!-- NAME -->` and `<!-- /NAME -->`.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parent.parent / "docs"


def columns() -> dict[str, str]:
    """The tables of the dataset, for the open head and the default detector."""
    from rigface import schema
    from rigface.face.head.open_head import OpenHead
    from rigface.types import DetectorSpec

    detector = DetectorSpec("mediapipe", "", 478, tuple(f"b{i}" for i in range(52)))
    return {
        "faces": schema.markdown(schema.face_columns(OpenHead.load().spec, detector)),
        "inputs": schema.markdown(schema.INPUT_COLUMNS),
        "identities": schema.markdown(schema.identity_columns(detector.identity_width)),
    }


def study() -> dict[str, str]:
    """Action units, and the columns of both tables of `rigface study`."""
    import scaling_tables

    from rigface import schema
    from rigface.study import action_units, frame_columns, track_summary

    measured = scaling_tables.result("study")["mirror"]
    rows = []
    for unit in action_units.ACTION_UNITS:
        shapes = ", ".join(shape.removesuffix("Left") for shape in unit.shapes) or "gap of the inner lips"
        mirror, asymmetry = (measured[name].get(unit.column) for name in ("score", "asymmetry"))
        shown = ("" if value is None else f"{value:.2f}" for value in (mirror, asymmetry))
        rows.append((str(unit.number), unit.name, shapes, *shown))
    plain = [c for c in track_summary.TRACK_COLUMNS if not c.name.endswith(("_mean", "_sd")) or "speed" in c.name]
    return {
        "units": scaling_tables.table(("unit", "name in FACS", "scores, both sides", "mirror", "asymmetry"), rows),
        "frames": schema.markdown(frame_columns.FRAME_COLUMNS),
        "tracks": schema.markdown(plain),
    }


def problems() -> str:
    """Problem types that the service answers with."""
    import scaling_tables

    from serve.problems import KNOWN

    rows = [(f"`{slug}`", str(status), title) for slug, (status, title) in KNOWN.items()]
    return scaling_tables.table(("type, after `urn:rigface:problem:`", "status", "title"), rows, numbers=False)


def keys() -> str:
    """Keys of a log line."""
    import scaling_tables

    from rigface.telemetry.json_logging import KEYS

    rows = [(f"`{name}`", meaning) for name, meaning in KEYS.items()]
    return scaling_tables.table(("key", "meaning"), rows, numbers=False)


def drills() -> str:
    """Counts of the drills in benchmarks/results/drills.json."""
    import scaling_tables

    head = ("drill", "expected", "found", "twice", "lost", "wrong", "blamed", "seconds", "besides", "commit")
    known = {"expected", "found", "duplicates", "lost", "extra", "different", "inputs", "inputs_found", "blamed"}
    known |= {"seconds", "commit", "cpus", "load"}
    rows = []
    for name, result in scaling_tables.result("drills").items():
        besides = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in result.items() if key not in known)
        wrong = result["different"] + result.get("extra", 0)
        counts = (result["expected"], result["found"], result["duplicates"], result["lost"], wrong)
        numbers = (*map(str, counts), str(result.get("blamed", 0)), f"{result['seconds']:.0f}")
        rows.append((f"`{name}`", *numbers, besides, f"`{result['commit'][:7]}`"))
    return scaling_tables.table(head, rows)


def parts() -> dict[str, dict[str, str]]:
    """File -> name of a table -> its text."""
    import scaling_tables

    return {
        "dataset.md": columns(),
        "study.md": study(),
        "service.md": {"problems": problems()},
        "operations.md": {"keys": keys()},
        "scaling.md": scaling_tables.parts(),
        "drills.md": {"counts": drills()},
    }


def updated(text: str, tables: dict[str, str]) -> str:
    """A page with its generated tables replaced."""
    for name, table in tables.items():
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.S)
        if not pattern.search(text):
            raise SystemExit(f"there is no part between <!-- {name} --> and <!-- /{name} -->")
        text = pattern.sub(lambda m, table=table: m[1] + table + "\n" + m[2], text)
    return text


def main() -> int:
    stale = []
    for file, tables in parts().items():
        old = (DOCS / file).read_text()
        new = updated(old, tables)
        if new != old:
            stale.append(file)
            if "--check" not in sys.argv:
                (DOCS / file).write_text(new)
    if "--check" not in sys.argv:
        return 0
    print("\n".join(f"docs/{file} is out of date; run `make docs`" for file in stale) or "docs are up to date")
    return int(bool(stale))


if __name__ == "__main__":
    raise SystemExit(main())
