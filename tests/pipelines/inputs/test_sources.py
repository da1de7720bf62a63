"""Listing and opening of inputs: order, names, globs, lists, S3 prefixes."""

import csv
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.inputs import sources
from pipelines.inputs.sources import find_all, located, open_uri, relative
from rigface.errors import BadInput, PlanError
from rigface.storage import objects
from tests.conftest import make_bucket

ODD = [
    "b21 ünïcode имя 顔 (copy).mp4",
    "[x]?.mp4",
    "50%25 #a&b=c+d.mp4",
    "two  spaces .mp4",
    "quote'\".mp4",
    "l\nf.mp4",
]


def touch(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode("utf-8", "surrogateescape"))


def names(found, folder) -> list[str]:
    return [os.path.relpath(uri, folder) for uri in found]


def test_folder_is_listed_recursively_in_order_of_names(tmp_path):
    touch(tmp_path, "z.mp4", "b/y.JPG", "a.mov", "b/a/x.webm", "notes.txt", "c.parquet", "no_suffix", ".hidden.mp4")
    touch(tmp_path, ".git/in.mp4", "b/w.avif")
    wanted = ["a.mov", "b/a/x.webm", "b/w.avif", "b/y.JPG", "z.mp4"]
    assert names(find_all([str(tmp_path)]), tmp_path) == wanted
    assert list(find_all([str(tmp_path)])) == list(find_all([str(tmp_path) + "/", str(tmp_path / "b" / "..")]))


def test_named_file_is_an_input_with_any_suffix(tmp_path):
    touch(tmp_path, "clip.dat", ".hidden.mp4")
    found = list(find_all([str(tmp_path / "clip.dat"), str(tmp_path / ".hidden.mp4")]))
    assert names(found, tmp_path) == ["clip.dat", ".hidden.mp4"]


def test_relative_names_become_absolute(tmp_path, monkeypatch):
    touch(tmp_path, "in/a.mp4")
    monkeypatch.chdir(tmp_path)
    assert list(find_all(["in"])) == list(find_all(["./in/a.mp4"])) == [str(tmp_path / "in" / "a.mp4")]


@pytest.mark.parametrize("name", ODD)
def test_odd_names_are_kept_and_can_be_opened(tmp_path, name):
    touch(tmp_path, name)
    for named in (tmp_path, tmp_path / name):  # an existing name is not a glob
        (uri,) = find_all([str(named)])
        assert uri == str(tmp_path / name)
        with open_uri(uri) as file:
            assert file.read().decode() == name


def test_name_that_is_not_utf8_fits_parquet_and_can_be_opened(tmp_path):
    name = os.fsdecode(b"caf\xe9 %41.mp4")
    try:
        touch(tmp_path, name)
    except OSError:
        pytest.skip("this file system wants UTF-8 names")
    (uri,) = find_all([str(tmp_path)])
    assert pa.array([uri]).to_pylist() == [uri]
    with open_uri(uri) as file:
        assert file.read() == b"caf\xe9 %41.mp4"
    assert list(find_all([uri])) == [uri]


def test_glob_matches_media_only_unless_it_has_a_suffix(tmp_path):
    touch(tmp_path, "a1.mp4", "a2.mp4", "a3.txt", "a.dat", "sub/a4.mp4", "sub/deep/b.png")
    assert names(find_all([str(tmp_path / "a*")]), tmp_path) == ["a1.mp4", "a2.mp4"]
    assert names(find_all([str(tmp_path / "*.dat")]), tmp_path) == ["a.dat"]
    assert names(find_all([str(tmp_path / "**" / "*.png")]), tmp_path) == ["sub/deep/b.png"]
    everything = ["a1.mp4", "a2.mp4", "sub/a4.mp4", "sub/deep/b.png"]
    assert sorted(names(find_all([str(tmp_path / "**")]), tmp_path)) == everything


def test_input_named_twice_comes_once(tmp_path):
    touch(tmp_path, "a.mp4", "b.mp4")
    both = [str(tmp_path / "b.mp4"), str(tmp_path), str(tmp_path / "*.mp4"), "file://" + str(tmp_path / "a.mp4")]
    assert names(find_all(both), tmp_path) == ["b.mp4", "a.mp4"]


def test_links_are_followed_once_and_loops_end(tmp_path):
    touch(tmp_path, "in/a.mp4", "in/sub/b.mp4", "elsewhere/c.mp4")
    (tmp_path / "in" / "sub" / "loop").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "again.mp4").symlink_to(tmp_path / "in" / "a.mp4")
    (tmp_path / "in" / "more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in" / "gone.mp4").symlink_to(tmp_path / "nothing")
    found = names(find_all([str(tmp_path / "in")]), tmp_path / "in")
    assert found == ["a.mp4", "gone.mp4", "more/c.mp4", "sub/b.mp4"]


def test_pipes_are_neither_listed_nor_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")
    touch(tmp_path, "a.mp4")
    assert names(find_all([str(tmp_path)]), tmp_path) == ["a.mp4"]
    with pytest.raises(BadInput, match="not a regular file"):
        open_uri(str(tmp_path / "pipe.mp4"))


def write_list(path: Path, uris: list[str]) -> None:
    if path.suffix == ".txt":
        path.write_text("\n\n".join(uris) + "\r\n", "utf-8-sig")
    elif path.suffix == ".csv":
        with open(path, "w", newline="") as file:
            csv.writer(file).writerows([["person", "uri"], *[["x", uri] for uri in uris]])
    else:
        pq.write_table(pa.table({"uri": [*uris, None], "person": ["x"] * (len(uris) + 1)}), path)


@pytest.mark.parametrize("name", ["in.txt", "in.csv", "in.parquet"])
def test_paths_in_a_list_are_relative_to_its_folder(tmp_path, name, monkeypatch):
    monkeypatch.chdir("/")
    odd = [n for n in ODD if "\n" not in n or not name.endswith("txt")]
    write_list(tmp_path / name, [*odd, "/abs/missing.mp4", "s3://bucket/a b.mp4", "file:///abs/a%20b.mp4", odd[0]])
    wanted = [str(tmp_path / n) for n in odd]
    assert list(find_all([str(tmp_path / name)])) == [
        *wanted,
        "/abs/missing.mp4",
        "s3://bucket/a b.mp4",
        "/abs/a b.mp4",
    ]


def test_list_is_read_lazily(tmp_path):
    (tmp_path / "in.txt").write_text("\n".join(f"{i}.mp4" for i in range(200_000)))
    found = find_all([str(tmp_path / "in.txt")])
    assert next(found) == str(tmp_path / "0.mp4")


@pytest.mark.parametrize(
    ("make", "named", "reason"),
    [
        ({}, "missing.mp4", "no such file or folder"),
        ({}, "*.mp4", "nothing matches"),
        ({"bad.csv": "name\na.mp4\n"}, "bad.csv", "needs a column `uri`"),
        ({"bad.parquet": "not parquet"}, "bad.parquet", "not a Parquet file"),
        ({"empty/readme.md": ""}, "empty", "no input found"),
    ],
)
def test_malformed_input_is_refused_with_a_reason(tmp_path, make, named, reason):
    for name, text in make.items():
        touch(tmp_path, name)
        (tmp_path / name).write_text(text)
    with pytest.raises(PlanError, match=reason):
        list(find_all([str(tmp_path / named)]))


def test_missing_input_is_refused_before_the_first_is_listed(tmp_path):
    touch(tmp_path, "a.mp4")
    with pytest.raises(PlanError, match="no such file"):
        find_all([str(tmp_path / "a.mp4"), str(tmp_path / "b.mp4")])


def test_uris_of_other_schemes_are_refused():
    for uri in ("http://example.org/a.mp4", "gs://bucket/a.mp4", "pipe://x"):
        with pytest.raises(PlanError, match="copy the files"):
            list(find_all([uri]))
        with pytest.raises(BadInput, match="copy the files"):
            open_uri(uri)


@pytest.mark.parametrize("call", [open_uri, sources.stamp])
@pytest.mark.parametrize(
    ("uri", "error"),
    [
        ("/no/such/file.mp4", FileNotFoundError),
        ("/" + "x" * 5000 + ".mp4", BadInput),
        ("/etc/passwd/a.mp4", BadInput),
        ("zero\0byte.mp4", BadInput),
    ],
)
def test_unopenable_input_raises_an_error_that_becomes_a_row(call, uri, error):
    with pytest.raises(error):
        call(uri)


def test_folder_cannot_be_opened(tmp_path):
    with pytest.raises(BadInput, match="a folder"):
        open_uri(str(tmp_path))


def test_stamp_changes_with_the_file(tmp_path):
    touch(tmp_path, "a.mp4")
    before = sources.stamp(str(tmp_path / "a.mp4"))
    assert before == sources.stamp(str(tmp_path / "a.mp4"))
    os.utime(tmp_path / "a.mp4", (1, 1))
    assert before != sources.stamp(str(tmp_path / "a.mp4"))


def test_head_and_read_return_the_whole_content(tmp_path, monkeypatch):
    (tmp_path / "a.jpg").write_bytes(bytes(range(256)) * 10)
    with open_uri(str(tmp_path / "a.jpg")) as file:
        file.seek(77)
        assert sources.read_head(file, 10) == (bytes(range(10)), 2560)
        assert file.tell() == 0
        assert len(sources.read_image(file)) == 2560
        monkeypatch.setattr(sources, "MAX_IMAGE_BYTES", 2559)
        with pytest.raises(BadInput, match="too large for an image"):
            sources.read_image(file)


# ---- S3


@pytest.fixture(scope="module")
def s3(s3_server):
    """A client, and one bucket with names of all kinds."""
    from rigface.storage.s3_client import client

    make_bucket("clips")
    for key in [f"v/{name}" for name in ODD if "\n" not in name] + [
        "v/sub/z.mp4",
        "v/sub/",
        "v/.hidden.mp4",
        "v/.git/x.mp4",
        "v/readme.md",
        "v2/q.mp4",
        "v//double.mp4",
        "plain",
    ]:
        client().put_object(Bucket="clips", Key=key, Body=key.encode())
    return client()


def test_prefix_is_listed_and_every_key_can_be_opened(s3):
    found = list(find_all(["s3://clips/v"]))
    keys = sorted([f"v/{n}" for n in ODD if "\n" not in n] + ["v/sub/z.mp4", "v//double.mp4"], key=str.encode)
    assert found == [f"s3://clips/{key}" for key in keys]
    for uri, key in zip(found, keys):
        with open_uri(uri) as file:
            assert file.read() == key.encode()
    assert list(find_all(["s3://clips/v/"])) == found


def test_key_bucket_and_partial_name_are_listed(s3):
    assert list(find_all(["s3://clips/v2/q.mp4"])) == ["s3://clips/v2/q.mp4"]
    assert list(find_all(["s3://clips/plain"])) == ["s3://clips/plain"]
    assert list(find_all(["s3://clips/v/su"])) == ["s3://clips/v/sub/z.mp4"]
    assert "s3://clips/v2/q.mp4" in list(find_all(["s3://clips"]))
    assert len(list(find_all(["s3://clips/v2", "s3://clips/v2/q.mp4"]))) == 1


@pytest.mark.parametrize("named", ["s3://clips/none", "s3://no-such-bucket/x", "s3://", "s3://clips/v*"])
def test_missing_prefix_is_refused(s3, named):
    with pytest.raises(PlanError):
        list(find_all([named]))


def test_long_listing_is_fetched_page_by_page(s3, monkeypatch):
    monkeypatch.setattr(objects, "PAGE", 3)
    s3.create_bucket(Bucket="many")
    for i in range(11):
        s3.put_object(Bucket="many", Key=f"{i:05}.jpg", Body=b"")
    requests = []
    s3.meta.events.register("before-call.s3.ListObjectsV2", lambda **_: requests.append(1))
    found = find_all(["s3://many"])
    first = next(found)
    before = len(requests)
    assert [first, *found] == [f"s3://many/{i:05}.jpg" for i in range(11)]
    assert len(requests) - before == 3  # of four pages three were left


def test_paths_in_a_list_on_s3_are_relative_to_its_prefix(s3):
    s3.put_object(Bucket="clips", Key="lists/in.txt", Body=b"a b.mp4\ns3://clips/v2/q.mp4\n/mnt/x.mp4\n")
    wanted = ["s3://clips/lists/a b.mp4", "s3://clips/v2/q.mp4", "/mnt/x.mp4"]
    assert list(find_all(["s3://clips/lists/in.txt"])) == wanted


@pytest.mark.parametrize("call", [open_uri, sources.stamp])
@pytest.mark.parametrize("uri", ["s3://clips/none.mp4", "s3://no-such-bucket/x.mp4"])
def test_missing_object_raises_file_not_found(s3, call, uri):
    with pytest.raises(FileNotFoundError):
        call(uri)


def test_stamp_of_an_object_starts_with_its_size(s3):
    assert sources.stamp("s3://clips/v2/q.mp4").startswith("8-")


def test_video_is_decoded_from_s3(s3, fixtures):
    from rigface.video.decode import plan_chunks, read_frames

    s3.put_object(Bucket="clips", Key="clip.mp4", Body=(fixtures / "clip.mp4").read_bytes())
    with open_uri("s3://clips/clip.mp4") as file:
        _, chunks = plan_chunks(file, None, 30)
        got = [f for chunk in chunks for f in read_frames(file, None, chunk)]
    local = list(read_frames(str(fixtures / "clip.mp4")))
    assert [f.index for f in got] == list(range(72))
    np.testing.assert_array_equal(got[-1].image, local[-1].image)


def test_sample_is_independent_of_order_and_counts_all():
    names = [f"s3://b/{k}.mp4" for k in range(1000)]
    some, count = sources.sample(iter(names), 20)
    assert (len(some), count) == (20, 1000)
    assert sources.sample(reversed(names), 20) == (some, 1000)
    assert sources.sample(names[:3], 20)[1] == 3
    assert sorted(sources.sample(names[:3], 20)[0]) == names[:3]
    assert 200 < sum(int(name[7:-4]) for name in some) / 20 < 800  # from all over


@pytest.mark.parametrize(
    ("uri", "root", "wanted"),
    [
        ("/mnt/a/b c.mp4", "/mnt", "a/b c.mp4"),
        ("/mnt/a.mp4", "/", "mnt/a.mp4"),
        ("file:///mnt/a/%FF.mp4", "/mnt/a", "file://%FF.mp4"),
        ("s3://bucket/in/a.mp4", "s3://bucket/in", "a.mp4"),
        ("s3://bucket/in//a.mp4", "s3://bucket/in", "/a.mp4"),
        ("s3://bucket/in/file://a", "s3://bucket", "in/file://a"),
        ("/mnt/a.mp4", "", "/mnt/a.mp4"),
    ],
)
def test_uri_is_relative_to_its_root_and_back(uri, root, wanted):
    assert relative(uri, root) == wanted
    assert located(wanted, root) == uri


@pytest.mark.parametrize("root", ["/mn", "/mnt/a.mp4", "/other", "s3://mnt"])
def test_input_that_is_not_below_the_root_is_refused(root):
    with pytest.raises(PlanError, match=f"does not lie below the root {root}"):
        relative("/mnt/a.mp4", root)


def test_inputs_below_a_root_are_listed_by_their_paths_from_it(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b.mp4").touch()
    assert list(find_all([str(tmp_path / "a")], str(tmp_path))) == ["a/b.mp4"]
