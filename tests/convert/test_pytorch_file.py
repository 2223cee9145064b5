# SPDX-License-Identifier: MIT
"""The reader of PyTorch's files: against torch, against files that torch wrote, and against hostile ones."""

from __future__ import annotations

import io
import os
import pickle
import struct
import tarfile
import tracemalloc
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any, Callable

import numpy as np
import pytest

import pytorch_writer as by_hand
from gpt2_convert import pytorch_file
from gpt2_convert.errors import ConvertError, SafetyError
from gpt2_convert.pytorch_file import is_pytorch_file, read
from gpt2_convert.tensors import TensorSource, to_float32

DATA = Path(__file__).parent / "data" / "pytorch"
FORMATS = sorted(by_hand.WRITERS)


@pytest.fixture(params=FORMATS)
def write(request: Any, tmp_path: Path) -> Callable[..., Path]:
    """Writes a file of either format."""
    writer = by_hand.WRITERS[request.param]
    return lambda *arguments: writer(tmp_path / "model.bin", *arguments)


def refused(path: Path, message: str, kind: type[ConvertError] = ConvertError) -> None:
    with pytest.raises(ConvertError, match=message) as error:
        read(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    assert type(error.value) is kind


# Files that torch wrote.


@pytest.mark.parametrize("format", FORMATS)
def test_files_of_torch(format: str) -> None:
    path = DATA / f"{format}.bin"
    assert is_pytorch_file(path)
    tree = read(path)
    assert tree["args"] == {"n_layer": 2, "bias": False, "lr": 1e-3}
    assert tree["steps"] == [1, (2, None), "x"]
    tensors = tree["model"]
    assert type(tensors) is dict
    numbers = (np.arange(12) / 8).reshape(3, 4)
    expected = {
        "plain": ("F32", numbers),
        "tied": ("F32", numbers),
        "transposed": ("F32", numbers.T),
        "part": ("F32", numbers[1:, 2]),
        "expanded": ("F32", [[0.5, 0.5, 0.5], [2.0, 2.0, 2.0]]),
        "parameter": ("F16", [1.0, -2.0]),
        "bfloat16": ("BF16", [1.0, 3.140625, -0.0]),
        "double": ("F64", 0.1),
        "empty": ("F32", np.zeros((0, 5))),
    }
    assert list(tensors) == [*list(expected)[:-1], "mask", "empty"]
    for name, (dtype, values) in expected.items():
        source = tensors[name]
        assert (source.name, source.dtype, source.shape) == ("", dtype, np.shape(values))
        array = source.read()
        assert array.flags.c_contiguous
        plain = to_float32(array, dtype) if dtype == "BF16" else array
        assert np.array_equal(plain, values) and np.array_equal(np.signbit(plain), np.signbit(values))
    assert (tensors["mask"].dtype, tensors["mask"].shape) == ("BOOL", (1, 2))
    assert np.array_equal(tensors["mask"].load(), [[True, False]])
    with pytest.raises(ConvertError, match="expected floating-point weights .* found BOOL"):
        tensors["mask"].read()


@pytest.mark.parametrize("new_format", [True, False])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_state_dictionaries(tmp_path: Path, new_format: bool, protocol: int) -> None:
    torch = pytest.importorskip("torch")
    torch.manual_seed(1)
    module = torch.nn.ModuleDict(
        {
            "wte": torch.nn.Embedding(7, 6),
            "head": torch.nn.Linear(6, 7, bias=False),
            "float16": torch.nn.Linear(3, 5).to(torch.float16),
            "bfloat16_": torch.nn.Linear(3, 5).to(torch.bfloat16),
            "float64": torch.nn.LayerNorm(4).to(torch.float64),
        }
    )
    module["head"].weight = module["wte"].weight
    module.register_buffer("mask", torch.tril(torch.ones(4, 4, dtype=torch.uint8)))
    states = {
        "state": module.state_dict(),
        "parameters": dict(module.named_parameters()),
        "views": [
            module["wte"].weight.data.t(),
            module["wte"].weight.data[1:6:2, 1:].t(),
            module["wte"].weight.data.view(7, 2, 3).permute(2, 0, 1),
            module["wte"].weight.data.unfold(0, 3, 1),  # overlaps
            torch.tensor(2.5),
        ],
        "many": list(range(1000)) + [-1, 2**40, -(2**70), 300, 1e-300, "\u00e9" * 300, True],
        "size": module["wte"].weight.size(),
        "device": torch.device("cuda", 1),
    }
    path = tmp_path / "x"
    torch.save(states, path, pickle_protocol=protocol, _use_new_zipfile_serialization=new_format)
    assert is_pytorch_file(path)
    tree = read(path)

    def same(source: TensorSource, expected: Any) -> None:
        assert source.shape == tuple(expected.shape)
        if expected.dtype == torch.bfloat16:
            assert np.array_equal(source.load().view(np.int16), expected.detach().view(torch.int16).numpy())
        else:
            assert np.array_equal(source.load(), expected.detach().numpy())

    assert list(tree["state"]) == list(states["state"])
    assert tree["state"]["mask"].dtype == "U8"
    for name, source in tree["state"].items():
        same(source, states["state"][name])
    for name, source in tree["parameters"].items():
        same(source, states["parameters"][name])
    for source, expected in zip(tree["views"], states["views"]):
        same(source, expected)
    assert (tree["many"], tree["size"], tree["device"]) == (states["many"], (7, 6), "cuda:1")


# Files that no torch at hand writes.


FOUR = struct.pack("<4f", 1, 2, 3, 4)
ORDERED = by_hand.name("collections.OrderedDict")
FLOATS = by_hand.name("torch.FloatStorage")


def test_views(write: Callable[..., Path]) -> None:
    view = by_hand.storage("k", 4)
    tree = read(
        write(
            by_hand.program(
                b"(",
                by_hand.tensor(view, 1, (1, 3), (2**62, 1)),  # the stride of an extent of 1 means nothing
                by_hand.tensor(view, 0, (2, 3), (1, 1)),
                by_hand.tensor(view, 3, (2, 2), (0, 0)),
                by_hand.tensor(view, 4, (0, 2**50), (2**60, 1)),
                by_hand.call(by_hand.name("torch._utils._rebuild_tensor"), view, b"K\1", b")", b")"),
                b"t",
            ),
            {"k": FOUR},
        )
    )
    expected = [[[2, 3, 4]], [[1, 2, 3], [2, 3, 4]], [[4, 4], [4, 4]], np.zeros((0, 2**50)), 2]
    for source, values in zip(tree, expected):
        assert np.array_equal(source.read(), values)


def test_parameter_with_attributes(write: Callable[..., Path]) -> None:
    """As PyTorch 2 pickles one: torch/_utils.py, _rebuild_parameter_with_state."""
    data = by_hand.tensor(by_hand.storage("k", 4), 0, (4,), (1,))
    function = by_hand.name("torch._utils._rebuild_parameter_with_state")
    hooks = by_hand.call(by_hand.name("collections.OrderedDict"))
    tree = read(
        write(
            by_hand.program(by_hand.call(function, data, b"\x88", hooks, by_hand.value({"x": 1}))),
            {"k": FOUR},
        )
    )
    assert np.array_equal(tree.read(), [1, 2, 3, 4])


@pytest.mark.parametrize("format", FORMATS)
def test_untyped_storages_and_dictionaries_of_python_2(tmp_path: Path, format: str) -> None:
    view = by_hand.storage("k", 16, "torch.storage.UntypedStorage")
    ordered = by_hand.call(ORDERED, b"](](U\1aNee")  # OrderedDict([["a", None]])
    writer = by_hand.WRITERS[format]
    sizes = [1] if format == "legacy" else []
    pickled = by_hand.program(by_hand.tensor(view, 0, (16,), (1,)), ordered, b"\x86")
    tree = read(writer(tmp_path / "x", pickled, {"k": FOUR}, *sizes))
    assert (tree[0].dtype, tree[1]) == ("U8", {"a": None})


def test_types_that_numpy_lacks(tmp_path: Path) -> None:
    view = by_hand.storage("k", 2, "torch.ComplexFloatStorage")
    path = by_hand.write_zip(
        tmp_path / "x", by_hand.program(by_hand.tensor(view, 0, (2,), (1,))), {"k": FOUR}
    )
    with pytest.raises(ConvertError, match=r'storage "k", shape \[2\]: expected elements .* found C64'):
        read(path).load()


def test_part_of_a_storage_in_old_files(tmp_path: Path) -> None:
    view = by_hand.storage("k", 4, part=("v", 1, 2))
    path = by_hand.write_legacy(
        tmp_path / "x", by_hand.program(by_hand.tensor(view, 1, (1,), (1,))), {"k": FOUR}
    )
    assert read(path).read() == 3
    by_hand.write_legacy(path, by_hand.program(by_hand.tensor(view, 1, (2,), (1,))), {"k": FOUR})
    refused(path, "a tensor within the 2 elements")
    view = by_hand.storage("k", 4, part=("v", 3, 2))
    by_hand.write_legacy(path, by_hand.program(by_hand.tensor(view, 0, (1,), (1,))), {"k": FOUR})
    refused(path, r'a part of the 4 elements of storage "k".* found 3 \+ 2')


def test_the_oldest_format_is_named(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    with tarfile.open(path, "w:", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(tarfile.TarInfo("sys_info"), io.BytesIO())
    assert is_pytorch_file(path)
    refused(path, "the tar archive of PyTorch 0.1")


def test_foreign_files(tmp_path: Path) -> None:
    contents = [
        b"",
        b"P",
        b"PK\3\4",
        b"PK\3\4" + bytes(100),
        bytes(600),
        os.urandom(600),
        pickle.dumps({}, 2),
        pickle.dumps(os.system, 2),
        b"\2\0\0\0\0\0\0\0{}",
        b"\x80\x02",
    ]
    for index, content in enumerate(contents):
        path = tmp_path / str(index)
        path.write_bytes(content)
        assert not is_pytorch_file(path)
        refused(path, "expected a file that torch.save wrote|expected a zip archive")
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("data.pkl", "not in a directory")
    assert not is_pytorch_file(tmp_path / "x.zip")
    assert not is_pytorch_file(tmp_path)
    assert not is_pytorch_file(tmp_path / "none")
    refused(tmp_path, "found a directory")


# Pickles that want more than to be data.


class Call:
    """Pickles as a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.reduced = (function, arguments)

    def __reduce__(self) -> Any:
        return self.reduced


def attacks(marker: str) -> dict[str, tuple[Any, str]]:
    command = f"touch {marker}"
    code = f"open({marker!r}, 'w')"
    return {
        "system": (Call(os.system, command), r"(posix|nt)\.system"),
        "eval": (Call(eval, code), r"(builtins|__builtin__)\.eval"),
        "exec": (Call(exec, code), r"(builtins|__builtin__)\.exec"),
        "open": (Call(open, marker, "w"), r"_?io\.open"),
        "nested": ({"a": [(Call(eval, Call(str.join, "", [code])),)]}, r"\w+\.eval"),
        "in a state dict": (OrderedDict(weight=Call(os.system, command)), r"\w+\.system"),
        "getattr": (Call(getattr, "", "join"), r"\w+\.getattr"),
        "named only": ([os.system], r"\w+\.system"),
        "class": (io.BytesIO, r"_io\.BytesIO"),
        "instance": (Path("x"), r"pathlib\.\w+"),
        "set": ({1, 2}, r"\w+\.set"),
        "self": (ConvertError("x"), r"gpt2_convert\.errors\.ConvertError"),
    }


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("attack", attacks(""))
def test_nothing_is_executed(write: Callable[..., Path], tmp_path: Path, attack: str, protocol: int) -> None:
    marker = tmp_path / "executed"
    value, name = attacks(str(marker))[attack]
    pickled = pickle.dumps(value, protocol)
    if protocol == 4 and attack == "set":
        refused(write(pickled), "an instruction for plain data")  # which has one for sets
    else:
        path = write(pickled)
        assert is_pytorch_file(path)
        refused(path, f'the name "{name}".*nothing was executed', SafetyError)
    assert not marker.exists()
    # The attack would work, had it a chance.
    if attack in ("system", "eval", "open", "nested", "in a state dict"):
        pickle.loads(pickled)
        assert marker.exists()


@pytest.mark.parametrize(
    "name",
    [
        "torch.hub.load",
        "torch.load",
        "torch.storage._load_from_bytes",
        "torch._utils._rebuild_device_tensor_from_numpy",
        "torch._tensor._rebuild_from_type_v2",
        "torch.FloatStorage.__class__",
        "torch.jit.load",
        "torch.serialization.load",
        "os.system",
        "subprocess.Popen",
        "builtins.getattr",
        "collections.OrderedDict.__init__",
        "collections.defaultdict",
        "numpy.load",
        "gpt2_convert.restricted_pickle.load",
        "__main__.x",
        "\x1b]0;x\x07.x",
    ],
)
def test_names_that_are_refused(write: Callable[..., Path], name: str) -> None:
    for instructions in (
        by_hand.name(name),
        by_hand.value(name.rpartition(".")[0]) + by_hand.value(name.rpartition(".")[2]) + b"\x93",
    ):
        with pytest.raises(SafetyError) as error:
            read(write(by_hand.program(instructions)))
        assert ascii(name)[1:-1] in str(error.value)
        assert str(error.value).isprintable()


@pytest.mark.parametrize(
    "instructions, message",
    [
        # Calls of what is no function.
        (FLOATS + b")R", 'a call of "torch.FloatStorage"'),
        (b"X\3\0\0\0abc)R", "found a call of"),
        (by_hand.storage("k", 4) + b")R", "found a call of"),
        (ORDERED + b"]R", "found a call of"),
        # Other ways to make objects and to set attributes.
        (ORDERED + b")\x81", "an instruction for plain data"),  # NEWOBJ
        (b"(" + ORDERED + b"o", "an instruction for plain data"),  # OBJ
        (b"(ios\nsystem\n", "an instruction for plain data"),  # INST
        (b"\x82\1", "an instruction for plain data"),  # EXT1
        (b"Pk\n", "an instruction for plain data"),  # PERSID
        (b"]2", "an instruction for plain data"),  # DUP
        (b"\x96" + bytes(8), "an instruction for plain data"),  # BYTEARRAY8
        (ORDERED + b"}b", "a dict to fill"),  # BUILD
        (by_hand.tensor(by_hand.storage("k", 4), 0, (4,), (1,)) + b"}b", "a dict to fill"),
        (by_hand.tensor(by_hand.storage("k", 4), 0, (4,), (1,)) + b"NNs", "a dict to fill"),
        # What is no plain data in the end.
        (ORDERED, "found collections.OrderedDict"),
        (b"](" + FLOATS + b"e", "found torch.FloatStorage"),
        (by_hand.storage("k", 4), "found a storage"),
        # Damaged programs.
        (b"", "a valid pickle"),
        (b"0", "a valid pickle"),
        (b"t", "a valid pickle"),
        (b"h\0", "a valid pickle"),
        (b"j\xff\xff\xff\xff", "a valid pickle"),
        (b"N\x87", "3 values.* found 1"),
        (b"}(Nu", "pairs of keys and values"),
        (b"]]]s", "a dict to fill|text or whole numbers"),
        (b"NNa", "a list to fill"),
        (b"N(Ne", "a list to fill"),
        (b"\x80\x09", "at most 5.* found 9"),
        (b"X\2\0\0\0\xff\xff", "a valid pickle"),
        (b"T\xff\xff\xff\xff", "a length"),
        (b"X\xff\xff\xff\xff", "4294967295 more bytes"),
        (b"\x8d" + b"\xff" * 8, "18446744073709551615 more bytes"),
        (b"\x8e" + b"\xff" * 8, "18446744073709551615 more bytes"),
        (b"NN\x93", "the name of a global"),
        (b"cos\xff\nx\n", "a valid pickle"),
        # Dictionaries.
        (b"}))s", "keys that are text or whole numbers.* found tuple"),
        (b"}G" + bytes(8) + b"Ns", "keys that are text or whole numbers.* found 0.0"),
        (b"}\x8a\x0a" + b"\1" * 10 + b"Ns", "keys that are text or whole numbers"),
        (b"}(K\1NK\1Nu", "every key once in a dictionary.* found 1 twice"),
        (by_hand.call(ORDERED, b"N"), "a list of pairs"),
        (by_hand.call(ORDERED, b"](Ne"), "pairs for an OrderedDict"),
        (by_hand.call(ORDERED, b"]", b"]"), "a valid pickle"),
        # Storages.
        (b"NQ", "a reference to a storage"),
        (by_hand.as_tuple(b"X\6\0\0\0module", FLOATS, b"N", b"N") + b"Q", "a reference to a storage"),
        (by_hand.as_tuple(b"X\6\0\0\0module", FLOATS, b"N", b"N", b"N") + b"Q", "a reference to a storage"),
        (by_hand.storage("k", 4, "collections.OrderedDict"), "a type of storage"),
        (by_hand.as_tuple(*[b"X\7\0\0\0storage"] * 5) + b"Q", "a type of storage"),
        (by_hand.storage(1, 4), "a storage's key.* found 1"),
        (by_hand.storage("k", -1), "found -1"),
        (by_hand.storage("k", True), "found true"),
        (by_hand.storage("k", 4, part=7), "a part of a storage"),
        # Tensors.
        (by_hand.tensor(b"N", 0, (), ()), "a tensor's storage.* found null"),
        (
            by_hand.tensor(by_hand.storage("k", 4), 0, (5,), (1,)),
            "within the 4 elements .* ends at element 5",
        ),
        (by_hand.tensor(by_hand.storage("k", 4), 1, (4,), (1,)), "ends at element 5"),
        (by_hand.tensor(by_hand.storage("k", 4), 5, (0,), (1,)), "ends at element 5"),
        (by_hand.tensor(by_hand.storage("k", 4), 2**63 - 1, (), ()), "ends at element 9223372036854775808"),
        (by_hand.tensor(by_hand.storage("k", 4), 0, (2, 2), (3, 1)), "ends at element 5"),
        (by_hand.tensor(by_hand.storage("k", 4), 0, (2,), (2**62,)), "ends at element"),
        (by_hand.tensor(by_hand.storage("k", 4), 0, (2,), (2**64,)), "found 18446744073709551616"),
        (by_hand.tensor(by_hand.storage("k", 4), 0, (2,), (-1,)), "found -1"),
        (by_hand.tensor(by_hand.storage("k", 4), 0, (-2,), (1,)), "found -2"),
        (by_hand.tensor(by_hand.storage("k", 4), -1, (1,), (1,)), "found -1"),
        (by_hand.tensor(by_hand.storage("k", 4), 0.0, (1,), (1,)), "found 0.0"),
        (by_hand.tensor(by_hand.storage("k", 4), 0, (True,), (1,)), "found true"),
        (by_hand.tensor(by_hand.storage("k", 4), 0, 4, (1,)), "whole numbers for a tensor's shape"),
        (by_hand.tensor(by_hand.storage("k", 4), 0, (4,), ()), "as many strides.* found 1 and 0"),
        (by_hand.tensor(by_hand.storage("k", 4), 0, (1,) * 33, (1,) * 33), "at most 32 dimensions"),
        (by_hand.tensor(by_hand.storage("k", 4), 0, (2**31, 2**31), (0, 0)), "fits 59 bits"),
        (by_hand.tensor(by_hand.storage("k", 4), 0, (0, 2**60), (0, 0)), "fits 59 bits"),
        (by_hand.call(by_hand.name("torch._utils._rebuild_tensor"), b"N"), "a valid pickle"),
        (by_hand.call(by_hand.name("torch._utils._rebuild_parameter"), b"N"), "a parameter's tensor"),
        (by_hand.call(by_hand.name("torch.Size"), by_hand.value(["x"])), "a tensor's size"),
        (by_hand.call(by_hand.name("torch.device"), b"N"), "the name of a device"),
    ],
)
def test_programs_that_are_refused(write: Callable[..., Path], instructions: bytes, message: str) -> None:
    with pytest.raises(ConvertError, match=message) as error:
        read(write(by_hand.program(instructions), {"k": FOUR}))
    assert str(error.value).isprintable()


def test_tensors_larger_than_the_file_are_not_made(write: Callable[..., Path]) -> None:
    view = by_hand.storage("k", 4)
    source = read(write(by_hand.program(by_hand.tensor(view, 0, (2**20, 2**20), (0, 0))), {"k": FOUR}))
    with pytest.raises(ConvertError, match="no larger than the file"):
        source.read()


@pytest.mark.parametrize("count", [3, 5, 2**40, 2**62])
def test_sizes_of_storages_that_lie(write: Callable[..., Path], count: int) -> None:
    pickled = by_hand.program(by_hand.tensor(by_hand.storage("k", count), 0, (count,), (1,)))
    refused(write(pickled, {"k": FOUR}), "16 bytes|4 elements of 4 bytes|59 bits")


# Pickles that want to be large, or to take for ever. These would take minutes, or all memory, if they could.


def test_bombs(write: Callable[..., Path]) -> None:
    laughs = b"]" + b"".join(b"q%c](" % i + b"h%c" % i * 9 + b"e" for i in range(200))
    assert isinstance(read(write(by_hand.program(laughs))), list)

    tuples = b")" + b"".join(b"q%ch%c\x86" % (i, i) for i in range(200))
    assert isinstance(read(write(by_hand.program(tuples))), tuple)
    refused(write(by_hand.program(b"}" + tuples + b"Ns")), "found tuple")

    deep = read(write(by_hand.program(b"]" * 200_000 + b"a" * 199_999)))
    assert len(deep) == 1

    inside_itself = read(write(by_hand.program(b"]q\0h\0a")))
    assert inside_itself[0] is inside_itself

    assert read(write(by_hand.program(b"Nr\xff\xff\xff\xff"))) is None  # the memo is no array

    pairs = b"](" + b"".join(b"(M" + struct.pack("<H", i) + b"Nt" for i in range(20_000)) + b"eq\0"
    copies = b"".join(by_hand.call(ORDERED, b"h\0") for _ in range(1000))
    refused(write(by_hand.program(pairs, b"(", copies, b"t")), "copied many times")


def test_reading_takes_no_more_memory_than_the_pickle(tmp_path: Path) -> None:
    size = 1 << 30
    path = tmp_path / "model.bin"
    pickled = by_hand.program(by_hand.tensor(by_hand.storage("k", size // 4), size // 4 - 2, (2,), (1,)))
    by_hand.write_legacy(path, pickled, {"k": b""})
    content = path.read_bytes()[:-8] + struct.pack("<q", size // 4)
    path.write_bytes(content)
    os.truncate(path, len(content) + size)  # sparse
    tracemalloc.start()
    try:
        assert np.array_equal(read(path).read(), [0, 0])
        assert tracemalloc.get_traced_memory()[1] < 40 << 20
    finally:
        tracemalloc.stop()


# Archives.


def test_compressed_entries_are_refused(tmp_path: Path) -> None:
    path = by_hand.write_zip(
        tmp_path / "x", bytes(100 << 20), {}, compression=zipfile.ZIP_DEFLATED  # a bomb: 100 kB in the file
    )
    tracemalloc.start()
    try:
        refused(path, "expected uncompressed data, .* found compression method 8")
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_a_large_pickle_is_refused(tmp_path: Path) -> None:
    path = by_hand.write_zip(tmp_path / "x", bytes(pytorch_file.MAX_PICKLE_SIZE + 1))
    refused(path, 'entry "archive/data.pkl": expected at most 16777216 bytes, found 16777217')


@pytest.mark.parametrize(
    "name",
    [
        "../x",
        "archive/../../x",
        "/etc/passwd",
        "archive/..",
        "a\\..\\x",
        "C:/x",
        "./x",
        "..",
        "archive/data/\0",
    ],
)
def test_paths_out_of_the_archive_are_refused(tmp_path: Path, name: str) -> None:
    placeholder = "#" * len(name)
    path = by_hand.write_zip(tmp_path / "x", by_hand.program(b"N"), {}, {placeholder: b"evil"})
    path.write_bytes(path.read_bytes().replace(placeholder.encode(), name.encode()))
    assert is_pytorch_file(path)
    before = sorted(tmp_path.iterdir())
    refused(path, "expected names within the archive", SafetyError)
    assert sorted(tmp_path.iterdir()) == before


def test_keys_do_not_lead_out_of_the_archive(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(FOUR)
    pickled = by_hand.program(by_hand.tensor(by_hand.storage("../../secret", 4), 0, (4,), (1,)))
    refused(by_hand.write_zip(tmp_path / "x", pickled), "an entry .* found none")


def test_other_archives_are_refused(tmp_path: Path) -> None:
    plain = by_hand.program(b"N")
    path = tmp_path / "x"
    refused(by_hand.write_zip(path, plain, {}, {"other/data.pkl": plain}), 'one entry "data.pkl", found 2')
    refused(by_hand.write_zip(path, plain, {}, {"archive/constants.pkl": plain}), "a TorchScript program")
    refused(
        by_hand.write_zip(path, plain, {}, {"archive/byteorder": b"big"}), 'expected "little", found "big"'
    )
    refused(by_hand.write_zip(path, plain + b"N"), "the end of the pickle.* found 1 bytes more")
    assert read(by_hand.write_zip(path, plain, {}, {"archive/byteorder": b"little"})) is None
    with pytest.warns(UserWarning):
        by_hand.write_zip(path, plain, {}, {"archive/data.pkl": plain})
    refused(path, "expected every name once")


@pytest.mark.parametrize(
    "field, value, message",
    [
        (8, struct.pack("<H", 1), "expected plain data, found encrypted data"),
        (
            20,
            struct.pack("<II", 2**31, 2**31),
            "expected 2147483648 bytes at byte .* the end of the file",
        ),
        (24, struct.pack("<I", 17), "found compression method 0, 16 bytes for 17"),
        (42, struct.pack("<I", 1), "expected its header at byte 1, found something else"),
        (42, struct.pack("<I", 2**31), "expected 30 bytes at offset 2147483648"),
    ],
)
def test_entries_that_lie(tmp_path: Path, field: int, value: bytes, message: str) -> None:
    """Fields of the archive's directory (APPNOTE.TXT, 4.3.12)."""
    pickled = by_hand.program(by_hand.tensor(by_hand.storage("k", 4), 0, (4,), (1,)))
    path = by_hand.write_zip(tmp_path / "x", pickled, {"k": FOUR})
    data = bytearray(path.read_bytes())
    entry = data.rindex(b"PK\1\2")
    data[entry + field : entry + field + len(value)] = value
    path.write_bytes(data)
    refused(path, f'entry "archive/data/k": {message}|{message}')


def test_checksums(tmp_path: Path) -> None:
    path = by_hand.write_zip(
        tmp_path / "x", by_hand.program(by_hand.tensor(by_hand.storage("k", 4), 0, (2,), (1,))), {"k": FOUR}
    )
    whole = path.read_bytes()
    path.write_bytes(whole.replace(FOUR, FOUR[:-1] + b"?"))  # behind the tensor, in its storage
    source = read(path)
    with pytest.raises(ConvertError, match='storage "k": expected checksum .* found .* .damaged file'):
        source.read()
    path.write_bytes(whole.replace(b"FloatStorage", b"HalfStorage\n"))
    refused(path, "data.pkl.*expected checksum")


@pytest.mark.parametrize("format", FORMATS)
def test_every_truncation_is_noticed(tmp_path: Path, format: str) -> None:
    whole = (DATA / f"{format}.bin").read_bytes()
    path = tmp_path / "x"
    for size in {*range(0, len(whole), 5), *range(len(whole) - 100, len(whole))}:
        path.write_bytes(whole[:size])
        refused(path, "expected")
    for size in range(200, len(whole), 100):
        path.write_bytes(whole[:size])
        assert is_pytorch_file(path)  # so that the message is about the damage
    path.write_bytes(whole + b"\0")
    if format == "legacy":
        refused(path, "some belong to no storage")


def every_tensor(tree: Any) -> list[TensorSource]:
    children = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, (list, tuple)) else []
    return (
        [tree] if isinstance(tree, TensorSource) else [t for child in children for t in every_tensor(child)]
    )


@pytest.mark.parametrize("format", FORMATS)
def test_damage_never_leads_to_more_than_an_error(tmp_path: Path, format: str) -> None:
    whole = (DATA / f"{format}.bin").read_bytes()
    path = tmp_path / "x"
    outcomes = {True: 0, False: 0}
    for position in range(0, len(whole), 2):
        damaged = bytearray(whole)
        damaged[position] ^= (0x01, 0x80, 0xFF)[position % 3]
        path.write_bytes(damaged)
        is_pytorch_file(path)
        try:
            for source in every_tensor(read(path)):
                source.load()
            outcomes[True] += 1
        except ConvertError as error:
            assert str(error).isprintable()
            outcomes[False] += 1
    assert min(outcomes.values()) > 100


def test_legacy_files_that_lie(tmp_path: Path) -> None:
    path = tmp_path / "x"
    pickled = by_hand.program(by_hand.tensor(by_hand.storage("k", 4), 0, (4,), (1,)))
    refused(by_hand.write_legacy(path, pickled, {}), "the 1 storages of the tensors.* found a list of 0")
    refused(by_hand.write_legacy(path, pickled, {"other": FOUR}), "the 1 storages of the tensors")
    refused(by_hand.write_legacy(path, pickled, {"k": FOUR, "l": FOUR}), "the 1 storages of the tensors")
    whole = by_hand.write_legacy(path, pickled, {"k": FOUR}).read_bytes()
    assert np.array_equal(read(path).read(), [1, 2, 3, 4])
    path.write_bytes(whole.replace(b"M\xe9\x03.", b"M\xea\x03."))
    refused(path, "version 1001 of the format.* found 1002")
    path.write_bytes(whole.replace(b"little_endianq\x02\x88", b"little_endianq\x02\x89"))
    refused(path, "a file of a little-endian machine")
    path.write_bytes(whole[:-24] + struct.pack("<q", -4) + FOUR)
    refused(path, "found -4 elements")
    path.write_bytes(whole.replace(pickle.dumps(["k"], 2), pickle.dumps({"k": 1}, 2)))
    refused(path, "a list of storage keys")
    path.write_bytes(whole.replace(pickle.dumps(["k"], 2), pickle.dumps([["k"]], 2)))
    refused(path, "a list of storage keys")
