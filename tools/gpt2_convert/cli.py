# SPDX-License-Identifier: MIT
"""The command line of convert_weights.py."""

from __future__ import annotations

import argparse
import functools
import sys
from pathlib import Path
from typing import Sequence

from . import __version__, atomic, checkpoint
from .errors import ConvertError
from .progress import Progress
from .source_model import SourceModel
from .sources import hub, llmc, nanogpt, openai, openai_download, packed, tf_h5
from .sources import huggingface as huggingface_source
from .targets import gguf, huggingface
from .targets.packed import PackedWriter, file_size, source_hash
from .tokenizer_tables import TokenizerTables

DESCRIPTION = """\
Converts GPT-2 weights, in any of the formats they are found in, to the one file that the library maps.

SOURCE is one of
  a Hugging Face directory        config.json with model.safetensors or pytorch_model.bin, whole or in shards
  a name on the Hugging Face hub  gpt2, openai-community/gpt2-medium, distilgpt2, or its URL; it is downloaded
  an OpenAI checkpoint            a directory with hparams.json, encoder.json, vocab.bpe, model.ckpt.*
  a nanoGPT checkpoint            ckpt.pt
  an llm.c checkpoint             model.bin
  a converted file                to change its type, or to write it in another format
"""

EPILOG = """\
examples:
  convert_weights.py gpt2 -o gpt2-f16.safetensors
  convert_weights.py --download 355M -o gpt2-medium.safetensors --dtype bf16
  convert_weights.py out/ckpt.pt -o mine.safetensors --tokenizer path/to/gpt2
  convert_weights.py gpt2-f16.safetensors --to gguf -o gpt2-f16.gguf
"""


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="convert_weights.py",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", nargs="?", metavar="SOURCE", help="what to convert (see above)")
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="what to write; a directory with --to hf"
    )
    parser.add_argument(
        "--dtype",
        choices=("f32", "f16", "bf16"),
        help="of the weight matrices (default: f16; with --to hf, that of the source)",
    )
    parser.add_argument(
        "--to",
        choices=("gpt2", "gguf", "hf"),
        default="gpt2",
        help="gpt2: the library's own file (default); gguf: for llama.cpp; hf: a Hugging Face directory",
    )
    parser.add_argument(
        "--download", choices=tuple(openai_download.SIZES), help="OpenAI's own checkpoint of that size"
    )
    parser.add_argument("--revision", default="main", help="branch, tag or commit on the hub (default: main)")
    parser.add_argument(
        "--tokenizer",
        type=Path,
        metavar="PATH",
        help="where the tokenizer is, for sources without one: a directory with vocab.json and merges.txt "
        "(or encoder.json and vocab.bpe), or a converted file",
    )
    parser.add_argument(
        "--activation",
        choices=("gelu", "gelu_new", "relu"),
        help="of a nanoGPT checkpoint, which does not say (default: gelu, as in nanoGPT's model.py)",
    )
    parser.add_argument(
        "--vocabulary",
        choices=("trim", "keep"),
        default="trim",
        help="what to do with tokens that only fill up a table, 50257 to 50303 of nanoGPT and llm.c (default: trim)",
    )
    parser.add_argument("--inspect", action="store_true", help="write nothing; say what SOURCE is")
    parser.add_argument("--overwrite", action="store_true", help="replace FILE if it exists")
    parser.add_argument("--quiet", action="store_true", help="no progress and no summary")
    parser.add_argument("--version", action="version", version=f"convert_weights.py {__version__}")
    options = parser.parse_args(arguments)
    if (options.source is None) == (options.download is None):
        parser.error("expected a SOURCE or --download, one of the two")
    if options.output is None and not options.inspect:
        parser.error("expected an output: -o FILE (or --inspect)")
    return options


def read_source(options: argparse.Namespace) -> SourceModel:
    """Finds out what the source is, by its content, and opens it."""
    revision = ""
    progress = functools.partial(Progress, quiet=options.quiet)
    if options.download:
        path = openai_download.fetch(options.download, progress=progress)
    else:
        path = Path(options.source)
        if not path.exists() and hub.is_hub_name(options.source):
            path, revision = hub.fetch(options.source, options.revision, progress=progress)
    if not path.exists():
        raise ConvertError(
            f'"{options.source}": expected a file, a directory, or the name of a model on the Hugging Face hub '
            "(like openai-community/gpt2), found no such file"
        )
    source = _open(path, options)
    source.revision = revision or source.revision
    if source.vocab_json is None or source.merges_txt is None:
        source.vocab_json, source.merges_txt = _find_tokenizer(options.tokenizer, path)
    return source


def _open(path: Path, options: argparse.Namespace) -> SourceModel:
    if packed.recognizes(path):
        return packed.read(path)
    if llmc.recognizes(path):
        return llmc.read(path, vocabulary=options.vocabulary)
    if nanogpt.recognizes(path):
        return nanogpt.read(path, activation=options.activation, vocabulary=options.vocabulary)
    if openai.recognizes(path):
        return openai.read(path)
    if tf_h5.recognizes(path):
        return tf_h5.read(path)
    if huggingface_source.recognizes(path):
        return huggingface_source.read(path)
    expected = "one of the sources that --help lists"
    found = "a directory with " + _listing(path) if path.is_dir() else "another file"
    raise ConvertError(f'"{path}": expected {expected}, found {found}')


def _listing(directory: Path) -> str:
    names = sorted(entry.name for entry in directory.iterdir())
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "") or "nothing in it"


def _find_tokenizer(given: Path | None, beside: Path) -> tuple[bytes, bytes]:
    """The tokenizer that the user named, or one that lies beside the weights."""
    if given is not None and packed.recognizes(given):
        model = packed.read(given)
        assert model.vocab_json is not None and model.merges_txt is not None
        return model.vocab_json, model.merges_txt
    directory = given or (beside if beside.is_dir() else beside.parent)
    for names in (("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe")):
        files = [directory / name for name in names]
        if all(file.is_file() for file in files):
            return files[0].read_bytes(), files[1].read_bytes()
    raise ConvertError(
        f'"{directory}": expected a tokenizer, vocab.json and merges.txt or encoder.json and vocab.bpe, found '
        "neither (this source has none of its own: --tokenizer PATH tells where one is)"
    )


def convert(options: argparse.Namespace) -> None:
    source = read_source(options)
    model = checkpoint.check(source)
    assert source.vocab_json is not None and source.merges_txt is not None
    tokenizer = TokenizerTables(source.vocab_json, source.merges_txt, source.config_name)
    if len(tokenizer) > model.config.vocab_size:
        raise ConvertError(
            f'"{source.config_name}": "vocab_size": expected at least the {len(tokenizer)} tokens of the '
            f"tokenizer, found {model.config.vocab_size}"
        )
    if options.inspect:
        print(describe(model, tokenizer))
        return
    _refuse_own_input(options.output, source)
    dtype = options.dtype.upper() if options.dtype else None
    if options.to == "gpt2":
        _write_packed(model, tokenizer, dtype or "F16", options)
    elif options.to == "gguf":
        gguf.write_file(
            options.output, model, dtype or "F16", overwrite=options.overwrite, quiet=options.quiet
        )
    else:
        huggingface.write_directory(
            options.output, model, dtype, overwrite=options.overwrite, quiet=options.quiet
        )


def _refuse_own_input(output: Path, source: SourceModel) -> None:
    for file in source.files:
        if output.exists() and output.samefile(file):
            raise ConvertError(f'"{output}": expected another output than the input')


def _write_packed(
    model: checkpoint.Checkpoint, tokenizer: TokenizerTables, dtype: str, options: argparse.Namespace
) -> None:
    size = file_size(model, dtype)
    with atomic.atomic_file(options.output, overwrite=options.overwrite, expected_size=size) as file:
        writer = PackedWriter(file, model, tokenizer, dtype, source_hash(model.source.files))
        progress = Progress(options.output.name, writer.data_size, quiet=options.quiet)
        summary = writer.write(progress.update)
        progress.finish()
    if not options.quiet:
        print(
            f"{options.output}: {summary.size / 1e6:.1f} MB, {dtype.lower()}, from a {model.source.kind}; "
            f"self-test to {summary.bound:.1e}"
        )


def describe(model: checkpoint.Checkpoint, tokenizer: TokenizerTables) -> str:
    """What --inspect prints."""
    parameters = sum(_elements(tensor.shape) for tensor in model.tensors.values())
    lines = [f"{model.source.kind}{' ' + model.source.revision if model.source.revision else ''}"]
    lines += [f"  {key}: {value}" for key, value in model.config.to_json().items()]
    lines.append(f"  {parameters:,} parameters, {len(tokenizer)} tokens, {len(tokenizer.merges)} merges")
    lines += [f"  {name:<28} {t.dtype:<5} {list(t.shape)}" for name, t in model.tensors.items()]
    return "\n".join(lines)


def _elements(shape: tuple[int, ...]) -> int:
    result = 1
    for extent in shape:
        result *= extent
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse_arguments(arguments)
    try:
        convert(options)
    except ConvertError as error:
        print(f"convert_weights.py: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nconvert_weights.py: interrupted; nothing was written", file=sys.stderr)
        return 130
    return 0
