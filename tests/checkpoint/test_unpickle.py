"""Pickles are read without running them, and only what Paddle and torch write is read."""

import io
import pickle
import struct
import tracemalloc
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
from attack import Attack
from checkpoint_samples import (
    TorchPickler,
    TorchTensor,
    fake_torch,
    np_dtype,
    same_bits,
    write_torch_bin,
    write_torch_legacy,
)

from glm.checkpoint import load_pdparams, load_torch_bin, verify_pickle
from glm.errors import GLMError
from glm.pickles.unpickle import PADDLE_NAMES

LEGACY = Path(__file__).parent / "legacy"
READERS = {"pdparams": load_pdparams, "bin": load_torch_bin, "pdopt": verify_pickle}


def arrays():
    draw = np.random.default_rng(0)
    return {
        "small": draw.standard_normal((3, 4)).astype("float32"),
        "big": draw.standard_normal((300, 200)).astype("float32"),  # outside the pickle's frames
        "half": draw.standard_normal(5).astype("float16"),
        "whole": draw.integers(0, 9, (2, 3, 4)),
        "fortran": np.asfortranarray(draw.standard_normal((6, 50)).astype("float32")),
        "scalar": np.array(3.5, "float32"),
        "empty": np.zeros((0, 4), "float32"),
        "swapped": np.arange(6, dtype=">f4"),
    }


def dump(path, content, protocol=4):
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    return path


def raw(*opcodes: bytes) -> bytes:
    return b"\x80\x04" + b"".join(opcodes) + b"."


def text(value: str) -> bytes:
    return b"\x8c" + bytes([len(value)]) + value.encode()


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_pdparams_round_trip(tmp_path, protocol):
    table = {"small": "linear_0.w_0"}
    path = dump(tmp_path / "a.pdparams", {**arrays(), "StructuredToParameterName@@": table}, protocol)
    native = {name: array.astype(array.dtype.newbyteorder("=")) for name, array in arrays().items()}
    assert same_bits(load_pdparams(path), native)


def test_pdparams_names_beside_arrays_and_bfloat16(tmp_path):
    bits = np.arange(12, dtype="uint16")
    loaded = load_pdparams(dump(tmp_path / "a.pdparams", {"w": ("linear_0.w_0", bits)}))
    assert same_bits(loaded, {"w": bits.view(np_dtype("bfloat16"))})


def test_pdparams_split_tensors_are_joined(tmp_path):
    whole = np.arange(24, dtype="float32").reshape(2, 3, 4)
    content = {"w@@.0": whole.ravel()[:10], "w@@.1": whole.ravel()[10:]}
    content["UnpackBigParamInfor@@"] = {"w": {"OriginShape": whole.shape, "slices": ["w@@.0", "w@@.1"]}}
    assert same_bits(load_pdparams(dump(tmp_path / "a.pdparams", content, 2)), {"w": whole})


def test_big_pdparams_stay_in_the_file(tmp_path):
    array = load_pdparams(dump(tmp_path / "a.pdparams", arrays()))["big"]
    while isinstance(array, np.ndarray):
        array = array.base
    assert isinstance(array, memoryview)
    assert type(array.obj).__name__ == "mmap"


@pytest.mark.parametrize("content", [[1], {"a": 3}, {"model": {"w": np.zeros(2)}}, {3: np.zeros(2)}])
def test_pdparams_of_something_else(tmp_path, content):
    with pytest.raises(GLMError, match="expected a"):
        load_pdparams(dump(tmp_path / "a.pdparams", content))


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int64", "bool"])
@pytest.mark.parametrize("byteorder", ["little", "big"])
def test_torch_round_trip(tmp_path, dtype, byteorder):
    array = np.arange(-4, 8).reshape(3, 4).astype(np_dtype(dtype))
    path = tmp_path / "pytorch_model.bin"
    write_torch_bin(path, {"w": array, "b": array[0].copy()}, byteorder=byteorder)
    assert same_bits(load_torch_bin(path), {"w": array, "b": array[0]})


def test_torch_shared_storage_transposed_and_empty_views(tmp_path):
    array = np.arange(12, dtype="float32").reshape(3, 4)
    views = {"tied": ("w", 0, (3, 4), (4, 1)), "t": ("w", 0, (4, 3), (1, 4)), "row": ("w", 4, (4,), (1,))}
    views |= {"none": ("w", 0, (0, 4), (4, 1)), "one": ("w", 11, (), ())}
    path = tmp_path / "pytorch_model.bin"
    write_torch_bin(path, {"w": array}, views=views)
    loaded = load_torch_bin(path)
    wanted = {"w": array, "tied": array, "t": array.T, "row": array[1], "none": array[:0], "one": array[2, 3]}
    assert same_bits(loaded, {name: np.asarray(value) for name, value in wanted.items()})
    assert not loaded["w"].flags.writeable


@pytest.mark.parametrize("view", [(1, (3, 4), (4, 1)), (0, (3, 4), (5, 1)), (10**12, (1,), (1,))])
def test_torch_tensor_outside_its_storage(tmp_path, view):
    path = tmp_path / "pytorch_model.bin"
    write_torch_bin(path, {"w": np.zeros((3, 4), "float32")}, views={"evil": ("w", *view)})
    with pytest.raises(GLMError, match=r"pytorch_model.bin is damaged: evil needs \d+ elements .* has 12"):
        load_torch_bin(path)


def test_torch_negative_stride(tmp_path):
    path = tmp_path / "pytorch_model.bin"
    write_torch_bin(path, {"w": np.zeros(4, "float32")}, views={"evil": ("w", 0, (2,), (-400,))})
    with pytest.raises(GLMError, match="impossible shape"):
        load_torch_bin(path)


def test_torch_legacy_format():
    """What torch 2.13 wrote in its form from before 1.6 (make_legacy_fixtures.py), number by number."""
    base, half = np.arange(24, dtype="float32").reshape(4, 6), np.arange(8, dtype="float16")
    read = load_torch_bin(LEGACY / "tensors.bin")
    assert same_bits(
        {name: np.ascontiguousarray(array).reshape(array.shape) for name, array in read.items()},
        {
            "base": base,
            "rows": base[1:3],
            "columns": base[:, 2:4],
            "turned": base.T,
            "every_other": half[::2],
            "half": half,
            "bfloat16": np.arange(1000, dtype="float32").astype(np_dtype("bfloat16")).reshape(10, 100),
            "double": np.full((2, 1, 3), 0.1),
            "whole": np.arange(-3, 3),
            "small": np.arange(5, dtype="uint8"),
            "flags": np.array([True, False, True]),
            "scalar": np.array(2.5, "float32"),
            "empty": np.zeros((0, 4), "float32"),
            "parameter": np.ones(3, "float32"),
        },
    )
    layer = load_torch_bin(LEGACY / "module.bin")
    weight, bias = np.arange(6, dtype="float32").reshape(2, 3), np.full(2, 0.5, "float32")
    assert same_bits(layer, {"weight": weight, "bias": bias})


def test_a_big_legacy_file_stays_mapped(tmp_path):
    """Its arrays are views of the file, which is not read until they are."""
    path = tmp_path / "pytorch_model.bin"
    write_torch_legacy(path, {"w": np.zeros((3000, 1000), "float32"), "b": np.ones(7, "float16")})
    tracemalloc.start()
    read = load_torch_bin(path)
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()
    assert read["w"].shape == (3000, 1000) and not read["w"].flags.owndata and read["b"].sum() == 7


def test_cut_legacy_files(tmp_path):
    good = (LEGACY / "tensors.bin").read_bytes()
    path = tmp_path / "cut.bin"
    for end in (16, 20, 100, len(good) // 2, len(good) - 1):
        path.write_bytes(good[:end])
        with pytest.raises(GLMError, match=r"cut.bin is damaged or cut short"):
            load_torch_bin(path)
    path.write_bytes(good + b"x")
    with pytest.raises(GLMError, match=r"cut.bin is damaged or cut short \(there is more after its end\)"):
        load_torch_bin(path)


def test_a_legacy_storage_that_is_a_part(tmp_path):
    """Torch before 0.4 had such views: (key, start, size) behind the size of the whole."""
    written, path = io.BytesIO(), tmp_path / "pytorch_model.bin"
    write_torch_legacy(path, {"w": np.arange(6, dtype="float32")})
    content = path.read_bytes()
    # The persistent id ends in the storage's size, None and the tuple's end.
    own, part = b"K\x06Nt", b"K\x06(X\x01\x00\x00\x00vK\x02K\x03tt"
    tensor = content.replace(own, part).replace(b"K\x06\x85", b"K\x03\x85")
    written.write(tensor)
    assert content.count(own) == 1
    path.write_bytes(written.getvalue())
    assert load_torch_bin(path)["w"].tolist() == [2, 3, 4]
    path.write_bytes(tensor.replace(b"K\x02K\x03tt", b"K\x04K\x03tt"))
    with pytest.raises(GLMError, match="w needs 3 elements of storage 0, which has 2"):
        load_torch_bin(path)


def test_torch_state_of_something_else(tmp_path):
    path = tmp_path / "pytorch_model.bin"
    write_torch_bin(path, {}, extra={"epoch": 3})
    with pytest.raises(GLMError, match="'epoch' is a int, expected a tensor"):
        load_torch_bin(path)


@pytest.mark.parametrize("place", range(5))
def test_an_attack_in_every_pickle_of_a_legacy_file(tmp_path, place):
    marker, path = tmp_path / "marker", tmp_path / "pytorch_model.bin"
    pickles = [pickle.dumps(content, protocol=2) for content in (0x1950A86A20F9469CFC6C, 1001, {}, {}, [])]
    # Behind the magic number, by which the form is known.
    pickles[place:place] = [pickle.dumps(Attack(marker), protocol=2)] if place else []
    path.write_bytes(b"".join(pickles) if place else pickle.dumps(Attack(marker), protocol=2))
    with pytest.raises(GLMError):
        load_torch_bin(path)
    assert not marker.exists()


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize("reader", [load_pdparams, verify_pickle])
def test_an_attack_is_refused(tmp_path, reader, protocol):
    marker = tmp_path / "marker"
    path = dump(tmp_path / "model_state.pdparams", {"x": Attack(marker), "w": np.zeros(3)}, protocol)
    with pytest.raises(GLMError, match=r"model_state.pdparams is refused: loading it would run posix.system"):
        reader(path)
    assert not marker.exists()
    pickle.loads(path.read_bytes())  # the attack is a real one
    assert marker.exists()


@pytest.mark.parametrize("write", [write_torch_bin, write_torch_legacy])
def test_a_torch_attack_is_refused(tmp_path, write):
    marker, path = tmp_path / "marker", tmp_path / "pytorch_model.bin"
    write(path, {"w": np.zeros(3, "float32")}, extra={"x": Attack(marker)})
    with pytest.raises(GLMError, match=r"pytorch_model.bin is refused: loading it would run posix.system"):
        load_torch_bin(path)
    assert not marker.exists()


GLOBALS = {
    "eval": raw(text("builtins"), text("eval"), b"\x93", text("1"), b"\x85R"),
    "getattr": raw(b"cbuiltins\ngetattr\n)R"),
    "memoized": raw(text("os"), b"\x940", text("system"), b"\x94", b"0h\x00h\x01\x93", text("true"), b"\x85R"),
    "inst": raw(b"(ios\nsystem\n"),
    "dotted": raw(text("numpy"), text("ndarray.__class__"), b"\x93"),
    "copyreg": raw(b"ccopyreg\n_reconstructor\n"),
    "numpy.load": raw(b"cnumpy\nload\n"),
    "runstring": raw(b"cnumpy.testing._private.utils\nrunstring\n"),
    "training args": raw(b"cpaddlenlp.trainer.training_args\nTrainingArguments\n"),
}


@pytest.mark.parametrize("kind", READERS)
@pytest.mark.parametrize("name", GLOBALS)
def test_other_globals_are_refused(tmp_path, kind, name):
    path = tmp_path / f"file.{kind}"
    path.write_bytes(GLOBALS[name])
    if kind == "bin":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", GLOBALS[name])
    with pytest.raises(GLMError, match=rf"file.{kind} is refused: loading it would run"):
        READERS[kind](path)


RECONSTRUCT = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tC\x01btR"
FLOAT32 = (
    b"cnumpy\ndtype\n(" + text("f4") + b"\x89\x88tR(K\x03" + text("<") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
)
# NumPy's own __setstate__ would take these: each reads or writes memory that is not the array's.
FORGED = {
    "object dtype": raw(b"cnumpy\ndtype\n(" + text("O8") + b"\x89\x88tR"),
    "dtype flags": raw(FLOAT32.replace(b"K\x00tb", b"K?tb")),
    "dtype item size": raw(FLOAT32.replace(b"NNNJ\xff\xff\xff\xff", b"NNNJ\xff\x00\x00\x00")),
    "shared dtype": raw(FLOAT32.replace(b"\x89\x88tR", b"\x89\x89tR").replace(text("<"), text(">"))),
    "too few bytes": raw(RECONSTRUCT, b"(K\x01(K\x09t", FLOAT32, b"\x89C\x04abcdtb"),
    "negative size": raw(RECONSTRUCT, b"(K\x01(J\xff\xff\xff\xfft", FLOAT32, b"\x89C\x00tb"),
    "list of objects": raw(RECONSTRUCT, b"(K\x01(K\x01t", FLOAT32, b"\x89]tb"),
    "state on a function": raw(b"cnumpy\ndtype\n}(", text("code"), b"K\x01ub"),
    "slot state on a function": raw(b"c_codecs\nencode\nN}(", text("_make"), b"K\x01u\x86b"),
    "new of a function": raw(b"cnumpy\ndtype\n)\x81"),
    "codec": raw(b"c_codecs\nencode\n(", text("x"), text("rot13"), b"tR"),
    "persistent id": raw(b"K\x01Q"),
    "extension": raw(b"\x82\x01"),
}


@pytest.mark.parametrize("reader", [load_pdparams, verify_pickle])
@pytest.mark.parametrize("name", FORGED)
def test_forged_pickles_are_refused(tmp_path, reader, name):
    path = tmp_path / "file.pdparams"
    path.write_bytes(FORGED[name])
    with pytest.raises(GLMError, match=r"file.pdparams is damaged"):
        reader(path)


def test_the_forgeries_start_from_a_good_array(tmp_path):
    """The building blocks of FORGED are sound: only the forged byte makes the difference."""
    path = tmp_path / "file.pdparams"
    path.write_bytes(raw(b"}", text("w"), RECONSTRUCT, b"(K\x01(K\x01t", FLOAT32, b"\x89C\x04\x00\x00\x80?tbs"))
    assert load_pdparams(path) == {"w": np.ones(1, "float32")}


@pytest.mark.parametrize("reader", [load_pdparams, verify_pickle])
def test_a_second_pickle_behind_the_first(tmp_path, reader):
    path = dump(tmp_path / "file.pdparams", arrays())
    path.write_bytes(path.read_bytes() + pickle.dumps(Attack(tmp_path / "marker")))
    with pytest.raises(GLMError, match="there is more after its end"):
        reader(path)
    assert not (tmp_path / "marker").exists()


def test_stand_ins_survive_a_pickle(tmp_path):
    """A refused pickle leaves the stand-ins as they were for the next file."""
    good = dump(tmp_path / "good.pdparams", arrays())
    before = dict(PADDLE_NAMES)
    for content in FORGED.values():
        (tmp_path / "bad.pdparams").write_bytes(content)
        with pytest.raises(GLMError):
            load_pdparams(tmp_path / "bad.pdparams")
    assert before == PADDLE_NAMES
    assert load_pdparams(good).keys() == arrays().keys()


def test_verify_accepts_plain_training_state(tmp_path):
    state = OrderedDict(
        moment=np.zeros((3, 2), "float32"), step=("x", np.ones(1)), last_lr=np.float64(0.1), flags=[True]
    )
    verify_pickle(dump(tmp_path / "optimizer.pdopt", {"state": state, "LR_Scheduler": {"last_epoch": 3}}))


def test_verify_refuses_damaged_state_and_missing_files(tmp_path):
    good = dump(tmp_path / "good.pdopt", arrays()).read_bytes()
    for end in (0, 1, 40, len(good) // 2, len(good) - 1):
        (tmp_path / "cut.pdopt").write_bytes(good[:end])
        with pytest.raises(GLMError, match=r"cut.pdopt is (damaged or cut short|empty)"):
            verify_pickle(tmp_path / "cut.pdopt")
    with pytest.raises(GLMError, match=r"none.pdopt cannot be read \(No such file or directory\)"):
        verify_pickle(tmp_path / "none.pdopt")


def test_cut_pdparams(tmp_path):
    good = dump(tmp_path / "good.pdparams", arrays()).read_bytes()
    for end in (0, 1, 40, len(good) // 2, len(good) - 1):
        (tmp_path / "cut.pdparams").write_bytes(good[:end])
        with pytest.raises(GLMError, match=r"cut.pdparams is (damaged or cut short|empty)"):
            load_pdparams(tmp_path / "cut.pdparams")


def test_cut_and_compressed_torch_files(tmp_path):
    path = tmp_path / "pytorch_model.bin"
    write_torch_bin(path, {"w": np.zeros((30, 4), "float32")})
    good = path.read_bytes()
    for end in (0, 10, len(good) // 2, len(good) - 1):
        path.write_bytes(good[:end])
        with pytest.raises(GLMError, match=r"pytorch_model.bin is (damaged or cut short|empty)"):
            load_torch_bin(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"x" * 1000)
    with pytest.raises(GLMError, match=r"data.pkl is compressed, torch does not"):
        load_torch_bin(path)


def test_torch_storage_shorter_than_it_says(tmp_path):
    path = tmp_path / "pytorch_model.bin"
    write_torch_bin(path, {"w": np.zeros(4, "float32")})
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members["archive/data/0"] = struct.pack("<2f", 1, 2)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    with pytest.raises(GLMError, match="w needs 4 elements of storage 0, which has 2"):
        load_torch_bin(path)


def test_fake_pickler_is_what_unpickling_needs():
    """The sample writer's pickle names torch, not the test's modules."""
    buffer = io.BytesIO()
    with fake_torch() as torch:
        TorchPickler(buffer, torch).dump({"w": TorchTensor("0", np.zeros(2, "float32"))})
    assert b"ctorch._utils\n_rebuild_tensor_v2\n" in buffer.getvalue()
    assert b"ctorch\nFloatStorage\n" in buffer.getvalue()
