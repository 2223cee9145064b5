// SPDX-License-Identifier: MIT
// Included by level.inl, once per instruction set.

namespace gpt2::kernels::GPT2_LEVEL {

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

/// From sums [rows][32] to n <= 32 outputs a row.
GPT2_KERNEL void finish_rows(const float* values, std::size_t rows, float* y, std::size_t stride,
                             std::size_t n, Epilogue epilogue) {
    for (std::size_t row = 0; row < rows; ++row) {
        finish(values + row * panel_width, y + row * stride, n < 16 ? n : 16, epilogue);
        if (n > 16) {
            finish(values + row * panel_width + 16, y + row * stride + 16, n - 16, epilogue);
        }
    }
}

/// Asks for [@p begin, @p begin + @p bytes) in the second-level cache.
GPT2_INLINE void fetch(const std::byte* begin, std::size_t bytes) {
    for (std::size_t line = 0; line < bytes; line += 64) {
        __builtin_prefetch(begin + line, 0, 2);
    }
}

/// All rows times one panel. Each output starts at its bias and takes its multiply-adds in the order of the
/// inputs: the same chain for any number of rows. A single tile reads the panel as one stream. With several
/// the inputs go in blocks that stay in the first-level cache, and the sums, which are stored and loaded
/// exactly, wait in between. So that memory and arithmetic work at the same time, each tile fetches its part
/// of the next block (of the next panel, if this one ends), a line now and then: asked for at once, the lines
/// would fill the buffers for misses, and the arithmetic would wait.
GPT2_KERNEL void linear_panel(const LinearArgs& args, std::size_t panel) {
    const LinearTile& tile = args.tile;
    const UnitShape unit = unit_of(args.type);
    const std::size_t n_units = unit_count(args.type, args.n_inputs);
    const std::byte* const weights = args.panels + panel * n_units * unit.bytes;
    const float* const bias = args.bias + panel * panel_width;
    alignas(64) float sums[max_linear_rows * panel_width];
    const F32x16 low = load(bias);
    const F32x16 high = load(bias + 16);
    const std::size_t rows = (args.rows + tile.rows - 1) / tile.rows * tile.rows;
    for (std::size_t row = 0; row < rows; ++row) {
        store(sums + row * panel_width, low);
        store(sums + row * panel_width + 16, high);
    }
    if (rows == tile.rows) {
        tile.block(weights, args.x, n_units, sums, {});
    } else {
        const std::size_t block = linear_block_bytes / unit.bytes;
        const std::size_t stride = rows / tile.rows * 64;
        for (std::size_t first = 0; first < n_units; first += block) {
            const std::size_t n = n_units - first < block ? n_units - first : block;
            const std::byte* next = weights + (first + n) * unit.bytes;
            for (std::size_t row = 0; row < rows; row += tile.rows, next += 64) {
                const std::byte* const x = args.x + (row * n_units + first * tile.rows) * unit.x_bytes;
                tile.block(weights + first * unit.bytes, x, n, sums + row * panel_width, {next, stride});
            }
        }
    }
    const std::size_t n = args.n_outputs - panel * panel_width;
    finish_rows(sums, args.rows, args.y + panel * panel_width, args.y_stride,
                n < panel_width ? n : panel_width, args.epilogue);
}

GPT2_KERNEL void linear(const LinearArgs& args, std::size_t panel_begin, std::size_t panel_end) {
    for (std::size_t panel = panel_begin; panel < panel_end; ++panel) {
        linear_panel(args, panel);
    }
}

} // namespace gpt2::kernels::GPT2_LEVEL
