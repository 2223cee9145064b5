// SPDX-License-Identifier: MIT
#include "attention_page.hpp"

#include <gpt2/utf8.hpp>

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

namespace {

constexpr std::string_view head = R"(<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Attention</title>
<style>
:root{color-scheme:light dark;--paper:#fff;--ink:#1f2328;--muted:#59636e;--rule:#d1d9e0;--shade:9,105,218}
@media (prefers-color-scheme:dark){
:root{--paper:#0d1117;--ink:#e6edf3;--muted:#9198a1;--rule:#3d444d;--shade:88,166,255}}
body{margin:2rem auto;max-width:60rem;padding:0 1rem;background:var(--paper);color:var(--ink);
font:1rem/1.5 system-ui,sans-serif}
h1{font-size:1.25rem;margin:0 0 .25rem}p{margin:.25rem 0;color:var(--muted)}
form{display:flex;gap:1rem;flex-wrap:wrap;margin:1rem 0;padding:.75rem 0;border:solid var(--rule);
border-width:1px 0}
#text{white-space:pre-wrap;overflow-wrap:anywhere;font:1.05rem/1.9 ui-monospace,monospace}
#text span{border-radius:.2rem;padding:.15rem 0;cursor:pointer}
#text span.now{outline:2px solid rgb(var(--shade))}
</style>
</head>
<body>
<h1>Attention</h1>
<p id="about"></p>
<form>
<label>layer <select id="layer"></select></label>
<label>head <select id="head"></select></label>
<span id="found"></span>
</form>
<div id="text"></div>
<p>Point at a token: what is shaded is what it looked at, the darker, the more. A click holds it. Arrow keys
change layer and head.</p>
<script>
)";

constexpr std::string_view script = R"(
const bytes = Uint8Array.from(atob(data.weights), c => c.charCodeAt(0));
const n = data.tokens.length, row = i => i * (i + 1) / 2;
const layer = document.getElementById("layer"), head = document.getElementById("head");
const text = document.getElementById("text"), found = document.getElementById("found");
const choice = (select, value, label) => select.add(new Option(label, value));
for (let i = 0; i < data.layers; ++i) choice(layer, i, i);
choice(head, -1, "mean");
for (let i = 0; i < data.heads; ++i) choice(head, i, i);
layer.value = data.layers - 1;
document.getElementById("about").textContent =
  `${data.model}: ${n} tokens, ${data.layers} layers, ${data.heads} heads`;
const weight = (l, h, i, j) => bytes[(l * data.heads + h) * row(n) + row(i) + j] / 255;
const value = (i, j) => {
  const l = +layer.value, h = +head.value;
  if (h >= 0) return weight(l, h, i, j);
  let sum = 0;
  for (let k = 0; k < data.heads; ++k) sum += weight(l, k, i, j);
  return sum / data.heads;
};
let now = n - 1, held = false;
const show = () => [...text.children].forEach((span, j) => {
  const w = j <= now ? value(now, j) : 0;
  span.className = j === now ? "now" : "";
  span.style.background = `rgba(var(--shade),${Math.sqrt(w).toFixed(3)})`;
  span.title = `${j}: ${JSON.stringify(data.tokens[j])}` + (j <= now ? `, ${(100 * w).toFixed(1)} %` : "");
  if (j === now) found.textContent = `token ${now}: ${JSON.stringify(data.tokens[now])}`;
});
data.tokens.forEach((token, i) => {
  const span = document.createElement("span");
  span.textContent = token;
  span.onmouseenter = () => { if (!held) { now = i; show(); } };
  span.onclick = () => { held = !(held && now === i); now = i; show(); };
  text.append(span);
});
layer.onchange = head.onchange = show;
document.onkeydown = event => {
  const step = (select, by) => {
    select.selectedIndex = (select.selectedIndex + by + select.length) % select.length;
    show();
    event.preventDefault();
  };
  if (event.target.tagName === "SELECT") return;
  if (event.key === "ArrowUp") step(layer, -1);
  if (event.key === "ArrowDown") step(layer, 1);
  if (event.key === "ArrowLeft") step(head, -1);
  if (event.key === "ArrowRight") step(head, 1);
};
show();
</script>
</body>
</html>
)";

/// RFC 4648, section 4.
std::string base64(std::span<const std::uint8_t> bytes) {
    constexpr std::string_view digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    std::string out;
    out.reserve((bytes.size() + 2) / 3 * 4);
    for (std::size_t i = 0; i < bytes.size(); i += 3) {
        const std::size_t n = std::min<std::size_t>(3, bytes.size() - i);
        std::uint32_t group = 0;
        for (std::size_t j = 0; j < 3; ++j) {
            group = group << 8 | (j < n ? bytes[i + j] : 0u);
        }
        for (std::size_t j = 0; j < 4; ++j) {
            out += j <= n ? digits[group >> (18 - 6 * j) & 63u] : '=';
        }
    }
    return out;
}

/// [layer][head][position][what it looked at], the last two a triangle.
std::vector<std::uint8_t> weights(const gpt2::Config& config, std::size_t n, const gpt2::Recorder& recorder) {
    std::vector<std::uint8_t> out;
    out.reserve(config.n_layer * config.n_head * (n * (n + 1) / 2));
    for (std::size_t layer = 0; layer < config.n_layer; ++layer) {
        for (std::size_t h = 0; h < config.n_head; ++h) {
            for (std::size_t position = 0; position < n; ++position) {
                for (const float weight : recorder.attention_at(layer, h, position)) {
                    out.push_back(static_cast<std::uint8_t>(std::lround(weight * 255.0f)));
                }
            }
        }
    }
    return out;
}

} // namespace

std::size_t most_tokens_of_page(const gpt2::Config& config) noexcept {
    constexpr double most_bytes = 64e6;
    return static_cast<std::size_t>(
        std::sqrt(2.0 * most_bytes / static_cast<double>(config.n_layer * config.n_head)));
}

std::string attention_page(std::string_view model, const gpt2::Config& config,
                           const gpt2::Tokenizer& tokenizer, std::span<const gpt2::TokenId> tokens,
                           const gpt2::Recorder& recorder) {
    std::vector<std::string> texts;
    for (const gpt2::TokenId token : tokens) {
        texts.push_back(gpt2::to_valid_utf8(tokenizer.token_bytes(token)));
    }
    const nlohmann::ordered_json data{{"model", gpt2::to_valid_utf8(model)},
                                      {"layers", config.n_layer},
                                      {"heads", config.n_head},
                                      {"tokens", texts},
                                      {"weights", base64(weights(config, tokens.size(), recorder))}};
    std::string json = data.dump();
    for (std::size_t i = 0; (i = json.find('<', i)) != std::string::npos;) {
        json.replace(i, 1, "\\u003c"); // nothing in it may end the script
    }
    std::string page(head);
    page.append("const data = ").append(json).append(";").append(script);
    return page;
}
