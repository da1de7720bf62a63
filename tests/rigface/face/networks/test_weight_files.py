"""Weight files: nothing is executed, everything is there, and a refusal says what came and what to do."""

import os

import pytest
import torch

from rigface.errors import BadCheckpoint, MissingAsset, UnsafeFile
from rigface.face.networks.basel import load_d3dfr, load_deep3d
from rigface.face.networks.bisenet import load_bisenet
from rigface.face.networks.deca import load_deca
from rigface.face.networks.weight_files import read_weights


class Call:
    """Pickles as a call of os.system."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.fixture
def deca_file(empty, tmp_path):
    def write(**changes):
        weights = empty("deca.E_flame")
        weights.update(changes)
        path = tmp_path / "deca_model.tar"
        torch.save({"E_flame": {k: v for k, v in weights.items() if v is not None}}, path)
        return path

    return write


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(MissingAsset, match=r"deca_model\.tar is not there"):
        load_deca(tmp_path / "deca_model.tar")


@pytest.mark.parametrize("keep", [0, 10, 5000, -20])
def test_a_truncated_file_is_refused(deca_file, keep):
    path = deca_file()
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(BadCheckpoint, match="damaged"):
        load_deca(path)


def test_a_truncated_file_of_the_old_format_is_refused(empty, tmp_path):
    torch.save(empty("bisenet.bisenet"), tmp_path / "a.pth", _use_new_zipfile_serialization=False)
    (tmp_path / "a.pth").write_bytes((tmp_path / "a.pth").read_bytes()[:9000])
    with pytest.raises(BadCheckpoint, match="damaged"):
        load_bisenet(tmp_path / "a.pth")


def test_a_file_of_the_old_format_loads(empty, tmp_path):
    torch.save(empty("bisenet.bisenet"), tmp_path / "a.pth", _use_new_zipfile_serialization=False)
    assert load_bisenet(tmp_path / "a.pth").conv_out.conv_out.weight.shape == (19, 256, 1, 1)


def test_text_under_the_name_is_refused(tmp_path):
    (tmp_path / "a.pth").write_text("<html>please log in</html>")
    with pytest.raises(BadCheckpoint, match="damaged, or is no torch file"):
        load_bisenet(tmp_path / "a.pth")


def test_a_call_is_refused_and_not_run(tmp_path):
    torch.save({"E_flame": {}, "x": Call(f"touch {tmp_path}/ran")}, tmp_path / "deca_model.tar")
    with pytest.raises(UnsafeFile, match=r"asks for \w+\.system, which is no tensor; it was not run"):
        load_deca(tmp_path / "deca_model.tar")
    assert not (tmp_path / "ran").exists()


def test_missing_names_are_counted_and_named(deca_file):
    path = deca_file(**{"layers.0.weight": None, "layers.2.bias": None})
    with pytest.raises(
        BadCheckpoint, match=r"DECA's encoder.*2 of \d+ tensors are missing \(layers.0.weight, layers.2.bias\)"
    ):
        load_deca(path)


def test_unknown_names_are_refused(deca_file):
    with pytest.raises(BadCheckpoint, match=r"1 are unknown \(layers.4.weight\)"):
        load_deca(deca_file(**{"layers.4.weight": torch.zeros(1)}))


def test_another_shape_is_refused(deca_file):
    with pytest.raises(BadCheckpoint, match=r"layers.2.bias is \(53,\), want \(236,\)"):
        load_deca(deca_file(**{"layers.2.bias": torch.zeros(53)}))


def test_a_value_in_place_of_a_tensor_is_refused(deca_file):
    with pytest.raises(BadCheckpoint, match=r"layers.2.bias is no tensor, want \(236,\)"):
        load_deca(deca_file(**{"layers.2.bias": "zero"}))


def test_missing_counters_are_nothing(deca_file, layouts):
    counters = dict.fromkeys(n for n in layouts["deca.E_flame"]["names"] if n.endswith("num_batches_tracked"))
    assert counters
    assert load_deca(deca_file(**counters)).encoder.layers[2].out_features == 236


def test_another_network_under_the_name_is_refused(empty, tmp_path):
    torch.save(empty("bisenet.bisenet"), tmp_path / "a.pth")
    for load, what in (
        (load_d3dfr, "tensors are missing"),
        (load_deep3d, "want 'net_recon'"),
        (load_deca, "want 'E_flame'"),
    ):
        with pytest.raises(BadCheckpoint, match=what):
            load(tmp_path / "a.pth")


def test_a_list_is_refused(tmp_path):
    torch.save([torch.zeros(1)], tmp_path / "a.pth")
    with pytest.raises(BadCheckpoint, match="want a dictionary of tensors, got a list"):
        read_weights(tmp_path / "a.pth")


def test_numbers_as_names_are_refused(tmp_path):
    torch.save({0: torch.zeros(1), 1: torch.zeros(1)}, tmp_path / "a.pth")
    with pytest.raises(BadCheckpoint, match=r"2 are unknown \(0, 1\)"):
        load_bisenet(tmp_path / "a.pth")
    torch.save({"E_flame": {0: torch.zeros(1)}}, tmp_path / "b.pth")
    with pytest.raises(BadCheckpoint, match=r"1 are unknown \(0\)"):
        load_deca(tmp_path / "b.pth")
