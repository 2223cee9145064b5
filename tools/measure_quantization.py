#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Prints the measurements of docs/quantization.md.

    tools/measure_quantization.py data           rounding of Gaussian and Laplace numbers
    tools/measure_quantization.py weights        rounding of a model's weights, by kind of matrix
    tools/measure_quantization.py activations    logits by group of the activations, weights not rounded
    tools/measure_quantization.py logits         logits by type of layers, head and embeddings
    tools/measure_quantization.py outliers       the same for a model with outlier channels, balanced and not
    tools/measure_quantization.py calibrated     whole files, rounded to nearest and calibrated, and outliers
    tools/measure_quantization.py mixed          int4 calibrated with some matrices in int8, by bits a weight
    tools/measure_quantization.py sensitivity    what each matrix in int8 gains, as expected and as it is
    tools/measure_quantization.py parts          int4 calibrated without one part of the method or another
    tools/measure_quantization.py one-scale      int8 with one scale a matrix, which no format here has

Errors are those against the same model without rounding. Everything but the rounding is float64. The text is
tests/data/heldout.txt, which the default model was not trained on; --text takes another. Needs numpy.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from gpt2_convert import (
    balance,
    calibrate,
    calibration_text,
    checkpoint,
    compensate,
    mixed,
    quantize,
    safetensors_file,
)
from gpt2_convert.matrix_types import MatrixTypes
from gpt2_convert.sample import sampled
from gpt2_convert.sources import packed
from gpt2_convert.targets.packed import PackedWriter
from gpt2_convert.tensors import from_float32, of_array, to_float32
from gpt2_convert.text_tokens import encode
from gpt2_convert.tokenizer_tables import TokenizerTables

ROOT = Path(__file__).resolve().parents[1]
CONTEXT = 512  # tokens that are looked at together
OUTLIERS, FACTOR = 4, 64
KINDS = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")


# Rounding.


def bfloat16(x):
    return to_float32(from_float32(np.asarray(x, np.float32), "BF16"), "BF16").astype(np.float64)


def bfloat16_up(x):
    near = bfloat16(x)
    return np.where(near < x, bfloat16(near * (1 + 2.0**-7)), near)


def in_groups(weights, group):
    """[in, out] as [group, input within it, out], filled up with zeros."""
    missing = -len(weights) % group
    return np.pad(weights, ((0, missing), (0, 0))).reshape(-1, group, weights.shape[1])


def by_group(function):
    """A rounding of groups as one of a whole matrix [in, out]."""

    def rounded(weights, group):
        result = function(in_groups(weights, group))
        return result.reshape(-1, weights.shape[1])[: len(weights)]

    return rounded


def one_scale8(weights):
    """Symmetric, one scale for all: what torch.quantization.quantize_dynamic does by default."""
    scale = np.abs(weights).max() / 127
    return np.rint(weights / scale) * scale


@by_group
def absmax8(w):
    """Symmetric, the largest magnitude is 127."""
    scale = bfloat16_up(np.abs(w).max(axis=1, keepdims=True) / 127)
    return np.rint(w / np.where(scale > 0, scale, np.inf)) * scale


def best_of(divisors, scale_type=bfloat16):
    """Symmetric, -8 to 7: of the scales that the element of largest magnitude gives, that of least error."""

    @by_group
    def rounded(w):
        largest = np.take_along_axis(w, np.abs(w).argmax(axis=1)[:, None], axis=1)
        best, least = None, None
        for divisor in divisors:
            scale = scale_type(largest / -divisor)
            found = np.clip(np.rint(w / np.where(scale != 0, scale, np.inf)), -8, 7) * scale
            error = ((found - w) ** 2).sum(axis=1, keepdims=True)
            if best is None:
                best, least = found, error
            best, least = np.where(error < least, found, best), np.minimum(error, least)
        return best

    return rounded


@by_group
def with_minimum(w):
    """0 to 15 times a scale plus a minimum, both found by a search over shrunken ranges."""
    low, high = w.min(axis=1, keepdims=True), w.max(axis=1, keepdims=True)
    best, least = None, None
    for a in np.linspace(0, 0.24, 7):
        for b in np.linspace(0, 0.24, 7):
            bottom = bfloat16(low + a * (high - low) / 2)
            scale = bfloat16((high - b * (high - low) / 2 - bottom) / 15)
            found = (
                np.clip(np.rint((w - bottom) / np.where(scale > 0, scale, np.inf)), 0, 15) * scale + bottom
            )
            error = ((found - w) ** 2).sum(axis=1, keepdims=True)
            if best is None:
                best, least = found, error
            best, least = np.where(error < least, found, best), np.minimum(error, least)
    return best


DIVISORS = [6 + 0.25 * i for i in range(16)]

#: Name, rounding, group, bits a weight.
CHOICES = [
    ("int8, group 32", absmax8, 32, 8.5),
    ("int8, group 64 (chosen)", absmax8, 64, 8.25),
    ("int8, group 128", absmax8, 128, 8.125),
    ("int4, group 32, largest at -8", best_of([8]), 32, 4.5),
    ("int4, group 32, best of -8, -7", best_of([8, 7]), 32, 4.5),
    ("int4, group 32, best of 4: -6 to -9", best_of([6, 7, 8, 9]), 32, 4.5),
    ("int4, group 32, best of 16: -6 to -9.75 (chosen)", best_of(DIVISORS), 32, 4.5),
    ("the same, scales float32", best_of(DIVISORS, np.float32), 32, 5.0),
    ("int4, group 64, best of 16", best_of(DIVISORS), 64, 4.25),
    ("int4, group 128, best of 16", best_of(DIVISORS), 128, 4.125),
    ("int4, group 64, scale and minimum", with_minimum, 64, 4.5),
    ("int4, group 128, scale and minimum", with_minimum, 128, 4.25),
]


def converter(dtype):
    """The converter's own rounding, whose group is fixed."""

    def rounded(weights, group=None):
        units = quantize.quantize(np.ascontiguousarray(weights, np.float32), dtype)
        return quantize.dequantize(units, dtype, *weights.shape).astype(np.float64)

    return rounded


def decibels(weights, rounded):
    """Signal to noise."""
    return 10 * math.log10((weights**2).sum() / ((rounded - weights) ** 2).sum())


# A model.


class Model:
    """GPT-2 in float64 on several tokens at once. The weights [in, out]; wte is the head's matrix as well."""

    def __init__(self, source):
        self.config = source.config
        self.weights = {
            name: to_float32(tensor.read(), tensor.dtype).astype(np.float64)
            for name, tensor in source.tensors.items()
        }
        self.weights["head"] = self.weights.get("lm_head.weight", self.weights["wte.weight"]).T
        self.groups = {}  #: of the activations before a matrix, by its name; absent: not rounded

    def copy(self):
        result = object.__new__(Model)
        result.config, result.weights, result.groups = self.config, dict(self.weights), dict(self.groups)
        return result

    def matrices(self, kinds=KINDS):
        return [f"h.{i}.{kind}.weight" for kind in kinds for i in range(self.config.n_layer)]

    def product(self, x, name):
        group = self.groups.get(name)
        return (x if group is None else rounded_activations(x, group)) @ self.weights[name]

    def linear(self, x, name):
        return self.product(x, f"{name}.weight") + self.weights[f"{name}.bias"]

    def norm(self, x, name):
        d = x - x.mean(axis=1, keepdims=True)
        unit = d / np.sqrt((d * d).mean(axis=1, keepdims=True) + self.config.layer_norm_epsilon)
        return unit * self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]

    def attention(self, qkv, layer):
        rows = len(qkv)
        q, k, v = (
            part.reshape(rows, self.config.n_head, -1).transpose(1, 0, 2) for part in np.split(qkv, 3, axis=1)
        )
        scores = self.config.score_scale(layer) * q @ k.transpose(0, 2, 1)
        scores = np.where(np.tril(np.ones((rows, rows), bool)), scores, -np.inf)
        p = np.exp(scores - scores.max(axis=2, keepdims=True))
        return (p / p.sum(axis=2, keepdims=True) @ v).transpose(1, 0, 2).reshape(rows, -1)

    def embedded(self, tokens):
        """The residual stream before the first layer [tokens, C]; the methods below take it on."""
        return self.weights["wte.weight"][tokens] + self.weights["wpe.weight"][: len(tokens)]

    def mixed(self, x, layer):
        """What the heads of a layer make of the stream."""
        h = f"h.{layer}"
        return self.attention(self.linear(self.norm(x, f"{h}.ln_1"), f"{h}.attn.c_attn"), layer)

    def inner(self, x, layer):
        """What stands inside the MLP of a layer."""
        h = f"h.{layer}"
        z = self.linear(self.norm(x, f"{h}.ln_2"), f"{h}.mlp.c_fc")
        return 0.5 * z * (1 + np.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)))

    def attended(self, x, layer):
        return x + self.linear(self.mixed(x, layer), f"h.{layer}.attn.c_proj")

    def passed(self, x, layer):
        """The stream behind a layer."""
        x = self.attended(x, layer)
        return x + self.linear(self.inner(x, layer), f"h.{layer}.mlp.c_proj")

    def logits(self, tokens):
        """[tokens, V]"""
        x = self.embedded(tokens)
        for layer in range(self.config.n_layer):
            x = self.passed(x, layer)
        return self.product(self.norm(x, "ln_f"), "head")


def rounded_activations(x, group):
    rows = in_groups(x.T, min(group, x.shape[1]))
    step = np.abs(rows).max(axis=1, keepdims=True) / 127
    rounded = np.rint(rows / np.where(step > 0, step, np.inf)) * step
    return rounded.reshape(-1, len(x))[: x.shape[1]].T


def rounded_model(model, layers, head, embedding=None, activations=None):
    """layers, head: INT8, INT4 or None (not rounded). embedding: "float" for one beside the head.

    activations: their group; None: that of the matrix they meet.
    """
    result = model.copy()
    for name in [*model.matrices(), "head"]:
        dtype = head if name == "head" else layers
        if dtype is not None:
            result.weights[name] = converter(dtype)(model.weights[name])
            result.groups[name] = activations or quantize.FORMATS[dtype].group
    if embedding is None:
        result.weights["wte.weight"] = result.weights["head"].T
    return result


def with_outliers(model):
    """The same function: some channels of the layers' norms are large, their rows of the matrices small."""
    factors = np.ones(model.config.n_embd)
    factors[np.random.default_rng(1).choice(model.config.n_embd, OUTLIERS, replace=False)] = FACTOR
    return rescaled(model, {name: 1 / factors for name in model.matrices(("attn.c_attn", "mlp.c_fc"))})


def norm_before(name):
    stems = {"head": "ln_f"}
    return stems.get(name) or name.replace("attn.c_attn.weight", "ln_1").replace("mlp.c_fc.weight", "ln_2")


def rescaled(model, factors):
    """Rows of matrices times factors, and the layer norms before them divided."""
    result = model.copy()
    for name, factor in factors.items():
        result.weights[name] = result.weights[name] * factor[:, None]
        for vector in ("weight", "bias"):
            vector = f"{norm_before(name)}.{vector}"
            result.weights[vector] = result.weights[vector] / factor
    return result


def even_rows(rows, inputs):
    """The rule that was not chosen: every row of about the same size, whatever that does to the inputs."""
    return np.rint(np.log2(np.median(rows) / rows))


def balanced(model, rule=balance.exponents, head=False):
    factors = {}
    for name in model.matrices(("attn.c_attn", "mlp.c_fc")) + ["head"] * head:
        rows = np.sqrt((model.weights[name] ** 2).mean(axis=1))
        norm = norm_before(name)
        inputs = np.hypot(model.weights[f"{norm}.weight"], model.weights[f"{norm}.bias"])
        factors[name] = 2.0 ** rule(rows, inputs)
    return rescaled(model, factors)


# Whole files, as the converter writes them.


def converted(source, dtype, tokens=None, bits=None, wider=()):
    """The model that a file holds. tokens: to calibrate with; None: rounded to nearest.

    bits: a weight of the layers; or wider: those that are INT8.
    """

    def calibration(model):
        found = wider if bits is None else mixed.wider_matrices(model, tokens, bits, quiet=True)
        return calibrate.Calibration(model, tokens, "", frozenset(found))

    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "model"
        with open(path, "w+b") as file:
            types = MatrixTypes.of(dtype)
            chosen = None if tokens is None else calibration
            PackedWriter(file, checkpoint.check(source), tokenizer(source), types, "", chosen).write()
        result = Model(checkpoint.check(packed.read(path)))
        for name, kind in packed.matrix_types(safetensors_file.read(path)[0]).items():
            result.groups["head" if name == "wte.weight" else name] = quantize.FORMATS[kind].group
    return result


def own_texts(source, tokens):
    """What --calibrate self takes, as many tokens."""
    model = checkpoint.check(source)
    length = min(model.config.n_positions, calibration_text.OWN_LENGTH)
    return sampled(model, tokens // length, length)


def outlier_source(source):
    """with_outliers() of a source."""
    weights = with_outliers(Model(checkpoint.check(source))).weights
    tensors = {name: of_array(name, weights[name].astype(np.float32), "twin") for name in source.tensors}
    return replace(source, tensors=tensors)


# Text.


def tokenizer(source):
    return TokenizerTables(source.vocab_json, source.merges_txt, "tokenizer")


def log_softmax(logits):
    below = logits - logits.max(axis=1, keepdims=True)
    return below - np.log(np.exp(below).sum(axis=1, keepdims=True))


class Comparison:
    """Logits of models on the same text against those of the first, one window after another."""

    def __init__(self, model, tokens):
        context = min(CONTEXT, model.config.n_positions)
        self._windows = [np.array(tokens[i : i + context]) for i in range(0, len(tokens), context)]
        self._logits = [model.logits(window).astype(np.float32) for window in self._windows]
        losses = sum(self._loss(log_softmax(x), window) for x, window in zip(self._logits, self._windows))
        self._scored = len(tokens) - len(self._windows)
        self.found = []  #: what was shown
        self._perplexity = math.exp(losses / self._scored)
        numbers = sum(logits.size for logits in self._logits)
        mean = sum(logits.sum(dtype=np.float64) for logits in self._logits) / numbers
        spread = math.sqrt(sum(((logits - mean) ** 2).sum() for logits in self._logits) / numbers)
        print(f"{len(tokens)} tokens; perplexity of the model as it is {self._perplexity:.3f}")
        print("logits' standard deviation", f"{spread:.3f}", flush=True)
        print(f"{'':52} {'RMS error':>9} {'KL, nats':>9} {'perplexity':>10} {'same first':>10}")

    @staticmethod
    def _loss(log_probabilities, tokens):
        """Of each token given those before it in its window, added up."""
        return -log_probabilities[np.arange(len(tokens) - 1), tokens[1:]].sum()

    def measure(self, model):
        """RMS error of logits, KL, change of the perplexity, and how often the first token is the same."""
        count = sum(map(len, self._windows))
        error = divergence = same = loss = 0.0
        for expected, window in zip(self._logits, self._windows):
            logits = model.logits(window)
            p, q = log_softmax(expected.astype(np.float64)), log_softmax(
                logits.astype(np.float64, copy=False)
            )
            error += ((logits - expected) ** 2).mean(axis=1).sum()
            divergence += (np.exp(p) * (p - q)).sum()
            same += (logits.argmax(axis=1) == expected.argmax(axis=1)).sum()
            loss += self._loss(q, window)
        change = math.exp(loss / self._scored) / self._perplexity - 1
        return math.sqrt(error / count), divergence / count, change, same / count

    def show(self, name, model):
        error, divergence, change, same = self.measure(model)
        self.found.append(
            {
                "name": name,
                "tokens": self._scored,
                "kl": divergence,
                "perplexity_change": change,
                "top1_agreement": same,
            }
        )
        print(
            f"{name:52} {error:9.4f} {divergence:9.5f} {100 * change:+8.2f} % {100 * same:8.1f} %",
            flush=True,
        )
        return divergence


# What is printed.


def print_table(columns, matrices):
    """The signal to noise of every choice. matrices: by column, several each."""
    print(f"{'signal to noise, dB':50} {'bits':>6}" + "".join(f" {column:>11}" for column in columns))
    for name, function, group, bits in CHOICES:
        ratios = []
        for column in columns:
            weights = np.concatenate([matrix.reshape(-1) for matrix in matrices[column]])
            rounded = np.concatenate([function(matrix, group).reshape(-1) for matrix in matrices[column]])
            ratios.append(decibels(weights, rounded))
        print(f"{name:50} {bits:6}" + "".join(f" {ratio:11.2f}" for ratio in ratios), flush=True)


def measure_data(_):
    random = np.random.default_rng(1)
    shape = (1024, 512)
    print_table(
        ["Gaussian", "Laplace"],
        {"Gaussian": [random.normal(size=shape)], "Laplace": [random.laplace(size=shape)]},
    )


def measure_weights(options):
    model = Model(checkpoint.check(packed.read(options.model)))
    columns = {kind: [model.weights[name] for name in model.matrices((kind,))] for kind in KINDS}
    columns["wte"] = [model.weights["head"]]
    print_table(list(columns), columns)
    for dtype, group in (("INT8", 64), ("INT4", 32)):  # the same as the converter's
        function = absmax8 if dtype == "INT8" else best_of(DIVISORS)
        one = columns["mlp.c_fc"][0]
        assert abs(decibels(one, function(one, group)) - decibels(one, converter(dtype)(one))) < 0.01


def comparison(options):
    source = packed.read(options.model)
    model = Model(checkpoint.check(source))
    tokens = encode(options.text.read_text(encoding="utf-8"), tokenizer(source))[: options.tokens]
    return model, Comparison(model, tokens)


def measure_activations(options):
    model, against = comparison(options)
    for group in (32, 64, 128, 1 << 20):
        for where, names in (("layers", model.matrices()), ("layers and head", [*model.matrices(), "head"])):
            changed = model.copy()
            changed.groups = dict.fromkeys(names, group)
            text = f"in groups of {group}" if group < 1 << 20 else "one group a row"
            against.show(f"activations of {where}, {text}", changed)


def measure_logits(options):
    model, against = comparison(options)
    for layers, head, embedding in (
        ("INT8", None, "float"),
        ("INT8", "INT8", None),
        ("INT8", "INT8", "float"),
        ("INT8", "INT4", None),
        ("INT4", None, "float"),
        ("INT4", "INT8", None),
        ("INT4", "INT8", "float"),
        ("INT4", "INT4", None),
        ("INT4", "INT4", "float"),
    ):
        text = f"{layers}, head {head or 'not rounded'}" + (", embedding not rounded" if embedding else "")
        against.show(text.lower(), rounded_model(model, layers, head, embedding))
    for layers in ("INT8", "INT4"):
        weights = rounded_model(model, layers, None, "float")
        weights.groups = {}
        against.show(f"{layers.lower()} weights of layers alone", weights)
        for group in (32, 64, 128):
            name = f"{layers.lower()}, head int8, activations in groups of {group}"
            against.show(name, rounded_model(model, layers, "INT8", activations=group))


def measure_outliers(options):
    model, against = comparison(options)
    twin = with_outliers(model)
    for name, other in (("as it is", model), ("outliers", twin)):
        for dtype in ("INT8", "INT4"):
            text = f"{name}, {dtype.lower()}"
            against.show(text, rounded_model(other, dtype, None, "float"))
            against.show(f"{text}, balanced", rounded_model(balanced(other), dtype, None, "float"))
            if other is twin:
                for group in (32, 64, 128):
                    changed = rounded_model(other, dtype, None, "float", group)
                    against.show(f"{text}, activations in groups of {group}", changed)
    for dtype in ("INT8", "INT4"):
        for name, other in (
            ("as it is", model),
            ("balanced", balanced(model, head=True)),
            ("rows made even", balanced(model, even_rows, head=True)),
        ):
            against.show(
                f"head of its own {dtype.lower()}, {name}", rounded_model(other, None, dtype, "float")
            )


def measure_calibrated(options):
    source = packed.read(options.model)
    _, against = comparison(options)
    tokens = own_texts(source, calibration_text.TOKENS)
    for name, other in (("model", source), ("twin", outlier_source(source))):
        for dtype in ("INT8", "INT4"):
            against.show(f"{name}, {dtype.lower()}, to nearest", converted(other, dtype))
            against.show(f"{name}, {dtype.lower()}, calibrated", converted(other, dtype, tokens))


def measure_mixed(options):
    source = packed.read(options.model)
    _, against = comparison(options)
    tokens = own_texts(source, calibration_text.TOKENS)
    for name, other in (("model", source), ("twin", outlier_source(source))):
        for bits in (4.5, 4.6, 5, 5.5, 6, 7, 8.25):
            against.show(f"{name}, {bits} bits", converted(other, "INT4", tokens, bits))


def measure_sensitivity(options):
    """The divergence by one matrix in int4 alone, as expected, and files where it is the one in int8."""
    source = packed.read(options.model)
    _, against = comparison(options)
    tokens = own_texts(source, calibration_text.TOKENS)
    costs = mixed.Sensitivity(checkpoint.check(source), tokens).measured()
    against.show("int4", converted(source, "INT4", tokens))
    for name, cost in costs.items():
        against.show(f"{name}: {cost:.6f}", converted(source, "INT4", tokens, wider={name}))
    print(f"sum of all: {sum(costs.values()):.5f}")


def measure_parts(options):
    source = packed.read(options.model)
    _, against = comparison(options)
    tokens = own_texts(source, 2 * calibration_text.TOKENS)
    default = tokens[: len(tokens) // 2]
    against.show("int4, all parts", converted(source, "INT4", default))
    for name, module, changes in (
        ("without the least-squares step", calibrate, {"FOLLOW": {"INT4": None, "INT8": None}}),
        ("without coordinate descent", compensate, {"PASSES": 0}),
        ("with a single scale tried, -8", quantize, {"INT4_DIVISORS": [np.float32(-8)]}),
    ):
        kept = {key: getattr(module, key) for key in changes}
        vars(module).update(changes)
        against.show(f"int4, {name}", converted(source, "INT4", default))
        vars(module).update(kept)
    follow = calibrate.FOLLOW
    calibrate.FOLLOW = {**follow, "INT8": follow["INT4"]}
    against.show("int8 with the least-squares step", converted(source, "INT8", default))
    calibrate.FOLLOW = follow
    for share in (4, 1):
        part = tokens[: len(tokens) // 2 // share] if share > 1 else tokens
        against.show(f"int4, {part.size} tokens", converted(source, "INT4", part))


def measure_one_scale(options):
    """Activations have a scale for each row; quantize_dynamic has one for all rows, which is no better."""
    model, against = comparison(options)
    for name, other in (("novella", model), ("twin", with_outliers(model))):
        changed = other.copy()
        for matrix in [*other.matrices(), "head"]:
            changed.weights[matrix] = one_scale8(other.weights[matrix])
            changed.groups[matrix] = 1 << 20
        changed.weights["wte.weight"] = changed.weights["head"].T
        against.show(f"{name}, int8, one scale a matrix", changed)
        against.show(f"{name}, int8, in groups", rounded_model(other, "INT8", "INT8"))
    if options.json:
        options.json.write_text(json.dumps(against.found, indent=1) + "\n", encoding="utf-8")


MEASUREMENTS = {
    "data": measure_data,
    "weights": measure_weights,
    "activations": measure_activations,
    "logits": measure_logits,
    "outliers": measure_outliers,
    "calibrated": measure_calibrated,
    "mixed": measure_mixed,
    "sensitivity": measure_sensitivity,
    "parts": measure_parts,
    "one-scale": measure_one_scale,
}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="%(prog)s WHAT [OPTION...]",
    )
    parser.add_argument("what", choices=MEASUREMENTS)
    default = ROOT / "models" / "novella-f16.safetensors"
    parser.add_argument("--model", type=Path, default=default, help="a converted file of floating point")
    parser.add_argument("--text", type=Path, default=ROOT / "tests" / "data" / "heldout.txt")
    parser.add_argument("--tokens", type=int, default=1024, help="of the text (default: 1024)")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="one-scale: write the figures there as well"
    )
    options = parser.parse_args()
    if options.json and options.what != "one-scale":
        parser.error(f"--json: expected one-scale beside it, found {options.what}")
    MEASUREMENTS[options.what](options)


if __name__ == "__main__":
    main()
