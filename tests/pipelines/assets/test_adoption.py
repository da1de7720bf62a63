"""`rigface assets adopt`: recognition by name and content, links, refusals."""

import io
import os
import pickle
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines.assets.adoption import adopt
from rigface import assets
from rigface.model import checkpoint
from rigface.model.model_config import RELEASED, config_of
from rigface.testing.official import networks
from rigface.testing.official.downloads import write_downloads
from tests.rigface.face import made_weights


@pytest.fixture(scope="module")
def downloads(tmp_path_factory) -> Path:
    return write_downloads(tmp_path_factory.mktemp("downloads"), texture=False)


def outcomes(rows):
    return {row.found.source.name: row.outcome for row in rows}


def test_all_downloads_are_found_by_their_asset_names(downloads, tmp_path, monkeypatch):
    adopt((downloads,), tmp_path)
    monkeypatch.setenv(assets.FOLDER_VARIABLE, str(tmp_path))
    for name in ("rigface", "sd15", "flame", "deca", "d3dfr", "basel", "basel_landmarks", "bisenet"):
        path = assets.find(name)
        assert tmp_path in path.parents
        assert (
            downloads in path.resolve().parents
            or downloads in (path / "generic_model.pkl").resolve().parents
            or (path / "unet_id").resolve() == downloads / "pre_trained" / "unet_id"
        )


def test_released_networks_get_a_config_with_their_profile(downloads, tmp_path):
    adopt((downloads / "pre_trained",), tmp_path)
    assert config_of(str(tmp_path / "rigface")) == RELEASED
    (tmp_path / "rigface" / "config.json").write_text("own")
    adopt((downloads / "pre_trained",), tmp_path)
    assert (tmp_path / "rigface" / "config.json").read_text() == "own"


def test_stable_diffusion_is_found_by_its_name(downloads, tmp_path, monkeypatch):
    monkeypatch.setenv(assets.FOLDER_VARIABLE, str(tmp_path))
    monkeypatch.chdir(tmp_path)
    adopt((downloads,), tmp_path)
    assert checkpoint.folder_of("sd15").resolve() == downloads / "stable-diffusion-v1-5"
    assert checkpoint.is_sd15("sd15")


def test_renamed_file_is_recognised_by_its_arrays(tmp_path):
    networks.write_d3dfr(tmp_path / "in" / "model.pth")
    (row,) = adopt((tmp_path / "in",), tmp_path / "out")
    assert (row.found.asset, row.found.place, row.outcome) == ("d3dfr", "d3dfr/d3dfr_res50_nofc.pth", "adopted")
    assert "Basel" in row.licence
    assert "--checkpoint rigface" in row.unlocks
    assert row.found.note == "named model.pth"


def test_wrong_network_under_an_official_name_is_what_it_holds(tmp_path):
    networks.write_d3dfr(tmp_path / "in" / "deca_model.tar")
    (row,) = adopt((tmp_path / "in",), tmp_path / "out")
    assert row.found.place == "d3dfr/d3dfr_res50_nofc.pth"
    assert row.found.note == "named deca_model.tar"


def test_unknown_arrays_under_an_official_name_are_refused(tmp_path):
    torch.save({"E_flame": {"encoder.conv1.weight": torch.zeros(64, 3, 7, 7)}}, tmp_path / "deca_model.tar")
    (row,) = adopt((tmp_path,), tmp_path / "out")
    assert row.outcome == (
        "refused: want E_flame.layers.2.weight of 236 x 1024, it is not there; it is not what its name says, "
        "download it again"
    )
    assert not (tmp_path / "out").exists()


def test_array_of_another_shape_is_named(tmp_path):
    np.savez(tmp_path / "FLAME_texture.npz", mean=np.zeros((256, 256, 3)), tex_dir=np.zeros(1))
    (row,) = adopt((tmp_path,), tmp_path / "out")
    assert "want mean of 512 x 512 x 3, got 256x256x3" in row.outcome


@pytest.mark.parametrize(
    "name",
    [
        "deca_model.tar",
        "generic_model.pkl",
        "mediapipe_landmark_embedding.npz",
        "l_eyelid.npy",
        "BFM_model_front.mat",
    ],
)
def test_truncated_file_is_refused_with_a_remedy(downloads, tmp_path, name):
    data = next(downloads.rglob(name)).read_bytes()
    (tmp_path / name).write_bytes(data[: len(data) // 2])
    (row,) = adopt((tmp_path,), tmp_path / "out")
    assert row.outcome.startswith("refused: ")
    assert row.outcome.endswith("download it again")


def test_folder_with_truncated_weights_is_refused(downloads, tmp_path):
    shutil.copytree(downloads / "pre_trained", tmp_path / "in")
    weights = tmp_path / "in" / "unet_id" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert outcomes(adopt((tmp_path / "in",), tmp_path / "out")) == {
        "unet_id": "refused: it is damaged, or not a .safetensors file: it ends too early; download it again",
        "unet_denoise": "adopted",
    }


class Call:
    def __reduce__(self):
        return os.system, ("touch executed",)


@pytest.mark.parametrize("kind", ["torch", "pickle"])
def test_pickle_with_a_call_is_refused_unexecuted(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    if kind == "torch":
        networks.write_bisenet("79999_iter.pth")
        weights = torch.load("79999_iter.pth", weights_only=True)
        torch.save({**weights, "more": Call()}, "79999_iter.pth")
    else:
        arrays = {"v_template": (5, 3), "shapedirs": (5, 3, 400), "posedirs": (5, 3, 36), "weights": (5, 5)}
        content = {name: np.zeros(shape) for name, shape in arrays.items()}
        Path("generic_model.pkl").write_bytes(pickle.dumps({**content, "more": Call()}))
    (row,) = adopt((tmp_path,), tmp_path / "out")
    assert f"refused: want arrays alone, it asks for {os.system.__module__}.system; nothing was executed" in row.outcome
    assert not Path("executed").exists()


def test_objects_of_other_packages_are_allowed_in_emocas_checkpoint_alone(tmp_path):
    networks.write_emoca(tmp_path / "in" / "EMOCA_v2")
    (row,) = adopt((tmp_path / "in",), tmp_path / "out")
    assert row.outcome == "adopted"
    assert sorted(p.name for p in (tmp_path / "out" / "emoca").iterdir()) == ["cfg.yaml", "deca-epoch=10.ckpt"]


def test_second_run_replaces_links_and_keeps_files(tmp_path):
    for name in ("a", "b"):
        networks.write_bisenet(tmp_path / name / "79999_iter.pth")
    target = tmp_path / "out" / "bisenet" / "79999_iter.pth"
    for name in ("a", "b", "b"):
        assert outcomes(adopt((tmp_path / name,), tmp_path / "out")) == {"79999_iter.pth": "adopted"}
        assert target.resolve() == tmp_path / name / "79999_iter.pth"
    target.unlink()
    target.write_bytes(b"own")
    (row,) = adopt((tmp_path / "a",), tmp_path / "out")
    assert row.outcome == f"not used: {target} is there already; remove it to replace it"
    assert target.read_bytes() == b"own"


def test_first_of_two_files_for_one_place_is_taken(tmp_path):
    for name in ("a", "b"):
        networks.write_bisenet(tmp_path / name / "79999_iter.pth")
    first, second = adopt((tmp_path / "b", tmp_path / "a"), tmp_path / "out")
    assert first.outcome == "adopted"
    assert second.outcome == f"not used: {first.found.source} is adopted already"


def test_licence_of_flame_is_the_one_its_folder_states(downloads, tmp_path):
    model = next(downloads.rglob("generic_model.pkl"))
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "flame2023_Open.pkl").symlink_to(model)
    (tmp_path / "in" / "LICENSE.txt").write_text("\n  An open licence\n")
    (row,) = adopt((tmp_path / "in",), tmp_path / "out")
    assert row.licence == "LICENSE.txt: An open licence"
    assert (tmp_path / "out" / "flame" / "LICENSE.txt").is_file()


def test_nothing_is_written_into_a_linked_folder(downloads, tmp_path):
    own = tmp_path / "own" / "flame"
    own.mkdir(parents=True)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "flame").symlink_to(own)
    (row,) = adopt((next(downloads.rglob("landmark_embedding.npy")),), tmp_path / "out")
    assert (
        row.outcome
        == f"not used: {tmp_path / 'out' / 'flame'} is a link to another folder, in which nothing is changed"
    )
    assert list(own.iterdir()) == []


def test_networks_of_an_insightface_pack_are_known_by_their_outputs(tmp_path):
    (tmp_path / "in").mkdir()
    made_weights.pack(tmp_path / "in")
    assert set(outcomes(adopt((tmp_path / "in",), tmp_path / "out")).values()) == {"adopted"}
    shutil.copy(tmp_path / "in" / "2d106det.onnx", tmp_path / "w600k_r50.onnx")
    (row,) = adopt((tmp_path / "w600k_r50.onnx",), tmp_path / "out")
    assert "want outputs of (512,) numbers, got (212,)" in row.outcome
    (tmp_path / "det_10g.onnx").write_bytes((tmp_path / "in" / "det_10g.onnx").read_bytes()[:3000])
    (row,) = adopt((tmp_path / "det_10g.onnx",), tmp_path / "out")
    assert "it is damaged, or no ONNX network" in row.outcome


def test_models_of_one_sex_are_not_taken_for_the_generic_one(downloads, tmp_path):
    (tmp_path / "male_model.pkl").symlink_to(next(downloads.rglob("generic_model.pkl")))
    assert adopt((tmp_path,), tmp_path / "out") == []


def test_inpainting_network_is_not_stable_diffusion(downloads, tmp_path):
    folder = tmp_path / "inpainting"
    (folder / "vae").mkdir(parents=True)
    (folder / "unet").symlink_to(downloads / "pre_trained" / "unet_denoise")
    (row,) = adopt((tmp_path,), tmp_path / "out")
    assert "want conv_in.weight of any x 4 x 3 x 3, got 8x12x3x3" in row.outcome


def test_file_of_the_old_torch_format_is_recognised(tmp_path):
    networks.write_bisenet(tmp_path / "new.pth")
    weights = torch.load(tmp_path / "new.pth", weights_only=True)
    (tmp_path / "new.pth").unlink()
    stream = io.BytesIO()
    torch.save(weights, stream, _use_new_zipfile_serialization=False)
    assert not zipfile.is_zipfile(stream)
    (tmp_path / "old.pth").write_bytes(stream.getvalue())
    (row,) = adopt((tmp_path,), tmp_path / "out")
    assert row.found.asset == "bisenet"
