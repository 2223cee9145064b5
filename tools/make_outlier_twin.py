#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Writes the outlier twin of a model: the same function, with a few huge channels as real GPT-2 has them.

In every ln_1 and ln_2 four channels have gain and bias times 64, and the rows of c_attn and c_fc that read
them are divided by 64. In exact arithmetic nothing changes, and as 64 is a power of two nothing does in
float32. It shows whether a way of rounding survives such channels; docs/quantization.md has measurements.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from gpt2_convert import checkpoint
from gpt2_convert.atomic import atomic_file
from gpt2_convert.errors import ConvertError
from gpt2_convert.matrix_types import MatrixTypes
from gpt2_convert.sources import packed
from gpt2_convert.targets.packed import PackedWriter, file_size, source_hash
from measure_quantization import outlier_source, tokenizer


def write(model: Path, output: Path, overwrite: bool) -> None:
    """In float32, which holds the twin exactly where the model's own weights are 16 bits."""
    source = packed.read(model)
    twin = checkpoint.check(outlier_source(source))
    types = MatrixTypes.of("F32")
    with atomic_file(output, overwrite=overwrite, expected_size=file_size(twin, types)) as file:
        PackedWriter(file, twin, tokenizer(source), types, source_hash(source.files)).write()


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", metavar="MODEL", type=Path, help="a converted file of floating point")
    parser.add_argument("-o", "--output", metavar="FILE", type=Path, required=True)
    parser.add_argument("--overwrite", action="store_true", help="replace FILE if it exists")
    options = parser.parse_args()
    try:
        write(options.model, options.output, options.overwrite)
    except (ConvertError, OSError) as error:
        print(f"make_outlier_twin.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
