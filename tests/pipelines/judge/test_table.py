"""Tables of edits: columns, folders, and the reason of each row that cannot be measured."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.judge.asked_row import ALL_TRAITS, BadRow, parse_row
from pipelines.judge.table import hint, read_table
from rigface.errors import PlanError


def row(folder, **values):
    return parse_row({"source": "a.png", "output": "b.png", **values}, folder, "row 1")


def test_numbers_become_an_edit(tmp_path):
    edit = row(tmp_path, yaw="15", smile=0.5, light_azimuth="-40", relative="true", pitch="", roll=float("nan")).edit
    assert (edit.yaw_deg, edit.pitch_deg, edit.roll_deg, edit.relative) == (15, None, None, True)
    assert edit.expression == {"smile": 0.5}
    assert (edit.light.azimuth_deg, edit.light.intensity) == (-40, 0.8)


def test_numbers_override_the_json_of_an_edit(tmp_path):
    whole = json.dumps({"yaw_deg": 5, "expression": {"smile": 0.2, "jawOpen": 0.4}})
    edit = row(tmp_path, edit=whole, smile="0.9").edit
    assert edit.yaw_deg == 5
    assert edit.expression == {"smile": 0.9, "jawOpen": 0.4}


def test_paths_are_relative_to_the_table_and_people_are_files(tmp_path):
    made = row(tmp_path, target="sub/t.png", take="pose, expression", seconds="2.5", editor=" Live ")
    assert (made.source, made.output, made.target) == (tmp_path / "a.png", tmp_path / "b.png", tmp_path / "sub/t.png")
    assert made.edit.take == {"pose", "expression"}
    assert (made.person, made.target_person) == ("a.png", "t.png")
    assert (made.editor, made.seconds, made.name) == ("Live", 2.5, "expression + pose")


def test_true_frame_alone_asks_for_all_it_shows(tmp_path):
    made = row(tmp_path, truth="t.png")
    assert made.edit.take == ALL_TRAITS
    assert made.target == made.truth == tmp_path / "t.png"
    assert (made.name, made.target_person) == ("self", "a.png")


def test_editors_asked_for_the_same_share_a_key(tmp_path):
    one, other = row(tmp_path, yaw=5, editor="x"), row(tmp_path, yaw="5", editor="y", output="c.png")
    assert one.key == other.key != row(tmp_path, yaw=6).key


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"yaw": 15, "relative": True, "smile": 0.7}, "yaw +15°, smile 0.7"),
        ({"pitch": -5, "light_azimuth": 40}, "pitch -5°, light from 40°"),
        ({"target": "bob.png", "take": "pose"}, "pose of bob.png"),
        ({"truth": "t.png"}, ""),
    ],
)
def test_words_say_what_was_asked(tmp_path, values, words):
    assert row(tmp_path, **values).words == words


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"source": ""}, "source: want the picture"),
        ({}, "nothing was asked"),
        ({"yaw": "left"}, "yaw: want a number, got 'left'"),
        ({"yaw": 400}, "yaw_deg: want a number in"),
        ({"target": "t.png"}, "take: want the traits"),
        ({"take": "pose"}, "target: want the picture that pose was copied from"),
        ({"take": "mood", "target": "t.png"}, "take: want some of"),
        ({"edit": "{"}, "an edit is a JSON object"),
        ({"yaw": 1, "relative": "maybe"}, "relative: want true or false"),
        ({"yaw": 1, "output": "https://there/x.png"}, "nothing is fetched"),
        ({"yaw": 1, "editor": "copy source"}, "name of a control row"),
    ],
)
def test_bad_row_says_why(tmp_path, values, reason):
    with pytest.raises(BadRow, match=reason):
        row(tmp_path, **values)


def test_csv_and_parquet_give_the_same_rows(tmp_path):
    rows = [
        {"editor": "x", "source": "a.png", "output": "b.png", "yaw": 5.0, "edit": None, "note": "n"},
        {"editor": "y", "source": "a.png", "output": "c.png", "yaw": None, "edit": {"pitch_deg": 3.0}, "note": "n"},
        {"editor": "y", "source": "a.png", "output": "c.png", "yaw": None, "edit": None, "note": "n"},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "t.parquet")
    (tmp_path / "t.csv").write_text(
        "editor,source,output,yaw,edit,smiel\nx,a.png,b.png,5,,\n"
        'y,a.png,c.png,,"{""pitch_deg"": 3}",\ny,a.png,c.png,,,1\n'
    )
    by_csv, by_parquet = read_table(str(tmp_path / "t.csv")), read_table(str(tmp_path / "t.parquet"))
    assert by_csv.rows == by_parquet.rows
    assert [r.place for r in by_csv.rows] == ["row 1", "row 2"]
    assert [(b.place, b.editor) for b in by_csv.bad] == [("row 3", "y")]
    assert by_csv.ignored == ["smiel"]
    assert hint("smiel") == "smiel (did you mean smile?)"


def test_folder_is_read_by_its_names(tmp_path):
    outputs = ("ann.output.LivePortrait 1.5.png", "ann.output.ours.jpg", "bob.v2.output.png", "dan.output.png")
    others = ("ann.source.png", "ann.target.webp", "bob.v2.source.png", "cat.source.png", "notes.txt", "x.json")
    for name in (*outputs, *others):
        (tmp_path / name).touch()
    (tmp_path / "ann.json").write_text('{"take": ["pose"], "person": "Ann"}')
    (tmp_path / "bob.v2.json").write_text('{"yaw": 10}')
    table = read_table(str(tmp_path))
    assert [(r.editor, r.output.name, r.person, r.name) for r in table.rows] == [
        ("LivePortrait 1.5", "ann.output.LivePortrait 1.5.png", "Ann", "pose"),
        ("ours", "ann.output.ours.jpg", "Ann", "pose"),
        ("editor", "bob.v2.output.png", "bob.v2.source.png", "pose"),
    ]
    assert {(b.place, b.reason.partition(":")[0]) for b in table.bad} == {
        ("cat.source.png", "there is no cat.output beside it"),
        ("dan.output.png", "source"),
    }


def test_folder_with_broken_json_names_the_file(tmp_path):
    for name in ("a.source.png", "a.output.png"):
        (tmp_path / name).touch()
    (tmp_path / "a.json").write_text("[1]")
    (bad,) = read_table(str(tmp_path)).bad
    assert bad.reason == "a.json: want an object of columns"


def test_one_name_for_two_kinds_of_edit_is_split(tmp_path):
    (tmp_path / "t.csv").write_text("source,output,name,yaw,smile\na,b,mine,1,\na,c,mine,,1\n")
    assert [r.name for r in read_table(str(tmp_path / "t.csv")).rows] == ["mine: pose", "mine: expression"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.txt", "", "want a .csv or .parquet file"),
        ("gone.csv", None, "want a .csv or .parquet file that exists"),
        ("t.csv", "picture\nx\n", "needs a column `source`"),
        ("t.csv", "source,output\n", "no row"),
        ("t.parquet", "no table", "not a Parquet file"),
    ],
)
def test_what_is_no_table_is_refused(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(PlanError, match=message):
        read_table(str(tmp_path / name))
