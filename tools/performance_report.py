#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Draws the plots of docs/performance.md and fills in its tables. See --help."""

import sys

from performance.cli import main

if __name__ == "__main__":
    sys.exit(main())
