"""`rigface judge` on two frames of a clip, neutral and smiling: an editor that hits the true frame, and a lazy one."""

import csv
from pathlib import Path

import av
import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest

from pipelines.judge.config import JudgeConfig
from pipelines.judge.job import judge
from rigface.errors import PlanError
from rigface.evaluation.baselines import COPY_SOURCE, FLOOR, TRUE_FRAME
from rigface.image import encode_png

pytestmark = pytest.mark.slow
CLIP = Path(__file__).parents[2] / "fixtures" / "clip.mp4"
TABLE = """editor,source,output,truth,smile,yaw,seconds
perfect,neutral.png,smiling.png,smiling.png,,,0.5
lazy,neutral.png,neutral.png,smiling.png,,,0.01
larger,neutral.png,larger.png,smiling.png,,,
square,neutral.png,square.png,smiling.png,,,
gone,neutral.png,gone.png,smiling.png,,,
failed,neutral.png,,smiling.png,,,
perfect,neutral.png,smiling.png,,0.7,,
lazy,neutral.png,neutral.png,,0.7,,
lazy,wall.png,neutral.png,,,10,
lazy,neutral.png,neutral.png,,,,
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Pictures and a table; the result of `larger` has 1.5 times the size and slightly other proportions."""
    folder = tmp_path_factory.mktemp("edits")
    with av.open(str(CLIP)) as clip:
        frames = [frame.to_ndarray(format="rgb24") for k, frame in enumerate(clip.decode(video=0)) if k in (0, 36)]
    pictures = {
        "neutral": frames[0],
        "smiling": frames[1],
        "larger": cv2.resize(frames[1], (960, 544), interpolation=cv2.INTER_CUBIC),
        "square": frames[1][:, 140:500],
        "wall": np.full((200, 200, 3), 99, np.uint8),
    }
    for name, picture in pictures.items():
        (folder / f"{name}.png").write_bytes(encode_png(picture))
    (folder / "edits.csv").write_text(TABLE)
    return folder


@pytest.fixture(scope="module")
def said():
    return []


@pytest.fixture(scope="module")
def card(folder, said):
    return judge(JudgeConfig(str(folder / "edits.csv"), str(folder / "card"), size=128), said.append)


@pytest.fixture(scope="module")
def rows(card, folder):
    found = pq.read_table(folder / "card" / "rows.parquet").to_pylist()
    return {(row["model"], row["edit"]): row for row in found}


def test_editor_that_hits_the_true_frame_beats_the_lazy_one(rows):
    perfect, lazy = rows["perfect", "self"], rows["lazy", "self"]
    assert perfect["landmarks"] == pytest.approx(0, abs=1e-6)
    assert perfect["psnr_features"] > 60
    assert lazy["psnr_features"] < 25
    assert lazy["landmarks"] > 0.5
    assert perfect["after_smile_fer"] == 0 < lazy["after_smile_fer"]
    assert rows[COPY_SOURCE, "self"]["psnr_features"] == lazy["psnr_features"]


def test_result_of_another_size_is_compared_in_the_sources_framing(rows):
    assert rows["larger", "self"]["psnr_face"] > 30
    assert rows["larger", "self"]["landmarks"] < 0.5


def test_rows_that_cannot_be_measured_are_listed_with_their_reasons(card, folder, said):
    with (folder / "card" / "bad_rows.csv").open() as file:
        reasons = {row["place"]: row["reason"] for row in csv.DictReader(file)}
    assert list(reasons) == ["row 4", "row 5", "row 6", "row 9", "row 10"]
    assert "want the source's framing" in reasons["row 4"]
    assert reasons["row 5"] == "gone.png: there is no such file beside the table"
    assert "failure of the editor" in reasons["row 6"]
    assert reasons["row 9"] == "wall.png: no face was found"
    assert "nothing was asked" in reasons["row 10"]
    assert any("bad_rows.csv" in line for line in said)


def test_editor_without_a_result_has_failed(card):
    assert card.row("failed", "self").fail_share == 1
    assert card.row("perfect", "self").fail_share == 0


def test_controls_and_judges_stand_beside_the_editors(card, folder):
    assert {row.model for row in card.rows if row.edit == "self"} >= {COPY_SOURCE, TRUE_FRAME, FLOOR}
    assert card.baseline == "perfect"
    assert "smile by fer" in card.extractors
    page = (folder / "card" / "card.html").read_text()
    assert "perfect" in page
    assert page.count("data:image/jpeg") >= 3
    assert "smile 0.7" in page  # what was asked


def test_second_run_measures_nothing_anew(card, folder):
    lines = []
    again = judge(JudgeConfig(str(folder / "edits.csv"), str(folder / "card"), size=128), lines.append)
    assert any("0 to do" in line for line in lines)
    assert again.row("lazy", "self").cells == card.row("lazy", "self").cells


def test_dry_run_describes_the_table_and_writes_nothing(folder, tmp_path):
    lines = []
    assert judge(JudgeConfig(str(folder / "edits.csv"), str(tmp_path / "out"), dry_run=True), lines.append) is None
    assert lines[0] == "9 rows, 3 tasks of 2 people; 6 editors: perfect, lazy, larger, square, gone, failed"
    assert not (tmp_path / "out").exists()


def test_baseline_is_an_editor_of_the_table(folder, tmp_path):
    with pytest.raises(PlanError, match="want an editor of the table: perfect, lazy"):
        judge(JudgeConfig(str(folder / "edits.csv"), str(tmp_path / "out"), baseline="mine"))
