# SPDX-License-Identifier: MIT
"""Compares this library with other engines on the same weights; started by bench/compare/run."""

from __future__ import annotations

import argparse
import contextlib
import functools
import signal
import sys
from pathlib import Path
from typing import Any, Callable, Sequence

import engines
import install
import measure
import models
import report
from workplace import CompareError, say

LIBRARIES = ["ours", "llama.cpp", "onnxruntime", "pytorch"]
SIZES = ["124M", "355M", "774M", "1558M", "novella", "tiny"]
FORMATS = ["f32", "f16", "bf16", "int8", "int4"]

DESCRIPTION = """\
Compares this library with llama.cpp, ONNX Runtime and PyTorch, all on the
same weights, and prints figures and ratios. The first run installs the peers
from npm and Debian, builds llama.cpp and writes the models, all in
build/compare; it takes some minutes, and later runs only measure.

Engines take turns: in each round of a case every engine is measured once, so
that a machine that slows down slows all. Before that the logits of each are
compared, so that all are known to compute the same function. Nothing else
should run meanwhile.
"""

EPILOG = """\
cases: decode (128 tokens from an empty context), deep (64 tokens at depth
900), prefill (512 tokens at once), batch (16 sequences in each pass),
founding (13 tokens of prompt and 87 new ones, top_k 40), cold (start of the
process to the first token, the file in the page cache), memory (resident
after the founding case)

examples:
  bench/compare/run
  bench/compare/run --engines ours,llama.cpp --formats f16,int8,int4 --rounds 9
  bench/compare/run --size 1558M --peer-formats F16,Q8_0,Q4_0 --rounds 3
  bench/compare/run --formats "int4,int4-head8=--dtype int4 --head int8"
  bench/compare/run --json figures.json --markdown figures.md

Exit status: 0, or 1 if anything failed or computed another function.
"""


def some_of(allowed: Sequence[str]) -> Callable[[str], list[str]]:
    def parse(text: str) -> list[str]:
        for name in text.split(","):
            if name not in allowed:
                raise argparse.ArgumentTypeError(f'expected some of {",".join(allowed)}, found "{name}"')
        return text.split(",")

    return parse


def at_least_one(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f'expected a number of at least 1, found "{text}"')
    return int(text)


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bench/compare/run",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add, add_list = parser.add_argument, functools.partial(parser.add_argument, metavar="LIST")
    peer_formats = list(engines.LLAMA_FORMATS)
    add("--size", choices=SIZES, default="124M", help="shape of the random model (default: %(default)s)")
    add(
        "--model",
        type=Path,
        metavar="PATH",
        help="instead, a model in any form that tools/convert_weights.py reads",
    )
    add_list(
        "--engines",
        type=some_of(LIBRARIES),
        default=LIBRARIES,
        help=f"from {','.join(LIBRARIES)} (default: all)",
    )
    add_list(
        "--formats",
        help=f"of this library (default: {','.join(FORMATS)}, as far as the converter writes them); "
        "NAME=ARGUMENTS gives the converter other arguments than --dtype NAME",
    )
    add_list(
        "--peer-formats",
        type=some_of(peer_formats),
        default=peer_formats,
        help=f"of llama.cpp (default: {','.join(peer_formats)})",
    )
    add_list(
        "--cases", type=some_of(measure.CASE_KEYS), default=measure.CASE_KEYS, help="see below (default: all)"
    )
    add(
        "--rounds",
        type=at_least_one,
        default=5,
        metavar="N",
        help="measurements of each case (default: %(default)s)",
    )
    add("--threads", type=at_least_one, default=2, metavar="N", help="of each engine (default: %(default)s)")
    add(
        "--kv-dtype",
        choices=("f32", "f16"),
        help="this library's KV cache (default: the library's own choice)",
    )
    add(
        "--llama-cpp",
        choices=("native", "prebuilt"),
        default="native",
        help="llama.cpp built here with -march=native, or the libraries that npm has (default: %(default)s)",
    )
    add("--json", type=Path, metavar="FILE", help="write all samples there")
    add("--markdown", type=Path, metavar="FILE", help="write the tables there")
    return parser.parse_args(arguments)


def our_formats(text: str | None) -> dict[str, list[str]]:
    """The converter's arguments, by name of format."""
    result = {}
    for entry in FORMATS if text is None else text.split(","):
        name, _, arguments = entry.partition("=")
        result[name] = arguments.split() or ["--dtype", name]
    return result


def our_engines(options: argparse.Namespace, model: models.Model, programs: Path) -> list[engines.Engine]:
    found = []
    for name, arguments in our_formats(options.formats).items():
        try:
            found.append(
                engines.gpt2_engine(model, programs, options.threads, name, arguments, options.kv_dtype)
            )
        except CompareError as error:
            # A format of the default list that is still to come.
            if options.formats is not None or "invalid choice" not in str(error):
                raise
            say(f"the converter does not write {name} yet: left out")
    return found


def find_engines(
    options: argparse.Namespace, model: models.Model, programs: Path, llama: install.LlamaCpp | None
) -> list[engines.Engine]:
    found = our_engines(options, model, programs) if "ours" in options.engines else []
    if llama is not None:
        for kind in options.peer_formats:
            found.append(engines.llama_cpp_engine(model, programs, options.threads, kind, llama))
    if "onnxruntime" in options.engines:
        install.install_npm_packages()
        found.append(engines.onnxruntime_engine(model, options.threads))
    if "pytorch" in options.engines:
        if install.has_torch():
            found.append(engines.pytorch_engine(model, options.threads))
        else:
            say("PyTorch is not installed (apt-get install python3-torch): left out")
    return found


def write_reports(
    options: argparse.Namespace,
    facts: dict[str, Any],
    found: Sequence[engines.Engine],
    results: measure.Results,
) -> None:
    print(report.as_text(facts, found, results), end="", flush=True)
    if options.json is not None:
        options.json.write_text(report.as_json(facts, found, results))
    if options.markdown is not None:
        options.markdown.write_text(report.as_markdown(facts, found, results))


def compare(options: argparse.Namespace) -> bool:
    """Returns whether nothing failed."""
    llama = install.llama_cpp(options.llama_cpp) if "llama.cpp" in options.engines else None
    programs = install.build_programs(llama)
    model = (
        models.given_model(options.model) if options.model else models.random_model(options.size, programs)
    )
    found = find_engines(options, model, programs, llama)
    facts = report.facts_of(model.name, options.threads, options.rounds)
    load = facts["machine"]["load_at_start"]
    if load > 0.5:
        say(f"the load is {load:.1f}: if something else is running, these figures will be worth little")
    results = measure.Results([])
    cases = measure.make_cases(model.config["n_positions"], results.anonymous)
    results.cases = [case for case in cases if case.key in options.cases]
    with contextlib.ExitStack() as stack:
        drivers = []
        for engine in found:
            drivers.append(stack.enter_context(engines.Driver(engine)))
            how = f", {llama.description}" if llama and engine.library == "llama.cpp" else ""
            results.descriptions[engine.name] = drivers[-1].description + how
        measure.verify(drivers, results)
        measure.take_turns(drivers, results.cases, options.rounds, results)
    write_reports(options, facts, found, results)
    return not results.failures


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse_arguments(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the drivers are ended too
    try:
        return 0 if compare(options) else 1
    except CompareError as error:
        print(f"compare: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ncompare: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
