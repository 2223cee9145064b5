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
    GPT2_INLINE void write(float* values) const {
        rest.write(values);
        store(values + (Rows - 1) * panel_width, low);
        store(values + (Rows - 1) * panel_width + 16, high);
    }
};

template <> struct Accumulators<0> {
    GPT2_INLINE void start(F32x16, F32x16) {}
    GPT2_INLINE void step(const float*, F32x16, F32x16) {}
    GPT2_INLINE void write(float*) const {}
};

/// The first n <= 16 outputs of a row: y = epilogue(values).
GPT2_INLINE void finish(const float* values, float* y, std::size_t n, Epilogue epilogue) {
    F32x16 a = load(values);
    if (epilogue == Epilogue::add) {
        a = add(n >= 16 ? load(y) : load_partial(y, n), a);
    } else if (epilogue == Epilogue::gelu_tanh) {
        a = GeluTanh::of(a);
    } else if (epilogue == Epilogue::gelu_erf) {
        a = GeluErf::of(a);
    } else if (epilogue == Epilogue::relu) {
        a = add(max(zero(), a), zero()); // NaN stays NaN in this order; -0 becomes 0 on every machine
    }
    if (n >= 16) {
        store(y, a);
    } else {
        store_partial(y, a, n);
    }
}

/// From a tile's sums [rows][32] to n <= 32 outputs a row. One function for all formats and tile sizes: what
/// happens once per chain of K multiply-adds need not be inlined into each.
GPT2_KERNEL void finish_rows(const float* values, std::size_t rows, float* y, std::size_t stride,
                             std::size_t n, Epilogue epilogue) {
    for (std::size_t row = 0; row < rows; ++row) {
        finish(values + row * panel_width, y + row * stride, n < 16 ? n : 16, epilogue);
        if (n > 16) {
            finish(values + row * panel_width + 16, y + row * stride + 16, n - 16, epilogue);
        }
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
    alignas(64) float values[Rows * panel_width];
    sums.write(values);
    const std::size_t rows = args.rows - row;
    const std::size_t n = args.n_outputs - panel * panel_width;
    finish_rows(values, rows < Rows ? rows : Rows, args.y + row * args.y_stride + panel * panel_width,
                args.y_stride, n < panel_width ? n : panel_width, args.epilogue);
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
