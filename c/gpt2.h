/* SPDX-License-Identifier: MIT */
#ifndef GPT2_H
#define GPT2_H

#include <stddef.h>
#include <stdint.h>

/**
 * @file
 * The library for C, and for every language that can call C: `libgpt2`, the same engine behind a stable
 * binary interface. `examples/c/hello.c` is a whole program, `docs/bindings.md` the introduction.
 *
 * - **Errors.** A function that can fail returns a gpt2_status, and writes its results only when that is
 *   GPT2_OK. gpt2_last_error() says what was wrong. Nothing is thrown and nothing aborts: null pointers,
 *   handles included, are GPT2_ERROR_OPTION. Functions that cannot fail return their value, and 0 or nothing
 *   for a null handle.
 * - **Ownership.** What a `_create`, `_load` or `generate` function hands out is the caller's, who gives it
 *   to the `_free` function of its type; arrays go to gpt2_free(). Handles may be freed in any order: a
 *   session keeps the model and the pool that it needs. All `_free` functions do nothing with null. What is
 *   returned as `const` belongs to the handle, and is good as long as is written at the function.
 * - **Text** is bytes with a length: UTF-8 wherever it was valid when it came in, and NUL is a character like
 *   any other. What the library returns as text has a NUL after its last byte as well.
 * - **Threads.** Any number of threads may use one model, one pool, one cancellation or one constraint at
 *   once. A session or a result serves one caller at a time; of several calls on one session at once all
 *   but one return GPT2_ERROR_BUSY.
 * - **Structures that grow.** The first member of an options structure is its size, and `gpt2_..._init()`
 *   sets it: call that first, then set what you want. A program that was compiled for an older library works
 *   with a newer one, and one for a newer library works with an older one as long as it sets nothing that the
 *   older does not know (GPT2_ERROR_OPTION).
 */

#if defined(_WIN32)
#if defined(GPT2_C_SOURCE)
#define GPT2_API __declspec(dllexport)
#else
#define GPT2_API __declspec(dllimport)
#endif
#elif defined(__GNUC__)
#define GPT2_API __attribute__((visibility("default")))
#else
#define GPT2_API
#endif

/** Before functions whose status must be looked at. */
#if defined(__GNUC__)
#define GPT2_CHECKED GPT2_API __attribute__((warn_unused_result))
#else
#define GPT2_CHECKED GPT2_API
#endif

/** The version of this interface, and of the shared library's name (libgpt2.so.0). Within one version
 * functions are added, and members at the end of structures that have a size; nothing else changes. */
#define GPT2_ABI_VERSION 0

#if defined(__cplusplus)
extern "C" {
#endif

/* ---- Status */

/** What became of a call. Each class of exceptions in gpt2/error.hpp has its own. */
typedef enum gpt2_status {
    GPT2_OK = 0,
    GPT2_ERROR = 1,         /**< none of the others: the system refused a thread, for instance */
    GPT2_ERROR_FILE = 2,    /**< no such file, no permission, a directory where a file was expected */
    GPT2_ERROR_FORMAT = 3,  /**< a file or a buffer does not hold what its format demands */
    GPT2_ERROR_OPTION = 4,  /**< an argument or an option has no meaning, or contradicts another */
    GPT2_ERROR_CONTEXT = 5, /**< the tokens do not fit into the positions that the model has */
    GPT2_ERROR_NUMERIC = 6, /**< a computation left the finite numbers */
    GPT2_ERROR_MEMORY = 7,  /**< there is not enough memory */
    GPT2_ERROR_BUSY = 8,    /**< the session is in use: by another thread, or by the call that calls back */
    GPT2_ERROR_UNKNOWN = 9  /**< an exception that is none of the library's; no caller should ever see it */
} gpt2_status;

/** "ok", "file error" and so on; "unknown status" for any other number. Never null. Thread-safe. */
GPT2_API const char* gpt2_status_name(int status);

/** What was wrong in the last call of this thread that did not succeed: the thing, what was expected and
 * what was found. "" if there was none. Calls that succeed leave it alone. Never null; good until another
 * call in the same thread fails. */
GPT2_API const char* gpt2_last_error(void);

/** Frees an array that a function of this library allocated. Null does nothing. */
GPT2_API void gpt2_free(void* memory);

/* ---- Version */

/** Of the library that is running: "major.minor.patch". */
GPT2_API const char* gpt2_version(void);

/** The same as a number: major * 10000 + minor * 100 + patch. */
GPT2_API int32_t gpt2_version_number(void);

/** GPT2_ABI_VERSION of the library that is running. */
GPT2_API int32_t gpt2_abi_version(void);

/* ---- Values */

/** Some bytes that belong to somebody else. */
typedef struct gpt2_bytes {
    const char* data; /**< never null in what the library returns */
    size_t size;
} gpt2_bytes;

/** Some tokens that belong to somebody else. */
typedef struct gpt2_tokens {
    const int32_t* data;
    size_t size;
} gpt2_tokens;

/** A value that may be absent. All bits 0 is absent; a value without is_set is an error, as it would be
 * ignored. */
typedef struct gpt2_optional_float {
    int32_t is_set;
    float value;
} gpt2_optional_float;

/** As gpt2_optional_float. */
typedef struct gpt2_optional_double {
    int32_t is_set;
    double value;
} gpt2_optional_double;

/** As gpt2_optional_float. */
typedef struct gpt2_optional_int {
    int32_t is_set;
    int64_t value;
} gpt2_optional_int;

/** As gpt2_optional_float. */
typedef struct gpt2_optional_uint {
    int32_t is_set;
    uint64_t value;
} gpt2_optional_uint;

/** A token and the natural logarithm of its probability. This structure never grows. */
typedef struct gpt2_token_logprob {
    int32_t id;
    float logprob;
} gpt2_token_logprob;

/** `config.temperature = gpt2_float(0.8f)` */
static inline gpt2_optional_float gpt2_float(float value) {
    gpt2_optional_float result;
    result.is_set = 1;
    result.value = value;
    return result;
}

/** `config.max_time = gpt2_double(1.5)` */
static inline gpt2_optional_double gpt2_double(double value) {
    gpt2_optional_double result;
    result.is_set = 1;
    result.value = value;
    return result;
}

/** `config.top_k = gpt2_int(40)` */
static inline gpt2_optional_int gpt2_int(int64_t value) {
    gpt2_optional_int result;
    result.is_set = 1;
    result.value = value;
    return result;
}

/** `config.seed = gpt2_uint(42)` */
static inline gpt2_optional_uint gpt2_uint(uint64_t value) {
    gpt2_optional_uint result;
    result.is_set = 1;
    result.value = value;
    return result;
}

/* ---- Threads */

/** Threads that compute. Without one, everything runs on a pool of the process, of as many threads as
 * there are physical cores to use, or as GPT2_THREADS in the environment says. */
typedef struct gpt2_pool gpt2_pool;

/** Makes a pool of @p n_threads threads, 1 to 1024, the one that calls among them. Results do not depend
 * on their number. GPT2_ERROR_OPTION for another number, GPT2_ERROR if the system refuses a thread. */
GPT2_CHECKED gpt2_status gpt2_pool_create(size_t n_threads, gpt2_pool** pool);

/** The number of threads. */
GPT2_API size_t gpt2_pool_size(const gpt2_pool* pool);

/** The threads end when nothing uses the pool any more. */
GPT2_API void gpt2_pool_free(gpt2_pool* pool);

/* ---- Model */

/** Weights, tokenizer and configuration, all immutable. Any number of threads may use one model. */
typedef struct gpt2_model gpt2_model;

/** Formats of weight matrices. */
enum {
    GPT2_WEIGHTS_OF_FILE = 0, /**< each as it is in the file */
    GPT2_WEIGHTS_FLOAT32 = 1,
    GPT2_WEIGHTS_FLOAT16 = 2,
    GPT2_WEIGHTS_BFLOAT16 = 3,
    GPT2_WEIGHTS_INT8 = 4,
    GPT2_WEIGHTS_INT4 = 5
};

/** Instruction sets. */
enum {
    GPT2_ISA_BEST = 0, /**< what GPT2_ISA in the environment says, else the best that the machine has */
    GPT2_ISA_PORTABLE = 1,
    GPT2_ISA_AVX2 = 2,
    GPT2_ISA_AVX2_VNNI = 3,
    GPT2_ISA_AVX512 = 4,
    GPT2_ISA_AVX512_VNNI = 5
};

/** Where the weights of a converted model's file are while the model is used. */
enum {
    GPT2_RESIDENCY_MAPPED = 0,    /**< in the mapped file: nothing is copied, and processes share the pages */
    GPT2_RESIDENCY_HUGE_PAGES = 1 /**< copied into pages of 2 MiB, where the system gives them */
};

/** How a model is loaded; see gpt2::LoadOptions. */
typedef struct gpt2_load_options {
    uint64_t size;   /**< of this structure; set by gpt2_load_options_init() */
    int32_t weights; /**< GPT2_WEIGHTS_...: the format of the weight matrices in memory */
    /** GPT2_WEIGHTS_...: of the output head and of embeddings that are tied to it; by default as weights, but
     * int8 where that is int4 */
    int32_t head;
    int32_t isa;         /**< GPT2_ISA_... */
    int32_t residency;   /**< GPT2_RESIDENCY_... */
    int32_t verify;      /**< 1: as gpt2_model_verify(), before the model is handed out; 0: do not */
    int32_t screen_head; /**< 1: screen the output head while generating; 0: do not */
    gpt2_pool* pool; /**< that packs or verifies; null: that of the process. Not the threads of sessions */
} gpt2_load_options;

/** Fills in the defaults for a structure of @p size bytes; gpt2_load_options_init() calls it. */
GPT2_API void gpt2_load_options_init_sized(gpt2_load_options* options, size_t size);

/** Fills in the defaults. */
static inline void gpt2_load_options_init(gpt2_load_options* options) {
    gpt2_load_options_init_sized(options, sizeof *options);
}

/** Loads the file of a converted model, or a Hugging Face directory; see gpt2::Gpt2Model::load.
 * @param path     with a NUL at its end, in the file system's encoding (Windows: UTF-8)
 * @param options  null: the defaults
 * @param model    gets the model, for gpt2_model_free()
 * @returns GPT2_OK; GPT2_ERROR_FILE, GPT2_ERROR_FORMAT, GPT2_ERROR_OPTION; GPT2_ERROR_NUMERIC if a weight
 *          exceeds the format asked for */
GPT2_CHECKED gpt2_status gpt2_model_load(const char* path, const gpt2_load_options* options,
                                         gpt2_model** model);

/** Loads the file of a converted model from memory.
 * @param file  used in place if it begins at a multiple of 64 bytes, else copied. In place, it must outlive
 *              the model and its sessions
 * @returns as gpt2_model_load(); messages call the file "memory" */
GPT2_CHECKED gpt2_status gpt2_model_load_memory(const void* file, size_t size,
                                                const gpt2_load_options* options, gpt2_model** model);

/** Frees a model. Its sessions may still be used. */
GPT2_API void gpt2_model_free(gpt2_model* model);

/** Reads the whole file of a converted model and tries it: checksum, weights finite, logits those of the
 * self-test.
 * @param pool                null: that of the process
 * @param largest_difference  null, or gets that of a logit from the file's; 0 for a Hugging Face directory,
 *                            which has no self-test
 * @returns GPT2_OK; GPT2_ERROR_FORMAT when the file is damaged or the logits are others; GPT2_ERROR_NUMERIC;
 *          GPT2_ERROR_OPTION when weights were converted to another format than the file's */
GPT2_CHECKED gpt2_status gpt2_model_verify(const gpt2_model* model, gpt2_pool* pool,
                                           float* largest_difference);

/** V, the number of logits. */
GPT2_API size_t gpt2_model_vocab_size(const gpt2_model* model);
/** The longest sequence, in tokens. */
GPT2_API size_t gpt2_model_n_positions(const gpt2_model* model);
/** C, the width of the network. */
GPT2_API size_t gpt2_model_n_embd(const gpt2_model* model);
/** The number of blocks. */
GPT2_API size_t gpt2_model_n_layer(const gpt2_model* model);
/** H, the number of attention heads. */
GPT2_API size_t gpt2_model_n_head(const gpt2_model* model);
/** F, the width inside the MLP. */
GPT2_API size_t gpt2_model_n_inner(const gpt2_model* model);
/** The token that begins a text; -1 if the configuration names none. */
GPT2_API int32_t gpt2_model_bos_token(const gpt2_model* model);
/** The token that ends a text; -1 if the configuration names none. */
GPT2_API int32_t gpt2_model_eos_token(const gpt2_model* model);
/** The instruction set that was chosen, by its name, such as "avx512"; "" for null. */
GPT2_API const char* gpt2_model_isa(const gpt2_model* model);
/** Bytes of weights that one decoding step reads: the least that memory must deliver for each token. */
GPT2_API size_t gpt2_model_bytes_read(const gpt2_model* model);

/* ---- Tokenizer */

/** What gpt2_encode() does with the name of a special token, such as `<|endoftext|>`, in a text. */
enum {
    GPT2_SPECIAL_TOKENS_AS_TEXT = 0,   /**< nothing: it is text like any other */
    GPT2_SPECIAL_TOKENS_RECOGNIZED = 1 /**< takes it for that token */
};

/** The tokens of a text: any bytes, valid UTF-8 or not.
 * @param text            [size]; may be null if @p size is 0
 * @param special_tokens  GPT2_SPECIAL_TOKENS_...
 * @param tokens          gets them, an array for gpt2_free(); never null, even when there are none */
GPT2_CHECKED gpt2_status gpt2_encode(const gpt2_model* model, const char* text, size_t size,
                                     int32_t special_tokens, int32_t** tokens, size_t* n_tokens);

/** The tokens of a prompt: those of gpt2_encode() as text, but an empty one begins as the training texts
 * did, with `<|endoftext|>`. GPT2_ERROR_OPTION if it is empty and the model has no such token. */
GPT2_CHECKED gpt2_status gpt2_encode_prompt(const gpt2_model* model, const char* text, size_t size,
                                            int32_t** tokens, size_t* n_tokens);

/** The bytes of tokens, one after the other: exactly what was encoded. They may end inside a character.
 * @param bytes  gets them, with a NUL behind, for gpt2_free()
 * @param size   gets their number, without that NUL
 * @returns GPT2_OK; GPT2_ERROR_OPTION for an id that is not in the vocabulary */
GPT2_CHECKED gpt2_status gpt2_decode(const gpt2_model* model, const int32_t* tokens, size_t n_tokens,
                                     char** bytes, size_t* size);

/** The bytes of one token, which may hold NUL and have none behind; of a special token its name. Good as
 * long as the model. GPT2_ERROR_OPTION for an id that is not in the vocabulary. */
GPT2_CHECKED gpt2_status gpt2_token_bytes(const gpt2_model* model, int32_t token, gpt2_bytes* bytes);

/** The number of tokens that the tokenizer knows; ids are below. At most gpt2_model_vocab_size(). */
GPT2_API size_t gpt2_n_tokens(const gpt2_model* model);

/** The id of a special token by its whole name, which ends with a NUL; -1 if there is none. */
GPT2_API int32_t gpt2_special_token(const gpt2_model* model, const char* name);

/** 1 if the token is a special one, 0 for all others, ids outside of the vocabulary among them. */
GPT2_API int32_t gpt2_is_special(const gpt2_model* model, int32_t token);

/* ---- Generation */

/** What ends texts from outside: give it to the calls that it shall end. */
typedef struct gpt2_cancellation gpt2_cancellation;

/** Makes one that ends nothing until it is asked to. @param cancellation  for gpt2_cancellation_free() */
GPT2_CHECKED gpt2_status gpt2_cancellation_create(gpt2_cancellation** cancellation);

/** Ends all texts that were given it, those that begin later too. They end with the tokens that are known,
 * within the work of one layer of the model. Any thread may call it, at any time; again does nothing. */
GPT2_API void gpt2_cancellation_request(gpt2_cancellation* cancellation);

/** 1 once it was asked to, 0 before. */
GPT2_API int32_t gpt2_cancellation_requested(const gpt2_cancellation* cancellation);

/** Texts that were given it go on; nothing can end them by it any more. */
GPT2_API void gpt2_cancellation_free(gpt2_cancellation* cancellation);

/** What a text has to match, as a whole: a regular expression or a grammar. docs/constraints.md has the
 * syntax. What may follow a text is computed once and kept, for all texts that share the constraint. */
typedef struct gpt2_constraint gpt2_constraint;

/** Makes one of a regular expression.
 * @param model       whose tokens the texts are of: this model, or another one with its vocabulary
 * @param pattern     [size]
 * @param constraint  gets it, for gpt2_constraint_free()
 * @returns GPT2_OK; GPT2_ERROR_OPTION with line and column, what was expected and what was found, or the
 *          limit that the pattern exceeds */
GPT2_CHECKED gpt2_status gpt2_constraint_regex(const gpt2_model* model, const char* pattern, size_t size,
                                               gpt2_constraint** constraint);

/** The same of a grammar in llama.cpp's GBNF. @param grammar  [size] */
GPT2_CHECKED gpt2_status gpt2_constraint_grammar(const gpt2_model* model, const char* grammar, size_t size,
                                                 gpt2_constraint** constraint);

/** Whether a text matches as a whole.
 * @param text     [size]: any bytes
 * @param matches  gets 1 or 0
 * @returns GPT2_OK; GPT2_ERROR_OPTION if there are too many ways to read it at once */
GPT2_CHECKED gpt2_status gpt2_constraint_matches(const gpt2_constraint* constraint, const char* text,
                                                 size_t size, int32_t* matches);

/** The same for whether a text can be continued to one that matches, or is one. */
GPT2_CHECKED gpt2_status gpt2_constraint_may_begin_with(const gpt2_constraint* constraint, const char* text,
                                                        size_t size, int32_t* may_begin);

/** Texts that were given it go on. */
GPT2_API void gpt2_constraint_free(gpt2_constraint* constraint);

/** What to do when a text outgrows the context. */
enum {
    GPT2_OVERFLOW_ERROR = 0, /**< refuse before any work: GPT2_ERROR_CONTEXT */
    GPT2_OVERFLOW_SLIDE = 1, /**< keep the last n_positions / 2 tokens, which start again at position 0 */
    /** before any work forget the oldest tokens, as many as leave no room for max_new_tokens */
    GPT2_OVERFLOW_TRUNCATE_LEFT = 2
};

/** When a beam search with num_beams complete texts ends. */
enum {
    GPT2_EARLY_STOPPING_DEFAULT = 0, /**< not set, which is off */
    GPT2_EARLY_STOPPING_OFF = 1,  /**< when no beam, were it complete now, would be better than the worst */
    GPT2_EARLY_STOPPING_ON = 2,   /**< at once */
    GPT2_EARLY_STOPPING_NEVER = 3 /**< when no beam can get better than the worst, at any length */
};

/** What top_k does with tokens that equal the last of the k. */
enum {
    GPT2_TOP_K_TIES_KEEP = 0, /**< all stay */
    GPT2_TOP_K_TIES_CUT = 1   /**< the lowest ids stay, up to k */
};

/** Whether top_p takes the token that crosses the share. */
enum {
    GPT2_TOP_P_REACH = 0, /**< it does */
    GPT2_TOP_P_WITHIN = 1 /**< it does not */
};

/* What follows up to the options never grows. */

/** Something that is added to the logit of a token; -INFINITY forbids it. */
typedef struct gpt2_logit_bias {
    int32_t token;
    float bias;
} gpt2_logit_bias;

/** Something that is added to the logit of the last token of a sequence, after the others of it. */
typedef struct gpt2_sequence_bias {
    gpt2_tokens tokens; /**< at least one */
    float bias;
    int32_t reserved; /**< 0 */
} gpt2_sequence_bias;

/** Makes the end of the text more probable: s + |s| (factor^(i - start) - 1) after i > start tokens. */
typedef struct gpt2_exponential_decay {
    int64_t start;    /**< new tokens that cost nothing */
    float factor;     /**< above 0 */
    int32_t reserved; /**< 0 */
} gpt2_exponential_decay;

/** Makes the tokens that would continue a repetition less probable, the longer it is. */
typedef struct gpt2_dry {
    gpt2_optional_float multiplier;      /**< 0.8 by default */
    gpt2_optional_float base;            /**< 1.75 by default */
    gpt2_optional_int allowed_length;    /**< repetitions shorter than this cost nothing; 2 by default */
    gpt2_optional_int penalty_last_n;    /**< look for them in the last so many tokens; in all by default */
    const gpt2_bytes* sequence_breakers; /**< [n]: no repetition reaches over them; null: line, colon,
                                            quotation mark and asterisk */
    size_t n_sequence_breakers;          /**< 0 with an array that is not null: none */
} gpt2_dry;

/** Now and then excludes the most probable tokens. */
typedef struct gpt2_xtc {
    gpt2_optional_float probability; /**< how often; 0.5 by default */
    gpt2_optional_float threshold;   /**< those at least so probable, but for the last; 0.1 by default */
} gpt2_xtc;

/** Draws from so many tokens that the text keeps a given surprise. */
typedef struct gpt2_mirostat {
    gpt2_optional_float tau; /**< bits a token; 5 by default */
    gpt2_optional_float eta; /**< how fast a miss is made up for; 0.1 by default */
} gpt2_mirostat;

/** A function of yours that changes scores in place: -INFINITY forbids a token, NaN and +INFINITY are errors.
 * It must return, as a gpt2_callback must. */
typedef struct gpt2_logits_processor {
    /** @param tokens  [n_tokens]: those of the prompt and of the text so far
     * @param scores  [n_scores], by token */
    void (*function)(const int32_t* tokens, size_t n_tokens, float* scores, size_t n_scores, void* user_data);
    void* user_data;
} gpt2_logits_processor;

/** The options of generation, with the names, defaults and meanings of gpt2::GenerationConfig, which
 * docs/generation.md defines. Pointers are read during the call only; an array without elements may be null.
 *
 * New members go to the end, and all bits 0 must mean that they do nothing. (`src/c_options.hpp` copies
 * them, in `generation_config()`; that and a line here are all that a new one needs.) */
typedef struct gpt2_generation_config {
    uint64_t size;                   /**< of this structure; set by gpt2_generation_config_init() */
    int64_t max_new_tokens;          /**< at most so many tokens; 20 by default */
    gpt2_optional_float temperature; /**< logits are divided by it; 0 is greedy */
    gpt2_optional_int top_k;         /**< draw from the k most probable; 0: all */
    gpt2_optional_float top_p;       /**< draw from the fewest that hold this share, 0 to 1 */
    gpt2_optional_float min_p;       /**< draw from those at least so many times as probable as the first */
    gpt2_optional_float repetition_penalty; /**< above 1: tokens seen before are less probable */
    gpt2_optional_uint seed;                /**< the same seed gives the same text; without: a fresh one */
    uint64_t sample;                        /**< which of the texts that share a seed */
    const gpt2_bytes* stop_strings;         /**< [n_stop_strings]: the text ends before the first of them */
    size_t n_stop_strings;
    gpt2_optional_int eos_token_id; /**< ends the text, instead of the model's own */
    int32_t do_sample;              /**< 0: always the most probable token; 1: draw */
    int32_t logprobs;               /**< 1: compute the log-probability of each token */
    int32_t ignore_eos;             /**< 1: do not end the text at its end-of-text token */
    int32_t overflow;               /**< GPT2_OVERFLOW_... */

    gpt2_optional_double max_time; /**< seconds after which the text ends */
    /** ends the text when gpt2_cancellation_request() is called, as any thread may; null: nothing does */
    const gpt2_cancellation* cancellation;

    gpt2_optional_int num_return_sequences; /**< texts of each prompt; with gpt2_generate_batch() only */
    gpt2_optional_int num_beams;            /**< above 1: beam search, not in a session */
    gpt2_optional_float length_penalty;     /**< a text's score is its sum / length^length_penalty */
    gpt2_optional_int num_beam_groups;      /**< that keep away from each other's choices */
    gpt2_optional_float diversity_penalty;  /**< by how much */
    int32_t early_stopping;                 /**< GPT2_EARLY_STOPPING_... */
    int32_t top_k_ties;                     /**< GPT2_TOP_K_TIES_... */

    /* The same text, sooner: up to so many proposed tokens are read in one pass with the last. */
    gpt2_optional_int prompt_lookup_num_tokens; /**< that followed the last ones earlier in the text */
    gpt2_optional_int max_matching_ngram_size;  /**< how many of the last are looked up; 2 by default */
    const gpt2_model* assistant_model;      /**< that proposes: a smaller one, same vocabulary; null: none */
    gpt2_optional_int num_assistant_tokens; /**< that it proposes at most; 5 by default */

    gpt2_optional_float guidance_scale;     /**< above 1: away from the text after negative_prompt_ids */
    gpt2_tokens negative_prompt_ids;        /**< empty: the last token of the prompt */
    gpt2_optional_float typical_p;          /**< draw from the nearest to the expected surprise */
    gpt2_optional_float epsilon_cutoff;     /**< draw from tokens at least so probable */
    gpt2_optional_float eta_cutoff;         /**< the same with a threshold that falls with the surprise */
    gpt2_optional_float top_n_sigma;        /**< draw from logits so many deviations below the largest */
    gpt2_optional_float presence_penalty;   /**< subtracted from the logits of tokens that occur */
    gpt2_optional_float frequency_penalty;  /**< the same for each time that they do */
    gpt2_optional_int penalty_last_n;       /**< how many tokens the penalties look at; without: all */
    gpt2_optional_int no_repeat_ngram_size; /**< no sequence of so many comes again */
    gpt2_optional_int forced_bos_token_id;  /**< the first token, after a prompt of one */
    gpt2_optional_int forced_eos_token_id;  /**< the last that max_new_tokens allows */
    gpt2_optional_int min_new_tokens;       /**< the model does not end the text before */
    gpt2_tokens suppress_tokens;            /**< never come up */
    gpt2_tokens begin_suppress_tokens;      /**< are not the first of the text */
    const gpt2_tokens* bad_words_ids;       /**< [n_bad_words_ids]: sequences that never come up */
    size_t n_bad_words_ids;
    const gpt2_sequence_bias* sequence_bias; /**< [n_sequence_bias] */
    size_t n_sequence_bias;
    const gpt2_logit_bias* logit_bias; /**< [n_logit_bias] */
    size_t n_logit_bias;
    const gpt2_exponential_decay* exponential_decay_length_penalty; /**< null: none */
    const gpt2_dry* dry;                                            /**< null: none */
    const gpt2_xtc* xtc;                                            /**< null: none */
    const gpt2_mirostat* mirostat;                                  /**< null: none */
    const gpt2_logits_processor* logits_processors; /**< [n_logits_processors], called one after the other */
    size_t n_logits_processors;
    const char* const* processor_order; /**< [n_processor_order]: names of options, all that are set */
    size_t n_processor_order;
    int32_t top_p_rule; /**< GPT2_TOP_P_... */

    int32_t prompt_logprobs;           /**< 1: compute the log-probability of each token of the prompt */
    int64_t top_logprobs;              /**< so many of the most probable tokens at each place */
    gpt2_optional_float penalty_alpha; /**< above 0, at most 1: contrastive search, with a top_k above 1 */
    const gpt2_constraint* constraint; /**< that the text matches; null: any text */
} gpt2_generation_config;

/** Fills in the defaults for a structure of @p size bytes; gpt2_generation_config_init() calls it. */
GPT2_API void gpt2_generation_config_init_sized(gpt2_generation_config* config, size_t size);

/** Fills in the defaults. */
static inline void gpt2_generation_config_init(gpt2_generation_config* config) {
    gpt2_generation_config_init_sized(config, sizeof *config);
}

/** What a callback answers. */
enum {
    GPT2_PROCEED = 0,
    GPT2_STOP = 1 /**< end the text after this token */
};

/** What a callback is told, once for each token. Good during the call only; new members go to the end. */
typedef struct gpt2_token {
    uint64_t size; /**< of this structure */
    int32_t id;
    float logprob; /**< natural logarithm of its probability; NaN unless asked for */
    /** What became certain of the text with this token: valid UTF-8, of this token, of earlier ones, or empty
     * while a character or a stop string may be incomplete. */
    gpt2_bytes text;
    /** Of this token alone, without a NUL behind; empty for the end-of-text token that ends the text. */
    gpt2_bytes bytes;
    size_t index; /**< 0 for the first new token */
    /** [n_top_logprobs]: as gpt2_result_top_logprobs(); null, with a number of 0, unless asked for */
    const gpt2_token_logprob* top_logprobs;
    size_t n_top_logprobs;
} gpt2_token;

/** Called after each token, in the thread that generates. Returns GPT2_PROCEED or GPT2_STOP; anything else
 * ends the call with GPT2_ERROR_OPTION. It must return: neither throw nor jump out. It may use this
 * library, but not the session that is generating (GPT2_ERROR_BUSY), nor may it free that. */
typedef int32_t (*gpt2_callback)(const gpt2_token* token, void* user_data);

/** Why a text ended. */
typedef enum gpt2_finish_reason {
    GPT2_FINISH_LENGTH = 0,      /**< max_new_tokens were generated */
    GPT2_FINISH_EOS = 1,         /**< the model ended the text */
    GPT2_FINISH_STOP_STRING = 2, /**< one of stop_strings came up */
    GPT2_FINISH_CALLBACK = 3,    /**< the callback answered GPT2_STOP */
    GPT2_FINISH_MAX_TIME = 4,    /**< max_time was over */
    GPT2_FINISH_CANCELLED = 5    /**< gpt2_cancellation_request() was called */
} gpt2_finish_reason;

/** "length", "eos", "stop_string", "callback", "max_time", "cancelled"; "unknown" for any other number. Never
 * null. */
GPT2_API const char* gpt2_finish_reason_name(int reason);

/** A text that was generated. Everything that the functions below return is good until gpt2_result_free(). */
typedef struct gpt2_result gpt2_result;

/** Continues @p prompt in a session of its own, on the threads of the process. With num_beams above 1 the
 * callback is called when the search is over.
 * @param prompt     [size]; an empty one begins with `<|endoftext|>`; may be null if @p size is 0
 * @param config     null: the defaults
 * @param callback   null: none
 * @param user_data  for the callback
 * @param result     gets the text, for gpt2_result_free(); may be null
 * @returns as gpt2_session_generate() */
GPT2_CHECKED gpt2_status gpt2_generate(const gpt2_model* model, const char* prompt, size_t size,
                                       const gpt2_generation_config* config, gpt2_callback callback,
                                       void* user_data, gpt2_result** result);

/** What the functions below returned for it ends with it. */
GPT2_API void gpt2_result_free(gpt2_result* result);

/** Valid UTF-8, without the prompt and the stop string. */
GPT2_API gpt2_bytes gpt2_result_text(const gpt2_result* result);
/** The exact bytes of the tokens, a stop string included, the end-of-text token excepted. */
GPT2_API gpt2_bytes gpt2_result_bytes(const gpt2_result* result);
/** Every generated token, the one that ended the text included. @param n  null, or gets their number */
GPT2_API const int32_t* gpt2_result_tokens(const gpt2_result* result, size_t* n);
/** The natural logarithm of the probability that the model gave to each token, before any processor; null,
 * with a number of 0, unless asked for. @param n  null, or gets their number, which is that of the tokens */
GPT2_API const float* gpt2_result_logprobs(const gpt2_result* result, size_t* n);
/** With top_logprobs: the tokens to which the model gave most probability at a place, before any processor,
 * the most probable first, the lower id on ties; null, with a number of 0, where there are none.
 * @param index  of a token of the text
 * @param n      null, or gets their number */
GPT2_API const gpt2_token_logprob* gpt2_result_top_logprobs(const gpt2_result* result, size_t index,
                                                            size_t* n);
/** With prompt_logprobs: as gpt2_session_score() of the prompt; null, with a number of 0, unless asked for,
 * and if the text ended while the prompt was read. @param n  null, or gets their number, which is that of
 * gpt2_result_prompt_tokens() */
GPT2_API const float* gpt2_result_prompt_logprobs(const gpt2_result* result, size_t* n);
/** With both: as gpt2_result_top_logprobs() at a place of the prompt; none at position 0. */
GPT2_API const gpt2_token_logprob* gpt2_result_prompt_top_logprobs(const gpt2_result* result, size_t index,
                                                                   size_t* n);
/** Why it ended. */
GPT2_API gpt2_finish_reason gpt2_result_finish_reason(const gpt2_result* result);
/** The stop string that ended the text; empty if none did. */
GPT2_API gpt2_bytes gpt2_result_stop_string(const gpt2_result* result);
/** The seed that gives this text again; not set when nothing was drawn. */
GPT2_API gpt2_optional_uint gpt2_result_seed(const gpt2_result* result);
/** Tokens of the prompt. */
GPT2_API size_t gpt2_result_prompt_tokens(const gpt2_result* result);
/** Seconds from the start of the call until the first token was known (time to first token). */
GPT2_API double gpt2_result_ttft(const gpt2_result* result);
/** Seconds per output token after the first, on average; 0 for fewer than two. */
GPT2_API double gpt2_result_tpot(const gpt2_result* result);
/** Seconds from the start of the call to its end. */
GPT2_API double gpt2_result_total(const gpt2_result* result);

/** How often speculation was right. This structure never grows. */
typedef struct gpt2_speculation {
    size_t proposed; /**< tokens; 0 without speculation */
    size_t accepted; /**< of them: that are in the text */
    size_t passes;   /**< of the model, behind those that read the prompt; 0 without speculation */
} gpt2_speculation;

/** What became of the proposals. */
GPT2_API gpt2_speculation gpt2_result_speculation(const gpt2_result* result);
/** Of beam search: the sum of the log-probabilities after the processors / length^length_penalty. */
GPT2_API gpt2_optional_double gpt2_result_score(const gpt2_result* result);

/* ---- Session */

/** One sequence of tokens with its keys and values. One caller at a time; different sessions of a model
 * may run in different threads. */
typedef struct gpt2_session gpt2_session;

/** How keys and values are kept. */
enum {
    GPT2_KV_DEFAULT = 0, /**< float32 if all matrices of the model are float32, float16 otherwise */
    GPT2_KV_FLOAT32 = 1,
    GPT2_KV_FLOAT16 = 2
};

/** How a session keeps its state; see gpt2::SessionOptions. */
typedef struct gpt2_session_options {
    uint64_t size;    /**< of this structure; set by gpt2_session_options_init() */
    gpt2_pool* pool;  /**< the threads that compute; null: those of the process */
    int32_t kv_dtype; /**< GPT2_KV_... */
    int32_t reserved; /**< 0 */
} gpt2_session_options;

/** Fills in the defaults for a structure of @p size bytes; gpt2_session_options_init() calls it. */
GPT2_API void gpt2_session_options_init_sized(gpt2_session_options* options, size_t size);

/** Fills in the defaults. */
static inline void gpt2_session_options_init(gpt2_session_options* options) {
    gpt2_session_options_init_sized(options, sizeof *options);
}

/** Makes a session of a model.
 * @param options  null: the defaults
 * @param session  gets a session without tokens, for gpt2_session_free() */
GPT2_CHECKED gpt2_status gpt2_session_create(const gpt2_model* model, const gpt2_session_options* options,
                                             gpt2_session** session);

/** A second session with the same tokens and logits, on the same pool; from here on each goes its own way.
 * Keys and values are copied, which is far less work than computing them.
 * @param fork  gets it, for gpt2_session_free() */
GPT2_CHECKED gpt2_status gpt2_session_fork(const gpt2_session* session, gpt2_session** fork);

/** Writes tokens, keys and values, and the last logits to a file from which gpt2_session_restore() goes on
 * with the same bits. The file appears when it is complete, in the place of what was there.
 * @param path  as that of gpt2_model_load()
 * @returns GPT2_OK; GPT2_ERROR_FILE; GPT2_ERROR_BUSY */
GPT2_CHECKED gpt2_status gpt2_session_save(const gpt2_session* session, const char* path);

/** A session that goes on where gpt2_session_save() left one.
 * @param model    the one that the session was of: the same weights in the same formats
 * @param options  null: the defaults; kv_dtype is the file's, and another one an error
 * @param session  gets it, for gpt2_session_free()
 * @returns GPT2_OK; GPT2_ERROR_FILE; GPT2_ERROR_FORMAT if the file is no session, damaged, or of another
 *          model; GPT2_ERROR_OPTION */
GPT2_CHECKED gpt2_status gpt2_session_restore(const gpt2_model* model, const char* path,
                                              const gpt2_session_options* options, gpt2_session** session);

/** The same from the bytes of a file, which are needed during the call only; messages call it "memory". */
GPT2_CHECKED gpt2_status gpt2_session_restore_memory(const gpt2_model* model, const void* file, size_t size,
                                                     const gpt2_session_options* options,
                                                     gpt2_session** session);

/** Frees a session, which no other call may be using. */
GPT2_API void gpt2_session_free(gpt2_session* session);

/** Appends tokens. After an error the session is as before.
 * @param tokens  [n_tokens], at least one
 * @param logits  null, or gets the logits [V] after the last token; good until the next call on the session
 *                other than those that only look (logits, position, tokens)
 * @returns GPT2_OK; GPT2_ERROR_OPTION for an id outside of the vocabulary or no tokens, GPT2_ERROR_CONTEXT if
 *          the session would exceed n_positions, GPT2_ERROR_NUMERIC, GPT2_ERROR_BUSY */
GPT2_CHECKED gpt2_status gpt2_session_forward(gpt2_session* session, const int32_t* tokens, size_t n_tokens,
                                              const float** logits);

/** The logits that the last pass left: [n_rows, V], row after row.
 * @param logits  gets them, or null where there are none; good as those of gpt2_session_forward() */
GPT2_CHECKED gpt2_status gpt2_session_logits(const gpt2_session* session, const float** logits,
                                             size_t* n_rows);

/** Appends tokens and says how probable each was.
 * @param logprobs  [n_tokens]: gets the natural logarithm of the probability of each token, given those
 *                  before; NaN for one at position 0, which nothing is before
 * @returns as gpt2_session_forward(), but no tokens are allowed */
GPT2_CHECKED gpt2_status gpt2_session_score(gpt2_session* session, const int32_t* tokens, size_t n_tokens,
                                            float* logprobs);

/** Tokens in the session. GPT2_ERROR_BUSY while another call uses it. */
GPT2_CHECKED gpt2_status gpt2_session_position(const gpt2_session* session, size_t* position);

/** The tokens in the session.
 * @param tokens    gets them; good until a call changes the session
 * @param n_tokens  null, or gets their number */
GPT2_CHECKED gpt2_status gpt2_session_tokens(const gpt2_session* session, const int32_t** tokens,
                                             size_t* n_tokens);

/** Forgets all but the first @p length tokens, and the logits. GPT2_ERROR_OPTION if there are fewer. */
GPT2_CHECKED gpt2_status gpt2_session_truncate(gpt2_session* session, size_t length);

/** How keys and values are kept: GPT2_KV_FLOAT32 or GPT2_KV_FLOAT16. */
GPT2_API int32_t gpt2_session_kv_dtype(const gpt2_session* session);

/** Appends a prompt and continues it. Afterwards the session holds the prompt and the new tokens but for the
 * last, which no pass has read.
 * @param prompt     [n_tokens]; may be empty, and null, if the session has logits to continue from
 * @param config     null: the defaults
 * @param callback   null: none
 * @param user_data  for the callback
 * @param result     gets the text, for gpt2_result_free(); may be null
 * @returns GPT2_OK; GPT2_ERROR_CONTEXT if the prompt and max_new_tokens exceed n_positions, before any work,
 *          unless GPT2_OVERFLOW_SLIDE is asked for; GPT2_ERROR_OPTION naming the option; GPT2_ERROR_NUMERIC;
 *          GPT2_ERROR_BUSY. What was read before an error stays in the session. */
GPT2_CHECKED gpt2_status gpt2_session_generate(gpt2_session* session, const int32_t* prompt, size_t n_tokens,
                                               const gpt2_generation_config* config, gpt2_callback callback,
                                               void* user_data, gpt2_result** result);

/** Which rows of logits a pass leaves in a session. */
enum {
    GPT2_LOGITS_LAST = 0, /**< one row, after the last token */
    GPT2_LOGITS_ALL = 1,  /**< one row after each token */
    GPT2_LOGITS_NONE = 2  /**< none: the tokens are only read */
};

/** Some tokens to append to one session. This structure never grows. */
typedef struct gpt2_batch_item {
    gpt2_session* session;
    const int32_t* tokens; /**< [n_tokens], at least one */
    size_t n_tokens;
    int32_t logits;   /**< GPT2_LOGITS_... */
    int32_t reserved; /**< 0 */
} gpt2_batch_item;

/** One pass that appends tokens to each session: prompts, single tokens and any mixture, without padding. The
 * weights are read once for all of them, and each session gets the bits that it would get alone. Runs on the
 * pool of the first session. gpt2_session_logits() of each then has its logits.
 * @param items  [n_items]; sessions of one model, each at most once
 * @returns as gpt2_session_forward(): after an error every session is as before */
GPT2_CHECKED gpt2_status gpt2_forward(const gpt2_batch_item* items, size_t n_items);

/* ---- Several texts at once */

/** Called as a gpt2_callback. GPT2_STOP ends this text; the others go on.
 * @param index  of the text among the results */
typedef int32_t (*gpt2_batch_callback)(size_t index, const gpt2_token* token, void* user_data);

/** Texts that were generated together. */
typedef struct gpt2_results gpt2_results;

/** How many. */
GPT2_API size_t gpt2_results_size(const gpt2_results* results);

/** One of them, good until gpt2_results_free(); null for an index that is none. */
GPT2_API const gpt2_result* gpt2_results_at(const gpt2_results* results, size_t index);

/** What the functions above returned for it ends with it. */
GPT2_API void gpt2_results_free(gpt2_results* results);

/** Continues several prompts at once, each in num_return_sequences texts. The weights are read once for all
 * of them, so this is much faster than one after the other; each prompt is read once, and nothing is padded.
 * Each text is, bit for bit, the one that it would be alone; without a seed all share a fresh one. With
 * num_beams above 1 the texts of a prompt are the best that one search finds.
 * @param prompts    [n_prompts]; an empty one begins with `<|endoftext|>`
 * @param config     null: the defaults
 * @param callback   null: none; called for the tokens of all texts, as they come; with beams, when a search
 *                   is over
 * @param user_data  for the callback
 * @param options    of the sessions; null: the defaults
 * @param results    gets the texts of the first prompt in the order of their samples, with beams the best
 *                   first, then those of the second, ...; for gpt2_results_free(); may be null
 * @returns as gpt2_session_generate(), naming the prompt that does not fit */
GPT2_CHECKED gpt2_status gpt2_generate_batch(const gpt2_model* model, const gpt2_bytes* prompts,
                                             size_t n_prompts, const gpt2_generation_config* config,
                                             gpt2_batch_callback callback, void* user_data,
                                             const gpt2_session_options* options, gpt2_results** results);

/** The same for prompts of tokens, at least one in each. */
GPT2_CHECKED gpt2_status gpt2_generate_batch_tokens(const gpt2_model* model, const gpt2_tokens* prompts,
                                                    size_t n_prompts, const gpt2_generation_config* config,
                                                    gpt2_batch_callback callback, void* user_data,
                                                    const gpt2_session_options* options,
                                                    gpt2_results** results);

/* ---- Seeing inside */

/** How the vectors of tokens become that of a text. */
enum {
    GPT2_POOLING_MEAN = 0, /**< their mean */
    GPT2_POOLING_LAST = 1  /**< the last one, which has seen all the others */
};

/** A text as one vector, of the hidden states behind the last block and its norm.
 * @param text       [size], at least one byte
 * @param pooling    GPT2_POOLING_...
 * @param options    of the session that reads it; null: the defaults
 * @param embedding  [gpt2_model_n_embd()]: gets it
 * @returns GPT2_OK; GPT2_ERROR_OPTION for no tokens, GPT2_ERROR_CONTEXT, GPT2_ERROR_NUMERIC */
GPT2_CHECKED gpt2_status gpt2_embed(const gpt2_model* model, const char* text, size_t size, int32_t pooling,
                                    const gpt2_session_options* options, float* embedding);

/** The same of tokens [n_tokens], at least one. */
GPT2_CHECKED gpt2_status gpt2_embed_tokens(const gpt2_model* model, const int32_t* tokens, size_t n_tokens,
                                           int32_t pooling, const gpt2_session_options* options,
                                           float* embedding);

#if defined(__cplusplus)
} /* extern "C" */
#endif

#endif
