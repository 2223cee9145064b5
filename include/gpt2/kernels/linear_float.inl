// SPDX-License-Identifier: MIT
// Included by level.inl, once per instruction set.

namespace gpt2::kernels::GPT2_LEVEL {

GPT2_INLINE void load_weights(const float* p, F32x16& a, F32x16& b) {
    a = load(p);
    b = load(p + 16);
}
GPT2_INLINE void load_weights(const half* p, F32x16& a, F32x16& b) {
    a = load(p);
    b = load(p + 16);
}
GPT2_INLINE void load_weights(const bfloat16* p, F32x16& a, F32x16& b) {
    load_pair(p, a, b);
}

/// The 32 outputs of one panel for the rows of one tile, as accumulators in registers. Rows are struct
/// members rather than an array, so that no compiler puts them in memory.
template <std::size_t Rows> struct Accumulators {
    Accumulators<Rows - 1> rest;
    F32x16 low, high;

    GPT2_INLINE void read(const float* sums) {
        rest.read(sums);
        low = load(sums + (Rows - 1) * panel_width);
        high = load(sums + (Rows - 1) * panel_width + 16);
    }
    GPT2_INLINE void step(const float* x, F32x16 a, F32x16 b) {
        rest.step(x, a, b);
        const F32x16 input = broadcast(x[Rows - 1]);
        low = fma(input, a, low);
        high = fma(input, b, high);
    }
    GPT2_INLINE void write(float* sums) const {
        rest.write(sums);
        store(sums + (Rows - 1) * panel_width, low);
        store(sums + (Rows - 1) * panel_width + 16, high);
    }
};

template <> struct Accumulators<0> {
    GPT2_INLINE void read(const float*) {}
    GPT2_INLINE void step(const float*, F32x16, F32x16) {}
    GPT2_INLINE void write(float*) const {}
};

/// The multiply-adds of @p count inputs.
template <class Weight, std::size_t Rows>
GPT2_INLINE void step_inputs(Accumulators<Rows>& sums, const Weight* weights, const float* x,
                             std::size_t count) {
    for (std::size_t k = 0; k < count; ++k) {
        F32x16 a;
        F32x16 b;
        load_weights(weights + k * panel_width, a, b);
        sums.step(x + k * Rows, a, b);
    }
}

/// The LinearTile::block of a float format.
template <class Weight, std::size_t Rows>
GPT2_KERNEL void multiply_float(const std::byte* panel, const std::byte* rows, std::size_t n, float* sums,
                                ReadAhead ahead) {
    constexpr std::size_t unit_lines = panel_width * sizeof(Weight) / 64;
    const auto* weights = reinterpret_cast<const Weight*>(panel);
    const auto* x = reinterpret_cast<const float*>(rows);
    Accumulators<Rows> accumulators;
    accumulators.read(sums);
    if (ahead.next == nullptr) {
        for (std::size_t k = 0; k < n; ++k) {
            for (std::size_t line = 0; line < unit_lines; ++line) {
                fetch_ahead(panel + (k * unit_lines + line) * 64);
            }
            step_inputs(accumulators, weights + k * panel_width, x + k * Rows, 1);
        }
    } else {
        const std::size_t every = ahead.stride / 64;
        for (std::size_t k = 0; k < n; k += every) {
            for (std::size_t line = 0; line < unit_lines; ++line, ahead.next += ahead.stride) {
                __builtin_prefetch(ahead.next, 0, 2);
            }
            step_inputs(accumulators, weights + k * panel_width, x + k * Rows, n - k < every ? n - k : every);
        }
    }
    accumulators.write(sums);
}

/// Tile sizes by registers: rows * 2 blocks of sixteen accumulators, 2 of weights and a broadcast fit into
/// 32 registers of 16 lanes (12 rows), 16 of 8 (3, or 2 where widening needs some) and, on NEON, 32 of 4 (3).
template <class Weight> constexpr LinearTiles float_tiles() {
#if GPT2_WIDE
    return {{{1, &multiply_float<Weight, 1>},
             {2, &multiply_float<Weight, 2>},
             {4, &multiply_float<Weight, 4>},
             {8, &multiply_float<Weight, 8>},
             {12, &multiply_float<Weight, 12>}}};
#else
    if constexpr (sizeof(Weight) == 4) {
        return {{{1, &multiply_float<Weight, 1>},
                 {2, &multiply_float<Weight, 2>},
                 {3, &multiply_float<Weight, 3>}}};
    } else {
        return {{{1, &multiply_float<Weight, 1>}, {2, &multiply_float<Weight, 2>}}};
    }
#endif
}

} // namespace gpt2::kernels::GPT2_LEVEL
