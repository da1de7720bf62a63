"""The model card: its figures are those that were measured, and what falls short is said to."""

import importlib.util
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
_spec = importlib.util.spec_from_file_location("model_card", ROOT / "scripts" / "model_card.py")
model_card = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(model_card)


def test_figures_are_the_measured_ones():
    assert model_card.main(["--check"]) == 0


def test_shipped_model_is_small_and_its_card_has_figures():
    folder = ROOT / "rigface" / "data" / "mini"
    figures = json.loads((ROOT / "docs" / "mini.json").read_text())
    assert bool(figures) == (folder / "config.json").is_file()
    assert sum(file.stat().st_size for file in folder.rglob("*")) < 45e6
    assert not [file for file in folder.rglob("config.json") if "_name_or_path" in file.read_text()]


def evaluation(**mini) -> dict:
    def row(model, control=False, **values):
        return {
            "model": model, "edit": "self-edit", "control": control, "edits": 12, "fail_share": 0.0,
            "cells": {n: {"with_failures": v, "low": v, "high": v} for n, v in values.items()},
        }  # fmt: skip

    good = {
        "gain_pose": 0.7,
        "gain_light": 0.45,
        "gain_expression": 0.35,
        "psnr": 24.0,
        "truth_distance": 0.2,
        "same_dlib": 0.9,
    }
    rows = [
        row("mini", **{**good, **mini}),
        row("preview", gain_pose=0.7, gain_light=0.45, gain_expression=0.3, psnr=22.0, truth_distance=0.25),
        row("copy source", True, gain_pose=0.0, psnr=19.0, truth_distance=0.24),
    ]
    return model_card.measured({"rows": rows, "extractors": {}, "notes": []}, {"date": "2026-01-01", "size": 128})


@pytest.mark.parametrize(
    ("mini", "short"),
    [({}, []), ({"gain_light": 0.39}, ["gain in light", "beside the preview's"]),
     ({"gain_pose": 0.6}, ["beside the preview's"]),
     ({"psnr": 22.0, "truth_distance": 0.3}, ["PSNR", "distance"]),
     ({"same_dlib": 0.79}, ["recognised"])],
)  # fmt: skip
def test_missed_goal_is_marked(mini, short):
    lines = model_card.blocks({"evaluation": evaluation(**mini)})["figures"].splitlines()
    missed = [line for line in lines if "**not reached**" in line]
    assert len(missed) == len(short)
    assert all(word in line for word, line in zip(short, missed))
    assert sum("| reached |" in line for line in lines) == len(model_card.WANTED) - len(short)


def test_card_notes_small_gains_over_the_preview():
    text = model_card.blocks({"evaluation": evaluation(psnr=22.1, truth_distance=0.26)})["figures"]
    assert "PSNR is +0.10 dB beside the preview's" in text
    assert "Nearest to the true face is *copy source* (0.240)" in text
    assert "copy source* (" not in model_card.blocks({"evaluation": evaluation()})["figures"]


def test_trained_reads_the_files_of_a_run(tmp_path):
    import torch

    from rigface.model import checkpoint

    (tmp_path / "log").mkdir()
    lines = [{"step": s, "step_s": 3.5, "wait_s": 0.1} for s in (1, 10, 20)]
    (tmp_path / "log" / "00000001.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "report.json").write_text(
        json.dumps({"people": {"train": 90, "test": 9}, "made": {"train pair": 1200}})
    )
    config = {"examples": str(tmp_path), "batch": 8, "micro_batches": 2, "seed": 0}
    (tmp_path / "rigface.json").write_text(json.dumps({"config": config, "runs": [{"commit": "abc1234"}]}))
    made = checkpoint.tiny()
    checkpoint.save(tmp_path / "model", made, dtype=torch.float16)
    found = model_card.trained(tmp_path)
    assert (found["steps"], found["hours"], found["examples_shown"]) == (20, 0.02, 320)
    assert found["parameters"]["vae"] == sum(p.numel() for p in made.vae.parameters())
    text = model_card.blocks({"training": found})["training"]
    assert "90 people learned from, 9 held out" in text
    assert "1,200 train pair" in text


def test_card_without_markers_is_refused():
    with pytest.raises(SystemExit, match="no place for figures"):
        model_card.filled("# A card", {"figures": "1"})
    assert re.sub(r"\s", "", model_card.filled("<!-- a -->\nold\n<!-- /a -->", {"a": "new"})) == "<!--a-->new<!--/a-->"
