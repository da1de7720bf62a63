"""Keep the generated parts of pages true: the README's file tree and column tables, the service's table of problems.

    python scripts/readme.py           # rewrite the pages in place
    python scripts/readme.py --check   # say what is out of date, exit 1

A part stands between `<!-- NAME -->` and `<!-- /NAME -->`. Lines of the tree are the first lines of the files' own
docstrings, so a file that changes its subject changes the README.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("rigface", "pipelines", "serve", "infra", "scripts", "benchmarks")
WIDTH = 116


def tracked() -> list[Path]:
    """Files git knows or would take, below the rooms, sorted."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *ROOMS]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    return [path for name in sorted(set(names)) if (path := ROOT / name).is_file()]


def subject(path: Path) -> str:
    """What a file is about, in one line; empty if it does not say."""
    if path.suffix == ".py":
        text = ast.get_docstring(ast.parse(path.read_text())) or ""
    elif path.suffix in (".css", ".js", ".html", ".yaml", ".yml"):
        head = path.read_text(errors="replace")[:400]
        found = re.search(r"(?:/\*|<!--|#|//)\s*(.+?)\s*(?:\*/|-->|\n)", head)
        text = found[1] if found else ""
    else:
        text = ""
    return text.strip().split("\n")[0].rstrip(".")


def tree() -> str:
    """The rooms as an indented list, one line per file that has a subject."""
    lines: list[str] = []
    folder: Path | None = None
    for path in sorted(tracked(), key=lambda p: (p.parent.parts, p.name)):
        said = subject(path)
        relative = path.relative_to(ROOT)
        if relative.parts[:2] == ("benchmarks", "results"):
            continue
        if path.parent != folder:
            folder = path.parent
            package = folder / "__init__.py"
            about = subject(package) if package.exists() else ""
            lines.append(entry(f"{folder.relative_to(ROOT)}/", about))
        if path.name == "__init__.py":
            continue
        lines.append(entry(f"  {path.name}", said))
    return "```\n" + "\n".join(line.rstrip() for line in lines) + "\n```"


def entry(name: str, about: str) -> str:
    """A line of the tree, the end of a long subject left out between words."""
    return name.ljust(28) + textwrap.shorten(about, WIDTH - 28, placeholder=" ...")


def columns() -> dict[str, str]:
    """Both tables of the dataset, for the open head and the default detector."""
    from rigface import schema
    from rigface.face.head.open_head import OpenHead
    from rigface.types import DetectorSpec

    detector = DetectorSpec("mediapipe", "", 478, tuple(f"b{i}" for i in range(52)))
    return {
        "faces": schema.markdown(schema.face_columns(OpenHead.load().spec, detector)),
        "inputs": schema.markdown(schema.INPUT_COLUMNS),
    }


def problems() -> dict[str, str]:
    """What can go wrong for a caller of the service."""
    from serve.problems import KNOWN

    head = ["| type, after `urn:rigface:problem:` | status | title |", "|---|---|---|"]
    rows = [f"| `{slug}` | {status} | {title} |" for slug, (status, title) in KNOWN.items()]
    return {"problems": "\n".join([*head, *rows])}


PAGES = {"README.md": lambda: {"tree": tree(), **columns()}, "docs/service.md": problems}


def written(page: str, text: str) -> str:
    """A page with its generated parts made anew."""
    for name, part in PAGES[page]().items():
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.S)
        if not pattern.search(text):
            raise SystemExit(f"{page} has no part between <!-- {name} --> and <!-- /{name} -->")
        text = pattern.sub(lambda m, part=part: m[1] + part + "\n" + m[2], text)
    return text


def main() -> int:
    stale = 0
    for page in PAGES:
        path = ROOT / page
        old = path.read_text()
        new = written(page, old)
        if "--check" not in sys.argv:
            path.write_text(new)
        elif old != new:
            changed = [line for line in new.splitlines() if line not in set(old.splitlines())]
            print("\n".join([f"{page} is out of date; run `make readme`:", *changed]))
            stale = 1
    return stale


if __name__ == "__main__":
    raise SystemExit(main())
