"""S3 inventories, and memory bounds of long lists and of CompactSet."""

import gzip
import io
import json
import sys
import tracemalloc
from urllib.parse import quote_plus

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.inputs import manifests
from pipelines.inputs.compact_set import CompactMap, CompactSet, _find
from pipelines.inputs.sources import find_all
from rigface.errors import PlanError
from rigface.storage import objects, s3_client

KEYS = ["v/a b+c.mp4", "v/имя 顔.mov", "v/sub/100%.jpg", "v/notes.txt", "v/.hidden/x.mp4"]
SUPERSEDED, DELETED = "v/superseded.mp4", "v/deleted.mp4"
WANTED = [f"s3://clips/{key}" for key in KEYS[:3]]


@pytest.fixture
def inventory(bucket, request):
    """Writes an inventory of s3://clips to s3://faces, as S3 does."""
    folder = f"inventory/{request.node.name}/2026-11-01T01-00Z"

    def make(form: str, broken: bool = False, **more) -> str:
        rows = [(key, True, False) for key in KEYS] + [(SUPERSEDED, False, False), (DELETED, True, True)]
        if form == "CSV":
            schema = "Bucket, Key, VersionId, IsLatest, IsDeleteMarker, Size"
            lines = [
                f'"clips","{quote_plus(k, safe="/")}","","{str(a).lower()}","{str(b).lower()}","9"\n'
                for k, a, b in rows
            ]
            data = gzip.compress("".join(lines).encode())
        else:
            schema = "message s3.inventory { required binary bucket; required binary key; }"
            sink = io.BytesIO()
            columns = {"bucket": ["clips"] * len(rows), "key": [r[0] for r in rows], "size": [9] * len(rows)}
            columns |= {"is_latest": [r[1] for r in rows], "is_delete_marker": [r[2] for r in rows]}
            pq.write_table(pa.table(columns), sink)
            data = sink.getvalue()
        name = f"{folder}/data/1.{form.lower()}"
        objects.put("faces", name, data[: len(data) // 2] if broken else data)
        manifest = {
            "sourceBucket": "clips",
            "destinationBucket": "arn:aws:s3:::faces",
            "version": "2016-11-30",
            "fileFormat": form.title() if form != "CSV" else form,
            "fileSchema": schema,
            "files": [{"key": name, "size": len(data), "MD5checksum": "-"}],
            **more,
        }
        objects.put("faces", f"{folder}/manifest.json", json.dumps(manifest).encode())
        return f"s3://faces/{folder}/manifest.json"

    return make


@pytest.mark.parametrize("form", ["CSV", "PARQUET"])
def test_inventory_gives_the_uris_of_a_listing(inventory, form):
    where = inventory(form)
    before = s3_client.counts["requests"]
    assert list(find_all([where])) == WANTED
    assert s3_client.counts["requests"] - before <= 5  # of any length: the listing, the manifest, one file


@pytest.mark.parametrize(
    ("form", "more", "reason"),
    [
        ("ORC", {}, "format ORC"),
        ("CSV", {"fileSchema": "Bucket, Size"}, "column Key"),
        ("CSV", {"fileSchema": "Bucket, Key"}, "a row of 6 values"),
        ("PARQUET", {"files": [{"key": "nowhere"}]}, "nowhere"),
        ("CSV", {"files": 3}, "not that of an S3 Inventory"),
        ("CSV", {"broken": True}, "cannot read the inventory file"),
    ],
)
def test_unusable_inventory_is_refused_with_a_reason(inventory, form, more, reason):
    with pytest.raises((PlanError, FileNotFoundError), match=reason):
        list(find_all([inventory(form, **more)]))


def test_long_parquet_list_is_read_in_little_memory(tmp_path):
    count = 100_000
    addresses = pa.array([f"s3://clips/some/folder/with/a/name/{i:09}.mp4" for i in range(count)])
    pq.write_table(pa.table({"uri": addresses}), tmp_path / "list.parquet", row_group_size=5_000)
    del addresses
    with open(tmp_path / "list.parquet", "rb") as file:
        tracemalloc.start()
        assert sum(1 for _ in manifests.entries(file, ".parquet")) == count
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 4e6, peak  # as strings they are 10 MB


def test_compact_set_takes_12_bytes_a_name():
    names = CompactSet(str(i) for i in range(300_000))
    size = sum(sys.getsizeof(bucket) for bucket in names._buckets.values()) + sys.getsizeof(names._buckets)
    assert size < 16e6, size  # 8 MB for any number, and 12 bytes each; a set of strings takes 30 MB


@given(st.lists(st.text(max_size=3), max_size=60))
@settings(max_examples=30, deadline=None)
def test_compact_set_and_map_behave_as_a_set_and_a_dict(names):
    compact, plain = CompactSet(), set()
    numbers, places = CompactMap(), {}
    for place, name in enumerate(names):
        assert (name in compact) == (name in plain)
        assert compact.add(name) == (name not in plain)
        plain.add(name)
        assert numbers.get(name) == places.get(name)
        numbers[name] = places[name] = place
        assert numbers.get(name) == place
    assert len(compact) == len(plain)


def test_compact_set_ignores_a_match_across_two_neighbours():
    bucket = bytearray(b"0123456789abcdefghij")
    assert _find(bucket, b"abcdefghij", 10) == 10
    assert _find(bucket, b"56789abcde", 10) == -1


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])  # the last is what PowerShell saves
@pytest.mark.parametrize("suffix", [".txt", ".csv"])
def test_list_of_any_usual_encoding_is_read(encoding, suffix):
    text = "uri\r\n" * (suffix == ".csv") + "/clips/a.mp4\r\n/clips/顔.mp4\r\n"
    assert list(manifests.entries(io.BytesIO(text.encode(encoding)), suffix)) == ["/clips/a.mp4", "/clips/顔.mp4"]
