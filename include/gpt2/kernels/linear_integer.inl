// SPDX-License-Identifier: MIT
// Included by table.inl, once per instruction set and kind of dot product.

namespace gpt2::kernels::GPT2_LEVEL::GPT2_DOT {

struct Int8 {
    static constexpr UnitShape shape = int8_unit;
    static GPT2_INLINE void load(const std::byte* unit, std::size_t quad, Bytes& low, Bytes& high) {
        low = load_bytes(unit + quad * 128);
        high = load_bytes(unit + quad * 128 + 64);
    }
};
struct Int4 {
    static constexpr UnitShape shape = int4_unit;
    static GPT2_INLINE void load(const std::byte* unit, std::size_t quad, Bytes& low, Bytes& high) {
        load_nibbles(unit + quad * 64, low, high);
    }
};

/// The dot products of one group, and what they add to the outputs.
template <class Format, std::size_t Rows> struct Dots {
    Dots<Format, Rows - 1> rest;
    I32x16 low, high;

    GPT2_INLINE void start(const std::byte* corrections) {
        rest.start(corrections);
        std::int32_t correction = 0;
        __builtin_memcpy(&correction, corrections + 4 * (Rows - 1), sizeof correction);
        low = start_dot<Format::shape.zero>(correction);
        high = low;
    }
    GPT2_INLINE void start_empty() {
        rest.start_empty();
        low = start_dot<Format::shape.zero>(0);
        high = low;
    }
    GPT2_INLINE void add(const Dots& other) {
        rest.add(other.rest);
        low = sum_of(low, other.low);
        high = sum_of(high, other.high);
    }
    GPT2_INLINE void step(const std::byte* quads, const Bytes& a, const Bytes& b) {
        rest.step(quads, a, b);
        const auto x = broadcast_quad(quads + 4 * (Rows - 1));
        low = dot<Format::shape.zero>(low, a, x);
        high = dot<Format::shape.zero>(high, b, x);
    }
    GPT2_INLINE void add_to(Accumulators<Rows>& sums, const std::byte* scales, F32x16 a, F32x16 b) const {
        rest.add_to(sums.rest, scales, a, b);
        float scale = 0.0f;
        __builtin_memcpy(&scale, scales + 4 * (Rows - 1), sizeof scale);
        sums.low = fma(to_float(low), mul(a, broadcast(scale)), sums.low);
        sums.high = fma(to_float(high), mul(b, broadcast(scale)), sums.high);
    }
};

template <class Format> struct Dots<Format, 0> {
    GPT2_INLINE void start(const std::byte*) {}
    GPT2_INLINE void start_empty() {}
    GPT2_INLINE void add(const Dots&) {}
    GPT2_INLINE void step(const std::byte*, const Bytes&, const Bytes&) {}
    GPT2_INLINE void add_to(Accumulators<0>&, const std::byte*, F32x16, F32x16) const {}
};

/// Count quads from @p quad on, Stride apart. Written out, as a loop of steps as short as these takes longer
/// for its branches than for its work.
template <class Format, std::size_t Rows, std::size_t Count, std::size_t Stride = 1>
GPT2_INLINE void step_quads(Dots<Format, Rows>& dots, const std::byte* unit, const std::byte* x,
                            std::size_t quad) {
    if constexpr (Count != 0) {
        Bytes low;
        Bytes high;
        Format::load(unit, quad, low, high);
        dots.step(x + quad * Rows * 4, low, high);
        step_quads<Format, Rows, Count - 1, Stride>(dots, unit, x, quad + Stride);
    }
}

/// The LinearTile::block of an integer format: for each group in order the exact sum of products of
/// integers, which is a float without rounding (64 * 127 * 127 < 2^24), times the product of both scales.
template <class Format, std::size_t Rows>
GPT2_KERNEL void multiply_integer(const std::byte* unit, const std::byte* x, std::size_t n, float* sums,
                                  ReadAhead ahead) {
    constexpr UnitShape shape = Format::shape;
    constexpr std::size_t quads = shape.group / 4;
    constexpr std::size_t together = Rows == 1 ? 4 : quads / Rows;
    Accumulators<Rows> accumulators;
    accumulators.read(sums);
    const std::byte* next_end = ahead.next;
    for (std::size_t i = 0; i < n; ++i) {
        // One by one: all at once, written out, they were in each other's way where memory is busy.
        if (ahead.next == nullptr) {
            for (std::size_t line = 0; line < shape.bytes; line += 64) {
                fetch_ahead(unit + line);
            }
        } else {
            for (next_end += shape.bytes; ahead.next < next_end; ahead.next += ahead.stride) {
                __builtin_prefetch(ahead.next, 0, 2);
            }
        }
        Dots<Format, Rows> dots;
        dots.start(x + Rows * (shape.group + 4));
        if constexpr (Rows == 1) { // two sums for each output, as one would wait for itself; both are exact
            Dots<Format, Rows> odd;
            odd.start_empty();
            for (std::size_t quad = 0; quad < quads; quad += together) {
                step_quads<Format, Rows, together / 2, 2>(dots, unit, x, quad);
                step_quads<Format, Rows, together / 2, 2>(odd, unit, x, quad + 1);
            }
            dots.add(odd);
        } else {
            for (std::size_t quad = 0; quad < quads; quad += together) {
                step_quads<Format, Rows, together>(dots, unit, x, quad);
            }
        }
        F32x16 low;
        F32x16 high;
        load_pair(reinterpret_cast<const bfloat16*>(unit + shape.scales_at), low, high);
        dots.add_to(accumulators, x + Rows * shape.group, low, high);
        unit += shape.bytes;
        x += Rows * shape.x_bytes;
    }
    accumulators.write(sums);
}

/// Four rows are 8 chains of dot products, enough to hide their latency, and leave registers for the sums;
/// eight were no faster. Where two fill the registers, more are slower.
template <class Format> constexpr LinearTiles integer_tiles() {
    LinearTiles tiles{{{1, &multiply_integer<Format, 1>}, {2, &multiply_integer<Format, 2>}}};
    if constexpr (most_dot_rows >= 4) {
        tiles[2] = {4, &multiply_integer<Format, 4>};
    }
    return tiles;
}

} // namespace gpt2::kernels::GPT2_LEVEL::GPT2_DOT
