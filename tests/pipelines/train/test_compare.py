"""The card of `rigface compare`: rates chosen by validation loss, recipes that a start cannot have, one table each."""

from types import SimpleNamespace

import pytest

import pipelines.evaluate.job
import pipelines.train.job
from pipelines.train import compare
from pipelines.train.compare import CompareConfig
from rigface.errors import PlanError
from rigface.evaluation.metric_registry import METRICS, Cell


@pytest.fixture
def done(monkeypatch):
    """Trainings and evaluations without networks: what was asked of them."""
    asked = SimpleNamespace(trained=[], evaluated=[])

    def train(config, say):
        if config.recipe == "dreambooth":
            raise PlanError("the start has no text encoder")
        asked.trained.append(config)
        loss = abs(config.learning_rate - 0.003)  # the middle rate is the best
        return {"validation/loss": loss, "trained_parameters": 1234.0, "memory_mb": 5.0, "step_s": 0.25}

    def evaluate(config, say):
        asked.evaluated.append(config)
        cell = Cell(2.0, 1.0, 3.0, 2.5, 4, 0.0)
        rows = [
            SimpleNamespace(model=name, edit="self-edit", edits=4, fail_share=0.5, cells={"pose_deg": cell})
            for name in ("preview", "t2i")
        ]
        return SimpleNamespace(metrics=METRICS, rows=rows)

    monkeypatch.setattr(compare, "prepare", lambda config, start, style, say: f"latents/{style}")
    monkeypatch.setattr(compare, "start_of", lambda config: "sd15:toy")
    monkeypatch.setattr(pipelines.train.job, "train", train)
    monkeypatch.setattr(pipelines.evaluate.job, "evaluate", evaluate)
    return asked


def test_best_rate_of_each_recipe_is_evaluated_and_refused_ones_are_named(done, tmp_path):
    config = CompareConfig("faces", str(tmp_path), ("t2i", "dreambooth"), steps=7)
    text = compare.compare(config, lambda words: None)
    assert [(run.recipe, run.learning_rate) for run in done.trained] == [("t2i", r) for r in (0.001, 0.003, 0.01)]
    assert {(run.examples, run.start, run.steps, run.seed) for run in done.trained} == {
        ("latents/texture", "sd15:toy", 7, 0)
    }
    assert done.evaluated[0].models == ("preview", f"t2i={tmp_path}/runs/t2i/0.003/model")
    assert "says nothing of which recipe is better" in text
    assert "| `t2i` | 1,234 | 5.0 | 0.250 | 0.0020, 0.0000, 0.0070 | 0.003 |" in text
    assert "| `dreambooth` | not trained: the start has no text encoder |" in text
    assert "| t2i | 50% | 2.5 |" in text
    assert (tmp_path / "compare.md").read_text() == text


def test_finished_trainings_are_not_repeated(done, tmp_path):
    config = CompareConfig("faces", str(tmp_path), ("t2i",), rates=(0.003,))
    assert compare.compare(config, lambda words: None) == compare.compare(config, lambda words: None)
    assert len(done.trained) == 1


def test_unknown_sizes_and_starts_that_no_recipe_takes_are_refused(done, tmp_path):
    with pytest.raises(PlanError, match="want tiny, mini, sd15"):
        CompareConfig("faces", str(tmp_path), size="huge")
    with pytest.raises(PlanError, match="no recipe could be trained"):
        compare.compare(CompareConfig("faces", str(tmp_path), ("dreambooth",)), lambda words: None)
