// SPDX-License-Identifier: MIT
#include "logits_cache.hpp"

#include "model_spec.hpp"

#include <gpt2/error.hpp>

#include <bit>
#include <span>
#include <string>
#include <string_view>

static_assert(std::endian::native == std::endian::little);

namespace {

constexpr std::size_t alignment = 64;

} // namespace

CachedLogits::CachedLogits(const std::filesystem::path& path, const nlohmann::ordered_json& identity,
                           std::size_t vocab_size)
    : file_(gpt2::MappedFile::open(path)), vocab_size_(vocab_size) {
    const std::string name = gpt2::detail::quoted(path.string(), 4096);
    const std::string_view text = file_.text();
    const std::string_view header = text.substr(0, text.find('\n'));
    try {
        require_same(path, nlohmann::json::parse(header).at("logits_of"), identity);
    } catch (const nlohmann::json::exception& e) {
        throw gpt2::FormatError(name + ": expected a file of --cache-logits, found " + e.what());
    }
    begin_ = header.size() + 1;
    const std::size_t row = vocab_size * sizeof(float);
    if (begin_ % alignment != 0 || text.size() < begin_ || (text.size() - begin_) % row != 0) {
        throw gpt2::FormatError(gpt2::detail::concat(name, ": expected whole rows of ", vocab_size,
                                                     " logits, found ", text.size(), " bytes in all"));
    }
    rows_ = (text.size() - begin_) / row;
}

gpt2::TensorView<const float, 2> CachedLogits::next(std::size_t n) {
    if (n > rows_ - read_) {
        throw gpt2::FormatError(gpt2::detail::concat(gpt2::detail::quoted(file_.path().string(), 4096),
                                                     ": expected the logits of more than ", rows_,
                                                     " tokens, found no more"));
    }
    // The file is mapped at a page, and the header is a multiple of 64 bytes.
    const auto* const rows = reinterpret_cast<const float*>(file_.bytes().data() + begin_);
    const gpt2::TensorView<const float, 2> found(rows + read_ * vocab_size_, {n, vocab_size_});
    read_ += n;
    return found;
}

LogitsWriter::LogitsWriter(const std::filesystem::path& path, const nlohmann::ordered_json& identity)
    : out_(path) {
    std::string header = nlohmann::ordered_json{{"logits_of", identity}}.dump();
    header.resize((header.size() + 1 + alignment - 1) / alignment * alignment - 1, ' ');
    out_.write(header + '\n');
}

void LogitsWriter::write(gpt2::TensorView<const float, 2> rows) {
    const auto bytes = std::as_bytes(rows.flat());
    out_.write({reinterpret_cast<const char*>(bytes.data()), bytes.size()});
}

void LogitsWriter::finish() {
    out_.finish();
}
