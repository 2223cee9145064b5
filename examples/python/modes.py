#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Every way to use the module: PYTHONPATH=build/<preset>/python examples/python/modes.py [MODEL]"""

import sys
import tempfile
import threading
from pathlib import Path

import numpy as np

import gpt2

PROMPT = "There was once a poor woodcutter who"


def several_texts(model: gpt2.Model) -> None:
    prompts = [PROMPT, "The king"]
    for text in model.generate_batch(
        prompts, max_new_tokens=12, do_sample=True, top_k=40, seed=42, num_return_sequences=2
    ):
        print("sample:", text)
    for text in model.generate_batch(prompts, max_new_tokens=12, num_beams=4, num_return_sequences=2):
        print(f"beam, {text.score:.2f}:", text)


def sooner(model: gpt2.Model, path: str) -> None:
    plain = model.generate(PROMPT, max_new_tokens=40)
    looked_up = model.generate(PROMPT, max_new_tokens=40, prompt_lookup_num_tokens=3)
    assistant = gpt2.Model(path, "int8")  # or a smaller model with the same vocabulary
    assisted = model.generate(PROMPT, max_new_tokens=40, assistant_model=assistant, num_assistant_tokens=4)
    assert looked_up.tokens == assisted.tokens == plain.tokens
    print("prompt lookup:", looked_up.speculation)
    print("assistant:", assisted.speculation)


def ended_by_another_thread(model: gpt2.Model) -> None:
    cancellation = gpt2.Cancellation()
    enough = threading.Event()

    def impatient() -> None:
        enough.wait()
        cancellation.request()

    def listen(token: gpt2.Token) -> None:
        if token.index == 5:
            enough.set()

    thread = threading.Thread(target=impatient)
    thread.start()
    text = model.generate(
        PROMPT, max_new_tokens=10**9, overflow="slide", callback=listen, cancellation=cancellation
    )
    thread.join()
    print(text.finish_reason, "after", len(text.tokens), "tokens")


def conversation(model: gpt2.Model) -> None:
    session = gpt2.Session(model)
    session.forward(model.encode(PROMPT))
    fork = session.fork()  # keys and values are copied, not computed again
    print("one way:", session.generate(max_new_tokens=8, do_sample=True, seed=1))
    print("another:", fork.generate(max_new_tokens=8, do_sample=True, seed=2))
    with tempfile.TemporaryDirectory() as folder:
        session.save(Path(folder) / "session")
        again = gpt2.Session.restore(model, Path(folder) / "session")
    again.truncate(len(model.encode(PROMPT)) - 1)
    print("back, and on:", again.generate(" who", max_new_tokens=8))


def inside(model: gpt2.Model) -> None:
    recorder = gpt2.Recorder(attention=True, hidden_states=True)
    session = gpt2.Session(model, observer=recorder)
    tokens = model.encode(PROMPT)
    logits = session.forward(tokens)
    print("next:", [model.decode([int(token)]) for token in np.argsort(-logits)[:3]])
    seen = recorder.attention_at(0, 0, len(tokens) - 1)
    print("the first head looks at:", model.decode([tokens[int(seen.argmax())]]))
    print("behind the last block:", recorder.hidden_state_at(model.config.n_layer, len(tokens) - 1).shape)
    sea = model.embed("The ship went down in the storm.")
    for text in ("The boat was lost at sea.", "She poured the tea, and smiled."):
        vector = model.embed(text)
        print(f"{vector @ sea / np.sqrt((vector @ vector) * (sea @ sea)):.3f}", text)


def probabilities(model: gpt2.Model) -> None:
    text = model.generate(PROMPT, max_new_tokens=4, top_logprobs=3, prompt_logprobs=True)
    for places in text.top_logprobs or []:
        print(", ".join(f"{model.decode([token])!r} {np.exp(logprob):.2f}" for token, logprob in places))
    print(f"perplexity of the prompt: {np.exp(-np.mean((text.prompt_logprobs or [])[1:])):.1f}")


def texts_that_match(model: gpt2.Model) -> None:
    date = gpt2.Constraint.regex(model, r"(January|June) \d{1,2}, 18\d\d")
    print("a date:", model.generate("He was born on ", constraint=date))
    answer = gpt2.Constraint.grammar(model, 'root ::= "yes" | "no"')
    print("yes or no:", model.generate("Was it he who came? The answer was: ", constraint=answer))


def main() -> None:
    path = sys.argv[1] if len(sys.argv) > 1 else "models/novella-f16.safetensors"
    model = gpt2.Model(path)
    several_texts(model)
    sooner(model, path)
    ended_by_another_thread(model)
    conversation(model)
    inside(model)
    probabilities(model)
    texts_that_match(model)


if __name__ == "__main__":
    main()
