#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Fills in the tables of docs/quality.md. See --help."""

import sys

from quality.cli import main

if __name__ == "__main__":
    sys.exit(main())
