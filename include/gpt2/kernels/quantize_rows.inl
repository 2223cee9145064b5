// SPDX-License-Identifier: MIT
// Included by level.inl, once per instruction set.

namespace gpt2::kernels::GPT2_LEVEL {

/// Sixteen inputs from @p first on; zeros past the last.
GPT2_INLINE F32x16 load_inputs(const float* x, std::size_t first, std::size_t n_inputs) {
    if (first + 16 <= n_inputs) {
        return load(x + first);
    }
    return first < n_inputs ? load_partial(x + first, n_inputs - first) : zero();
}

/// One group of a row: q = x * 127 / max|x|, rounded to nearest, ties to even, and the scale max|x| / 127.
/// A group with an infinity or a NaN has the scale NaN, so that it reaches every output; one below 2^-100 is
/// all zeros.
GPT2_INLINE void quantize_group(const float* x, std::size_t first, std::size_t n_inputs,
                                const UnitShape& unit, std::size_t tile, std::byte* out) {
    F32x16 largest = zero();
    F32x16 poison = zero(); // 0 times infinity is NaN
    for (std::size_t i = 0; i < unit.group; i += 16) {
        const F32x16 a = load_inputs(x, first + i, n_inputs);
        largest = max(largest, max(a, sub(zero(), a)));
        poison = fma(a, zero(), poison);
    }
    const float magnitude = max(largest);
    const float scale = magnitude / 127.0f + sum(poison);
    const F32x16 factor = broadcast(magnitude < 0x1p-100f ? 0.0f : 127.0f / magnitude);
    const F32x16 magic = broadcast(12582912.0f); // 1.5 * 2^23: the sum's low byte is the integer
    F32x16 total = zero();
    for (std::size_t i = 0; i < unit.group; i += 16) {
        const F32x16 rounded = fma(load_inputs(x, first + i, n_inputs), factor, magic);
        total = add(total, sub(rounded, magic));
        std::byte quads[16];
        store_low_bytes(quads, rounded);
        for (std::size_t quad = 0; quad < 4; ++quad) {
            __builtin_memcpy(out + (i / 4 + quad) * tile * 4, quads + quad * 4, 4);
        }
    }
    const float zeros = sum(total) * static_cast<float>(-unit.zero); // exact
    const auto correction = scale == scale ? static_cast<std::int32_t>(zeros) : 0;
    __builtin_memcpy(out + tile * unit.group, &scale, sizeof scale);
    __builtin_memcpy(out + tile * (unit.group + 4), &correction, sizeof correction);
}

/// The Kernels::quantize_rows.
GPT2_KERNEL void quantize_rows(const QuantizeArgs& args) {
    const UnitShape unit = unit_of(args.type);
    const std::size_t n_units = unit_count(args.type, args.n_inputs);
    for (std::size_t row = 0; row < args.rows; ++row) {
        std::byte* const tile = args.out + row / args.tile * args.tile * n_units * unit.x_bytes;
        const std::size_t lane = row % args.tile;
        for (std::size_t i = 0; i < n_units; ++i) {
            // of quads, scales and corrections alike, the row's is 4 * lane bytes on
            quantize_group(args.x + row * args.stride, i * unit.group, args.n_inputs, unit, args.tile,
                           tile + i * args.tile * unit.x_bytes + 4 * lane);
        }
    }
}

} // namespace gpt2::kernels::GPT2_LEVEL
