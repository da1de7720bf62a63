"""Log events of the jobs: JSON lines with ids that lead to the rows."""

import json
import os
import subprocess
import sys
from itertools import chain

from pipelines.cli.parser import parse
from pipelines.extract.dataset import FaceDataset
from pipelines.extract.progress import JsonProgress, log_end
from pipelines.extract.summary import InputRow, StatusCount, Summary
from pipelines.telemetry import log_events
from rigface.storage.store import Store
from rigface.telemetry.json_logging import LOG
from tests.conftest import ROOT


def lines_of(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


def test_extract_logs_start_units_inputs_and_end(finished, capfd):
    output = FaceDataset(Store(str(finished)))
    records = [record for shard in sorted(chain(*output.parts())) for record in output.records(shard)]
    rows = [InputRow(**row) for row in output.inputs().to_pylist()]
    LOG.handlers.clear()  # of an earlier test, with another standard error
    lines = JsonProgress()
    with lines:
        lines.expect(len(rows), len(records), 95)
        for record in records:
            lines.unit_done(record, record.frames)
        for row in rows:
            lines.input_done(row)
    log_end(Summary({("ok", ""): StatusCount(inputs=len(rows))}, done=lines.done, wall_s=12.5))
    LOG.handlers.clear()
    first, *between, last = lines_of(capfd.readouterr().err)
    assert {line["job"] for line in (first, *between, last)} == {log_events.job_id()}
    assert (first["event"], first["units"], last["event"], last["seconds"]) == ("start", len(records), "end", 12.5)
    units = [line for line in between if line["event"] == "unit"]
    assert [line["unit"] for line in units] == [record.unit_id for record in records]
    assert sum(line["faces"] for line in units) == sum(row.faces for row in rows) == last["faces"] > 0
    outcome = {line["video"].rsplit("/", 1)[-1]: line for line in between if line["event"] == "input"}
    assert (outcome["two people.mp4"]["status"], outcome["two people.mp4"]["level"]) == ("ok", "info")
    assert (outcome["text.mp4"]["status"], outcome["text.mp4"]["level"]) == ("error", "warning")
    assert outcome["text.mp4"]["reason"]


def test_failed_command_logs_one_line(tmp_path):
    words = ["extract", str(tmp_path / "nothing"), str(tmp_path / "out"), "--log-format", "json"]
    environment = {**os.environ, "RAY_JOB_CONFIG_JSON_ENV_VAR": '{"metadata": {"job_submission_id": "raysubmit_1"}}'}
    done = subprocess.run(
        [sys.executable, "-m", "pipelines", *words], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 1
    (line,) = lines_of(done.stderr)
    assert (line["event"], line["level"], line["job"]) == ("failed", "error", "raysubmit_1")
    assert "nothing" in line["reason"]


def test_training_logs_steps_and_validations(tmp_path, capfd):
    from pipelines.train.metric_log import MetricLog

    LOG.handlers.clear()
    journal = MetricLog(Store(str(tmp_path)), True, 0, to_stderr=True)
    journal.add({"loss": 0.123456789, "wait_s": 0.5}, 2, every=2)
    journal.add({"loss": 0.2}, 3, every=2)
    journal.add({"validation/psnr": 20.0}, 4)
    journal.close()
    LOG.handlers.clear()
    first, second = lines_of(capfd.readouterr().err)
    assert (first["event"], first["step"], first["numbers"]) == ("step", 2, {"loss": 0.123457, "wait_s": 0.5})
    assert (second["event"], second["numbers"]) == ("validation", {"validation/psnr": 20.0})


def test_log_format_is_a_flag_of_extract_and_train():
    command = parse(["extract", "a", "b", "--log-format", "json"])
    assert command.log_format == "json"
    assert parse(["train", "debug", "a", "b", "--log-format", "json"]).job.log_format == "json"
