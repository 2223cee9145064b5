# SPDX-License-Identifier: MIT
"""Writes GGUF version 3, for llama.cpp.

Facts from https://github.com/ggml-org/ggml/blob/master/docs/gguf.md (the format), and from llama.cpp:
conversion/gpt2.py and conversion/base.py (keys, names and types of the tensors of a GPT2LMHeadModel) and
src/models/gpt2.cpp (what is computed from them: always the GELU with tanh; scores are always divided by the
root of the head's size; without an output.weight, the head is token_embd.weight).

Linear weights are [out, in], but the file names the extent that varies fastest first, and so in, out.
Everything but matrices stays F32. On CPUs llama.cpp takes GELU from a table of 16-bit floating point, so that
its logits differ a little even with F32.
"""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import Any, BinaryIO, Iterator

from ..atomic import atomic_file
from ..checkpoint import Checkpoint, is_embedding, is_matrix
from ..errors import ConvertError
from ..messages import shown
from ..progress import Progress
from ..safetensors_writer import write_array
from ..tensors import NUMPY_TYPES, TensorSource
from ..tokenizer_tables import TokenizerTables, spell

MAGIC = b"GGUF"
VERSION = 3
ALIGNMENT = 32
GGML_TYPES = {"F32": 0, "F16": 1}  #: of elements; the numbers of general.file_type are the same for these two

UINT32, INT32, FLOAT32, BOOL, STRING, ARRAY = 4, 5, 6, 7, 8, 9  #: types of values
SCALARS = {UINT32: "<I", INT32: "<i", FLOAT32: "<f", BOOL: "<?"}

NORMAL_TOKEN, CONTROL_TOKEN, UNUSED_TOKEN = 1, 3, 5

LAYER_NAMES = {
    "ln_1": "attn_norm",
    "attn.c_attn": "attn_qkv",
    "attn.c_proj": "attn_output",
    "ln_2": "ffn_norm",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
}
OTHER_NAMES = {"wte": "token_embd", "wpe": "position_embd", "ln_f": "output_norm", "lm_head": "output"}


def write_file(
    out: Path, model: Checkpoint, dtype: str, *, overwrite: bool = False, quiet: bool = False
) -> None:
    """Writes a model, one tensor after the other. dtype: of the matrices, F32 or F16."""
    if dtype not in GGML_TYPES:
        raise ConvertError(f'"{out}": expected F32 or F16 as the type of a GGUF file, found {dtype}')
    _refuse_other_computations(model)
    entries = [
        (tensor, _tensor_name(name), dtype if is_matrix(name) else "F32")
        for name, tensor in model.tensors.items()
    ]
    header = _header(_metadata(model, dtype), entries)
    size = len(header) + sum(_padded(_size(tensor, kind)) for tensor, _, kind in entries)
    progress = Progress(out.name, size, quiet=quiet)
    with atomic_file(out, overwrite=overwrite, expected_size=size) as file:
        file.write(bytes(len(header)))  # the header comes last, so that nothing interrupted looks complete
        for tensor, _, kind in entries:
            _write_tensor(file, tensor, kind)
            progress.update(file.tell())
        file.seek(0)
        file.write(header)
    progress.finish()


def _refuse_other_computations(model: Checkpoint) -> None:
    for key, computed in {
        "activation_function": "gelu_new",
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
    }.items():
        if getattr(model.config, key) != computed:
            raise ConvertError(
                f'"{model.source.config_name}": "{key}": expected {shown(computed)}, because llama.cpp '
                f"computes nothing else for GPT-2, found {shown(getattr(model.config, key))}"
            )


def _metadata(model: Checkpoint, dtype: str) -> dict[str, tuple[int, Any]]:
    """Types and values by key, in the order of convert_hf_to_gguf.py."""
    config, source = model.config, model.source
    if source.vocab_json is None or source.merges_txt is None:
        raise ConvertError(f'"{source.config_name}": expected a tokenizer for a GGUF file, found none')
    tokenizer = TokenizerTables(source.vocab_json, source.merges_txt, source.config_name)
    tokens, kinds = _tokens(tokenizer, config.vocab_size, source.config_name)
    merges = [f"{spell(left)} {spell(right)}" for left, right in tokenizer.merges]
    values: dict[str, tuple[int, Any]] = {
        "general.architecture": (STRING, "gpt2"),
        "general.type": (STRING, "model"),
        "general.name": (STRING, source.revision or "GPT-2"),
        "gpt2.block_count": (UINT32, config.n_layer),
        "gpt2.context_length": (UINT32, config.n_positions),
        "gpt2.embedding_length": (UINT32, config.n_embd),
        "gpt2.feed_forward_length": (UINT32, config.n_inner),
        "gpt2.attention.head_count": (UINT32, config.n_head),
        "gpt2.attention.layer_norm_epsilon": (FLOAT32, config.layer_norm_epsilon),
        "general.file_type": (UINT32, GGML_TYPES[dtype]),
        "general.quantization_version": (UINT32, 2),
        "tokenizer.ggml.model": (STRING, "gpt2"),
        "tokenizer.ggml.pre": (STRING, "gpt-2"),
        "tokenizer.ggml.tokens": (ARRAY, (STRING, tokens)),
        "tokenizer.ggml.token_type": (ARRAY, (INT32, kinds)),
        "tokenizer.ggml.merges": (ARRAY, (STRING, merges)),
        "tokenizer.ggml.add_bos_token": (BOOL, False),
    }
    for key, token in (("bos", config.bos_token_id), ("eos", config.eos_token_id)):
        if token is not None:
            values[f"tokenizer.ggml.{key}_token_id"] = (UINT32, token)
    if source.original_ids:  # a key of this program; llama.cpp does not look at it
        values["gpt2.original_ids"] = (STRING, source.original_ids)
    return values


def _tokens(tokenizer: TokenizerTables, vocab_size: int, name: str) -> tuple[list[str], list[int]]:
    """A token for every row of the embeddings; names of those without one as in convert_hf_to_gguf.py."""
    if len(tokenizer) > vocab_size:
        raise ConvertError(
            f'"{name}": "vocab_size": expected at least {len(tokenizer)}, the tokens of the tokenizer, '
            f"found {vocab_size}"
        )
    unused = range(len(tokenizer), vocab_size)
    tokens = tokenizer.spellings + [f"[PAD{index}]" for index in unused]
    kinds = [CONTROL_TOKEN if special else NORMAL_TOKEN for special in tokenizer.is_special]
    return tokens, kinds + [UNUSED_TOKEN] * len(unused)


def _tensor_name(key: str) -> str:
    stem, _, kind = key.rpartition(".")
    if not stem.startswith("h."):
        return f"{OTHER_NAMES[stem]}.{kind}"
    _, layer, part = stem.split(".", 2)
    return f"blk.{layer}.{LAYER_NAMES[part]}.{kind}"


def _size(tensor: TensorSource, dtype: str) -> int:
    return math.prod(tensor.shape) * NUMPY_TYPES[dtype].itemsize


def _padded(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _header(values: dict[str, tuple[int, Any]], entries: list[tuple[TensorSource, str, str]]) -> bytes:
    """All that stands before the elements, padded."""
    parts = [MAGIC, struct.pack("<IQQ", VERSION, len(entries), len(values))]
    for key, (kind, value) in values.items():
        parts += [_string(key), struct.pack("<I", kind), *_value(kind, value)]
    offset = 0
    for tensor, name, dtype in entries:
        extents = tensor.shape[::-1] if _is_out_in(tensor) else tensor.shape
        parts += [_string(name), struct.pack(f"<I{len(extents)}Q", len(extents), *extents)]
        parts.append(struct.pack("<IQ", GGML_TYPES[dtype], offset))
        offset += _padded(_size(tensor, dtype))
    header = b"".join(parts)
    return header.ljust(_padded(len(header)), b"\0")


def _is_out_in(tensor: TensorSource) -> bool:
    """Whether a tensor is kept as GGUF wants it: all but the weights of linear layers are."""
    return is_embedding(tensor.name) or not is_matrix(tensor.name)


def _value(kind: int, value: Any) -> Iterator[bytes]:
    if kind == STRING:
        yield _string(value)
    elif kind == ARRAY:
        element_kind, elements = value
        yield struct.pack("<IQ", element_kind, len(elements))
        for element in elements:
            yield from _value(element_kind, element)
    else:
        yield struct.pack(SCALARS[kind], value)


def _string(text: str) -> bytes:
    data = text.encode("utf-8", "replace")
    return struct.pack("<Q", len(data)) + data


def _write_tensor(file: BinaryIO, tensor: TensorSource, dtype: str) -> None:
    elements = tensor.read_as(dtype)
    write_array(file, elements if _is_out_in(tensor) else elements.T)
    size = _size(tensor, dtype)
    file.write(bytes(_padded(size) - size))
