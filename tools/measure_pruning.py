#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Prints the measurements of docs/pruning.md.

    tools/measure_pruning.py coverage TEXT...  GPT-2's vocabulary trimmed to texts, and GPT-2's size then
    tools/measure_pruning.py bytes             what GPT-2 124M reads at each step, by shape
    tools/measure_pruning.py vocabulary        a model trimmed to one kind of text, and how others fare
    tools/measure_pruning.py layers            a model without one layer, two and three
    tools/measure_pruning.py heads             without heads of attention
    tools/measure_pruning.py neurons           with narrower MLPs
    tools/measure_pruning.py speed             how fast smaller shapes decode (bench-model, random weights)

What to remove is chosen by texts that the model writes itself, and so are the repairs; figures are those of
tests/data/heldout.txt. --model and --text take others. Needs numpy; speed needs the programs that --programs
has, make-random-model and bench-model.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
from measure_quantization import ROOT, Comparison, Model, log_softmax, own_texts, rounded_model, tokenizer

from gpt2_convert import checkpoint, text_tokens, trim_vocabulary
from gpt2_convert.calibrate import Sums
from gpt2_convert.matrix_types import MatrixTypes
from gpt2_convert.ranges import of_ranges
from gpt2_convert.source_model import SourceModel
from gpt2_convert.sources import packed
from gpt2_convert.targets.packed import element_type, stored_shape
from gpt2_convert.tensors import ELEMENT_TYPES
from gpt2_convert.tokenizer_tables import TokenizerTables

TYPES = ("f16", "int8", "int4")
RANKING = 2048  #: tokens of the model's own texts that removals are ranked by; all of them serve for repairs
RIDGE = 0.1  #: of a repair, in units of the mean square of an input, as in calibrate.py


# Sizes.


def megabytes(config, separate_head=False):
    """Of the weights of a model of this shape as the file has them, by TYPES."""
    shapes = checkpoint.expected_shapes(config, separate_head)
    sizes = []
    for dtype in TYPES:
        types = MatrixTypes.of(dtype.upper())
        size = 0
        for name, shape in shapes.items():
            kind = types.of_tensor(name)
            size += math.prod(stored_shape(name, shape, kind)) * ELEMENT_TYPES[element_type(kind)].itemsize
        sizes.append(size / 1e6)
    return sizes


def measure_bytes(_):
    """The matrices: all weights but the positions, of which a step reads one, and some vectors."""
    whole = checkpoint.ModelConfig.from_json({}, "GPT-2 124M")
    positions = 4 * whole.n_positions * whole.n_embd / 1e6
    most = [size - positions for size in megabytes(whole)]
    print(f"{'MB a step reads':20}" + "".join(f" {dtype:>14}" for dtype in TYPES))
    for name, changes in {
        "as it is": {},
        **{f"{size:,} tokens": {"vocab_size": size} for size in (32768, 16384, 8192, 4096)},
        **{f"{layers} layers": {"n_layer": layers} for layers in (11, 10, 9)},
        **{f"MLPs of {width}": {"n_inner": width} for width in (2688, 2304, 1536)},
    }.items():
        sizes = [size - positions for size in megabytes(replace(whole, **changes))]
        print(f"{name:20}" + "".join(f" {size:7.1f} {all_ / size:4.2f} x" for size, all_ in zip(sizes, most)))


def size_columns(sizes):
    return "".join(f" {size:7.1f}" for size in sizes)


# Vocabularies.


def tokenizer_of(directory):
    files = [(directory / name).read_bytes() for name in ("vocab.json", "merges.txt")]
    return TokenizerTables(*files, str(directory))


def measure_coverage(options):
    """By the first nine tenths of a text; the last tenth is the one that is looked at."""
    tables = tokenizer_of(options.tokenizer)
    paths = options.texts or [options.text]
    text = "".join(text_tokens.read(path, "a text to measure") for path in paths)
    cut = text.rfind("\n", 0, len(text) * 9 // 10) + 1
    counts, rest = text_tokens.count(text[:cut], tables), text_tokens.count(text[cut:], tables)
    total, size = sum(rest.values()), len(text[cut:].encode())
    config = checkpoint.ModelConfig.from_json({"vocab_size": len(tables)}, "GPT-2 124M")
    model = checkpoint.Checkpoint(source_of_nothing(), config, {})
    print(f"{len(text[:cut].encode()):,} bytes for the vocabulary; {size:,} others, {total:,} tokens")
    print(f"{'kept':24} {'tokens':>7} {'covered':>9} {'tokens':>9}  MB of 124M: " + ", ".join(TYPES))
    print(f"{'all':24} {len(tables):7,} {'100 %':>9} {'':>9}" + size_columns(megabytes(config)))
    for least in options.counts:
        used = [token for token, n in counts.items() if n >= least]
        smaller, small_tables = trim_vocabulary.trimmed(model, tables, used)
        kept = set(of_ranges(smaller.source.original_ids))
        covered = sum(n for token, n in rest.items() if token in kept) / total
        growth = sum(text_tokens.count(text[cut:], small_tables).values()) / total - 1
        print(
            f"{f'at least {least} times':24} {len(small_tables):7,} {100 * covered:7.2f} % "
            f"{100 * growth:+7.2f} %" + size_columns(megabytes(smaller.config)),
            flush=True,
        )


def source_of_nothing():
    """For what needs a tokenizer and no weights."""
    return SourceModel("tokenizer", {}, "tokenizer", {}, None, None)


def bits_per_byte(model, tables, text):
    """Of a text in windows that fill the context, each behind the token that texts begin with."""
    tokens = text_tokens.encode(text, tables)
    length = model.config.n_positions - 1
    loss = 0.0
    for begin in range(0, len(tokens), length):
        window = [model.config.bos_token_id, *tokens[begin : begin + length]]
        found = log_softmax(model.logits(np.array(window[:-1])))
        loss -= found[np.arange(len(window) - 1), window[1:]].sum()
    return loss / math.log(2) / len(text.encode()), len(tokens)


def first_tokens(path, tables, n):
    """The part of a text that has so many tokens."""
    text = text_tokens.read(path, "a text to measure")
    part = b"".join(tables.tokens[token] for token in text_tokens.encode(text, tables)[:n])
    return part.decode("utf-8", "ignore")


def domain_counts(options, source, tables):
    """How often the kind of text that the model is for has each token."""
    if options.domain:
        return sum(
            (text_tokens.count(text_tokens.read(path, "a domain"), tables) for path in options.domain),
            Counter(),
        )
    tokens = own_texts(source, options.own)
    text = b"".join(tables.tokens[token] for token in tokens.reshape(-1) if not tables.is_special[token])
    return text_tokens.count(text.decode("utf-8", "replace"), tables)


def measure_vocabulary(options):
    source = packed.read(options.model)
    model, tables = checkpoint.check(source), tokenizer(source)
    counts = domain_counts(options, source, tables)
    texts = [first_tokens(path, tables, options.tokens) for path in (options.text, options.other)]
    print(f"{sum(counts.values()):,} tokens of the domain; the other text is {options.other.name}")
    print(
        f"{'kept':20} {'tokens':>7} {'held-out: tokens':>17} {'bits/byte':>9} {'other: tokens':>14} "
        f"{'bits/byte':>9}  MB: " + ", ".join(TYPES)
    )
    for least in (0, *options.counts):
        if least == 0:
            smaller, small_tables = model, tables
        else:
            used = [token for token, n in counts.items() if n >= least]
            smaller, small_tables = trim_vocabulary.trimmed(model, tables, used)
        found = [bits_per_byte(narrow(Model(smaller)), small_tables, text) for text in texts]
        print(
            f"{'all' if least == 0 else f'at least {least} times':20} {len(small_tables):7,}"
            f" {found[0][1]:17,} {found[0][0]:9.4f} {found[1][1]:14,} {found[1][0]:9.4f}"
            + size_columns(megabytes(smaller.config, smaller.has_separate_head)),
            flush=True,
        )


# Layers, heads, neurons.


def narrow(model):
    """In float32, which takes half the time."""
    model.weights = {name: array.astype(np.float32) for name, array in model.weights.items()}
    return model


def without_layers(model, removed):
    kept = [layer for layer in range(model.config.n_layer) if layer not in removed]
    result = model.copy()
    result.config = replace(model.config, n_layer=len(kept))
    result.weights = {name: array for name, array in model.weights.items() if not name.startswith("h.")}
    for new, old in enumerate(kept):
        for name, array in model.weights.items():
            if name.startswith(f"h.{old}."):
                result.weights[f"h.{new}.{name.split('.', 2)[2]}"] = array
    return result


def without_heads(model, removed):
    """removed: layers and heads. Their values are 0; the matrices stay as wide as they are."""
    result = model.copy()
    width, size = model.config.n_embd, model.config.n_embd // model.config.n_head
    for layer, head in removed:
        values = slice(2 * width + head * size, 2 * width + (head + 1) * size)
        for name in (f"h.{layer}.attn.c_attn.weight", f"h.{layer}.attn.c_attn.bias"):
            result.weights[name] = result.weights[name].copy()
            result.weights[name][..., values] = 0
    return result


def with_neurons(model, kept):
    """kept: of each layer. What the others give on average goes to the bias."""
    result = model.copy()
    result.config = replace(model.config, n_inner=len(kept[0]))
    for layer, neurons in enumerate(kept):
        mlp = f"h.{layer}.mlp"
        for name in (f"{mlp}.c_fc.weight", f"{mlp}.c_fc.bias"):
            result.weights[name] = model.weights[name][..., neurons]
        result.weights[f"{mlp}.c_proj.weight"] = model.weights[f"{mlp}.c_proj.weight"][neurons]
    return result


def fit(model, name, inputs, lacking):
    """Ridge regression: moves a matrix and its bias so that these inputs give the outputs that are wanted."""
    weight, bias = model.weights[f"{name}.weight"], model.weights[f"{name}.bias"]
    sums = Sums(*weight.shape)
    for x, wanted in zip(inputs, lacking):
        sums.add(x, wanted - (x @ weight + bias))
    moments, products = sums.central()
    ridge = RIDGE * float(np.diag(moments).mean()) or 1.0
    change = np.linalg.solve(moments + ridge * np.eye(len(moments)), products)
    mean, missing = sums.means()
    model.weights[f"{name}.weight"] = (weight + change).astype(weight.dtype)
    model.weights[f"{name}.bias"] = (bias + missing - mean @ change).astype(bias.dtype)


def repaired(model, pruned, windows, removed=()):
    """Layer by layer, both c_proj take the residual stream to where the whole model has it.

    removed: layers that pruned, which has them still, is to lose; the MLP before them makes up for them too.
    """
    result = pruned.copy()
    kept = [layer for layer in range(model.config.n_layer) if layer not in removed]
    exact = [model.embedded(window) for window in windows]
    own = list(exact)
    for layer in range(kept[0]):
        exact = [model.passed(x, layer) for x in exact]
    for layer, following in zip(kept, [*kept[1:], model.config.n_layer]):
        attended = [model.attended(x, layer) for x in exact]
        name, inputs = f"h.{layer}.attn.c_proj", [result.mixed(x, layer) for x in own]
        fit(result, name, inputs, [wanted - x for wanted, x in zip(attended, own)])
        own = [x + result.linear(z, name) for x, z in zip(own, inputs)]
        for passing in range(layer, following):
            exact = [model.passed(x, passing) for x in exact]
        name, inputs = f"h.{layer}.mlp.c_proj", [result.inner(x, layer) for x in own]
        fit(result, name, inputs, [wanted - x for wanted, x in zip(exact, own)])
        own = [x + result.linear(z, name) for x, z in zip(own, inputs)]
    return without_layers(result, removed)


class Bench:
    """The model, its own texts for ranking and repairs, and the held-out text for figures."""

    def __init__(self, options):
        source = packed.read(options.model)
        self.model = narrow(Model(checkpoint.check(source)))
        self.windows = list(own_texts(source, options.own))
        own = np.concatenate(self.windows)[:RANKING]
        print("By the model's own texts:")
        self.ranking = Comparison(self.model, own.tolist())
        text = text_tokens.read(options.text, "a text to measure")
        self._tokens = text_tokens.encode(text, tokenizer(source))[: options.tokens]

    def compare(self):
        """Turns to the held-out text, and shows beside what rounding costs."""
        print("\nBy the held-out text:")
        self.held_out = Comparison(self.model, self._tokens)
        for dtype in ("INT8", "INT4"):
            self.held_out.show(
                f"{dtype.lower()}, to nearest", narrow(rounded_model(self.model, dtype, "INT8"))
            )

    def show(self, name, pruned, removed=()):
        self.held_out.show(name, without_layers(pruned, removed))
        self.held_out.show(f"{name}, repaired", repaired(self.model, pruned, self.windows, removed))


def measure_layers(options):
    bench = Bench(options)
    removed = []
    for _ in range(options.steps):
        found = {}
        for layer in range(bench.model.config.n_layer):
            if layer not in removed:
                chosen = sorted([*removed, layer])
                text = "without layer " + ", ".join(map(str, chosen))
                found[layer] = bench.ranking.show(text, without_layers(bench.model, chosen))
        removed.append(min(found, key=found.get))
    bench.compare()
    for count in range(1, len(removed) + 1):
        chosen = sorted(removed[:count])
        bench.show("without layer " + ", ".join(map(str, chosen)), bench.model, chosen)


def measure_heads(options):
    bench = Bench(options)
    config = bench.model.config
    found = {}
    for layer in range(config.n_layer):
        for head in range(config.n_head):
            text = f"without head {head} of layer {layer}"
            found[layer, head] = bench.ranking.show(text, without_heads(bench.model, [(layer, head)]))
    order = sorted(found, key=found.get)
    bench.compare()
    for share in (24, 8, 4):
        count = max(1, len(order) // share)
        bench.show(f"without {count} of {len(order)} heads", without_heads(bench.model, order[:count]))


def importance(model, windows):
    """What each neuron of each layer adds to the stream: its variance times the square of its row."""
    streams = [model.embedded(window) for window in windows]
    result = []
    for layer in range(model.config.n_layer):
        inner = np.concatenate([model.inner(model.attended(x, layer), layer) for x in streams])
        rows = (model.weights[f"h.{layer}.mlp.c_proj.weight"] ** 2).sum(axis=1)
        result.append((inner.var(axis=0) * rows, inner.mean(axis=0)))
        streams = [model.passed(x, layer) for x in streams]
    return result


def measure_neurons(options):
    bench = Bench(options)
    model = bench.model
    found = importance(model, bench.windows[: max(1, RANKING // len(bench.windows[0]))])
    bench.compare()
    for eighths in (7, 6, 5, 4):
        width = model.config.n_inner * eighths // 8
        kept, biased = [], model.copy()
        for layer, (values, mean) in enumerate(found):
            order = np.argsort(-values)
            kept.append(np.sort(order[:width]))
            name, lost = f"h.{layer}.mlp.c_proj", order[width:]
            biased.weights[f"{name}.bias"] = (
                model.weights[f"{name}.bias"] + mean[lost] @ model.weights[f"{name}.weight"][lost]
            )
        bench.show(f"MLPs of {width} instead of {model.config.n_inner}", with_neurons(biased, kept))


# Speed.


def shapes(config):
    """Names and options of make-random-model; the first is the shape as it is."""
    yield "as it is", []
    for size in (config.vocab_size // 2, config.vocab_size // 4, config.vocab_size // 8):
        if size > 256:
            yield f"{size:,} tokens", ["--vocab-size", size]
    for n in range(1, 4):
        yield f"{config.n_layer - n} layers", ["--n-layer", config.n_layer - n]
    for eighths in (7, 6, 4):
        width = config.n_inner * eighths // 8
        yield f"MLPs of {width}", ["--n-inner", width]


def decoding_speed(options, shape, directory):
    """Tokens a second by format, of one text from its beginning."""
    made, found = directory / "model", directory / "found.json"
    make = [options.programs / "tools" / "make-random-model", made, "--size", options.size, "--dtype", "f16"]
    subprocess.run([*map(str, make + shape), "--quiet"], check=True)
    measure = [options.programs / "bench" / "bench-model", "--model", made, "--cases", "decode/0", "--quiet"]
    measure += ["--formats", ",".join(TYPES), "--rounds", options.rounds, "--json", found]
    subprocess.run(list(map(str, measure)), check=True, stdout=subprocess.DEVNULL)
    results = json.loads(found.read_text())["results"]
    return {each["format"]: each["median"] for each in results}


def measure_speed(options):
    """In turns, because machines have moods; ratios are within a turn."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        config = random_config(options, directory)
        turns = []
        for _ in range(options.turns):
            chosen = [(text, shape) for text, shape in shapes(config) if not shape or options.only in text]
            turns.append({text: decoding_speed(options, shape, directory) for text, shape in chosen})
    print(f"{options.size}, tokens/s" + "".join(f" {dtype:>15}" for dtype in TYPES))
    for text in turns[0]:
        line = f"{text:24}"
        for dtype in TYPES:
            speed = statistics.median(turn[text][dtype] for turn in turns)
            ratio = statistics.median(turn[text][dtype] / turn["as it is"][dtype] for turn in turns)
            line += f" {speed:8.1f} {ratio:4.2f} x"
        print(line)


def random_config(options, directory):
    make = [options.programs / "tools" / "make-random-model", directory / "shape", "--size", options.size]
    subprocess.run([*map(str, make), "--quiet"], check=True)
    values = json.loads((directory / "shape" / "config.json").read_text())
    return checkpoint.ModelConfig.from_json(values, "config.json")


MEASUREMENTS = {
    "coverage": measure_coverage,
    "bytes": measure_bytes,
    "vocabulary": measure_vocabulary,
    "layers": measure_layers,
    "heads": measure_heads,
    "neurons": measure_neurons,
    "speed": measure_speed,
}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="%(prog)s WHAT [OPTION...]",
    )
    parser.add_argument("what", choices=MEASUREMENTS)
    parser.add_argument("texts", nargs="*", type=Path, help="coverage: of one kind (default: that of --text)")
    default = ROOT / "models" / "novella-f16.safetensors"
    parser.add_argument("--model", type=Path, default=default, help="a converted file of floating point")
    parser.add_argument("--text", type=Path, default=ROOT / "tests" / "data" / "heldout.txt")
    parser.add_argument("--tokens", type=int, default=8192, help="of the text (default: 8192)")
    parser.add_argument(
        "--own", type=int, default=16384, help="tokens of the model's own texts (default: 16384)"
    )
    parser.add_argument(
        "--tokenizer", type=Path, default=ROOT / "tests" / "data" / "tokenizer", help="coverage: a directory"
    )
    parser.add_argument("--counts", type=int, nargs="+", default=[1, 2, 4, 8], help="least counts of tokens")
    parser.add_argument(
        "--domain", type=Path, nargs="+", help="vocabulary: texts in place of the model's own"
    )
    parser.add_argument(
        "--other", type=Path, default=ROOT / "docs" / "architecture.md", help="of another kind"
    )
    parser.add_argument("--steps", type=int, default=3, help="layers to remove (default: 3)")
    parser.add_argument("--programs", type=Path, default=ROOT / "build" / "release", help="the build folder")
    parser.add_argument("--size", default="124M", help="speed: of which shape (default: 124M)")
    parser.add_argument("--rounds", type=int, default=5, help="speed: of bench-model (default: 5)")
    parser.add_argument("--only", default="", metavar="WORD", help="speed: tokens, layers or MLPs")
    parser.add_argument("--turns", type=int, default=1, help="speed: through all shapes (default: 1)")
    options = parser.parse_args()
    MEASUREMENTS[options.what](options)


if __name__ == "__main__":
    main()
