// SPDX-License-Identifier: MIT
// GPT2_ODR_UNIT: the name of the function that this copy defines.

#include "unit.hpp"

UnitResult GPT2_ODR_UNIT(const char* path) {
    const auto model = gpt2::Gpt2Model::load(path);
    const auto prompt = model.tokenizer().encode("There was once a poor woodcutter who");
    gpt2::Session session(model);
    UnitResult result;
    const auto logits = session.forward(prompt);
    result.logits.assign(logits.begin(), logits.end());
    const auto generated = model.generate(
        "It was a dark and stormy night, and",
        {.max_new_tokens = 24, .do_sample = true, .temperature = 0.8f, .top_k = 40, .seed = 42});
    result.tokens = generated.tokens;
    result.text = generated.text;
    return result;
}
