"""Keep the generated parts of docs/ true: the keys of log lines, and the tables of the capacity plan

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
    from rigface.events import KEYS

    return "\n".join(
        ["| key | meaning |", "|---|---|", *(f"| `{name}` | {meaning} |" for name, meaning in KEYS.items())]
    )


def parts() -> dict[str, dict[str, str]]:
    """File -> part -> text."""
    import scaling_tables

    return {"operations.md": {"keys": keys()}, "scaling.md": scaling_tables.parts()}


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
