# SPDX-License-Identifier: MIT
"""Rounding of a matrix for the inputs that it meets: what one weight errs by, other weights make up for.

With E the error of a matrix and H the second moments of its inputs x, the mean square error of its outputs
x^T E is the trace of E^T H E. With H = R R^T, R upper triangular, that is the sum of the squares of R^T E,
whose row k depends on inputs up to k alone. So the inputs are rounded in their order, each to what suits the
errors of those before it: the rule of GPTQ (Frantar et al., "GPTQ: Accurate Post-Training Quantization for
Generative Pre-trained Transformers", ICLR 2023), written with R in place of the inverse of H. The scale of
a group is found by doing that with each that is tried. What is left of the error is then reduced one input
after another, all others given (coordinate descent, as in Behdin et al., "QuantEase", 2023), where scales
take part: their best value for given integers is a quotient.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .quantize import FORMATS, nearest, trial_scales
from .tensors import Array, Doubles, Floats, from_float32, to_float32

DAMPING = 0.01  #: of the mean of H's diagonal, added to it: directions in which no input was seen
PASSES = 3  #: of coordinate descent; more gain less than a percent


@dataclass
class Rounded:
    """Integers [in, out], as float32, and the bits of their scales [group, out]."""

    integers: Floats
    scales: Array
    dtype: str

    def part(self, group: slice) -> Floats:
        """The weights of one group's inputs."""
        return self.integers[group] * self.scale(group)

    def scale(self, group: slice) -> Floats:
        return to_float32(self.scales[group.start // FORMATS[self.dtype].group], "BF16")

    def groups(self) -> list[slice]:
        """The inputs of each group."""
        size, inputs = FORMATS[self.dtype].group, len(self.integers)
        return [slice(begin, min(begin + size, inputs)) for begin in range(0, inputs, size)]

    def weights(self) -> Floats:
        return np.concatenate([self.part(group) for group in self.groups()])


def damped(moments: Doubles) -> Doubles:
    """H so that no direction is free. Inputs that were never seen count as independent."""
    mean = float(np.diag(moments).mean())
    result: Doubles = moments + (DAMPING * mean or 1.0) * np.eye(len(moments))
    return result


def compensated(weights: Floats, moments: Doubles, dtype: str) -> Rounded:
    """Rounds weights [in, out], each input to what suits the errors of those before it.

    moments: H [in, in], positive definite.
    """
    root: Doubles = np.linalg.cholesky(moments[::-1, ::-1])[::-1, ::-1]
    diagonal = np.diag(root)
    pull = (root / diagonal).astype(np.float32)  # [earlier input, later input]
    form = FORMATS[dtype]
    scales = np.empty((form.groups(len(weights)), weights.shape[1]), np.uint16)
    result = Rounded(np.empty_like(weights), scales, dtype)
    target = weights.copy()
    for index, group in enumerate(result.groups()):
        within = _Group(weights[group], target[group], pull[group, group], diagonal[group] ** 2, dtype)
        result.integers[group], result.scales[index] = within.best()
        error = weights[group] - result.part(group)
        target[group.stop :] += pull[group, group.stop :].T @ error
    return result


@dataclass
class _Group:
    """The inputs that share a scale. target: the weights that suit the errors of all groups before."""

    weights: Floats
    target: Floats
    pull: Floats
    importance: Doubles  #: of the square of an error that no later input can make up for
    dtype: str

    def best(self) -> tuple[Floats, Array]:
        """Integers and scales of the least error among the scales that are tried."""
        scales = np.stack(list(trial_scales(self.target, self.dtype)))
        integers, losses = self._rounded(to_float32(scales, "BF16"))
        least = losses.argmin(axis=0)[None]
        chosen = np.take_along_axis(integers, least[None], axis=1)[:, 0]
        return chosen, np.take_along_axis(scales, least, axis=0)[0]

    def _rounded(self, scales: Floats) -> tuple[Floats, Doubles]:
        """Integers [input, trial, out] for scales [trial, out], and the errors that they leave."""
        shape = (len(self.target), *scales.shape)
        integers, errors = np.empty(shape, np.float32), np.empty(shape, np.float32)
        rows, losses = errors.reshape(len(errors), -1), np.zeros(scales.shape)
        for k, target in enumerate(self.target):
            wanted = target + (self.pull[:k, k] @ rows[:k]).reshape(scales.shape)
            found = nearest(wanted, scales, self.dtype, integers[k]) * scales
            np.subtract(self.weights[k], found, out=errors[k])
            left = (wanted - found).astype(np.float64)
            losses += self.importance[k] * left * left
        return integers, losses


def refine(rounded: Rounded, weights: Floats, moments: Doubles) -> None:
    """Lowers the error of integers and scales in place; a group stays as it is where nothing lowers it."""
    narrow = moments.astype(np.float32)
    error = weights - rounded.weights()
    for _ in range(PASSES):
        for index, group in enumerate(rounded.groups()):
            own = narrow[group, group]
            outside = narrow[group] @ error - own @ error[group]
            within = _Descent(weights[group], own, outside, rounded.dtype)
            integers, scales = within.improved(rounded.integers[group], rounded.scales[index])
            rounded.integers[group], rounded.scales[index] = integers, scales
            error[group] = weights[group] - rounded.part(group)


@dataclass
class _Descent:
    """One group's part of the error, quadratic in its own error E: E^T own E + 2 E^T outside, by output."""

    weights: Floats
    own: Floats  #: H of the group
    outside: Floats  #: what the other groups' errors add to own E in its derivative
    dtype: str

    def improved(self, integers: Floats, scales: Array) -> tuple[Floats, Array]:
        least = self._loss(integers, scales)
        best = integers.copy(), scales.copy()
        moved = self._descended(integers, scales)
        refitted = self._refitted(moved, scales)
        for trial, trial_scales_ in ((moved, scales), (self._descended(moved, refitted), refitted)):
            loss = self._loss(trial, trial_scales_)
            better = loss < least
            np.copyto(best[0], trial, where=better)
            np.copyto(best[1], trial_scales_, where=better)
            least = np.where(better, loss, least)
        return best

    def _loss(self, integers: Floats, scales: Array) -> Doubles:
        error = self.weights - integers * to_float32(scales, "BF16")
        loss: Doubles = (error * (self.own @ error + 2 * self.outside)).sum(axis=0, dtype=np.float64)
        return loss

    def _descended(self, integers: Floats, scales: Array) -> Floats:
        """Each integer is set to its best value, given all others."""
        scale, integers = to_float32(scales, "BF16"), integers.copy()
        error = self.weights - integers * scale
        for k, own in enumerate(self.own):
            pull = (self.outside[k] + own @ error) / own[k] - error[k]
            found = nearest(self.weights[k] + pull, scale, self.dtype, integers[k]) * scale
            error[k] = self.weights[k] - found
        return integers

    def _refitted(self, integers: Floats, scales: Array) -> Array:
        """The bits of the best scales for given integers q: q^T (own w + outside) / q^T own q."""
        above = (integers * (self.own @ self.weights + self.outside)).sum(axis=0)
        below = (integers * (self.own @ integers)).sum(axis=0)
        usable = below > 0
        found = from_float32(above / np.where(usable, below, 1), "BF16")
        usable &= to_float32(found, "BF16") != 0
        return np.where(usable, found, scales)
