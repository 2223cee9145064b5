# SPDX-License-Identifier: MIT
"""Results of the benchmarks as plots and as the tables of docs/performance.md."""
