"""Claim of an output by a training run: settings are fixed from the first thing that is trained."""

from dataclasses import replace

import pytest

from pipelines.train import job
from pipelines.train.config import debug
from rigface.errors import PlanError
from rigface.storage.store import Store


def test_settings_of_a_run_that_trained_nothing_can_be_changed(tmp_path):
    examples, store = Store(str(tmp_path / "latents")), Store(str(tmp_path / "out"))
    examples.publish("examples/00/part.parquet", b"")
    config = replace(debug(), examples=examples.uri, out=store.uri)
    job._claim(store, config)
    other = replace(config, batch=config.batch + 1)
    job._claim(store, other)
    store.publish("checkpoints/00000001/state", b"")
    job._claim(store, other)
    with pytest.raises(PlanError, match="began with other batch"):
        job._claim(store, config)
