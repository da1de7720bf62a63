"""FLAME's optional files: texture, eyelids, MediaPipe's points, alignment; and models that must be refused."""

import pickle
import shutil
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from rigface.errors import BadCheckpoint, MissingAsset, UnsafeFile
from rigface.face.head import flame as flame_files
from rigface.face.head.flame import load_flame
from rigface.face.head.flame_texture import load_texture
from rigface.face.head.head_model import align_centre
from rigface.face.head.heads import load_head
from rigface.face.head.safe_pickle import load_pickle
from rigface.face.rendering.renderer import render_vertices
from rigface.types import FaceParams

OPTIONAL = ("FLAME_texture.npz", "mediapipe_landmark_embedding.npz", "l_eyelid.npy", "r_eyelid.npy")


@pytest.fixture(scope="module")
def figures(fixtures):
    return load_file(fixtures / "official" / "heads" / "texture_io.safetensors")


@pytest.fixture(scope="module")
def folder(fixtures, tmp_path_factory):
    """A FLAME folder with all optional files."""
    folder = tmp_path_factory.mktemp("flame")
    for path in (fixtures / "flame").glob("[!.]*"):
        (folder / path.name).symlink_to(path)
    for name in OPTIONAL:
        (folder / name).symlink_to(fixtures / "official" / "heads" / name)
    return folder


@pytest.fixture(scope="module")
def flame(folder):
    return load_flame(folder)


def encoded(figures, person, expression, light):
    """The codes of one person with the expression and the light of others, in the camera of the 512 px picture."""
    scale, x, y = figures["code_cam"][person].tolist()
    centre_x, centre_y, side = figures["crop"][person].tolist()
    k = 112 * side / (223 * 256)
    corner = side * (112 / 223 - 0.5)
    shift = ((centre_x + corner) / 256 - 1) / (scale * k), -((centre_y + corner) / 256 - 1) / (scale * k)
    camera = [scale * k, x + shift[0], y + shift[1]]
    return FaceParams(
        shape=figures["code_shape"][[person]],
        expression=figures["code_exp"][[expression]],
        head_rotation=figures["code_pose"][[person], :3],
        jaw_rotation=figures["code_pose"][[expression], 3:],
        camera=torch.tensor([camera]),
        albedo=figures["code_tex"][[person]],
        light=figures["code_light"][[light]],
    )


def test_texture_matches_flametex(fixtures, figures):
    mean, basis = map(torch.from_numpy, load_texture(fixtures / "official" / "heads" / "FLAME_texture.npz"))
    part = (slice(96, 160, 2), slice(96, 160, 3))
    got = mean[part] + torch.einsum("na,uvca->nuvc", figures["tex"], basis[part])
    assert torch.allclose(got.permute(0, 3, 1, 2), figures["FLAME"], atol=1e-6)


def test_both_layouts_of_a_texture_are_read(tmp_path):
    """The Basel layout is flat and has colours of 1 where FLAME's has 255."""
    rng = np.random.default_rng(0)
    mean, basis = rng.random((8, 8, 3)), rng.standard_normal((8, 8, 3, 51))
    np.savez(tmp_path / "flame.npz", mean=255 * mean, tex_dir=255 * basis)
    np.savez(tmp_path / "basel.npz", MU=mean.ravel(), PC=basis.reshape(-1, 51))
    for name in ("flame.npz", "basel.npz"):
        got_mean, got_basis = load_texture(tmp_path / name)
        assert np.allclose(got_mean, mean[::2, ::2, ::-1])
        assert np.allclose(got_basis, basis[::2, ::2, ::-1, :50])


@pytest.mark.parametrize(
    ("name", "person", "expression", "light"),
    [("self0", 0, 0, 0), ("01.pose", 1, 0, 0), ("20.pose", 0, 2, 2), ("01.exp", 0, 1, 1)],
)
def test_textured_render_matches_rigface(flame, figures, name, person, expression, light):
    """Whose light a mode takes is upstream's slip, and is copied here by its arguments."""
    params = encoded(figures, person, expression, light)
    vertices = flame.of(params)
    if name != "self0":
        vertices = vertices + align_centre(flame, encoded(figures, person, person, person), params)[:, None]
    assert torch.allclose(vertices[0], figures[f"{name}.vertices"], atol=1e-6)
    drawn = render_vertices(flame, vertices, params.camera, params.light, flame.albedo(params.albedo))
    alpha = np.unpackbits(figures[f"{name}.alpha"].numpy(), axis=1)
    assert (drawn.alpha[0, 0].numpy() != alpha).sum() <= 20
    gap = (drawn.image[0, :, 1::8, 1::8] - figures[f"{name}.image"]).abs()
    assert gap.max() < 1e-3
    assert (gap < 1e-4).float().mean() > 0.99


def test_centre_of_the_face_matches_align_ffhq(fixtures, flame, figures):
    codes = load_file(fixtures / "flame" / "io.safetensors")
    pose = codes["pose"]
    before = FaceParams(
        codes["shape"], codes["expression"], pose[:, :3], pose[:, 3:], codes["cam"], torch.zeros(4, 50), codes["light"]
    )
    after = replace(before, expression=before.expression.roll(-1, 0), jaw_rotation=before.jaw_rotation.roll(-1, 0))
    assert torch.allclose(flame.centre(flame.of(before)), figures["centre"], atol=1e-6)
    assert torch.allclose(flame.centre(flame.of(after)), figures["centre_edited"], atol=1e-6)
    moved = flame.of(after) + align_centre(flame, before, after)[:, None]
    assert torch.allclose(moved, figures["aligned.vertices"], atol=1e-6)


def test_eyelids_and_mediapipe_points_match_smirk(fixtures, folder):
    figures = load_file(fixtures / "official" / "heads" / "smirk_io.safetensors")
    head = load_flame(folder, 300, 50, texture="none")
    assert head.spec.extras == ("eye_rotations", "eyelids")
    coefficients = (figures[f"{name}_params"] for name in ("shape", "expression", "pose", "jaw"))
    vertices = head.vertices(*coefficients, eyelids=figures["eyelid_params"])
    assert torch.allclose(vertices, figures["vertices"], atol=1e-6)
    assert torch.allclose(head.mediapipe.points(vertices), figures["landmarks_mp"], atol=1e-6)
    assert head.mediapipe_points.shape == (105,)


def test_fewer_albedo_coefficients_are_the_first_ones(flame):
    few = torch.tensor([[0.5, -1.0]])
    padded = torch.cat([few, torch.zeros(1, 48)], 1)
    assert torch.allclose(flame.albedo(few), flame.albedo(padded), atol=1e-6)


def test_texture_is_named_in_the_spec(flame, folder):
    assert flame.spec.albedo_source.startswith("flame:")
    assert (flame.spec.albedo, flame.spec.colours) == (50, "display")
    assert load_flame(folder, texture="none").spec.albedo == 0
    with pytest.raises(MissingAsset, match=r"FLAME_albedo_from_BFM\.npz is not there"):
        load_flame(folder, texture="basel")


def test_model_without_jaw_has_no_jaw_rotation(fixtures, tmp_path):
    for path in (fixtures / "flame").glob("*"):
        (tmp_path / path.name.replace("generic_model", "flame2023_no_jaw")).symlink_to(path)
    (tmp_path / "License.txt").write_text("\n  FLAME 2023 licence,  version 1\nmore\n")
    head = load_flame(tmp_path)
    assert head.jaw is None
    assert head.spec.licence == "License.txt: FLAME 2023 licence, version 1"


def test_model_with_four_joints_has_no_jaw(fixtures, tmp_path):
    model = load_pickle(fixtures / "flame" / "generic_model.pkl")
    kept = [0, 1, 3, 4]
    model |= {
        "kintree_table": model["kintree_table"][:, kept],
        "J_regressor": model["J_regressor"].toarray()[kept],
        "weights": model["weights"][:, kept],
        "posedirs": np.delete(model["posedirs"], slice(9, 18), axis=2),
    }
    for name in ("landmark_embedding.npy", "head_template.obj"):
        (tmp_path / name).symlink_to(fixtures / "flame" / name)
    path = tmp_path / "flame2023.pkl"
    path.write_bytes(pickle.dumps(model, protocol=2))
    head = load_flame(tmp_path)
    assert (head.jaw, head.eyes, head.parents) == (None, (2, 3), (-1, 0, 1, 1))
    path.write_bytes(pickle.dumps(model | {"kintree_table": model["kintree_table"][:, :1]}, protocol=2))
    with pytest.raises(BadCheckpoint, match="want the joints head, neck, jaw and eyes, got 1"):
        load_flame(tmp_path)


def test_adopted_model_states_the_licence_of_its_own_folder(fixtures, folder, tmp_path):
    model = tmp_path / "generic_model.pkl"
    shutil.copyfile(fixtures / "flame" / "generic_model.pkl", model)
    (tmp_path / "LICENSE").write_text("CC-BY-4.0")
    link = tmp_path / "adopted" / "generic_model.pkl"
    link.parent.mkdir()
    link.symlink_to(model)
    assert flame_files.licence_of(link) == "LICENSE: CC-BY-4.0"
    assert "states none" in flame_files.licence_of(folder / "generic_model.pkl")


def test_codes_of_another_flame_or_texture_are_refused(flame, folder):
    other = replace(flame.spec, version="sha256:000000000000")
    with pytest.raises(MissingAsset, match=r"of flame sha256:000000000000, and flame sha256:\w+ is installed"):
        load_head(other, folder)
    with pytest.raises(MissingAsset, match="of the texture flame:1, and flame:"):
        load_head(replace(flame.spec, albedo_source="flame:1"), folder)
    assert load_head(flame.spec, folder).spec == flame.spec


@pytest.mark.parametrize(
    ("content", "refusal", "sentence"),
    [
        (pickle.dumps({"v_template": [1.0]}), BadCheckpoint, "want FLAME's arrays .* it lacks J_regressor"),
        (pickle.dumps([1, 2]), BadCheckpoint, "it holds a list"),
        (b"\x80\x02cposix\nsystem\nX\x02\x00\x00\x00ls\x85R.", UnsafeFile, "posix"),
        (b"\x80\x02}q", UnsafeFile, "damaged"),
    ],
)
def test_wrong_model_is_refused(fixtures, tmp_path, content, refusal, sentence):
    for name in ("landmark_embedding.npy", "head_template.obj"):
        (tmp_path / name).symlink_to(fixtures / "flame" / name)
    (tmp_path / "generic_model.pkl").write_bytes(content)
    with pytest.raises(refusal, match=sentence):
        load_flame(tmp_path)


def test_wrong_embeddings_are_refused(fixtures, tmp_path):
    for path in (fixtures / "flame").glob("*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    published = tmp_path / "mediapipe_landmark_embedding.npz"
    np.savez(published, lmk_face_idx=np.array([10**6]), lmk_b_coords=np.ones((1, 3)), landmark_indices=np.array([1]))
    with pytest.raises(BadCheckpoint, match=r"mediapipe_landmark_embedding\.npz: want .* of points on this FLAME"):
        load_flame(tmp_path)
    np.savez(published, other=np.zeros(3))
    with pytest.raises(BadCheckpoint, match="want lmk_face_idx, lmk_b_coords and landmark_indices"):
        load_flame(tmp_path)
    published.unlink()
    content = {
        f"{k}_lmk_{v}": np.array([10**6]) for k in ("static", "dynamic", "full") for v in ("faces_idx", "bary_coords")
    }
    for wrong, sentence in (
        (np.zeros(3), "it holds a ndarray"),
        ({"a": 1}, "it lacks dynamic"),
        (content, "triangles below"),
    ):
        np.save(tmp_path / "landmark_embedding.npy", np.array(wrong, object) if isinstance(wrong, dict) else wrong)
        with pytest.raises(BadCheckpoint, match=rf"landmark_embedding\.npy: want .*{sentence}"):
            load_flame(tmp_path)


def test_wrong_or_damaged_texture_is_refused(fixtures, tmp_path):
    path = tmp_path / "FLAME_texture.npz"
    for content, sentence in (
        ({"mean": np.zeros((4, 4, 3))}, "it holds mean.npy"),
        ({"mean": np.zeros((4, 4, 3)), "tex_dir": np.zeros((4, 4, 3, 9))}, r"tex_dir has the shape \(4, 4, 3, 9\)"),
        ({"mean": np.zeros((4, 5, 3)), "tex_dir": np.zeros((4, 4, 3, 60))}, r"mean has the shape \(4, 5, 3\)"),
        ({"mean": np.zeros((4, 4, 3)), "tex_dir": np.full((4, 4, 3, 60), None)}, "an array of object"),
    ):
        np.savez(path, **content)
        with pytest.raises(BadCheckpoint, match=sentence):
            load_texture(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("mean.npy", b"\x93NUMPY\x01\x00short")
        archive.writestr("tex_dir.npy", b"")
    with pytest.raises(BadCheckpoint, match="download it again"):
        load_texture(path)
