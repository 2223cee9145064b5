#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Converts GPT-2 weights from any source to the file that the library maps. See --help."""

import sys

if sys.version_info < (3, 9):
    sys.exit(f"convert_weights.py: expected Python 3.9 or newer, found {sys.version.split()[0]}")
try:
    import numpy  # noqa: F401
except ImportError:
    sys.exit(
        "convert_weights.py: expected numpy, found none (apt-get install python3-numpy, or pip install numpy)"
    )

from gpt2_convert.cli import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
