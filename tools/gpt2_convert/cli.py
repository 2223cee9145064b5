# SPDX-License-Identifier: MIT
"""The command line of convert_weights.py."""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Callable, Sequence

from . import __version__, atomic, checkpoint, trim_vocabulary
from .calibrate import Calibration
from .calibration_text import SELF, calibration
from .describe import describe
from .errors import ConvertError
from .find_source import Request, find, tokenizer_names
from .matrix_types import MatrixTypes
from .mixed import LEAST_BITS, MOST_BITS
from .progress import Progress, size_text
from .source_model import SourceModel
from .sources import openai_download, packed
from .targets import gguf, huggingface
from .targets.packed import PackedWriter, file_size, source_hash
from .tokenizer_tables import TokenizerTables

DESCRIPTION = """\
Converts GPT-2 weights, in any of the formats they are found in, to the one
file that the library maps.

SOURCE is one of
  a Hugging Face directory   config.json beside model.safetensors,
                             pytorch_model.bin (both whole or in shards) or
                             tf_model.h5 (needs h5py); or one of these files
  a model on the hub         gpt2, openai-community/gpt2-medium, distilgpt2,
                             hf://NAME@REVISION or a page's address: downloads
                             (HF_HOME, HF_TOKEN, HF_ENDPOINT mean what they
                             mean to the hub's own programs)
  an OpenAI checkpoint       a directory with hparams.json, encoder.json,
                             vocab.bpe and model.ckpt.*
  a nanoGPT checkpoint       ckpt.pt
  an llm.c checkpoint        the .bin of version 3 or 5
  a converted file           to change its type, or to write another format
"""

EPILOG = """\
examples:
  convert_weights.py gpt2 -o gpt2.safetensors
  convert_weights.py --download 355M -o gpt2-medium.safetensors --dtype bf16
  convert_weights.py out/ckpt.pt --tokenizer path/to/gpt2 -o mine.safetensors
  convert_weights.py gpt2.safetensors --to gguf -o gpt2.gguf
  convert_weights.py gpt2 --vocabulary-from my.txt -o mine.safetensors
  convert_weights.py --inspect gpt2.safetensors
"""


FLOAT_TYPES = ("f32", "f16", "bf16")
INTEGER_TYPES = ("int8", "int4")


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="convert_weights.py",
        usage="%(prog)s [SOURCE | --download SIZE] -o OUTPUT [OPTION...]\n"
        "       %(prog)s [SOURCE | --download SIZE] --inspect",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", nargs="?", metavar="SOURCE", help="what to convert (see above)")
    parser.add_argument(
        "-o", "--output", type=Path, metavar="OUTPUT", help="the file to write; with --to hf a directory"
    )
    parser.add_argument(
        "--dtype",
        choices=FLOAT_TYPES + INTEGER_TYPES,
        help="type of the weight matrices (default: f16; with --to hf that of the source). int8 and int4: "
        "integers in groups that share a scale, 8.25 and 4.5 bits a weight; for the library's own file",
    )
    parser.add_argument(
        "--head-dtype",
        choices=FLOAT_TYPES + INTEGER_TYPES,
        metavar="TYPE",
        help="type of the output head, and so of the token embeddings, which are mostly the same matrix "
        "(default: that of --dtype, but int8 where it is int4)",
    )
    parser.add_argument(
        "--embedding-dtype",
        choices=FLOAT_TYPES + INTEGER_TYPES,
        metavar="TYPE",
        help="type of the token embeddings alone (default: that of the head). Another one than the head's "
        "puts both into the file",
    )
    parser.add_argument(
        "--calibrate",
        metavar="TEXT",
        help="with --dtype int8 or int4: round the layers for the inputs that a text gives them, which costs "
        f"minutes and saves most of the loss of int4. TEXT is a file in UTF-8 of the kind the model is for; "
        f"{SELF}: texts that the model writes itself (a file of that name: ./{SELF})",
    )
    parser.add_argument(
        "--bits",
        type=float,
        metavar="B",
        help="with --dtype int4 and --calibrate: the matrices of the layers have at most B bits a weight, "
        f"{LEAST_BITS:g} to {MOST_BITS:g}. Those that lose most by 4 bits, which is measured on the text, "
        f"become int8 (default: {LEAST_BITS:g}, none)",
    )
    parser.add_argument(
        "--to",
        choices=("gpt2", "gguf", "hf"),
        default="gpt2",
        help="gpt2: the library's own file (default); gguf: for llama.cpp; hf: a Hugging Face directory",
    )
    parser.add_argument(
        "--download",
        choices=tuple(openai_download.SIZES),
        metavar="SIZE",
        help="OpenAI's own checkpoint: " + ", ".join(openai_download.SIZES),
    )
    parser.add_argument("--revision", help="branch, tag or commit on the hub (default: main)")
    parser.add_argument(
        "--tokenizer",
        type=Path,
        metavar="PATH",
        help="a converted file, or a directory with " + tokenizer_names() + " (default: the source's own, or "
        "one that lies beside it)",
    )
    parser.add_argument(
        "--activation",
        choices=("gelu", "gelu_new", "relu"),
        help="of a nanoGPT checkpoint, which does not say (default: gelu, as in nanoGPT's model.py)",
    )
    parser.add_argument(
        "--vocabulary",
        choices=("trim", "keep"),
        help="of a nanoGPT or llm.c checkpoint: drop or keep the rows that fill up its table and belong to "
        "no token of the tokenizer (default: trim)",
    )
    parser.add_argument(
        "--vocabulary-from",
        action="append",
        type=Path,
        metavar="TEXT",
        help="keep the tokens that a text has (a file in UTF-8; several times: several files), what they are "
        "made of, all single bytes and special tokens, and drop all others: smaller and faster, and exact "
        "for texts of kept tokens (docs/pruning.md)",
    )
    parser.add_argument(
        "--min-count",
        type=int,
        metavar="N",
        help="with --vocabulary-from: drop also the tokens that occur less than N times (default: 1)",
    )
    parser.add_argument("--inspect", action="store_true", help="write nothing; say what SOURCE is")
    parser.add_argument("--overwrite", action="store_true", help="replace OUTPUT if it exists")
    parser.add_argument("--quiet", action="store_true", help="no progress and no summary")
    parser.add_argument("--version", action="version", version=f"convert_weights.py {__version__}")
    options = parser.parse_args(arguments)
    if (options.source is None) == (options.download is None):
        parser.error("expected a SOURCE or --download, one of the two")
    if options.output is None and not options.inspect:
        parser.error("expected an output: -o OUTPUT (or --inspect)")
    _check_types(parser, options)
    _check_vocabulary(parser, options)
    _check_bits(parser, options)
    return options


def _check_types(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Types are free in the library's own file alone, and of no effect where nothing is written."""
    if options.to != "gpt2" and options.dtype in INTEGER_TYPES:
        expected = " or ".join(FLOAT_TYPES)
        parser.error(f"--dtype: expected {expected} beside --to {options.to}, found {options.dtype}")
    for name, value in (
        ("--head-dtype", options.head_dtype),
        ("--embedding-dtype", options.embedding_dtype),
    ):
        if value is not None and options.to != "gpt2":
            parser.error(f"{name} {value}: expected no type of its own beside --to {options.to}")
        if value is not None and options.inspect:
            parser.error(f"{name} {value}: expected no type beside --inspect, which writes nothing")
    if options.calibrate is not None and options.dtype not in INTEGER_TYPES:
        expected = " or ".join(INTEGER_TYPES)
        parser.error(f"--calibrate: expected --dtype {expected} beside it, found {options.dtype or 'none'}")
    if options.calibrate is not None and options.inspect:
        parser.error("--calibrate: expected no text beside --inspect, which writes nothing")


def _check_vocabulary(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    if options.vocabulary_from and options.inspect:
        parser.error("--vocabulary-from: expected no text beside --inspect, which writes nothing")
    if options.min_count is not None and not options.vocabulary_from:
        parser.error("--min-count: expected --vocabulary-from beside it, found none")
    if options.min_count is not None and options.min_count < 1:
        parser.error(f"--min-count: expected a number of at least 1, found {options.min_count}")


def _check_bits(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    if options.bits is None:
        return
    if options.dtype != "int4":
        parser.error(f"--bits: expected --dtype int4 beside it, found {options.dtype or 'none'}")
    if options.calibrate is None:
        parser.error("--bits: expected --calibrate beside it, a text to measure with, found none")
    if not LEAST_BITS <= options.bits <= MOST_BITS:
        parser.error(
            f"--bits: expected {LEAST_BITS:g} to {MOST_BITS:g} bits a weight, found {options.bits:g}"
        )


def convert(options: argparse.Namespace) -> None:
    source = find(
        Request(
            source=options.source,
            download=options.download,
            revision=options.revision,
            tokenizer=options.tokenizer,
            activation=options.activation,
            vocabulary=options.vocabulary,
            quiet=options.quiet,
        )
    )
    model = checkpoint.check(source)
    tokenizer = _tokenizer(source, model.config.vocab_size)
    checksum = packed.checksum(source.files[0]) if source.kind == packed.KIND else None
    if options.inspect:
        print(describe(model, tokenizer, checksum))
    if checksum is not None and not checksum.is_correct:
        raise ConvertError(
            f'"{source.files[0]}": expected data with the checksum {checksum.expected}, '
            f"found {checksum.found} (the file is damaged)"
        )
    if not options.inspect:
        _write(model, tokenizer, options)


def _write(
    model: checkpoint.Checkpoint, tokenizer: TokenizerTables | None, options: argparse.Namespace
) -> None:
    if tokenizer is None:
        raise ConvertError(
            f"{model.source.kind}: expected a tokenizer beside it, {tokenizer_names()}, found none "
            "(--tokenizer PATH tells where one is)"
        )
    _refuse_own_input(options.output, model.source)
    if options.vocabulary_from:
        used = trim_vocabulary.used_by(options.vocabulary_from, tokenizer, options.min_count or 1)
        before = len(tokenizer)
        model, tokenizer = trim_vocabulary.trimmed(model, tokenizer, used)
        if not options.quiet:
            print(f"vocabulary: {len(tokenizer):,} of {before:,} tokens")
    dtype, head, embedding = (
        name.upper() if name else None
        for name in (options.dtype, options.head_dtype, options.embedding_dtype)
    )
    if options.to == "gpt2":
        _write_packed(model, tokenizer, MatrixTypes.of(dtype or "F16", head, embedding), options)
    elif options.to == "gguf":
        gguf.write_file(
            options.output, model, dtype or "F16", overwrite=options.overwrite, quiet=options.quiet
        )
    else:
        huggingface.write_directory(
            options.output, model, dtype, overwrite=options.overwrite, quiet=options.quiet
        )


def _tokenizer(source: SourceModel, vocab_size: int) -> TokenizerTables | None:
    if source.vocab_json is None or source.merges_txt is None:
        return None
    tokenizer = TokenizerTables(source.vocab_json, source.merges_txt, source.config_name)
    if len(tokenizer) > vocab_size:
        raise ConvertError(
            f'"{source.config_name}": "vocab_size": expected at least the {len(tokenizer)} tokens of the '
            f"tokenizer, found {vocab_size}"
        )
    return tokenizer


def _refuse_own_input(output: Path, source: SourceModel) -> None:
    """Also where another name leads to it, or where the output is the directory that the input is in."""
    for file in source.files:
        for path in (file, file.parent) if os.path.isdir(output) else (file,):
            if os.path.exists(output) and os.path.samefile(output, path):
                raise ConvertError(f'"{output}": expected another output than the input')


def _write_packed(
    model: checkpoint.Checkpoint, tokenizer: TokenizerTables, types: MatrixTypes, options: argparse.Namespace
) -> None:
    size = file_size(model, types if options.bits is None else replace(types, layers="INT8"))
    files = model.source.files
    with atomic.atomic_file(options.output, overwrite=options.overwrite, expected_size=size) as file:
        progress = Progress("source", sum(map(os.path.getsize, files)), quiet=options.quiet)
        sha256 = source_hash(files, progress.update)
        progress.finish()
        calibrate = None if options.calibrate is None else _calibrator(tokenizer, options)
        writer = PackedWriter(file, model, tokenizer, types, sha256, calibrate)
        progress = Progress(options.output.name, writer.data_size, quiet=options.quiet)
        summary = writer.write(progress.update)
        progress.finish()
    if not options.quiet:
        rows = model.config.vocab_size
        print(
            f"{options.output}: {size_text(summary.size)}; {writer.types.text()}, from: {model.source.kind}; "
            f"{len(tokenizer):,} tokens{'' if len(tokenizer) == rows else f' for {rows:,} rows'}; "
            f"self-test to {summary.bound:.1e}"
        )


def _calibrator(
    tokenizer: TokenizerTables, options: argparse.Namespace
) -> Callable[[checkpoint.Checkpoint], Calibration]:
    return lambda prepared: calibration(prepared, tokenizer, options.calibrate, options.bits, options.quiet)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse_arguments(arguments)
    try:
        convert(options)
        sys.stdout.flush()
    except ConvertError as error:
        return _fail(str(error))
    except BrokenPipeError:  # whoever reads the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        name = f'"{os.fsdecode(error.filename)}": ' if isinstance(error.filename, (str, bytes)) else ""
        return _fail(f"{name}{error.strerror or error}")
    except MemoryError:
        return _fail("expected more memory than there is")
    except KeyboardInterrupt:
        print("\nconvert_weights.py: interrupted; nothing was written", file=sys.stderr)
        return 130
    return 0


def _fail(message: str) -> int:
    print(f"convert_weights.py: {message}", file=sys.stderr)
    return 1
