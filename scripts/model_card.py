"""Fill the figures of MODEL_CARD.md from what was measured, and keep them true.

    python scripts/model_card.py                            # write the figures of docs/mini.json into MODEL_CARD.md
    python scripts/model_card.py --check                    # say whether they are there, exit 1 where not
    python scripts/model_card.py --card OUT --run RUN       # take them anew, from `rigface evaluate` and `rigface
    train`

Figures stand between `<!-- NAME -->` and `<!-- /NAME -->`. Everything else in the card is written by hand.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import struct
import sys
from pathlib import Path
from typing import Any

from rigface.storage.versions import newest_version

ROOT = Path(__file__).resolve().parent.parent
CARD, FIGURES = ROOT / "MODEL_CARD.md", ROOT / "docs" / "mini.json"
MODEL, BASELINE, MAIN = "mini", "preview", "self-edit"
METRICS = ("psnr", "truth_distance", "same_dlib", "gain_pose", "gain_expression", "gain_light", "gain_light_ball")
BETTER, NO_LESS = "better than the preview", "no less than the preview"
# (what, metric, the goal that is wanted or how it is to compare with the preview, digits, factor, more is better)
WANTED: tuple[tuple[str, str, float | str, int, float, bool], ...] = (
    ("gain in pose", "gain_pose", 0.5, 2, 1, True),
    ("gain in light", "gain_light", 0.4, 2, 1, True),
    ("gain in expression", "gain_expression", 0.3, 2, 1, True),
    ("gain in pose, beside the preview's", "gain_pose", NO_LESS, 3, 1, True),
    ("gain in light, beside the preview's", "gain_light", NO_LESS, 3, 1, True),
    ("gain in expression, beside the preview's", "gain_expression", NO_LESS, 3, 1, True),
    ("PSNR to the true frame, dB", "psnr", BETTER, 2, 1, True),
    ("distance of face embeddings to the true frame", "truth_distance", BETTER, 3, 1, False),
    ("recognised as the same person (dlib, 0.6), %", "same_dlib", 0.8, 0, 100, True),
    ("a face is found, %", "face_found", 0.99, 1, 100, True),
)


def measured(card: dict[str, Any], about: dict[str, Any]) -> dict[str, Any]:
    """The part of an evaluation's card.json that a model card shows; means with failures at their worst."""
    edits: dict[str, list[dict[str, Any]]] = {}
    for row in card["rows"]:
        cells = {name.removesuffix("_ball"): cell for name, cell in row["cells"].items() if name in METRICS}
        values = {name: cell["with_failures"] for name, cell in cells.items()}
        intervals = {name: [cell["low"], cell["high"]] for name, cell in cells.items()}
        edits.setdefault(row["edit"], []).append(
            {"model": row["model"], "control": row["control"], "edits": row["edits"],
             "face_found": 1 - row["fail_share"], **values, "intervals": intervals}
        )  # fmt: skip
    known = {name: about.get(name) for name in ("date", "commit", "size")}
    return {**known, "extractors": card["extractors"], "notes": card["notes"], "edits": edits}


def _time(hours: float) -> str:
    """So long, as people say it."""
    return f"{hours:.1f} hours" if hours >= 1 else f"{60 * hours:.0f} minutes"


def trained(run: Path) -> dict[str, Any]:
    """Facts of a training run, its examples and its weights, from its files."""
    about = json.loads((run / "rigface.json").read_text())
    lines = [json.loads(t) for file in sorted((run / "log").glob("*.jsonl")) for t in file.read_text().splitlines()]
    steps = max(line["step"] for line in lines)
    took = [line["step_s"] + line["wait_s"] for line in lines if "step_s" in line]
    report = Path(about["config"]["examples"]) / "report.json"
    pairs = json.loads(report.read_text()) if report.is_file() else {}
    names = (
        "learning_rate",
        "batch",
        "output_scale",
        "schedule",
        "condition_dropout",
        "pixel_loss_weight",
        "start_step_fraction",
        "augment",
        "ema_decay",
        "seed",
    )
    model = Path(newest_version(str(run / "model")))
    return {
        "steps": steps,
        "hours": round(steps * sum(took) / len(took) / 3600, 2),
        "examples_shown": steps * about["config"]["batch"] * about["config"]["micro_batches"],
        "settings": {name: about["config"][name] for name in names if name in about["config"]},
        "people": pairs.get("people"),
        "examples": pairs.get("made"),
        "parameters": {name: parameters(model / name) for name in ("unet_id", "unet_denoise", "vae")},
        "commit": about["runs"][-1].get("commit"),
    }


def parameters(folder: Path) -> int:
    """Numbers in a folder of safetensors, from their headers."""
    total = 0
    for file in folder.glob("*.safetensors"):
        with file.open("rb") as f:
            header = json.loads(f.read(struct.unpack("<Q", f.read(8))[0]))
        total += sum(math.prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")
    return total


def blocks(figures: dict[str, Any]) -> dict[str, str]:
    """Name -> Markdown of each generated part."""
    return {"training": _training(figures.get("training")), "figures": _figures(figures.get("evaluation"))}


def _training(found: dict[str, Any] | None) -> str:
    if not found:
        return "No run is recorded in docs/mini.json yet."
    people, examples = found.get("people") or {}, found.get("examples") or {}
    lines = [
        f"- {people.get('train', 'an unknown number of')} people learned from, "
        f"{people.get('test', 'an unknown number')} held out",
        f"- examples: {', '.join(f'{count:,} {name}' for name, count in examples.items()) or 'not recorded'}",
        f"- {found['steps']:,} steps, {found['examples_shown']:,} examples shown, "
        f"{_time(found['hours'])} of one CPU core's work",
        f"- numbers: {', '.join(f'{count / 1e6:.1f} M in {name}' for name, count in found['parameters'].items())}",
        f"- settings: {', '.join(f'{name} {value}' for name, value in found['settings'].items())}",
        f"- commit {found['commit'] or 'unknown'}",
    ]
    return "\n".join(lines)


def _figures(found: dict[str, Any] | None) -> str:
    if not found or not any(row["model"] == MODEL for row in found["edits"].get(MAIN, [])):
        return "Nothing is measured in docs/mini.json yet."
    rows = {row["model"]: row for row in found["edits"][MAIN]}
    out = ["| what, on people it never saw | wanted | mini | preview | copy source | |", "|---|---|---|---|---|---|"]
    for what, metric, goal, digits, factor, higher in WANTED:
        own, baseline = rows[MODEL].get(metric), rows.get(BASELINE, {}).get(metric)
        asked = goal if isinstance(goal, str) else f"{'at least ' if higher else 'at most '}{goal * factor:g}"
        cells = [_text(rows.get(m, {}).get(metric), digits, factor) for m in (MODEL, BASELINE, "copy source")]
        out.append(f"| {what} | {asked} | {' | '.join(cells)} | {_verdict(own, baseline, goal, higher)} |")
    out += ["", f"Two photographs of one person, {rows[MODEL]['edits']} edits. {_caveats(rows)}Other tasks:", ""]
    out += [
        "| task | editor | edits | face found % | PSNR | to true face | same person % "
        "| gain pose | expression | light |"
    ]
    out += ["|---" * 10 + "|"]
    for edit, group in found["edits"].items():
        for row in group:
            if row["control"] or edit == MAIN:
                continue
            values = [(100 * row["face_found"], 1), (row.get("psnr"), 1), (row.get("truth_distance"), 3),
                      (None if row.get("same_dlib") is None else 100 * row["same_dlib"], 0),
                      *((row.get(f"gain_{t}"), 2) for t in ("pose", "expression", "light"))]  # fmt: skip
            out.append(f"| {edit} | {row['model']} | {row['edits']} | {' | '.join(_text(v, d) for v, d in values)} |")
    out += ["", f"Measured on {found['date']} at {found['size']} px, commit {found['commit'] or 'unknown'}, "
            "by `rigface evaluate`; means with failures at their worst. " + " ".join(found["notes"])]  # fmt: skip
    return "\n".join(out)


def _caveats(rows: dict[str, dict[str, Any]]) -> str:
    """Caveats of the table: the intervals of the difference in PSNR, and the editor nearest to the true face."""
    notes = ""
    both = [rows.get(name, {}) for name in (MODEL, BASELINE)]
    known = [row.get("intervals", {}).get("psnr") for row in both]
    if all(known):
        (low, high), (base_low, base_high) = known
        shared = max(0.0, min(high, base_high) - max(low, base_low)) / (
            max(high, base_high) - min(low, base_low) or 1.0
        )
        notes = (
            f"PSNR is {both[0]['psnr'] - both[1]['psnr']:+.2f} dB beside the preview's, "
            f"with intervals (95 %, bootstrap over people) of {low:.1f} to {high:.1f} and {base_low:.1f} to "
            f"{base_high:.1f}, "
            f"which share {100 * shared:.0f} % of their range: "
            "so few people do not show that one is better. "
        )
    away = {name: row["truth_distance"] for name, row in rows.items() if name in (MODEL, BASELINE, "copy source") and
            row.get("truth_distance") is not None}  # fmt: skip
    if away and min(away, key=away.__getitem__) == "copy source":
        notes += (
            f"Nearest to the true face is *copy source* ({away['copy source']:.3f}), "
            "which changes nothing: any edit costs some likeness. "
        )
    return notes


def _verdict(own: float | None, baseline: float | None, goal: float | str, higher: bool) -> str:
    bar = baseline if isinstance(goal, str) else goal
    if own is None or bar is None:
        return "not measured"
    beats = own > bar if goal == BETTER else own >= bar
    return "reached" if (beats if higher else own < bar) else "**not reached**"


def _text(value: float | None, digits: int, factor: float = 1) -> str:
    return "–" if value is None else f"{value * factor:.{digits}f}"


def filled(text: str, parts: dict[str, str]) -> str:
    """The card's text with its generated parts as given.

    Raises:
        SystemExit: the card has no place for a part.
    """
    for name, body in parts.items():
        pattern = rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)"
        if not re.search(pattern, text, re.S):
            raise SystemExit(f"MODEL_CARD.md: no place for {name}: want <!-- {name} --> and <!-- /{name} -->")
        text = re.sub(pattern, lambda m, body=body: f"{m[1]}{body}\n{m[2]}", text, flags=re.S)
    return text


def main(argv: list[str] | None = None) -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--card", type=Path, help="output of `rigface evaluate` with a model named mini")
    parser.add_argument("--run", type=Path, help="output of `rigface train`")
    args = parser.parse_args(argv)
    figures = json.loads(FIGURES.read_text()) if FIGURES.is_file() else {}
    if args.card:
        about = json.loads((args.card / "rigface.json").read_text())
        figures["evaluation"] = measured(json.loads((args.card / "card.json").read_text()), about)
    if args.run:
        figures["training"] = trained(args.run)
    if args.card or args.run:
        FIGURES.write_text(json.dumps(figures, indent=1) + "\n")
    text = CARD.read_text()
    wanted = filled(text, blocks(figures))
    if args.check:
        if wanted != text:
            print("MODEL_CARD.md does not show docs/mini.json: run scripts/model_card.py")
        return int(wanted != text)
    CARD.write_text(wanted)
    return 0


if __name__ == "__main__":
    sys.exit(main())
