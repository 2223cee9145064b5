# SPDX-License-Identifier: MIT
"""What formats cost in quality, this library's beside llama.cpp's; started by bench/compare/quality."""

from __future__ import annotations

import argparse
import json
import math
import signal
import subprocess
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Sequence

import engines
import install
import models
import quality_tables
import twin
from compare import at_least_one, some_of
from quality_tables import Bits, Row
from workplace import REPOSITORY, CompareError, hash_of, make, say

from gpt2_convert import safetensors_file
from gpt2_convert.checkpoint import is_matrix
from gpt2_convert.sources import packed
from gpt2_convert.tensors import ELEMENT_TYPES

LIBRARIES = ["ours", "llama.cpp"]
NOVELLA = REPOSITORY / "models" / "novella-f16.safetensors"
HELDOUT = REPOSITORY / "tests" / "data" / "heldout.txt"

DESCRIPTION = """\
Measures on a text what each format of llama.cpp and of this library costs in
quality, on the same weights, the same tokens and the same windows, against
this library's float32; and the same on the model's outlier twin. The first
run builds llama.cpp and writes the files, all in build/compare; what has been
measured is kept there, so that an interrupted run goes on where it was.
"""

EPILOG = """\
examples:
  bench/compare/quality
  bench/compare/quality --tokens 16384 --engines ours
  bench/compare/quality --model path/to/gpt2 --text text.txt --tokens 20000
  bench/compare/quality --json figures.json --markdown figures.md

Exit status: 0, or 1 if anything failed.
"""


@dataclass(frozen=True)
class Format:
    library: str
    name: str
    arguments: list[str]  #: of the converter, or of llama.cpp's quantiser
    options: list[str] = field(default_factory=list)  #: of the driver


def ours(name: str, arguments: str) -> Format:
    return Format(engines.OURS, name, arguments.split())


def peer(name: str, arguments: str = "", options: str = "") -> Format:
    return Format("llama.cpp", name, arguments.split(), options.split())


#: Where the path of a text to collect importance from stands in arguments.
OWN_TEXT = "OWN_TEXT"
IMPORTANCE = f"--importance {OWN_TEXT}"
CALIBRATED = "--calibrate self"

#: In the order of the table: by bits. In "pure" files all matrices are of one type, but for a head that is
#: named; other files of llama.cpp mix them as it finds best. Its flash attention rounds keys and values to
#: float16 whatever the cache holds, hence "off" where all is to be float32.
FORMATS = [
    ours("f32", "--dtype f32"),
    peer("F32, KV F32", options="--kv-type f32 --flash-attention off"),
    peer("F32"),
    ours("f16", "--dtype f16"),
    peer("F16"),
    ours("int8", "--dtype int8"),
    ours("int8, calibrated", f"--dtype int8 {CALIBRATED}"),
    peer("Q8_0", "--quantize q8_0"),
    peer("Q6_K", "--quantize q6_k"),
    peer("Q5_K_M", "--quantize q5_k_m"),
    peer("Q5_0", "--quantize q5_0"),
    peer("Q4_K_M", "--quantize q4_k_m"),
    peer("Q4_K_M, imatrix", f"--quantize q4_k_m {IMPORTANCE}"),
    peer("Q4_1", "--quantize q4_1"),
    ours("int4", "--dtype int4"),
    ours("int4, calibrated", f"--dtype int4 {CALIBRATED}"),
    peer("Q4_0 pure, head Q8_0", "--quantize q4_0 --pure 1 --head q8_0"),
    peer("Q4_0 pure, head Q8_0, imatrix", f"--quantize q4_0 --pure 1 --head q8_0 {IMPORTANCE}"),
    peer("Q4_K pure, head Q8_0", "--quantize q4_k_s --pure 1 --head q8_0"),
    peer("Q4_K pure, head Q8_0, imatrix", f"--quantize q4_k_s --pure 1 --head q8_0 {IMPORTANCE}"),
    peer("IQ4_NL pure, head Q8_0", "--quantize iq4_nl --pure 1 --head q8_0"),
    peer("IQ4_NL pure, head Q8_0, imatrix", f"--quantize iq4_nl --pure 1 --head q8_0 {IMPORTANCE}"),
    peer("Q4_0", "--quantize q4_0"),
    peer("Q4_0, imatrix", f"--quantize q4_0 {IMPORTANCE}"),
    peer("IQ4_NL", "--quantize iq4_nl"),
    peer("IQ4_NL, imatrix", f"--quantize iq4_nl {IMPORTANCE}"),
    ours("int4, head int4", "--dtype int4 --head-dtype int4"),
    ours("int4, head int4, calibrated", f"--dtype int4 --head-dtype int4 {CALIBRATED}"),
    peer("Q4_0 pure", "--quantize q4_0 --pure 1"),
    peer("Q4_K pure", "--quantize q4_k_s --pure 1"),
    peer("Q4_K pure, imatrix", f"--quantize q4_k_s --pure 1 {IMPORTANCE}"),
    peer("IQ4_NL pure, imatrix", f"--quantize iq4_nl --pure 1 {IMPORTANCE}"),
]


def whole_number(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f'expected a whole number, found "{text}"')
    return int(text)


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bench/compare/quality",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--model",
        type=Path,
        metavar="PATH",
        default=NOVELLA,
        help="in any form that tools/convert_weights.py reads (default: the default model)",
    )
    add(
        "--text",
        type=Path,
        metavar="FILE",
        default=HELDOUT,
        help="that the model was not trained on (default: tests/data/heldout.txt)",
    )
    add(
        "--tokens",
        type=whole_number,
        metavar="N",
        default=0,
        help="of the text, at most; 0: all (default). The reference's logits take 4 bytes for each of them "
        "and each token of the vocabulary",
    )
    add(
        "--engines",
        metavar="LIST",
        type=some_of(LIBRARIES),
        default=LIBRARIES,
        help=f"from {','.join(LIBRARIES)} (default: both)",
    )
    add("--threads", type=at_least_one, default=2, metavar="N", help="(default: %(default)s)")
    add(
        "--llama-cpp",
        choices=("native", "prebuilt"),
        default="native",
        help="llama.cpp built here with -march=native, or the libraries that npm has (default: %(default)s)",
    )
    add("--json", type=Path, metavar="FILE", help="write all figures there")
    add("--markdown", type=Path, metavar="FILE", help="write the tables there")
    return parser.parse_args(arguments)


class Measurer:
    """Measures formats of one model and its twin on one text."""

    def __init__(
        self, options: argparse.Namespace, programs: Path, model: models.Model, llama: install.LlamaCpp | None
    ) -> None:
        self._threads: int = options.threads
        self._programs, self._model, self._llama = programs, model, llama
        self._window = int(model.config["n_positions"])
        self._folder = model.folder / "quality"
        self._text_identity = self._write_reference(options)
        self.versions: dict[str, str] = {}  #: what the libraries say of themselves

    def measure(self, format_: Format, model: models.Model) -> tuple[engines.Engine, dict[str, Any]]:
        engine = self._engine(format_, model)
        out = model.folder / "quality" / f"{slug(engine.name)}.json"

        def body() -> None:
            with engines.Driver(engine) as driver:
                answer = driver.ask("compare", self._window, self._folder)
                out.write_text(json.dumps({**answer, "version": driver.description.partition(",")[0]}))

        file = Path(engine.command[engine.command.index("--model") + 1])
        recipe = [*engine.command, file.with_name(file.name + ".recipe").read_text(), self._text_identity]
        make(out, " ".join([*recipe, hash_of(Path(engine.command[0]))]), body)
        result: dict[str, Any] = json.loads(out.read_text())
        if not math.isfinite(result["kl"]["value"]):
            raise CompareError(f"{engine.name}: expected a finite divergence, found {result['kl']['value']}")
        self.versions[engine.library] = result.pop("version")
        say(f"{model.name}: {engine.name}: {result['kl']['value']:.3g} nats")
        return engine, result

    def bits(self, engine: engines.Engine) -> Bits:
        file = engine.command[engine.command.index("--model") + 1]
        if engine.is_ours:
            return bits_of_ours(Path(file))
        return bits_of_gguf([*engine.command, "--tensors", "1"])

    def _write_reference(self, options: argparse.Namespace) -> str:
        """The text, and this library's logits in float32. Returns what changes when they do."""
        tokens = twin.text_tokens(self._model, options.text, options.tokens)
        twin.write_tokens(self._folder / "tokens", tokens)
        engine = self._engine(FORMATS[0], self._model)

        def body() -> None:
            say(f"writing the logits of {engine.name} after {len(tokens) - 1} tokens")
            with engines.Driver(engine) as driver:
                driver.ask("reference", self._window, self._folder)

        identity = hash_of(self._folder / "tokens", Path(engine.command[0]))
        make(self._folder / "logits", f"{self._model.identity} {identity}", body)
        return identity

    def _engine(self, format_: Format, model: models.Model) -> engines.Engine:
        name, arguments = slug(format_.name), format_.arguments
        if format_.library == engines.OURS:
            engine = engines.gpt2_engine(model, self._programs, self._threads, name, arguments, None)
            return replace(engine, format=format_.name)
        assert self._llama is not None
        program = engines.llama_cpp_program(self._programs, self._threads, self._llama)
        kind = "F32" if format_.name.startswith("F32") else format_.name
        if OWN_TEXT in arguments:
            text = twin.own_tokens(model)
            arguments = [str(text) if word == OWN_TEXT else word for word in arguments]
            arguments += ["--window", str(twin.own_length(model))]
        file = models.gguf_file(model, kind, program, arguments)
        command = [*program, "--model", str(file), "--positions", str(self._window), *format_.options]
        return engines.Engine("llama.cpp", format_.name, 0, command, file.stat().st_size)


def slug(name: str) -> str:
    return name.replace(", ", "-").replace(" ", "-")


def bits_of_ours(path: Path) -> Bits:
    stored, shapes = safetensors_file.read(path)[0], packed.read(path).tensors
    layers, head = Bits.Sum(), Bits.Sum()
    for name in filter(is_matrix, shapes):
        size = math.prod(stored[name].shape) * ELEMENT_TYPES[stored[name].dtype].itemsize
        kind = packed.matrix_type(stored[name]).lower()
        (layers if name.startswith("h.") else head).add(size, math.prod(shapes[name].shape), kind)
    return Bits(layers, head)


def bits_of_gguf(command: Sequence[str]) -> Bits:
    text = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    layers, head = Bits.Sum(), Bits.Sum()
    for name, tensor in json.loads(text).items():
        if name.startswith("blk.") and name.endswith(".weight") and "_norm." not in name:
            layers.add(tensor["bytes"], tensor["count"], tensor["type"])
        elif name in ("token_embd.weight", "output.weight"):
            head.add(tensor["bytes"], tensor["count"], tensor["type"])
    return Bits(layers, head)


def measure(options: argparse.Namespace) -> None:
    llama = install.llama_cpp(options.llama_cpp) if "llama.cpp" in options.engines else None
    programs = install.build_programs(llama)
    model = models.given_model(options.model)
    measurer = Measurer(options, programs, model, llama)
    sources = {"model": model, "twin": twin.outlier_twin(model)}
    chosen = [f for f in FORMATS if (f.library if f.library != engines.OURS else "ours") in options.engines]
    rows = []
    for format_ in chosen:
        results = {}
        for key, source in sources.items():
            engine, results[key] = measurer.measure(format_, source)
        rows.append(Row(engine.library, engine.format, measurer.bits(engine), engine.file_size, results))
    facts = quality_tables.facts_of(model.name, options.text, measurer.versions)
    print(quality_tables.as_text(facts, rows), end="", flush=True)
    if options.json is not None:
        options.json.write_text(quality_tables.as_json(facts, rows))
    if options.markdown is not None:
        options.markdown.write_text(quality_tables.as_markdown(facts, rows))


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse_arguments(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the driver is ended too
    try:
        measure(options)
    except CompareError as error:
        print(f"compare: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ncompare: interrupted", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
