"""Local copies of folders of weights on S3."""

import pytest

from rigface.errors import UnsafeFile
from rigface.storage import model_cache, objects
from rigface.storage.store import Store, local_path

NAMES = ["unet/../../../escaped.json", "unet//x.json", "unet/./x.json", "unet/../x.json", "unet/a\0.json"]


@pytest.mark.parametrize("name", NAMES)
def test_key_that_leads_out_of_the_copy_is_refused(bucket, tmp_path, monkeypatch, name):
    monkeypatch.setenv("RIGFACE_CACHE", str(tmp_path / "cache"))
    store = Store(f"{bucket}/{tmp_path.name}")
    store.publish("unet/config.json", b"{}")
    root, real = store.bucket_and_key("")[1], objects.keys
    monkeypatch.setattr(
        objects, "keys", lambda *where: [*real(*where), f"{root}{name}"]
    )  # HTTP clients rewrite such keys
    with pytest.raises(UnsafeFile, match="no name of a file below it"):
        model_cache.fetched(store.uri)
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix == ".json"]


def test_adapter_folder_is_fetched(bucket, tmp_path, monkeypatch):
    monkeypatch.setenv("RIGFACE_CACHE", str(tmp_path / "cache"))
    store = Store(f"{bucket}/{tmp_path.name}")
    for name in ("adapter_config.json", "adapter_model.safetensors", "README.md"):
        store.publish(name, name.encode())
    copy = model_cache.fetched(store.uri)
    assert {path.name for path in copy.iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}


@pytest.mark.parametrize("name", ["", "/etc/x", "a/../../x", "./x", "a//b", "link/x"])
def test_unsafe_remote_name_gives_no_local_path(tmp_path, name):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "link").symlink_to("/tmp")
    with pytest.raises(UnsafeFile):
        local_path(tmp_path / "folder", name, "s3://bucket/model")


def test_store_refuses_paths_out_of_its_root(tmp_path):
    store = Store(str(tmp_path / "out"))
    for refused in ("../x", "a/../../x", "/etc/passwd"):
        with pytest.raises(UnsafeFile, match="leads out"):
            store.publish(refused, b"")
    assert not (tmp_path / "x").exists()
