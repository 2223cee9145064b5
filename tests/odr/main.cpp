// SPDX-License-Identifier: MIT
// Prints a digest of what every unit computed, or fails if two units differ. CTest compares the digests of
// programs that hold the same units linked in another order.

#include "unit.hpp"

#include <bit>
#include <cstdint>
#include <cstdio>
#include <exception>

namespace {

std::uint64_t digest(const UnitResult& result) { // FNV-1a
    std::uint64_t hash = 14695981039346656037u;
    const auto mix = [&hash](std::uint32_t word) { hash = (hash ^ word) * 1099511628211u; };
    for (const auto& list : result.numbers) {
        for (const float number : list) {
            mix(std::bit_cast<std::uint32_t>(number));
        }
    }
    for (const gpt2::TokenId token : result.tokens) {
        mix(static_cast<std::uint32_t>(token));
    }
    return hash;
}

} // namespace

int main(int argc, char** argv) {
    if (argc != 2) {
        std::fprintf(stderr, "usage: odr MODEL\n");
        return 2;
    }
    try {
        const UnitResult plain = run_plain(argv[1]);
        const UnitResult unoptimised = run_unoptimised(argv[1]);
        const UnitResult native = run_native(argv[1]);
        std::printf("%016llx %s\n", static_cast<unsigned long long>(digest(plain)), plain.text.c_str());
        if (!(plain == unoptimised) || !(plain == native)) {
            std::fprintf(stderr,
                         "units compiled with different flags differ: -O0 %016llx, -march=native %016llx\n",
                         static_cast<unsigned long long>(digest(unoptimised)),
                         static_cast<unsigned long long>(digest(native)));
            return 1;
        }
        return 0;
    } catch (const std::exception& error) {
        std::fprintf(stderr, "%s\n", error.what());
        return 1;
    }
}
