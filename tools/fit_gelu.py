#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Prints the coefficients of GeluErf in include/gpt2/kernels/elementwise.inl, and how close they come.

    tools/fit_gelu.py

R(t) = exp(t^2 / 2) erfc(t / sqrt 2) / 2 = P(t) / Q(t) for 0 <= t <= 13.5 with P(0) = 1 / 2 and Q(0) = 1, so
that R(0) is exact. The largest relative error is made small: each round solves P - R Q = 0 by weighted least
squares, divided by the Q of the round before, and gives more weight to points with a larger error (Rice and
Usow, "The Lawson Algorithm and Extensions", Math. Comp. 22, 1968). Needs numpy.
"""

from __future__ import annotations

import math

import numpy as np

ABOVE, BELOW = 4, 5  # degrees of P and Q
END = 13.5  # exp(-t^2 / 2) is below 2^-126 from 13.22 on
POINTS, ROUNDS = 2000, 200


def evaluate(coefficients, t):
    """P(t) and Q(t)."""
    above, below = coefficients[:ABOVE], coefficients[ABOVE:]
    return np.polyval([*above[::-1], 0.5], t), np.polyval([*below[::-1], 1.0], t)


def fit(t, r):
    """The coefficients of t, t^2, ... in P, then in Q."""
    columns = np.stack(
        [t**i for i in range(1, ABOVE + 1)] + [-r * t**i for i in range(1, BELOW + 1)], axis=1
    )
    weight, below, best, least = np.ones_like(t), np.ones_like(t), None, math.inf
    for _ in range(ROUNDS):
        scale = weight / (below * r)
        matrix = columns * scale[:, None]
        unit = np.abs(matrix).max(axis=0)
        coefficients = np.linalg.lstsq(matrix / unit, (r - 0.5) * scale, rcond=None)[0] / unit
        above, below = evaluate(coefficients, t)
        error = np.abs(above / below / r - 1)
        if error.max() < least:
            best, least = coefficients, error.max()
        weight *= np.sqrt(error / error.max() + 1e-3)
        weight /= weight.max()
    return best


def main():
    t = END * (1 - np.cos(np.linspace(0, math.pi, POINTS))) / 2
    r = np.array([math.exp(x * x / 2) * math.erfc(x / math.sqrt(2)) / 2 for x in t])
    coefficients = fit(t, r)
    for kind in (np.float64, np.float32):
        above, below = evaluate(coefficients.astype(kind).astype(np.float64), t)
        print(f"{kind.__name__}: largest relative error {np.abs(above / below / r - 1).max():.2e}")
    for name, values in (("P", coefficients[:ABOVE]), ("Q", coefficients[ABOVE:])):
        for power, value in enumerate(values, start=1):
            print(f"{name} t^{power}  {np.float32(value):.9g}")


if __name__ == "__main__":
    main()
