"""Keep the generated parts of docs/ true: keys of log lines, tables of the capacity plan, counts of drills

    python scripts/docs.py           # rewrite docs/*.md in place
    python scripts/docs.py --check   # say what is out of date, exit 1

A part stands between `<!-- NAME -->` and `<!-- /NAME -->`, as in README.md.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parent.parent / "docs"


def keys() -> str:
    """What a log line can say."""
    from rigface.telemetry.json_logging import KEYS

    return "\n".join(
        ["| key | meaning |", "|---|---|", *(f"| `{name}` | {meaning} |" for name, meaning in KEYS.items())]
    )


def drills() -> str:
    """What the drills counted, as benchmarks/results/drills.json has it."""
    import scaling_tables

    head = ("drill", "expected", "found", "twice", "lost", "wrong", "blamed", "seconds", "besides", "commit")
    about = {"expected", "found", "duplicates", "lost", "extra", "different", "inputs", "inputs_found", "blamed"}
    about |= {"seconds", "commit", "cpus", "load"}
    rows = []
    for name, one in scaling_tables.result("drills").items():
        besides = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in one.items() if key not in about)
        wrong = one["different"] + one.get("extra", 0)
        counts = (one["expected"], one["found"], one["duplicates"], one["lost"], wrong, one.get("blamed", 0))
        rows.append((f"`{name}`", *map(str, counts), f"{one['seconds']:.0f}", besides, f"`{one['commit'][:7]}`"))
    return scaling_tables.table(head, rows)


def parts() -> dict[str, dict[str, str]]:
    """File -> part -> text."""
    import scaling_tables

    return {
        "operations.md": {"keys": keys()},
        "scaling.md": scaling_tables.parts(),
        "drills.md": {"counts": drills()},
    }


def written(text: str, made: dict[str, str]) -> str:
    """A page with its generated parts made anew."""
    for name, part in made.items():
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.S)
        if not pattern.search(text):
            raise SystemExit(f"there is no part between <!-- {name} --> and <!-- /{name} -->")
        text = pattern.sub(lambda m, part=part: m[1] + part + "\n" + m[2], text)
    return text


def main() -> int:
    old = []
    for file, made in parts().items():
        text = (DOCS / file).read_text()
        new = written(text, made)
        if new != text:
            old.append(file)
            if "--check" not in sys.argv:
                (DOCS / file).write_text(new)
    if "--check" in sys.argv:
        print("\n".join(f"docs/{f} is out of date; run python scripts/docs.py" for f in old) or "docs are true")
        return int(bool(old))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
