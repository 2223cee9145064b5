# SPDX-License-Identifier: MIT
"""Results of gpt2-eval report as the tables of docs/quality.md."""
