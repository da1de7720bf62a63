"""Figures in docs/evaluation.md from the card of an evaluation.

    python scripts/evaluation_card.py OUT       OUT: output of `rigface evaluate`

The short tables of OUT/card.md and the sources of its numbers replace what stands between the markers.
"""

import argparse
import re
from pathlib import Path

from rigface.evaluation.report import ALL, SOURCES

PAGE = Path(__file__).parent.parent / "docs" / "evaluation.md"
PLACE = re.compile(r"(<!-- card -->\n).*?(<!-- /card -->)", re.S)


def figures(card: str) -> str:
    """The short tables and the sources of a card in Markdown, one level of headings lower."""
    short, _, rest = card.partition(f"## {ALL}\n")
    tables = short[short.index("## ") :]
    sources = rest[rest.index(f"## {SOURCES}\n") :]
    return re.sub("^## ", "### ", tables + sources, flags=re.M)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out", type=Path)
    text = figures((parser.parse_args().out / "card.md").read_text())
    PAGE.write_text(PLACE.sub(lambda match: f"{match[1]}{text}\n{match[2]}", PAGE.read_text()))


if __name__ == "__main__":
    main()
