// SPDX-License-Identifier: MIT

// The input is a safetensors file as it is, and once more the header of one whose length is right.

#include <gpt2/io/safetensors.hpp>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <span>
#include <vector>

namespace {

void require(bool condition) {
    if (!condition) {
        std::abort();
    }
}

void parse(std::span<const std::byte> bytes) {
    try {
        const auto file = gpt2::SafetensorsFile::from_bytes(bytes, "input");
        std::size_t covered = 0;
        unsigned sum = 0;
        for (const gpt2::TensorInfo& tensor : file.tensors()) {
            require(file.find(tensor.name) == &tensor);
            covered += tensor.data.size();
            for (const std::byte b : tensor.data) { // the sanitizer sees a byte outside the input
                sum += static_cast<unsigned>(b);
            }
        }
        volatile unsigned used = sum;
        (void)used;
        require(covered < bytes.size());
    } catch (const gpt2::FormatError&) {
    }
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    parse(std::as_bytes(std::span(data, size)));

    const std::uint64_t length = size;
    std::vector<std::byte> file(sizeof length + size + 64);
    std::memcpy(file.data(), &length, sizeof length);
    if (size != 0) {
        std::memcpy(file.data() + sizeof length, data, size);
    }
    parse(file);
    return 0;
}
