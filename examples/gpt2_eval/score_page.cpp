// SPDX-License-Identifier: MIT
#include "escape.hpp"
#include "format.hpp"
#include "score_writer.hpp"

#include <gpt2/utf8.hpp>
#include <gpt2/version.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <numbers>
#include <vector>

namespace evaluation = gpt2::evaluation;

namespace {

/// Shades of a box: each takes a quarter of the probability of the one before.
constexpr int n_shades = 8;
constexpr double bits_per_shade = 2.0;

/// Boxes in a block, more or less: a browser lays out the blocks that are looked at.
constexpr std::size_t block_size = 200;

constexpr const char* page_style = R"(<style>
:root{color-scheme:light dark;--paper:#fff;--ink:#1f2328;--muted:#59636e;--rule:#e4e8ec;--shade:200,64,26}
@media screen and (prefers-color-scheme:dark){
:root{--paper:#0d1117;--ink:#e6edf3;--muted:#9198a1;--rule:#272d36;--shade:255,138,98}}
body{margin:0 auto;max-width:46em;padding:1.5em;background:var(--paper);color:var(--ink);
font:16px/1.7 system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif;
-webkit-print-color-adjust:exact;print-color-adjust:exact}
header,footer{color:var(--muted);font-size:.85em;overflow-wrap:anywhere}
h1{margin:0;color:var(--ink);font-size:1.3em}
header{border-bottom:1px solid var(--rule);margin-bottom:1em}
footer{border-top:1px solid var(--rule);margin-top:1em}
main{white-space:pre-wrap;overflow-wrap:anywhere;tab-size:4}
main div{content-visibility:auto;contain-intrinsic-size:auto 20em}
span{border-radius:2px;-webkit-box-decoration-break:clone;box-decoration-break:clone}
main span:hover{outline:1px solid var(--ink)}
header span{padding:.1em .35em;color:var(--ink);white-space:nowrap}
.n::before{content:"\21b5";color:var(--muted)}
@media print{body{max-width:none;padding:0;font-size:11pt}main div{content-visibility:visible}}
.s1{background:rgba(var(--shade),.08)}.s2{background:rgba(var(--shade),.15)}
.s3{background:rgba(var(--shade),.22)}.s4{background:rgba(var(--shade),.30)}
.s5{background:rgba(var(--shade),.38)}.s6{background:rgba(var(--shade),.46)}
.s7{background:rgba(var(--shade),.55)}
</style>
)";

double bits(double log_probability) {
    return std::max(0.0, -log_probability / std::numbers::ln2);
}

std::string percentage(double log_probability) {
    return format("%.3g %%", 100.0 * std::exp(log_probability));
}

std::string in_quotes(std::string_view bytes) {
    return '"' + escaped(bytes) + '"';
}

/// "≥ 1/4 ≥ 1/16 ... less", each in its shade.
std::string legend() {
    std::string out = "<p>Shaded by the probability the model gave: ";
    for (int i = 0; i < n_shades; ++i) {
        const long bound = 1L << (static_cast<long>(bits_per_shade) * (i + 1));
        const std::string text = i + 1 == n_shades ? "less" : format("\u2265 1/%ld", bound);
        out += format("<span class=\"s%d\">%s</span> ", i, text.c_str());
    }
    return out + "</p>\n";
}

/// Tokens share a box until their bytes are whole characters.
class HtmlWriter : public ScoreWriter {
public:
    HtmlWriter(const ScoreHeading& heading, const gpt2::Tokenizer& tokenizer) : ScoreWriter(tokenizer) {
        const std::string text = html(gpt2::to_valid_utf8(heading.text));
        const std::string model = html(gpt2::to_valid_utf8(heading.model));
        out_ = "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
               "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>" +
               text + ", scored by " + model + "</title>\n" + page_style + "</head>\n<body>\n<header>\n<h1>" +
               text + "</h1>\n<p>Scored by " + model + ". Point at a token for its numbers.</p>\n" +
               legend() + "</header>\n<main lang=\"\" dir=\"auto\"><div>";
    }

    void add(const TextToken& token) override {
        // What cannot go on with this token's first byte is an error of its own, and stays alone.
        if (!stream_.empty() && (static_cast<unsigned char>(token.bytes.front()) & 0xc0) != 0x80) {
            close_box();
        }
        if (token.details) {
            surprise_ += bits(token.details->log_probability);
        }
        tips_.push_back(tip_of(token));
        text_ += stream_.push(token.bytes);
        if (stream_.empty()) {
            close_box();
        }
    }

    void end(const evaluation::TextScore& score) override {
        if (!tips_.empty()) {
            close_box();
        }
        out_ += "</div></main>\n<footer>\n<p>" +
                format("%llu tokens scored: ", static_cast<unsigned long long>(score.nll.count)) +
                with_error(score.nll.estimate(), 4) + " nats per token, perplexity " +
                with_error(score.perplexity(), 2) + ", " + with_error(score.bits_per_byte(), 4) +
                " bits per byte.</p>\n<p>gpt2-eval " + gpt2::version_string +
                "</p>\n</footer>\n</body>\n</html>\n";
    }

private:
    [[nodiscard]] std::string tip_of(const TextToken& token) const {
        std::string tip = in_quotes(token.bytes) +
                          format("  token %lld, id %d, at byte %lld\n", static_cast<long long>(token.index),
                                 static_cast<int>(token.id), static_cast<long long>(token.offset));
        if (!token.details) {
            return tip + "not scored: nothing is before it\n";
        }
        const evaluation::TokenDetails& details = *token.details;
        tip += percentage(details.log_probability) +
               format(", %.2f bits, rank %llu, entropy %.2f bits\n", bits(details.log_probability),
                      static_cast<unsigned long long>(details.rank), details.entropy / std::numbers::ln2);
        int place = 0;
        for (const evaluation::TokenProbability& likely : details.most_likely) {
            tip += format("%d. ", ++place) + in_quotes(bytes_of(likely.token)) + "  " +
                   percentage(likely.log_probability) + '\n';
        }
        return tip;
    }

    void close_box() {
        text_ += stream_.flush();
        const int shade = std::min(n_shades - 1, static_cast<int>(surprise_ / bits_per_shade));
        std::string tip;
        if (tips_.size() > 1) {
            tip = format("%llu tokens, together %.2f bits\n\n", static_cast<unsigned long long>(tips_.size()),
                         surprise_);
        }
        for (const std::string& each : tips_) {
            tip += (&each == &tips_.front() ? "" : "\n") + each;
        }
        tip.pop_back();
        const bool has_line_end = text_.find('\n') != std::string::npos;
        out_ += format("<span class=\"s%d%s\" title=\"", shade, has_line_end ? " n" : "") + html(tip) +
                "\">" + html(text_) + "</span>";
        ++boxes_;
        if (boxes_ >= block_size && text_.ends_with('\n')) { // nothing is joined there that a block would cut
            out_ += "</div><div>";
            boxes_ = 0;
        }
        text_.clear();
        tips_.clear();
        surprise_ = 0.0;
    }

    gpt2::Utf8Stream stream_;
    std::string text_;              ///< of the box
    std::vector<std::string> tips_; ///< of its tokens
    double surprise_ = 0.0;         ///< in bits, of its tokens together
    std::size_t boxes_ = 0;         ///< of the block
};

} // namespace

std::unique_ptr<ScoreWriter> make_html_writer(const ScoreHeading& heading, const gpt2::Tokenizer& tokenizer) {
    return std::make_unique<HtmlWriter>(heading, tokenizer);
}
