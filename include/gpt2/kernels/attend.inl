// SPDX-License-Identifier: MIT
// Included by level.inl, once per instruction set.

namespace gpt2::kernels::GPT2_LEVEL {

/// Scores of one query against Blocks blocks of 16 keys: each is one chain over the head's dimensions.
template <class Stored, std::size_t Blocks>
GPT2_INLINE void score_blocks(const float* query, const Stored* keys, std::size_t head_size, F32x16* scores) {
    F32x16 s0 = zero();
    F32x16 s1 = zero();
    F32x16 s2 = zero();
    F32x16 s3 = zero();
    const std::size_t block = head_size * 16;
    for (std::size_t d = 0; d < head_size; ++d) {
        const F32x16 q = broadcast(query[d]);
        const Stored* const column = keys + d * 16;
        s0 = fma(q, load(column), s0);
        if constexpr (Blocks > 1) {
            s1 = fma(q, load(column + block), s1);
        }
        if constexpr (Blocks > 2) {
            s2 = fma(q, load(column + 2 * block), s2);
        }
        if constexpr (Blocks > 3) {
            s3 = fma(q, load(column + 3 * block), s3);
        }
    }
    scores[0] = s0;
    scores[1] = s1;
    scores[2] = s2;
    scores[3] = s3;
}

/// sums[16 * Blocks] = correction * sums + the values weighted by p, in the order of positions.
template <class Stored, std::size_t Blocks>
GPT2_INLINE void add_values(const float* p, std::size_t n, const Stored* values, std::size_t stride,
                            F32x16 correction, float* sums) {
    F32x16 a0 = mul(load(sums), correction);
    F32x16 a1 = zero();
    F32x16 a2 = zero();
    F32x16 a3 = zero();
    if constexpr (Blocks == 4) {
        a1 = mul(load(sums + 16), correction);
        a2 = mul(load(sums + 32), correction);
        a3 = mul(load(sums + 48), correction);
    }
    for (std::size_t j = 0; j < n; ++j) {
        const F32x16 weight = broadcast(p[j]);
        const Stored* const value = values + j * stride;
        a0 = fma(weight, load(value), a0);
        if constexpr (Blocks == 4) {
            a1 = fma(weight, load(value + 16), a1);
            a2 = fma(weight, load(value + 32), a2);
            a3 = fma(weight, load(value + 48), a3);
        }
    }
    store(sums, a0);
    if constexpr (Blocks == 4) {
        store(sums + 16, a1);
        store(sums + 32, a2);
        store(sums + 48, a3);
    }
}

/// softmax(q K^T) V over the positions, with the running maximum and sum of Milakov and Gimelshein
/// ("Online normalizer calculation for softmax", 2018), updated once per 64 positions counted from
/// position 0: which keys share a block never depends on how the tokens arrived.
template <class Stored> GPT2_KERNEL void attend(const AttendArgs& args) {
    constexpr std::size_t block = 64;
    const std::size_t head_size = args.head_size;
    const std::size_t padded = (head_size + 15) / 16 * 16;
    float* const sums = args.scratch;
    for (std::size_t d = 0; d < padded; d += 16) {
        store(sums + d, zero());
    }
    const F32x16 minus_infinity = broadcast(-__builtin_inff());
    float running_max = -__builtin_inff();
    F32x16 running_sum = zero(); // the same in every lane
    for (std::size_t first = 0; first < args.n_positions; first += block) {
        const std::size_t left = args.n_positions - first;
        const std::size_t n = left < block ? left : block;
        const Stored* const keys = static_cast<const Stored*>(args.keys) + first * head_size;
        F32x16 scores[4];
        switch ((n + 15) / 16) {
        case 1:
            score_blocks<Stored, 1>(args.query, keys, head_size, scores);
            break;
        case 2:
            score_blocks<Stored, 2>(args.query, keys, head_size, scores);
            break;
        case 3:
            score_blocks<Stored, 3>(args.query, keys, head_size, scores);
            break;
        default:
            score_blocks<Stored, 4>(args.query, keys, head_size, scores);
            break;
        }
        if (n < block) {
            for (std::size_t i = 0; i < 4; ++i) {
                scores[i] = keep_first(scores[i], n > 16 * i ? n - 16 * i : 0, minus_infinity);
            }
        }
        const float block_max = max(max(max(scores[0], scores[1]), max(scores[2], scores[3])));
        const float new_max = block_max > running_max ? block_max : running_max;
        float p[block];
        F32x16 total = zero();
        for (std::size_t i = 0; i < 4; ++i) {
            const F32x16 weights = exp(sub(scores[i], broadcast(new_max)));
            store(p + 16 * i, weights);
            total = add(total, weights);
        }
        // exp(-infinity) = 0 for the first block, exp(0) = 1 where the maximum stays
        const F32x16 correction = exp(broadcast(running_max - new_max));
        running_sum = fma(running_sum, correction, broadcast(sum(total)));
        running_max = new_max;
        const Stored* const values = static_cast<const Stored*>(args.values) + first * padded;
        std::size_t d = 0;
        for (; d + 64 <= padded; d += 64) {
            add_values<Stored, 4>(p, n, values + d, padded, correction, sums + d);
        }
        for (; d < padded; d += 16) {
            add_values<Stored, 1>(p, n, values + d, padded, correction, sums + d);
        }
    }
    std::size_t d = 0;
    for (; d + 16 <= head_size; d += 16) {
        store(args.out + d, div(load(sums + d), running_sum));
    }
    if (d < head_size) {
        store_partial(args.out + d, div(load(sums + d), running_sum), head_size - d);
    }
}

} // namespace gpt2::kernels::GPT2_LEVEL
