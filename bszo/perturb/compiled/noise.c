/* The noise in C: the arithmetic of noise/spec.py, one pass over a parameter.

   out = decay theta + step + A B + sum_i c_i z_i / sqrt(h), summed in fp32 and rounded once. Every
   operation is one of IEEE 754 (the flags forbid the compiler to merge any; where a product and a
   sum are one operation, the code says fmaf), so that every processor and compiler finds the same
   bits. */

#include "formats.h"

enum { BLOCK = 1024 }; /* values that are worked on at a time, 4 KB of fp32 */
/* of a product A B, what is summed in registers: half of them, whatever the processor has */
#ifdef __AVX512F__
enum { ROWS = 4, TILE = 64 };
#else
enum { ROWS = 4, TILE = 16 };
#endif

typedef struct {
    void *out;             /* of `type` */
    const void *theta;     /* of `type`; NULL for zeros */
    const float *step;     /* NULL for none */
    const float *left;     /* A (rows, rank); NULL for none */
    const float *right;    /* B (rank, columns) */
    const void *curvature; /* h, of `curvature_type`; NULL for ones */
    const uint32_t *keys;  /* two words a term */
    const float *factors;  /* c */
    int64_t size, columns;
    int32_t rank, type, curvature_type, terms, rademacher, stochastic, threads;
    float decay;
    uint32_t first, round_keys[2]; /* the number of the first element; the rounding's key */
} Shift;

static inline uint32_t hashed(uint32_t counter, uint32_t key_0, uint32_t key_1) {
    uint32_t h = counter * 0x9E3779B9u + key_0;
    h = (h ^ (h >> 16)) * 0x7FEB352Du + key_1;
    return (h ^ (h >> 15)) * 0x846CA68Bu;
}

/* log(q) for a normal q > 0. With q = 2^e (1 + f), 1 + f within [sqrt(1/2), sqrt(2)), it is
   e log(2) + f - f^2 / 2 + f^3 P(f); P of least relative error in the logarithm: 3.1e-8. */
static inline float logarithm(float q) {
    int32_t bits = (int32_t)bits_of(q);
    int32_t e = (bits - 0x3F3504F3) >> 23; /* the bits of sqrt(1/2) */
    float f = float_of((uint32_t)bits - ((uint32_t)e << 23)) - 1.0f;
    float p = 0.0870043039f;
    p = fmaf(p, f, -0.142674863f);
    p = fmaf(p, f, 0.149147689f);
    p = fmaf(p, f, -0.165775850f);
    p = fmaf(p, f, 0.199630633f);
    p = fmaf(p, f, -0.250013381f);
    p = fmaf(p, f, 0.333339095f);
    return f + fmaf(f * f, fmaf(f, p, -0.5f), (float)e * 0.693147181f);
}

/* N(0, 1) from 32 bits, as spec.normal: x P(w) / Q(w) with w = -log(1 - x^2). */
static inline float normal(uint32_t bits) {
    const float unit = 0x1p-31f * (1.0f - 0x1p-24f);
    float x = (float)(int32_t)bits * unit;
    float log_q = logarithm((1.0f - x) * (1.0f + x));
    float p = fmaf(-6.88299233e-03f, log_q, 7.79533166e-02f);
    float q = fmaf(-3.35164675e-04f, log_q, 2.58497449e-02f);
    p = fmaf(fmaf(p, log_q, -4.36772270e-01f), log_q, 1.25337484f);
    q = fmaf(fmaf(q, log_q, -8.71268688e-02f), log_q, 1.0f);
    return x * (p / q);
}

static inline float sign(uint32_t bits) { return bits >> 31 ? -1.0f : 1.0f; }

static void store(const Shift *s, const float *sums, int64_t at, uint32_t first, int count) {
    if (!s->stochastic) {
        save(s->out, sums, s->type, at, count);
        return;
    }
    /* of bf16 alone: up with the probability of the fraction that is cut off */
    uint16_t *half = (uint16_t *)s->out + at;
    for (int i = 0; i < count; i++) {
        uint32_t random = hashed(first + (uint32_t)i, s->round_keys[0], s->round_keys[1]);
        uint32_t cut = (bits_of(sums[i]) + (random & 0xFFFFu)) & 0xFFFF0000u;
        half[i] = nearest_bf16(float_of(cut)); /* exact, but for what is no number */
    }
}

static void add_term(const Shift *s, float *sums, const float *root, int t, uint32_t first,
                     int count) {
    uint32_t key_0 = s->keys[2 * t], key_1 = s->keys[2 * t + 1];
    float c = s->factors[t];
    if (s->rademacher) {
        for (int i = 0; i < count; i++)
            sums[i] += c * (sign(hashed(first + (uint32_t)i, key_0, key_1)) * root[i]);
    } else if (s->curvature) {
        for (int i = 0; i < count; i++)
            sums[i] += c * (normal(hashed(first + (uint32_t)i, key_0, key_1)) * root[i]);
    } else {
        for (int i = 0; i < count; i++)
            sums[i] += c * normal(hashed(first + (uint32_t)i, key_0, key_1));
    }
}

/* sums = decay theta + step, `count` values from number `at` on. */
static inline void begin(const Shift *s, float *restrict sums, int64_t at, int count) {
    if (s->theta) {
        load(sums, s->theta, s->type, at, count);
        for (int i = 0; i < count; i++) sums[i] *= s->decay;
    } else {
        memset(sums, 0, sizeof *sums * (size_t)count);
    }
    if (s->step)
        for (int i = 0; i < count; i++) sums[i] += s->step[at + i];
}

/* The random terms are added, and the sums rounded into out. */
static inline void finish(const Shift *s, float *restrict sums, int64_t at, int count) {
    float root[BLOCK];
    uint32_t first = s->first + (uint32_t)at;
    if (s->curvature) {
        load(root, s->curvature, s->curvature_type, at, count);
        for (int i = 0; i < count; i++) root[i] = 1.0f / sqrtf(root[i]);
    } else if (s->rademacher) {
        for (int i = 0; i < count; i++) root[i] = 1.0f;
    }
    for (int t = 0; t < s->terms; t++) add_term(s, sums, root, t, first, count);
    store(s, sums, at, first, count);
}

static void block(const Shift *s, int64_t at, int count) {
    float sums[BLOCK];
    begin(s, sums, at, count);
    finish(s, sums, at, count);
}

/* sums += A B, `count` columns of `rows` rows. A whole tile stays in registers. Each value is summed
   over q in order, so that the edge of a tile changes no bit. */
static void add_product(float *restrict sums, const float *restrict a, const float *restrict b,
                        int rank, int64_t columns, int rows, int count) {
    float product[ROWS][TILE] = {0};
    if (rows == ROWS && count == TILE) {
        for (int q = 0; q < rank; q++)
            for (int r = 0; r < ROWS; r++)
                for (int t = 0; t < TILE; t++)
                    product[r][t] = fmaf(a[r * rank + q], b[q * columns + t], product[r][t]);
    } else {
        for (int q = 0; q < rank; q++)
            for (int r = 0; r < rows; r++)
                for (int t = 0; t < count; t++)
                    product[r][t] = fmaf(a[r * rank + q], b[q * columns + t], product[r][t]);
    }
    for (int r = 0; r < rows; r++)
        for (int t = 0; t < count; t++) sums[r * BLOCK + t] += product[r][t];
}

/* Ask for `count` values of theta before they are needed. */
static void fetch(const Shift *s, int64_t at, int count) {
    int64_t bytes = s->type == FP32 ? 4 : 2;
    const char *from = (const char *)s->theta + at * bytes;
    for (int64_t i = 0; i < count * bytes; i += 64) __builtin_prefetch(from + i);
}

/* ROWS rows of one strip of BLOCK columns, fewer at the edges. */
static void strip(const Shift *s, int64_t row, int64_t column) {
    float sums[ROWS * BLOCK];
    int64_t rows_left = s->size / s->columns - row, columns_left = s->columns - column;
    int rows = rows_left < ROWS ? (int)rows_left : ROWS;
    int count = columns_left < BLOCK ? (int)columns_left : BLOCK;
    int64_t at = row * s->columns + column;
    for (int r = 0; r < rows; r++) begin(s, sums + r * BLOCK, at + r * s->columns, count);
    /* while the product is summed, the next rows are on their way */
    if (s->theta && rows_left >= 2 * ROWS)
        for (int r = ROWS; r < 2 * ROWS; r++) fetch(s, at + r * s->columns, count);
    for (int t = 0; t < count; t += TILE)
        add_product(sums + t, s->left + row * s->rank, s->right + column + t, s->rank, s->columns,
                    rows, count - t < TILE ? count - t : TILE);
    for (int r = 0; r < rows; r++) finish(s, sums + r * BLOCK, at + r * s->columns, count);
}

static int count_of(int64_t size, int64_t b) {
    int64_t left = size - b * BLOCK;
    return left < BLOCK ? (int)left : BLOCK;
}

void shift(const Shift *s) {
    if (s->left) { /* one strip of B after another, which stays in the cache for all rows */
        int64_t strips = (s->columns + BLOCK - 1) / BLOCK;
        int64_t groups = (s->size / s->columns + ROWS - 1) / ROWS;
#pragma omp parallel for num_threads(s->threads) if (s->threads > 1 && strips * groups >= 32)
        for (int64_t i = 0; i < strips * groups; i++)
            strip(s, i % groups * ROWS, i / groups * BLOCK);
        return;
    }
    int64_t blocks = (s->size + BLOCK - 1) / BLOCK;
#pragma omp parallel for num_threads(s->threads) if (s->threads > 1 && blocks >= 32)
    for (int64_t b = 0; b < blocks; b++) block(s, b * BLOCK, count_of(s->size, b));
}

/* `rows` of `size` values, row r under the key (keys[2 r], keys[2 r + 1]). */
void draw(float *out, int64_t rows, int64_t size, const uint32_t *keys, int32_t rademacher,
          int32_t threads) {
    const float one = 1.0f;
    int64_t blocks = (size + BLOCK - 1) / BLOCK;
#pragma omp parallel for num_threads(threads) if (threads > 1 && rows * blocks >= 32)
    for (int64_t i = 0; i < rows * blocks; i++) {
        int64_t row = i / blocks, b = i % blocks;
        Shift s = {.out = out + row * size, .size = size, .type = FP32, .terms = 1};
        s.keys = keys + 2 * row, s.factors = &one, s.rademacher = rademacher;
        block(&s, b * BLOCK, count_of(size, b));
    }
}
