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

    GPT2_INLINE void start(F32x16 a, F32x16 b) {
        rest.start(a, b);
        low = a;
        high = b;
    }
    GPT2_INLINE void step(const float* x, F32x16 a, F32x16 b) {
        rest.step(x, a, b);
        const F32x16 input = broadcast(x[Rows - 1]);
        low = fma(input, a, low);
        high = fma(input, b, high);
    }
    /// Writes the first @p rows rows.
    GPT2_INLINE void finish(std::size_t rows, float* y, std::size_t stride, std::size_t n,
                            Epilogue epilogue) {
        rest.finish(rows, y, stride, n, epilogue);
        if (Rows <= rows) {
            float* const row = y + (Rows - 1) * stride;
            finish_half(low, row, n, epilogue);
            if (n > 16) {
                finish_half(high, row + 16, n - 16, epilogue);
            }
        }
    }
    static GPT2_INLINE void finish_half(F32x16 a, float* y, std::size_t n, Epilogue epilogue);
};

template <> struct Accumulators<0> {
    GPT2_INLINE void start(F32x16, F32x16) {}
    GPT2_INLINE void step(const float*, F32x16, F32x16) {}
    GPT2_INLINE void finish(std::size_t, float*, std::size_t, std::size_t, Epilogue) {}
};

/// Out of line: once per 16 outputs, a call costs nothing and saves much code.
GPT2_KERNEL void apply_epilogue(float* values, const float* y, std::size_t n, Epilogue epilogue) {
    F32x16 a = load(values);
    if (epilogue == Epilogue::add) {
        a = add(n >= 16 ? load(y) : load_partial(y, n), a);
    } else if (epilogue == Epilogue::gelu_tanh) {
        a = gelu(a);
    } else {
        a = add(max(zero(), a), zero()); // NaN stays NaN in this order; -0 becomes 0 on every machine
    }
    store(values, a);
}

template <std::size_t Rows>
GPT2_INLINE void Accumulators<Rows>::finish_half(F32x16 a, float* y, std::size_t n, Epilogue epilogue) {
    if (epilogue != Epilogue::store) {
        float values[16];
        store(values, a);
        apply_epilogue(values, y, n, epilogue);
        a = load(values);
    }
    if (n >= 16) {
        store(y, a);
    } else {
        store_partial(y, a, n);
    }
}

/// One tile of rows times one panel. Each output starts at its bias and takes one fused multiply-add per
/// input, in order: the same chain in every tile size.
template <class Weight, std::size_t Rows>
GPT2_KERNEL void linear_tile(const LinearArgs& args, std::size_t row, std::size_t panel) {
    constexpr std::size_t prefetch_distance = 2048 / sizeof(Weight); // 2 KiB ahead in the stream
    const std::size_t n_inputs = args.n_inputs;
    const Weight* weights = reinterpret_cast<const Weight*>(args.panels) + panel * n_inputs * panel_width;
    const float* x = args.x + row * n_inputs;
    const float* const bias = args.bias + panel * panel_width;
    Accumulators<Rows> sums;
    sums.start(load(bias), load(bias + 16));
    for (std::size_t k = 0; k < n_inputs; ++k) {
        if constexpr (Rows <= 2) {
            for (std::size_t line = 0; line < panel_width * sizeof(Weight); line += 64) {
                __builtin_prefetch(reinterpret_cast<const char*>(weights + prefetch_distance) + line);
            }
        }
        F32x16 a;
        F32x16 b;
        load_weights(weights, a, b);
        sums.step(x, a, b);
        weights += panel_width;
        x += Rows;
    }
    const std::size_t n = args.n_outputs - panel * panel_width;
    sums.finish(args.rows - row, args.y + row * args.y_stride + panel * panel_width, args.y_stride,
                n < panel_width ? n : panel_width, args.epilogue);
}

template <class Weight, std::size_t Rows>
GPT2_KERNEL void linear_rows(const LinearArgs& args, std::size_t panel_begin, std::size_t panel_end) {
    for (std::size_t panel = panel_begin; panel < panel_end; ++panel) {
        for (std::size_t row = 0; row < args.rows; row += Rows) {
            linear_tile<Weight, Rows>(args, row, panel);
        }
    }
}

/// Tile sizes by registers: rows * 2 blocks of sixteen accumulators, 2 of weights and a broadcast fit into
/// 32 registers of 16 lanes (12 rows), 16 of 8 (3) and, on NEON, 32 of 4 (3).
inline constexpr std::array<std::size_t, 5> tile_sizes = Isa::GPT2_LEVEL == Isa::avx512
                                                             ? std::array<std::size_t, 5>{1, 2, 4, 8, 12}
                                                             : std::array<std::size_t, 5>{1, 2, 3, 3, 3};

template <class Weight>
GPT2_KERNEL void linear(const LinearArgs& args, std::size_t panel_begin, std::size_t panel_end) {
    switch (args.tile) {
    case 1:
        return linear_rows<Weight, 1>(args, panel_begin, panel_end);
    case 2:
        return linear_rows<Weight, 2>(args, panel_begin, panel_end);
    default:
        break;
    }
    if constexpr (tile_sizes.back() == 12) {
        switch (args.tile) {
        case 4:
            return linear_rows<Weight, 4>(args, panel_begin, panel_end);
        case 8:
            return linear_rows<Weight, 8>(args, panel_begin, panel_end);
        default:
            return linear_rows<Weight, 12>(args, panel_begin, panel_end);
        }
    } else {
        return linear_rows<Weight, 3>(args, panel_begin, panel_end);
    }
}

} // namespace gpt2::kernels::GPT2_LEVEL
