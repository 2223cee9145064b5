# SPDX-License-Identifier: MIT
"""Wrote zip.bin and legacy.bin, with PyTorch 1.13 (Debian 12's python3-torch).

python3 make.py. The keys of the storages in legacy.bin are addresses, and differ each time.
"""

import collections
import pathlib

import torch

HERE = pathlib.Path(__file__).parent


def state():
    numbers = torch.arange(12, dtype=torch.float32).reshape(3, 4) / 8
    result = collections.OrderedDict()
    result["plain"] = numbers
    result["tied"] = numbers  # the same storage
    result["transposed"] = numbers.t()
    result["part"] = numbers[1:, 2]
    result["expanded"] = torch.tensor([[0.5], [2.0]]).expand(2, 3)
    result["parameter"] = torch.nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float16))
    result["bfloat16"] = torch.tensor([1.0, 3.140625, -0.0], dtype=torch.bfloat16)
    result["double"] = torch.tensor(0.1, dtype=torch.float64)
    result["mask"] = torch.tensor([[True, False]])
    result["empty"] = torch.zeros(0, 5)
    result._metadata = {"": {"version": 1}}
    return {"model": result, "args": {"n_layer": 2, "bias": False, "lr": 1e-3}, "steps": [1, (2, None), "x"]}


torch.save(state(), HERE / "zip.bin")
torch.save(state(), HERE / "legacy.bin", _use_new_zipfile_serialization=False)
