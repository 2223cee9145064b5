# SPDX-License-Identifier: MIT
"""From what the user names to a model: fetches it if it must, and finds out by its content what it is."""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import json_text, safetensors_file
from .errors import ConvertError
from .file_access import read_all
from .messages import quoted
from .progress import Progress
from .source_model import END_OF_TEXT, SourceModel
from .sources import huggingface, hub, llmc, nanogpt, openai, openai_download, packed, tf_h5

#: Contents of vocab.json and merges.txt.
Tokenizer = tuple[bytes, bytes]

_TOKENIZER_FILES = (("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe"))


@dataclass(frozen=True)
class Request:
    """What the command line says about a source."""

    source: str | None = None  #: a path, a name on the hub or its address
    download: str | None = None  #: the size of one of OpenAI's models, in place of a source
    revision: str | None = None  #: on the hub
    tokenizer: Path | None = None
    activation: str | None = None  #: of a nanoGPT checkpoint
    vocabulary: str | None = None  #: "trim" or "keep", of the formats with padded tables
    quiet: bool = False


def find(request: Request) -> SourceModel:
    """Opens a source. It has no tokenizer if none was found, else the one that the request names, its own, or
    one that lies beside it."""
    path, revision = _locate(request)
    given = _given_tokenizer(request.tokenizer)
    source = _open(path, request, given)
    source.revision = revision or source.revision
    tokenizer = given or _own_tokenizer(source) or _tokenizer_in(_directory(path))
    source.vocab_json, source.merges_txt = tokenizer or (None, None)
    return source


def _locate(request: Request) -> tuple[Path, str]:
    """Where the source is, and its revision if it is from the hub."""
    progress = functools.partial(Progress, quiet=request.quiet)
    if request.download:
        return openai_download.fetch(request.download, progress=progress), ""
    text = request.source or ""
    path = Path(os.path.expanduser(text))
    if os.path.exists(path):
        if request.revision is not None:
            raise ConvertError(
                f'--revision: expected a model on the Hugging Face hub, found the path "{path}"'
            )
        return path, ""
    if _looks_like_path(text):
        advice = f" (for the hub: hf://{text})" if hub.is_hub_name(text) else ""
        raise ConvertError(f'"{text}": expected a file or a directory, found none{advice}')
    if not hub.is_hub_name(text):
        raise ConvertError(
            f"{quoted(text)}: expected a file, a directory, or the name of a model on the Hugging Face hub "
            "(like openai-community/gpt2), found no such file"
        )
    return hub.fetch(text, request.revision or "main", progress=progress)


def _looks_like_path(text: str) -> bool:
    """Whether a name that could be on the hub as well is meant as a path that does not exist."""
    if "://" in text:
        return False
    parent = os.path.dirname(text)
    return text.startswith((".", "/", "~")) or text.endswith("/") or "\\" in text or os.path.isdir(parent)


def _open(path: Path, request: Request, tokenizer: Tokenizer | None) -> SourceModel:
    if nanogpt.recognizes(path):
        tokens = _tokens(tokenizer or _tokenizer_in(_directory(path)))
        source = nanogpt.read(
            path,
            activation=request.activation,
            vocabulary=request.vocabulary or "trim",
            tokenizer_size=len(tokens) or None,
        )
        return _with_end_of_text(source, tokens)
    _refuse(path, "--activation", request.activation, "a nanoGPT checkpoint, the only kind that does not say")
    if llmc.recognizes(path):
        source = llmc.read(path, vocabulary=request.vocabulary or "trim")
        return _with_end_of_text(source, _tokens(tokenizer or _tokenizer_in(_directory(path))))
    _refuse(path, "--vocabulary", request.vocabulary, "a nanoGPT or llm.c checkpoint")
    for reader in (packed, huggingface, tf_h5, openai):
        if reader.recognizes(path):
            found: SourceModel = reader.read(path)
            return found
    what = f"a directory with {_listing(path)}" if os.path.isdir(path) else "another file"
    if safetensors_file.is_safetensors_file(path):
        safetensors_file.read(path)  # tells what is wrong with a damaged one
        what = f'a safetensors file without a "{huggingface.CONFIG}" beside it'
    raise ConvertError(f'"{path}": expected one of the sources that --help lists, found {what}')


def _with_end_of_text(source: SourceModel, tokens: dict[str, Any]) -> SourceModel:
    """Formats that do not say which token ends a text: it is the one that GPT-2 calls so, if there is one."""
    if tokens:
        end = tokens.get(END_OF_TEXT)
        source.config = {**source.config, "bos_token_id": end, "eos_token_id": end}
    return source


def _refuse(path: Path, option: str, value: str | None, expected: str) -> None:
    if value is not None:
        raise ConvertError(f'{option} {value}: expected {expected}, found "{path}"')


def _listing(directory: Path) -> str:
    names = sorted(os.listdir(directory))
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return ", ".join(map(quoted, names[:8])) + more or "nothing in it"


# The tokenizer.


def _directory(path: Path) -> Path:
    return path if os.path.isdir(path) else path.parent


def _own_tokenizer(source: SourceModel) -> Tokenizer | None:
    if source.vocab_json is None or source.merges_txt is None:
        return None
    return source.vocab_json, source.merges_txt


def _given_tokenizer(path: Path | None) -> Tokenizer | None:
    """The tokenizer that the user names: a directory, a file in it, or a converted file."""
    if path is None:
        return None
    if packed.recognizes(path):
        return _own_tokenizer(packed.read(path))
    found = _tokenizer_in(_directory(path)) if os.path.exists(path) else None
    if found is None:
        raise ConvertError(
            f'--tokenizer "{path}": expected a converted file or a directory with {tokenizer_names()}, '
            f"found {'neither' if os.path.exists(path) else 'no such file'}"
        )
    return found


def _tokenizer_in(directory: Path) -> Tokenizer | None:
    for names in _TOKENIZER_FILES:
        files = [directory / name for name in names]
        if all(os.path.isfile(file) for file in files):
            vocabulary, merges = (read_all(file, json_text.MAX_FILE_SIZE) for file in files)
            return vocabulary, merges
    vocab_json, merges_txt = huggingface.read_tokenizer(directory)
    return (vocab_json, merges_txt) if vocab_json is not None and merges_txt is not None else None


def tokenizer_names() -> str:
    """The files that make a tokenizer, for messages."""
    return ", ".join(" and ".join(names) for names in _TOKENIZER_FILES) + ", or tokenizer.json"


def _tokens(tokenizer: Tokenizer | None) -> dict[str, Any]:
    """Tokens and ids; what is wrong with a vocabulary is found later."""
    vocabulary = json_text.parse(tokenizer[0], "vocab.json") if tokenizer else {}
    return vocabulary if isinstance(vocabulary, dict) else {}
