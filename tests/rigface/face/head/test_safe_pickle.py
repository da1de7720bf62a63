"""Safe pickle: FLAME's files are read as data, and executable content is refused by name."""

import builtins
import contextlib
import io
import os
import pickle
import struct
import sys
import tracemalloc
import types
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from rigface.errors import UnsafeFile
from rigface.face.head.safe_pickle import load_npy, load_pickle, load_torch_zip

MODEL = Path(__file__).parents[3] / "fixtures" / "flame" / "generic_model.pkl"
EMBEDDING = MODEL.with_name("landmark_embedding.npy")


class Calls:
    """An object whose pickle calls `function(*args)`."""

    def __init__(self, function, *args):
        self.call = (function, args)

    def __reduce__(self):
        return self.call


@pytest.fixture
def chumpy(monkeypatch):
    """Classes under chumpy's names, so that `pickle` writes what chumpy would have."""

    def fake(module, name):
        module = sys.modules.setdefault(module, types.ModuleType(module))
        cls = type(name, (), {"__module__": module.__name__})
        monkeypatch.setattr(module, name, cls, raising=False)
        return cls

    names = ("chumpy.ch.Ch", "chumpy.reordering.Select", "chumpy.reordering.Reshape")
    for module in ("chumpy", "chumpy.ch", "chumpy.reordering"):
        monkeypatch.setitem(sys.modules, module, types.ModuleType(module))
    return {name.rsplit(".", 1)[-1]: fake(*name.rsplit(".", 1)) for name in names}


def made(cls, **state):
    out = cls()
    out.__dict__.update(state)
    return out


def test_flame_pickle_is_read():
    model = load_pickle(MODEL)
    assert {k: v.shape for k, v in model.items() if hasattr(v, "shape")} == {
        "v_template": (162, 3),
        "f": (320, 3),
        "shapedirs": (162, 3, 400),
        "posedirs": (162, 3, 36),
        "J_regressor": (5, 162),
        "kintree_table": (2, 5),
        "weights": (162, 5),
    }
    assert model["f"].dtype == np.uint32
    assert model["f"].max() == 161
    assert np.allclose(np.asarray(model["J_regressor"].sum(axis=1)), 1)
    assert np.allclose(model["weights"].sum(axis=1), 1)
    assert model["bs_style"] == "lbs"
    assert "chumpy" not in sys.modules


def test_landmark_embedding_with_torch_tensors_is_read():
    embedding = load_npy(EMBEDDING)
    assert embedding["dynamic_lmk_faces_idx"].shape == (79, 17)
    assert embedding["dynamic_lmk_faces_idx"].max() < 320
    assert embedding["dynamic_lmk_bary_coords"].dtype == np.float32
    for kind in ("static", "dynamic", "full"):
        assert np.allclose(embedding[f"{kind}_lmk_bary_coords"].sum(-1), 1, atol=1e-5)


@pytest.mark.parametrize("protocol", [1, 2, 3, 4, 5])
def test_plain_data_equals_pickle_load(protocol):
    data = {
        "float": np.arange(6.0).reshape(2, 3),
        "big endian": np.arange(3, dtype=">i4"),
        "fortran": np.asfortranarray(np.arange(6).reshape(2, 3)),
        "bool": np.array([True, False]),
        "text": np.array(["a", "bc"]),
        "objects": np.array([1, "x", None, np.arange(2)], object),
        "scalar": np.float32(0.5),
        "csc": sparse.csc_matrix(np.diag([1.0, 2.0])),
        "csr": sparse.csr_matrix(np.diag([1.0, 2.0])),
        "coo": sparse.coo_matrix(np.diag([1.0, 2.0])),
        "plain": [1, -(2**40), 0.5, "ü", b"\xff", True, None, (), (1, 2), {"a": {"b": 1}}],
        "set": {1, 2},
        "ordered": OrderedDict(a=1, b=2),
    }
    for name, want in data.items():
        got = load_pickle(pickle.dumps({"x": want}, protocol))["x"]
        if sparse.issparse(want):
            assert type(got) is type(want)
            want, got = want.toarray(), got.toarray()
        if name == "objects":
            assert [type(x) for x in got] == [int, str, type(None), np.ndarray]
        elif isinstance(want, np.ndarray | np.generic):
            assert got.dtype == want.dtype
            assert np.array_equal(got, want)
        else:
            assert got == want


def test_chumpy_containers_become_arrays(chumpy):
    x = np.arange(6.0).reshape(2, 3)
    ch = made(chumpy["Ch"], x=x, _dirty_vars={"x"}, _itr=None)
    picked = made(chumpy["Select"], a=ch, idxs=np.array([5, 0]), preferred_shape=(2, 1))
    shaped = made(chumpy["Reshape"], a=ch, newshape=(3, 2))
    got = load_pickle(pickle.dumps([ch, picked, shaped], 2))
    assert np.array_equal(got[0], x)
    assert np.array_equal(got[1], [[5.0], [0.0]])
    assert np.array_equal(got[2], x.reshape(3, 2))


def test_python_2_strings_become_array_bytes():
    """Pickle of Python 2: BINSTRING bytes, __builtin__, copy_reg, the old numpy and scipy names."""
    raw = np.array([1.5, -2.5]).tobytes()
    text = (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85U\x01btR(K\x01K\x02\x85"
        b"cnumpy\ndtype\n(U\x02f8K\x00K\x01tR(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
        b"T" + struct.pack("<i", len(raw)) + raw + b"tb."
    )
    assert np.array_equal(load_pickle(text), [1.5, -2.5])
    container = b"\x80\x02ccopy_reg\n_reconstructor\n(cchumpy.ch\nCh\nc__builtin__\nobject\nNtR}U\x01xK\x07sb."
    assert load_pickle(container) == 7


HOSTILE = {
    "posix.system": pickle.dumps(Calls(os.system, "touch hacked")),
    "builtins.eval": pickle.dumps(Calls(builtins.eval, "open('hacked', 'w')")),
    "numpy.fromfile": b"\x80\x02cnumpy\nfromfile\nX\x06\x00\x00\x00hacked\x85R.",
    "numpy.os.system": b"\x80\x04\x8c\x05numpy\x8c\x09os.system\x93\x8c\x0ctouch hacked\x85R.",
    "chumpy.ch.Ch": b"\x80\x02cchumpy.ch\nCh\nK\x01\x85R.",  # allowed as data, but not as a call
    "scipy.sparse._csc.csc_matrix": b"\x80\x02cscipy.sparse._csc\ncsc_matrix\n(K\x09K\x09t\x85R.",
    "numpy.ndarray": b"\x80\x02cnumpy\nndarray\nJ\x00\x00\x00\x7f\x85R.",
    "INST (posix.system)": b"(X\x02\x00\x00\x00idiposix\nsystem\n.",
    "opcode EXT1": b"\x80\x02\x82\x01.",
    "opcode NEWOBJ_EX": b"\x80\x04cchumpy.ch\nCh\n)}\x92.",
    "inside of a Ch": b"\x80\x02cchumpy.ch\nCh\n}X\x01\x00\x00\x00xK\x01sb.",
    "a tuple as a key": b"\x80\x02}K\x01\x85q\x000"  # of 2^60 leaves: no hash may be taken
    + b"".join(b"h%ch%c\x86q%c0" % (i, i, i + 1) for i in range(60)) + b"h\x3cK\x01s.",
    "'str' object has no": b"\x80\x02X\x02\x00\x00\x00id)R.",
    "inside of a scalar": b"\x80\x02cnumpy.core.multiarray\nscalar\n)R}b.",
    "itself as a value": b"\x80\x02cnumpy\nndarray\n.",
    "_codecs.encode": b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00xX\x03\x00\x00\x00zip\x86R.",
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_non_data_is_refused_by_name(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnsafeFile) as refused:
        load_pickle(HOSTILE[name])
    assert name in str(refused.value)
    assert not list(tmp_path.iterdir())


def test_hostile_object_in_npy_or_torch_storage_is_refused():
    file = io.BytesIO()
    np.save(file, np.array(Calls(os.system, "true"), object), allow_pickle=True)
    with pytest.raises(UnsafeFile, match="system"):
        load_npy(file.getvalue())
    inner = HOSTILE["posix.system"]
    storage = b"ctorch.storage\n_load_from_bytes\nB" + struct.pack("<I", len(inner)) + inner + b"\x85R"
    tensor = b"\x80\x04ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"K\x00))\x89}tR."
    with pytest.raises(UnsafeFile, match="system"):
        load_pickle(tensor)


def test_excessive_memory_is_refused():
    array = pickle.dumps(np.zeros(1), 2)
    with pytest.raises(UnsafeFile, match="far more memory"):
        load_pickle(array.replace(b"K\x01K\x01\x85", b"K\x01J\x00\x00\x00\x7f\x85"))  # says 2e9 elements, has one
    with pytest.raises(UnsafeFile, match=r"8 bytes for an array of shape \(2,\)"):
        load_pickle(array.replace(b"K\x01K\x01\x85", b"K\x01K\x02\x85"))
    shared = b"\x80\x02B" + struct.pack("<I", 2**20) + bytes(2**20) + b"q\x010("
    again = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85U\x01btR(K\x01J\x00\x00\x10\x00\x85"
        b"cnumpy\ndtype\n(U\x02u1K\x00K\x01tR(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89h\x01tb"
    )
    assert len(load_pickle(shared + 4 * again + b"t.")) == 4
    with pytest.raises(UnsafeFile, match="far more memory"):
        load_pickle(shared + 40 * again + b"t.")


class Settings(list):
    """A foreign object of a Lightning checkpoint, filled by BUILD, APPENDS and calls."""

    def __init__(self):
        super().__init__([1, {"a": 2}])
        self.parent = types.SimpleNamespace(child=OrderedDict(b={3}))


@pytest.fixture
def checkpoint(tmp_path):
    weights = torch.arange(12.0).reshape(3, 4)
    state = OrderedDict(whole=weights, column=weights[:, 1], half=weights.half(), count=torch.tensor(7))
    state["bare"] = torch.nn.Parameter(weights.T)
    content = {"state_dict": state, "hyper_parameters": Settings(), "epoch": 3, "unsafe": Calls(os.system, "true")}
    torch.save(content, tmp_path / "a.ckpt")
    return tmp_path / "a.ckpt", state


def test_state_dict_of_lightning_checkpoint_is_read_without_its_foreign_objects(checkpoint):
    path, state = checkpoint
    got = load_torch_zip(path)
    assert list(got) == list(state)
    for name, want in state.items():
        assert got[name].dtype == want.detach().numpy().dtype
        assert np.array_equal(got[name], want.detach().numpy())


def test_tensors_of_a_checkpoint_that_repeat_numbers_take_no_more_memory_than_the_file(tmp_path):
    torch.save({"state_dict": {str(i): torch.ones(1).expand(2**28) for i in range(9)}}, tmp_path / "a.ckpt")
    got = load_torch_zip(tmp_path / "a.ckpt")
    assert [array.shape for array in got.values()] == [(2**28,)] * 9
    assert got["3"][-1] == 1


@pytest.mark.parametrize(("entry", "message"), [
    ("hyper_parameters", "foreign object"), ("unsafe", "foreign object"), ("weights", "no entry 'weights'")
])  # fmt: skip
def test_foreign_or_missing_entry_of_checkpoint_is_refused(checkpoint, entry, message):
    with pytest.raises(UnsafeFile, match=message):
        load_torch_zip(checkpoint[0], entry)


def test_damaged_or_compressed_checkpoint_is_refused(checkpoint, tmp_path):
    data = checkpoint[0].read_bytes()
    (tmp_path / "cut.ckpt").write_bytes(data[: len(data) // 2])
    with zipfile.ZipFile(tmp_path / "packed.ckpt", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a/data.pkl", pickle.dumps({"state_dict": {}}))
    for name in ("cut", "packed"):
        with pytest.raises(UnsafeFile, match=r"not a file of torch\.save"):
            load_torch_zip(tmp_path / f"{name}.ckpt")


def peak_mb(read, data):
    """Memory that a refused reading took at a time, MB."""
    tracemalloc.start()
    try:
        with pytest.raises(UnsafeFile):
            read(data)
        return tracemalloc.get_traced_memory()[1] / 2**20
    finally:
        tracemalloc.stop()


def expanded_tensor(count):
    """The pickle of a torch tensor of `count` int8 that are one byte of the file."""
    inner = (
        b"\x80\x02I1\n.\x80\x02I1\n.\x80\x02}.\x80\x02(X\x07\x00\x00\x00storagectorch\nCharStorage\n"
        b"X\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x01NtQ.\x80\x02].\x01\x00\x00\x00\x00\x00\x00\x00\x00"
    )
    storage = b"ctorch.storage\n_load_from_bytes\nB" + struct.pack("<I", len(inner)) + inner + b"\x85R"
    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n("
        + storage
        + b"K\x00J"
        + struct.pack("<i", count)
        + b"\x85K\x00\x85\x89}tR"
    )


def float_array(count):
    return pickle.dumps(np.zeros(count), 4)[11:-1]  # without PROTO, FRAME and STOP


MEMORY_BOMBS = {
    "select of expanded indices": b"\x80\x04cchumpy.reordering\nSelect\n)\x81}(X\x01\x00\x00\x00a"
    + float_array(1) + b"X\x04\x00\x00\x00idxs" + expanded_tensor(2**18) + b"ub.",
    "text encoded many times": b"\x80\x02X" + struct.pack("<I", 2**16) + b"a" * 2**16 + b"q\x000("
    + 400 * b"c_codecs\nencode\nh\x00X\x06\x00\x00\x00latin1\x86R" + b"t.",
    "text as pairs of a dict": b"\x80\x02X" + struct.pack("<I", 2**16) + b"a" * 2**16 + b"q\x000"
    b"ccollections\nOrderedDict\n](" + 200 * b"h\x00" + b"e\x85R.",
    "lists of one list": b"\x80\x02cchumpy.ch\nCh\n)\x81}X\x01\x00\x00\x00x(" + 8 * b"K\x01" + b"lq\x000"
    + b"".join(b"(" + 8 * (b"h%c" % i) + b"lq%c0" % (i + 1) for i in range(6)) + b"h\x06sb.",
    "sparse matrix, large when dense": pickle.dumps(sparse.coo_matrix(([1.0], ([0], [0])), (4000, 4000)), 2),
    "sparse matrix of objects": pickle.dumps(sparse.csc_matrix(np.eye(2)), 2).replace(b"f8", b"O8"),
}  # fmt: skip


@pytest.mark.parametrize("name", MEMORY_BOMBS)
def test_small_file_cannot_take_much_memory(name):
    assert peak_mb(load_pickle, MEMORY_BOMBS[name]) < 3


@pytest.mark.parametrize(
    "shape", ["(1099511627776,)", "(4611686018427387904, 4)", "(1, -1)", "(" * 500, "(9" + "0" * 5000 + ",)"]
)
def test_npy_header_cannot_take_much_memory(shape):
    header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}}}\n".encode()
    data = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(8)
    assert peak_mb(load_npy, data) < 3


@pytest.mark.parametrize(
    "array",
    [np.arange(6.0).reshape(2, 3), np.asfortranarray(np.arange(6).reshape(2, 3)), np.zeros((0, 3)), np.float32(1)],
)
def test_npy_equals_numpy_load(array):
    file = io.BytesIO()
    np.save(file, array)
    got = load_npy(file.getvalue())
    assert (got.dtype, got.shape) == (array.dtype, array.shape)
    assert np.array_equal(got, array)


def test_too_large_file_is_refused_unread(tmp_path):
    path = tmp_path / "large.pkl"
    path.write_bytes(pickle.dumps(bytes(1000)))
    with pytest.raises(UnsafeFile, match="larger than 100 bytes"):
        load_pickle(path, max_bytes=100)


def test_sparse_indices_out_of_range_are_refused():
    matrix = sparse.csc_matrix(np.diag([1.0, 2.0]))
    matrix.indices[1] = 77
    with pytest.raises(UnsafeFile):
        load_pickle(pickle.dumps(matrix))


def test_recursive_list_is_refused():
    loop: list = []
    loop.append(loop)
    with pytest.raises(UnsafeFile, match="contains itself"):
        load_pickle(pickle.dumps(loop))


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_damaged_file_raises_unsafe_file_only(data):
    good = bytearray(
        pickle.dumps(
            {"a": np.arange(3), "s": sparse.csc_matrix(np.eye(2)), "o": OrderedDict(x=[1, {2}])},
            data.draw(st.sampled_from([2, 4])),
        )
    )
    for _ in range(data.draw(st.integers(1, 4))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(UnsafeFile):
        load_pickle(bytes(good[: data.draw(st.integers(1, len(good)))]))
