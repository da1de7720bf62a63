"""Inspect page: escaped, true to the dataset, one self-contained file."""

import base64
import hashlib
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.inspect import job
from rigface.errors import BadInput
from rigface.image import encode_png
from rigface.types import HeadSpec

NASTY = 'a"b\'<script>alert("x")</script>&amp;\u202e.mp4'


class Page(HTMLParser):
    """Every tag with its attributes, the text outside of style and script, and whether tags close in order."""

    VOID = ("meta", "img", "input", "link", "br", "hr")
    SHAPES = ("rect", "circle", "line", "path", "image")  # may close themselves in SVG

    def __init__(self, path):
        super().__init__()
        self.source = Path(path).read_text("utf-8")
        self.tags, self.words, self.open, self.raw = [], [], [], {"style": "", "script": ""}
        self.feed(self.source)
        assert not self.open
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        assert tag in self.SHAPES
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in self.raw:
            self.raw[self.open[-1]] += data
        else:
            self.words.append(data)

    def count(self, tag, **attrs):
        return sum(t == tag and all(a.get(k.rstrip("_")) == v for k, v in attrs.items()) for t, a in self.tags)


@pytest.fixture(scope="module")
def page(make, tmp_path_factory):
    out = tmp_path_factory.mktemp("dataset")
    rows = [
        {"uri": "clips/c0.mp4", "kind": "video", "status": "ok", "frames": 20, "faces": 30, "tracks": 2,
         "duration_s": 4.0, "stage_seconds": [("look", 3.0), ("finish", 1.0)]},
        {"uri": NASTY, "kind": "video", "status": "error", "stage": "decode", "reason": '<img src=x onerror="y"> & z'},
        {"uri": "z.mp4", "kind": "video", "status": "partial", "stage": "decode", "reason": "24 of 60 frames"},
        {"uri": "y.mp4", "kind": "video", "status": "partial", "stage": "decode", "reason": "9 of 70 frames"},
    ]  # fmt: skip
    nasty = make.faces(3, seed=2, uri=[NASTY] * 3, identity=['<b>"x"</b>'] * 3)
    failed = make.faces(2, seed=3, status=["error"] * 2, reason=["the fit <i>failed</i>"] * 2)
    (out / "rigface.json").write_text('{"settings": {"fps": 5.0, "head": "<u>open</u>"}, "commit": "abc1234"}')
    return Page(job.write(make.dataset(out, make.faces(25), nasty, failed, input_rows=rows), samples=10))


def test_page_loads_nothing_from_elsewhere(page):
    for tag, attrs in page.tags:
        assert not any(name.startswith("on") or name == "style" for name in attrs), (tag, attrs)
        for name in ("src", "href", "action", "data", "poster", "srcset"):
            assert attrs.get(name, "#").startswith(("data:image/webp;base64,", "#")), (tag, attrs)
    assert not page.count("link")
    assert not page.count("form")
    assert not page.count("iframe")
    assert not re.search(r"url\(|@import|//", page.raw["style"])
    assert not re.search(r"fetch\(|XMLHttpRequest|import\(|innerHTML|https?:", page.raw["script"])


def test_content_security_policy_has_hashes_of_style_and_script(page):
    policy = next(a["content"] for t, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    for name in ("style", "script"):
        digest = base64.b64encode(hashlib.sha256(page.raw[name].encode()).digest()).decode()
        assert f"{name}-src 'sha256-{digest}'" in policy
        assert page.count(name) == 1


def test_names_and_reasons_are_escaped(page):
    shown = NASTY.replace("\u202e", "\ufffd")
    assert page.count("span", class_="path", title=shown) == 1
    assert shown.rsplit("/", 1)[1] in page.text
    assert '<img src=x onerror="y"> & z' in page.text
    assert '<b>"x"</b>' in page.text
    assert "the fit <i>failed</i> 2 faces" in page.text
    assert "<u>open</u>" in page.text
    assert "\u202e" not in page.source  # a file name cannot turn the direction of the text around it
    assert not page.count("u")
    assert not any("onerror" in attrs for _, attrs in page.tags)


def test_page_shows_counts_of_dataset(page):
    text = page.text
    assert "4 inputs" in text
    assert re.search(r"faces 30 2 without coefficients", text)
    assert re.search(r"identities 8 ", text)
    assert "abc1234" in text
    assert "2 partial" in text
    assert "… of … frames" in text  # one cause in two wordings
    assert re.search(r"look 150 ms per frame look: 3\.0 s \(75 %\) 3\.0 s", text)


def test_every_picture_has_alternative_text(page):
    images = [attrs for tag, attrs in page.tags if tag == "img" and attrs.get("id") != "viewer-image"]
    assert len(images) == 3 * (10 + job.LEAST_TRUSTED)  # crop, landmarks, mask: the toy head cannot be drawn
    assert all(len(a["alt"]) > 10 for a in images)
    assert all(a.get("aria-label") or a.get("aria-hidden") for t, a in page.tags if t == "svg")
    assert "the head model toy is not there to be drawn" in page.text


def test_table_lists_failed_inputs_first(page):
    order = [attrs["data-is"] for tag, attrs in page.tags if tag == "tr" and "data-is" in attrs]
    assert order == ["error", "partial", "partial", "ok"]


def test_unreadable_files_are_left_out_with_a_notice(make, tmp_path):
    out = make.dataset(tmp_path, make.faces(4), make.faces(4, head=HeadSpec("other", "2", 1, 1, 1)))
    (tmp_path / "faces" / "zz.parquet").write_bytes(b"PAR1 not a file")
    pq.write_table(pa.table({"a": [1]}), tmp_path / "faces" / "zy.parquet")
    text = Page(job.write(out, samples=2)).text
    assert "faces/zz.parquet is left out" in text
    assert "faces/zy.parquet is left out: not a faces file" in text
    assert "faces/01/part.parquet is left out: its head model is other 2, not toy 1" in text
    assert "4 faces in" in text


def test_undecodable_crop_is_grey(make, tmp_path):
    out = make.dataset(tmp_path, make.faces(2, crop=[b"not a picture", None]))
    assert Page(job.write(out, samples=2)).count("img") == 3 * 2 + 1


def test_dataset_without_faces_has_a_page(make, tmp_path):
    out = make.dataset(tmp_path, make.faces(0), input_rows=[{"uri": "a.mp4", "status": "no_face"}])
    text = Page(job.write(out)).text
    assert "no face was found" in text
    assert "No face with coefficients" in text


def test_missing_dataset_is_refused(tmp_path):
    with pytest.raises(BadInput, match="rigface extract"):
        job.write(str(tmp_path))


def test_tracks_are_counted_without_identities(make, tmp_path):
    out = make.dataset(tmp_path, make.faces(10, identity=pa.nulls(10, pa.string())))
    text = Page(job.write(out, samples=1)).text
    assert "not computed yet: rigface identities" in text
    assert "Tracks by number of frames" in text


def test_contact_sheet_of_edits_is_shown_if_present(make, tmp_path):
    out = make.dataset(tmp_path, make.faces(1))
    assert 'id="edits"' not in Path(job.write(out, samples=1)).read_text()
    strip = encode_png(np.full((4, 9, 3), 200, np.uint8))
    (tmp_path / "edits.png").write_bytes(strip)
    assert base64.b64encode(strip).decode() in Path(job.write(out, samples=1)).read_text()
