"""Captions: precedence of frames over inputs, from the table to the text encoder."""

from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from pipelines.examples.captions import Captions
from pipelines.examples.config import PairConfig, PairSettings
from pipelines.examples.encode import EncodeConfig, encode
from pipelines.examples.layout import schema_of
from pipelines.examples.pair import pair
from pipelines.train import loop, metric_log
from pipelines.train.backend import LocalBackend
from pipelines.train.batches import CaptionEncoder
from pipelines.train.config import debug
from pipelines.train.job import train
from rigface.errors import PlanError
from rigface.examples import CAPTION
from rigface.model import checkpoint
from rigface.model.text import TextEncoder
from rigface.storage.store import Store
from rigface.testing import fake_examples, toy_start
from tests.pipelines.made_faces import dataset


def test_frame_caption_precedes_input_caption(tmp_path):
    (tmp_path / "said.csv").write_text('uri,frame_index,caption\na.mp4,3,she laughs\na.mp4,,"a woman, talking"\n')
    columns = {
        "uri": ["a.mp4", "a.mp4"],
        "frame_index": pa.array([3, None], pa.int32()),
        "caption": ["she laughs", "a woman, talking"],
    }
    pq.write_table(pa.table(columns), tmp_path / "said.parquet")
    for name in ("said.csv", "said.parquet"):
        said = Captions.load(str(tmp_path / name))
        assert [said.of("a.mp4", 3), said.of("a.mp4", 4), said.of("b.mp4", 3)] == [
            "she laughs",
            "a woman, talking",
            None,
        ]
    nan = pa.table(
        {"uri": ["a.mp4", "a.mp4"], "frame_index": [3.0, float("nan")], "caption": ["she laughs", "a woman"]}
    )
    pq.write_table(nan, tmp_path / "pandas.parquet")
    assert [Captions.load(str(tmp_path / "pandas.parquet")).of("a.mp4", k) for k in (3, 4)] == ["she laughs", "a woman"]
    assert Captions.load("").of("a.mp4", 3) is None


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("said.csv", "uri,words\na,b\n", "needs a column `caption`; it has"),
        ("said.csv", "uri,frame_index,caption\na,three,b\n", "row 1 has frame_index 'three'"),
        ("said.csv", "uri,frame_index,caption\na,2.5,b\n", "row 1 has frame_index '2.5'"),
        ("said.csv", "uri,frame_index,caption\na,inf,b\n", "row 1 has frame_index 'inf'"),
        ("said.csv", b"uri,caption\na,b\nc,\xff\xfe\n", "row 2 is not UTF-8"),
        ("said.csv", "uri,caption\na,b\nc,\n", "row 2 has 0 characters"),
        ("said.csv", f"uri,caption\na,{'b' * 2001}\n", "row 1 has 2,001 characters"),
        ("said.parquet", "uri,caption\na,b\n", "is not a Parquet file"),
        ("said.txt", "a b", "want a .parquet or .csv"),
        ("none.csv", None, "no such file"),
    ],
)
def test_invalid_caption_table_is_refused_with_its_name(tmp_path, name, text, message):
    if text is not None:
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(PlanError, match=message) as refused:
        Captions.load(str(tmp_path / name))
    assert name in str(refused.value)


def test_examples_have_the_caption_of_their_target(tmp_path):
    dataset(tmp_path / "faces", people=2, frames=4)
    uris = {u for p in (tmp_path / "faces" / "faces").rglob("*.parquet") for u in pq.read_table(p)["uri"].to_pylist()}
    told = sorted(uris)[0]
    (tmp_path / "said.csv").write_text(f"uri,caption\n{told},a b\n")
    settings = PairSettings(
        size=64,
        pairs=12,
        relit=0,
        min_overlap=0.5,
        max_background_change=1.0,
        captions=str(tmp_path / "said.csv"),
    )
    report = pair(PairConfig(str(tmp_path / "faces"), str(tmp_path / "pairs"), settings), lambda words: None)
    rows = [r for p in (tmp_path / "pairs" / "examples").rglob("*.parquet") for r in pq.read_table(p).to_pylist()]
    assert {r[CAPTION] for r in rows if r["target_uri"] == told} == {"a b"}
    assert {r[CAPTION] for r in rows if r["target_uri"] != told} == {None}
    assert 0 < report.captions < len(rows)
    described = PairConfig(str(tmp_path / "faces"), str(tmp_path / "told"), replace(settings, describe=True))
    assert pair(described, lambda words: None).captions == len(rows)
    rows = [r for p in (tmp_path / "told" / "examples").rglob("*.parquet") for r in pq.read_table(p).to_pylist()]
    assert {r[CAPTION] for r in rows if r["target_uri"] == told} == {"a b"}  # the user's own
    assert all("lit from" in r[CAPTION] or "light" in r[CAPTION] for r in rows if r["target_uri"] != told)
    for row in rows:
        side = "left" if row["yaw_deg"] > 0 else "right"
        if row["target_uri"] != told and abs(row["yaw_deg"]) > 6:
            assert f"to their {side}" in row[CAPTION], row


@pytest.fixture
def talkative(tmp_path, clip_folder):
    """A toy checkpoint with a text encoder."""
    toy = toy_start.shallow(kind="bridge")
    toy.text_encoder = TextEncoder.load(clip_folder)
    checkpoint.save(tmp_path / "talkative", toy)
    return tmp_path / "talkative"


def examples_that_say(folder, caption):
    part = folder / "examples" / "aa" / "part.parquet"
    part.parent.mkdir(parents=True)
    table = fake_examples.table(8)
    at = table.schema.get_field_index(CAPTION)
    pq.write_table(table.set_column(at, table.schema.field(at), pa.array([caption] * 8, pa.string())), part)
    return folder


def test_training_encodes_captions_of_pictures_and_of_latents(tmp_path, talkative, monkeypatch):
    monkeypatch.setattr(LocalBackend, "keep", lambda *_, **__: None)  # losses alone are read
    monkeypatch.setattr(loop, "export", lambda *_: None)
    curves = {}
    for caption in (None, "a b", "c d"):
        source = examples_that_say(tmp_path / f"said {caption}", caption)
        latents = tmp_path / f"latents {caption}"
        encode(EncodeConfig(str(source), str(latents), str(talkative)), lambda words: None)
        for form in (source, latents):
            out = str(tmp_path / f"run {form.name}")
            plain = replace(debug(), examples=str(form), out=out, start=str(talkative), validation_examples=0, steps=1)
            train(plain, lambda words: None)
            curves[caption, form is latents] = [line["loss"] for line in metric_log.lines(Store(out)) if "loss" in line]
    for caption in (None, "a b", "c d"):
        assert curves[caption, True] == pytest.approx(curves[caption, False], rel=1e-3)
    first = [curves[caption, True][0] for caption in (None, "a b", "c d")]
    assert len({round(x, 7) for x in first}) == 3


def test_row_without_caption_gets_the_default_text(tmp_path, talkative):
    schema = schema_of(Store(str(examples_that_say(tmp_path / "said", "a b"))), ["examples/aa/part.parquet"])
    loaded = checkpoint.load(talkative)
    listener = CaptionEncoder.of(loaded, schema, torch.device("cpu"))
    text = listener(["a b", None, "a b"])
    torch.testing.assert_close(text[0], loaded.text_encoder(["a b"])[0])
    torch.testing.assert_close(text[1], loaded.model.default_text)
    assert torch.equal(text[0], text[2])
    assert CaptionEncoder.of(checkpoint.tiny(), schema, torch.device("cpu")) is None
