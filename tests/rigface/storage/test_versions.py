"""Versioned folders: a complete version before the switch, never a mixture."""

import pytest

from rigface.errors import BadCheckpoint
from rigface.model import checkpoint
from rigface.storage.store import Store
from rigface.storage.versions import POINTER, newest_version, publish_version


@pytest.fixture(params=["disk", "s3"])
def store(request, tmp_path):
    if request.param == "disk":
        return Store(str(tmp_path / "out"))
    return Store(f"{request.getfixturevalue('bucket')}/{tmp_path.name}")


@pytest.fixture
def model(tmp_path):
    """Make the local files of a model whose content says the step."""

    def make(step):
        (tmp_path / "local" / "unet").mkdir(parents=True, exist_ok=True)
        for name in ("config.json", "unet/diffusion_pytorch_model.safetensors"):
            (tmp_path / "local" / name).write_text(f"step {step}")
        return tmp_path / "local"

    return make


def content(store):
    newest = Store(newest_version(f"{store.uri}/model"))
    return {newest.read(path).decode() for path in ("config.json", "unet/diffusion_pytorch_model.safetensors")}


def test_newest_version_is_read_and_the_one_before_is_kept(store, model):
    for step in (1, 2, 3):
        publish_version(store, "model", f"step-{step}", model(step))
        assert content(store) == {f"step {step}"}
    names = {path.split("/")[1] for path in store.paths("model")}
    assert sorted(name[:6] for name in names) == ["latest", "step-2", "step-3"]


def test_run_killed_between_two_files_leaves_the_old_version(store, model, monkeypatch):
    publish_version(store, "model", "step-1", model(1))
    publish = store.publish

    def killed(path, data, **options):
        if path.endswith(".safetensors"):
            raise KeyboardInterrupt
        return publish(path, data, **options)

    monkeypatch.setattr(store, "publish", killed)
    with pytest.raises(KeyboardInterrupt):
        publish_version(store, "model", "step-2", model(2))
    assert content(store) == {"step 1"}
    monkeypatch.undo()
    publish_version(store, "model", "step-2", model(2))
    assert content(store) == {"step 2"}
    assert len({path.split("/")[1] for path in store.paths("model")}) == 3  # the unfinished version is gone


def test_checkpoint_folder_is_the_newest_version(store, model):
    for step in (1, 2):
        publish_version(store, "model", f"step-{step}", model(step))
        folder = checkpoint.folder_of(f"{store.uri}/model")
        assert (folder / "config.json").read_text() == f"step {step}"


def test_folder_without_versions_is_itself(store):
    store.publish("model/config.json", b"{}")
    assert newest_version(f"{store.uri}/model") == f"{store.uri}/model"


@pytest.mark.parametrize("name", ["..", "../other", "/etc", "", "a/b"])
def test_pointer_out_of_the_folder_is_refused(store, name):
    store.publish(f"model/{POINTER}", name.encode())
    with pytest.raises(BadCheckpoint, match="names no version"):
        newest_version(f"{store.uri}/model")
