// SPDX-License-Identifier: MIT
// Included by level.inl, once per instruction set.

namespace gpt2::kernels::GPT2_LEVEL {

/// N vectors in registers: members rather than an array, so that no compiler puts them in memory.
template <std::size_t N> struct Vectors {
    Vectors<N - 1> rest;
    F32x16 last;

    template <class Stored> GPT2_INLINE void read(const Stored* p, std::size_t stride) {
        rest.read(p, stride);
        last = load(p + (N - 1) * stride);
    }
    GPT2_INLINE void add_product(F32x16 factor, const Vectors& x) {
        rest.add_product(factor, x.rest);
        last = fma(factor, x.last, last);
    }
    GPT2_INLINE void write(float* p) const {
        rest.write(p);
        store(p + (N - 1) * 16, last);
    }
};

template <> struct Vectors<0> {
    template <class Stored> GPT2_INLINE void read(const Stored*, std::size_t) {}
    GPT2_INLINE void add_product(F32x16, const Vectors&) {}
    GPT2_INLINE void write(float*) const {}
};

/// N vectors of sums for each of Queries queries.
template <std::size_t Queries, std::size_t N> struct QuerySums {
    QuerySums<Queries - 1, N> rest;
    Vectors<N> last;

    GPT2_INLINE void read(const float* p, std::size_t row) {
        rest.read(p, row);
        last.read(p + (Queries - 1) * row, 16);
    }
    GPT2_INLINE void add_products(const float* x, std::size_t row, const Vectors<N>& shared) {
        rest.add_products(x, row, shared);
        last.add_product(broadcast(x[(Queries - 1) * row]), shared);
    }
    GPT2_INLINE void write(float* p, std::size_t row) const {
        rest.write(p, row);
        last.write(p + (Queries - 1) * row);
    }
};

template <std::size_t N> struct QuerySums<0, N> {
    GPT2_INLINE void read(const float*, std::size_t) {}
    GPT2_INLINE void add_products(const float*, std::size_t, const Vectors<N>&) {}
    GPT2_INLINE void write(float*, std::size_t) const {}
};

/// Queries that share what is read of the cache, the vectors of sums of each that fit into the registers
/// beside as many of the cache, and those of a query alone, which must cover the latency of its chains.
struct AttendTile {
    std::size_t queries, vectors, vectors_alone;
};
inline constexpr AttendTile attend_tile = Isa::GPT2_LEVEL == Isa::avx512 ? AttendTile{4, 4, 4}
                                          : Isa::GPT2_LEVEL == Isa::avx2 ? AttendTile{4, 1, 4}
                                                                         : AttendTile{2, 1, 2};

/// sums[query][i] += x[query][k] * shared[k][i], over k in order. Scores are such sums over the dimensions
/// (x a query, shared the keys), and so is the output over the positions (x the weights, shared the values).
template <class Stored> struct ProductArgs {
    const float* x;    ///< [queries][n]
    std::size_t x_row; ///< from query to query
    std::size_t n;     ///< of k
    const Stored* shared;
    std::size_t step;    ///< of shared, from k to k + 1
    std::size_t stride;  ///< of shared, from one vector of 16 to the next
    std::size_t vectors; ///< in a row of sums
    float* sums;
    std::size_t sums_row; ///< from query to query
    std::size_t ahead;    ///< bytes of the cache between what is read and what is fetched meanwhile
};

/// From vector @p first on, N at a time, then the rest. A sum in memory between calls is what it was in the
/// register, so the chain of an element is the same for any N and number of queries.
template <class Stored, std::size_t Queries, std::size_t N>
GPT2_KERNEL void add_products(const ProductArgs<Stored>& args, std::size_t first) {
    const std::size_t x_row = args.x_row;
    const std::size_t n = args.n;
    const std::size_t step = args.step;
    const std::size_t stride = args.stride;
    const std::size_t ahead = args.ahead;
    for (; first + N <= args.vectors; first += N) {
        const float* x = args.x;
        const Stored* shared = args.shared + first * stride;
        QuerySums<Queries, N> sums;
        sums.read(args.sums + first * 16, args.sums_row);
        for (std::size_t k = 0; k < n; ++k) {
            for (std::size_t i = 0; i < N; ++i) { // into the second-level cache
                __builtin_prefetch(reinterpret_cast<const char*>(shared + i * stride) + ahead, 0, 2);
            }
            Vectors<N> vectors;
            vectors.read(shared, stride);
            sums.add_products(x, x_row, vectors);
            ++x;
            shared += step;
        }
        sums.write(args.sums + first * 16, args.sums_row);
    }
    if constexpr (N > 1) {
        if (first < args.vectors) {
            add_products<Stored, Queries, N / 2>(args, first);
        }
    }
}

/// The state of Queries queries on their way through the blocks of positions.
template <std::size_t Queries> struct AttendState {
    float* queries; ///< [Queries][padded D], scaled
    float* sums;    ///< [Queries][padded D], the values so far, weighted
    float maximum[16];
    float new_maximum[16];
    float totals[16]; ///< sums of the weights of a block
    float corrections[16];
    F32x16 running_sums; ///< of all weights, query r in lane r
    float weights[Queries * kv_block];
};

template <std::size_t Queries>
GPT2_INLINE void begin_queries(AttendState<Queries>& state, const AttendArgs& args, std::size_t first) {
    const std::size_t D = args.head_size;
    const std::size_t padded = padded_head_size(D);
    state.queries = args.scratch;
    state.sums = args.scratch + Queries * padded;
    const F32x16 scale = broadcast(args.scale);
    for (std::size_t r = 0; r < Queries; ++r) {
        const float* const query = args.queries + (first + r) * args.query_stride;
        for (std::size_t d = 0; d < padded; d += 16) {
            const F32x16 q = D - d >= 16 ? load(query + d) : load_partial(query + d, D - d);
            store(state.queries + r * padded + d, mul(q, scale));
            store(state.sums + r * padded + d, zero());
        }
    }
    store(state.maximum, broadcast(-__builtin_inff()));
    store(state.new_maximum, zero()); // of the lanes without a query
    store(state.totals, zero());
    state.running_sums = zero();
}

/// The scores of a block, of which the query sees the first n, become weights exp(score - maximum).
GPT2_INLINE void weigh(float* scores, std::size_t n, float maximum, float& new_maximum, float& total) {
    F32x16 s0 = load(scores);
    F32x16 s1 = load(scores + 16);
    F32x16 s2 = load(scores + 32);
    F32x16 s3 = load(scores + 48);
    if (n < kv_block) {
        const F32x16 minus_infinity = broadcast(-__builtin_inff());
        s0 = keep_first(s0, n, minus_infinity);
        s1 = keep_first(s1, n > 16 ? n - 16 : 0, minus_infinity);
        s2 = keep_first(s2, n > 32 ? n - 32 : 0, minus_infinity);
        s3 = keep_first(s3, n > 48 ? n - 48 : 0, minus_infinity);
    }
    const float block_maximum = max(max(max(s0, s1), max(s2, s3)));
    new_maximum = block_maximum > maximum ? block_maximum : maximum;
    const F32x16 shift = broadcast(new_maximum);
    s0 = exp(sub(s0, shift));
    s1 = exp(sub(s1, shift));
    s2 = exp(sub(s2, shift));
    s3 = exp(sub(s3, shift));
    store(scores, s0);
    store(scores + 16, s1);
    store(scores + 32, s2);
    store(scores + 48, s3);
    total = sum(add(add(add(s0, s1), s2), s3));
}

/// What was summed under the old maxima, under the new ones. exp(-infinity) = 0 in the first block,
/// exp(0) = 1 where the maximum stays.
template <std::size_t Queries>
GPT2_INLINE void correct_sums(AttendState<Queries>& state, std::size_t padded) {
    const F32x16 new_maximum = load(state.new_maximum);
    const F32x16 correction = exp(sub(load(state.maximum), new_maximum));
    store(state.maximum, new_maximum);
    store(state.corrections, correction);
    state.running_sums = fma(state.running_sums, correction, load(state.totals));
    for (std::size_t r = 0; r < Queries; ++r) {
        const F32x16 factor = broadcast(state.corrections[r]);
        for (float* p = state.sums + r * padded; p != state.sums + (r + 1) * padded; p += 16) {
            store(p, mul(load(p), factor));
        }
    }
}

/// sums += weights * values over the positions [begin, end) of a block, for queries @p first and following.
template <class Stored, std::size_t Queries, std::size_t N, class State>
GPT2_INLINE void add_values(State& state, std::size_t first, std::size_t begin, std::size_t end,
                            const Stored* values, std::size_t padded, std::size_t ahead) {
    if (begin < end) {
        add_products<Stored, Queries, N>({state.weights + first * kv_block + begin, kv_block, end - begin,
                                          values + begin * padded, padded, 16, padded / 16,
                                          state.sums + first * padded, padded, ahead},
                                         0);
    }
}

/// While a block is read, what comes next is fetched into the second-level cache, about 16 KiB or 1
/// microsecond ahead: the same part of the next block, or the next part where blocks are larger than that.
struct Ahead {
    std::size_t keys, values;            ///< bytes from what is read to what is fetched
    std::size_t key_vectors, value_rows; ///< for so many of a block there is something to fetch
};
inline constexpr std::size_t ahead_bytes = 16384;

/// @param next  positions in the next block that will be read, at most 64
template <class Stored>
GPT2_INLINE Ahead fetch_ahead(std::size_t D, std::size_t block_stride, std::size_t next) {
    const std::size_t vectors = (next + 15) / 16;
    const std::size_t key_bytes = kv_block * D * sizeof(Stored);
    const std::size_t bytes = key_bytes + kv_block * padded_head_size(D) * sizeof(Stored);
    const std::size_t stride = block_stride * sizeof(Stored);
    return bytes > ahead_bytes ? Ahead{key_bytes, stride - key_bytes, 4, vectors * 16}
                               : Ahead{stride, stride, vectors, vectors * 16};
}

/// One block of positions, of which query r sees the first @p n + r, or all.
template <class Stored, std::size_t Queries>
GPT2_INLINE void attend_block(AttendState<Queries>& state, const Stored* keys, std::size_t D, std::size_t n,
                              const Ahead& ahead) {
    constexpr std::size_t alone = attend_tile.vectors_alone;
    constexpr std::size_t N = Queries == 1 ? alone : attend_tile.vectors;
    const std::size_t padded = padded_head_size(D);
    const Stored* const values = keys + kv_block * D;
    const std::size_t most = n + Queries - 1 < kv_block ? n + Queries - 1 : kv_block;
    for (std::size_t i = 0; i < Queries * kv_block; i += 16) {
        store(state.weights + i, zero());
    }
    ProductArgs<Stored> scores{state.queries,    padded,        D,        keys,      16, D * 16,
                               (most + 15) / 16, state.weights, kv_block, ahead.keys};
    const std::size_t vectors = scores.vectors;
    scores.vectors = vectors < ahead.key_vectors ? vectors : ahead.key_vectors;
    add_products<Stored, Queries, N>(scores, 0);
    const std::size_t done = scores.vectors;
    scores.vectors = vectors;
    scores.ahead = 0;
    add_products<Stored, Queries, N>(scores, done);
    for (std::size_t r = 0; r < Queries; ++r) {
        weigh(state.weights + r * kv_block, n + r, state.maximum[r], state.new_maximum[r], state.totals[r]);
    }
    correct_sums(state, padded);
    const std::size_t shared = n < kv_block ? n : kv_block;
    const std::size_t fetching = shared < ahead.value_rows ? shared : ahead.value_rows;
    add_values<Stored, Queries, N>(state, 0, 0, fetching, values, padded, ahead.values);
    add_values<Stored, Queries, N>(state, 0, fetching, shared, values, padded, 0);
    // What not all of them see. A weight of 0 would not do: there may be anything, NaN included.
    for (std::size_t r = 1; r < Queries; ++r) {
        add_values<Stored, 1, alone>(state, r, shared, n + r < kv_block ? n + r : kv_block, values, padded,
                                     0);
    }
}

/// softmax(q K^T) V for Queries queries that end in the same block, with the running maximum and sum of
/// Milakov and Gimelshein ("Online normalizer calculation for softmax", 2018), updated once per 64 positions
/// counted from position 0: which keys share a block never depends on how the tokens arrived.
template <class Stored, std::size_t Queries>
GPT2_KERNEL void attend_queries(const AttendArgs& args, std::size_t first_query) {
    const std::size_t D = args.head_size;
    const std::size_t padded = padded_head_size(D);
    const std::size_t n_positions = args.n_positions + first_query;
    const auto* const blocks = static_cast<const Stored*>(args.blocks);
    AttendState<Queries> state;
    begin_queries(state, args, first_query);
    for (std::size_t position = 0; position < n_positions; position += kv_block) {
        const std::size_t left = n_positions - position;
        const std::size_t next = left < kv_block ? 0 : left - kv_block;
        attend_block(state, blocks + position / kv_block * args.block_stride, D, left,
                     fetch_ahead<Stored>(D, args.block_stride, next < kv_block ? next : kv_block));
    }
    store(state.totals, state.running_sums);
    for (std::size_t r = 0; r < Queries; ++r) {
        float* const out = args.out + (first_query + r) * args.out_stride;
        const F32x16 divisor = broadcast(state.totals[r]);
        for (std::size_t d = 0; d < D; d += 16) {
            const F32x16 result = div(load(state.sums + r * padded + d), divisor);
            if (D - d >= 16) {
                store(out + d, result);
            } else {
                store_partial(out + d, result, D - d);
            }
        }
    }
}

/// In tiles of queries that end in the same block, the rest one by one.
template <class Stored> GPT2_KERNEL void attend(const AttendArgs& args) {
    constexpr std::size_t tile = attend_tile.queries;
    const std::size_t first_block = args.n_positions < kv_block ? args.n_positions : kv_block;
    const std::size_t bytes =
        first_block * (args.head_size + padded_head_size(args.head_size)) * sizeof(Stored);
    fetch(static_cast<const std::byte*>(args.blocks), bytes < ahead_bytes ? bytes : ahead_bytes);
    std::size_t query = 0;
    while (query < args.n_queries) {
        const std::size_t last = (args.n_positions - 1 + query) % kv_block;
        if (args.n_queries - query >= tile && last + tile <= kv_block) {
            attend_queries<Stored, tile>(args, query);
            query += tile;
        } else {
            attend_queries<Stored, 1>(args, query);
            ++query;
        }
    }
}

/// Whether a cache holds it: 0 if so, 1 if not, NaN and infinity included.
template <class Stored> GPT2_INLINE F32x16 beyond(F32x16 x) {
    const F32x16 limit = broadcast(sizeof(Stored) == 2 ? 65520.0f : __builtin_inff());
    return zero_where_less(broadcast(1.0f), max(sub(zero(), x), x), limit);
}

/// Keys and values of consecutive positions of one head into its blocks. @returns whether the type of the
/// cache holds all of them.
template <class Stored> GPT2_KERNEL bool write_kv(const WriteKvArgs& args) {
    const std::size_t D = args.head_size;
    const std::size_t padded = padded_head_size(D);
    F32x16 wrong = zero();
    for (std::size_t row = 0; row < args.n_rows; ++row) {
        const std::size_t position = args.position + row;
        const float* const key = args.keys + row * args.row_stride;
        const float* const value = args.values + row * args.row_stride;
        const std::size_t within = position % kv_block;
        Stored* const keys = static_cast<Stored*>(args.blocks) + position / kv_block * args.block_stride;
        Stored* const key_out = keys + within / 16 * 16 * D + within % 16;
        Stored* const value_out = keys + kv_block * D + within * padded;
        for (std::size_t d = 0; d < D; d += 16) {
            const std::size_t n = D - d < 16 ? D - d : 16;
            const F32x16 k = n == 16 ? load(key + d) : load_partial(key + d, n);
            const F32x16 v = n == 16 ? load(value + d) : load_partial(value + d, n);
            wrong = max(wrong, max(beyond<Stored>(k), beyond<Stored>(v)));
            store(value_out + d, v);
            Stored lanes[16];
            store(lanes, k);
            for (std::size_t i = 0; i < n; ++i) {
                key_out[(d + i) * 16] = lanes[i];
            }
        }
    }
    return !(max(wrong) > 0.0f);
}

} // namespace gpt2::kernels::GPT2_LEVEL
