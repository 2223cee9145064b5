// SPDX-License-Identifier: MIT

// The input is the file of a session, Session::save(), of the model below. Its checksums are set right first,
// or hardly an input would come past them. With GPT2_SEEDS=FOLDER in the environment the program writes the
// seeds of fuzz/corpus/session_file into that folder, and ends.

#include "../tools/byte_vocabulary.hpp"
#include "../tools/random_model.hpp"

#include <gpt2/io/crc32.hpp>
#include <gpt2/model.hpp>
#include <gpt2/session_file.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <memory>
#include <optional>
#include <random>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace {

void require(bool condition) {
    if (!condition) {
        std::abort();
    }
}

/// Two layers, two heads, and a second block of keys and values that is not full.
gpt2::Gpt2Model make_model() {
    gpt2::Config config;
    config.vocab_size = 257;
    config.n_positions = 70;
    config.n_embd = 4;
    config.n_head = 2;
    config.n_layer = 2;
    config.n_inner = 4;
    const auto folder =
        std::filesystem::temp_directory_path() / ("gpt2-fuzz-" + std::to_string(std::random_device()()));
    gpt2::tools::write_random_model(folder, config);
    gpt2::tools::write_byte_vocabulary(folder, config);
    gpt2::Gpt2Model model = gpt2::Gpt2Model::load(folder);
    std::filesystem::remove_all(folder);
    return model;
}

const gpt2::Gpt2Model& model() {
    static const gpt2::Gpt2Model loaded = make_model();
    return loaded;
}

gpt2::SessionOptions options(std::optional<gpt2::KvDtype> dtype = {}) {
    static const auto pool = std::make_shared<gpt2::ThreadPool>(1);
    return {.pool = pool, .kv_dtype = dtype};
}

/// A session of @p n tokens, with their logits or without.
gpt2::Session some_session(std::size_t n, gpt2::KvDtype dtype, bool logits = true) {
    gpt2::Session session(model(), options(dtype));
    std::vector<gpt2::TokenId> tokens;
    for (std::size_t i = 0; i < n; ++i) {
        tokens.push_back(static_cast<gpt2::TokenId>((37 * i + 65) % model().config().vocab_size));
    }
    if (n != 0) {
        session.forward(tokens);
    }
    if (!logits) {
        session.truncate(n);
    }
    return session;
}

void write_seeds(const std::filesystem::path& folder) {
    using gpt2::KvDtype;
    some_session(0, KvDtype::float32).save(folder / "empty");
    some_session(1, KvDtype::float16, false).save(folder / "f16-one");
    some_session(3, KvDtype::float32).save(folder / "f32-logits");
    some_session(65, KvDtype::float16, false).save(folder / "f16-two-blocks");
}

/// Writes over what follows the first @p key of the header.
void set(std::span<char> header, std::string_view key, std::string_view value) {
    const auto found = std::search(header.begin(), header.end(), key.begin(), key.end());
    const auto room = static_cast<std::size_t>(header.end() - found);
    if (room >= key.size() + value.size()) {
        std::copy(value.begin(), value.end(), found + static_cast<std::ptrdiff_t>(key.size()));
    }
}

void set_checksums(std::vector<char>& file) {
    static const std::string identity = [] {
        const auto path =
            std::filesystem::temp_directory_path() / ("gpt2-fuzz-" + std::to_string(std::random_device()()));
        some_session(0, gpt2::KvDtype::float32).save(path);
        const auto saved = gpt2::SafetensorsFile::open(path).metadata().at("gpt2.model");
        std::filesystem::remove(path);
        return saved;
    }();
    std::uint64_t length = 0;
    if (file.size() < sizeof length) {
        return;
    }
    std::memcpy(&length, file.data(), sizeof length);
    if (length > file.size() - sizeof length) {
        return;
    }
    const auto header = std::span(file).subspan(sizeof length, static_cast<std::size_t>(length));
    const auto data = std::as_bytes(std::span(file).subspan(sizeof length + header.size()));
    set(header, R"("gpt2.model":")", identity);
    set(header, R"("gpt2.crc32":")", gpt2::detail::hexadecimal(gpt2::detail::crc32(data)));
}

/// Goes on from what was restored: it is a session like any other.
void use(gpt2::Session session) {
    const std::size_t n = session.position();
    require(n <= model().config().n_positions);
    require(session.logits().dim(0) <= 1);
    for (const float logit : session.logits().flat()) {
        require(std::isfinite(logit));
    }
    gpt2::Session copy = session.fork();
    const std::vector<gpt2::TokenId> tokens(std::min<std::size_t>(model().config().n_positions - n, 2), 65);
    try {
        if (!tokens.empty()) {
            copy.forward(tokens);
        }
    } catch (const gpt2::NumericError&) { // keys and values may be of any size
    }
    copy.follow(session);
    require(std::ranges::equal(copy.tokens(), session.tokens()));
}

} // namespace

extern "C" int LLVMFuzzerInitialize(int*, char***) {
    if (const char* const folder = std::getenv("GPT2_SEEDS")) {
        write_seeds(folder);
        std::exit(0);
    }
    return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    std::vector<char> file(data, data + size);
    set_checksums(file);
    try {
        use(gpt2::Session::restore(model(), std::as_bytes(std::span(file)), options()));
    } catch (const gpt2::FormatError& error) {
        require(std::string_view(error.what()).find("\"memory") != std::string_view::npos); // names the file
    }
    return 0;
}
