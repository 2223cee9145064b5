#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Continues a text, word by word: PYTHONPATH=build/<preset>/python examples/python/hello.py [MODEL]"""

import sys

import gpt2

model = gpt2.Model(sys.argv[1] if len(sys.argv) > 1 else "models/novella-f16.safetensors")
prompt = "There was once a poor woodcutter who"
for token in model.stream(prompt, max_new_tokens=80, do_sample=True, temperature=0.8, top_k=40, seed=42):
    print(token.text, end="", flush=True)
