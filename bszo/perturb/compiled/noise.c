/* The noise in C: the arithmetic of noise/spec.py, one pass over a parameter.

   out = decay theta + step + sum_i c_i z_i / sqrt(h), or decay theta + A B, summed in fp32 and
   rounded once. Every operation is one of IEEE 754 (the flags forbid the compiler to merge any; where
   a product and a sum are one operation, the code says fmaf), so that every processor and compiler
   finds the same bits. */

#include "formats.h"

enum { BLOCK = 256 }; /* values that are worked on at a time */
/* of a product A B, what is summed in registers: half of them, whatever the processor has */
#ifdef __AVX512F__
enum { ROWS = 8, TILE = 32 };
#else
enum { ROWS = 4, TILE = 16 };
#endif
enum { STRIP = 256 }; /* columns that are worked on at a time, while the next rows are fetched */

typedef struct {
    void *out;             /* of `type` */
    const void *theta;     /* of `type`; NULL for zeros */
    const float *step;     /* NULL for none */
    const float *left;     /* A (rows, rank), to be added to theta alone; NULL for none */
    const float *right;    /* B (rank, columns) */
    const void *curvature; /* h, of `curvature_type`; NULL for ones */
    const uint32_t *keys;  /* two words a term */
    const float *factors;  /* c */
    int64_t size, columns;
    int32_t rank, type, curvature_type, terms, rademacher, stochastic, threads;
    float drift;           /* decay - 1, in which digits are left that decay does not have */
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

/* sums rounded into out, `count` values from number `at` on. */
INLINED void store(const Shift *s, const float *sums, int64_t at, int type, int count) {
    if (!s->stochastic) {
        for (int i = 0; i < count; i++) put(s->out, sums[i], type, at + i);
        return;
    }
    /* of bf16 alone: up with the probability of the fraction that is cut off */
    uint32_t first = s->first + (uint32_t)at;
    for (int i = 0; i < count; i++) {
        uint32_t random = hashed(first + (uint32_t)i, s->round_keys[0], s->round_keys[1]);
        uint32_t cut = (bits_of(sums[i]) + (random & 0xFFFFu)) & 0xFFFF0000u;
        put(s->out, float_of(cut), BF16, at + i); /* exact, but for what is no number */
    }
}

/* z of N(0, 1) from 32 bits each, as spec.normal: x P(w) / Q(w) with w = -log(1 - x^2). It takes
   three loops, for a value's operations wait for each other, and a processor that looks a few
   hundred operations ahead finds more values to work on where each takes fewer. */
INLINED void normal(float *z, uint32_t first, uint32_t key_0, uint32_t key_1, int count) {
    const float unit = 0x1p-31f * (1.0f - 0x1p-24f);
    float x[BLOCK], log_q[BLOCK];
    for (int i = 0; i < count; i++)
        x[i] = (float)(int32_t)hashed(first + (uint32_t)i, key_0, key_1) * unit;
    for (int i = 0; i < count; i++) log_q[i] = logarithm((1.0f - x[i]) * (1.0f + x[i]));
    for (int i = 0; i < count; i++) {
        float l = log_q[i];
        float p = fmaf(-6.88299233e-03f, l, 7.79533166e-02f);
        float q = fmaf(-3.35164675e-04f, l, 2.58497449e-02f);
        p = fmaf(fmaf(p, l, -4.36772270e-01f), l, 1.25337484f);
        q = fmaf(fmaf(q, l, -8.71268688e-02f), l, 1.0f);
        z[i] = x[i] * (p / q);
    }
}

static inline float sign(uint32_t bits) { return bits >> 31 ? -1.0f : 1.0f; }

/* sums += c_t z_t root, with root = 1 / sqrt(h) where there is a curvature. Each case has loops of its
   own, which compilers make better code of. */
INLINED void add_term(const Shift *s, float *sums, const float *root, int t, int64_t at, int count) {
    uint32_t first = s->first + (uint32_t)at, key_0 = s->keys[2 * t], key_1 = s->keys[2 * t + 1];
    float z[BLOCK], c = s->factors[t];
    if (s->rademacher && s->curvature) {
        for (int i = 0; i < count; i++)
            sums[i] += c * (sign(hashed(first + (uint32_t)i, key_0, key_1)) * root[i]);
    } else if (s->rademacher) {
        for (int i = 0; i < count; i++)
            sums[i] += c * sign(hashed(first + (uint32_t)i, key_0, key_1));
    } else if (s->curvature) {
        normal(z, first, key_0, key_1, count);
        for (int i = 0; i < count; i++) sums[i] += c * (z[i] * root[i]);
    } else {
        normal(z, first, key_0, key_1, count);
        for (int i = 0; i < count; i++) sums[i] += c * z[i];
    }
}

/* All terms for `count` values from number `at` on, which are read, summed, rounded and written. */
INLINED void block(const Shift *s, int64_t at, int type, int count) {
    float sums[BLOCK], root[BLOCK];
    float share = s->drift != 0.0f ? s->drift : 1.0f; /* where theta decays, theta itself comes last */
    for (int i = 0; i < count; i++)
        sums[i] = s->theta ? share * value(s->theta, type, at + i) : 0.0f;
    if (s->step)
        for (int i = 0; i < count; i++) sums[i] += s->step[at + i];
    if (s->curvature) {
        BY_TYPE(s->curvature_type, for (int i = 0; i < count; i++)
            root[i] = 1.0f / sqrtf(value(s->curvature, TYPE, at + i)));
    }
    for (int t = 0; t < s->terms; t++) add_term(s, sums, root, t, at, count);
    if (s->drift != 0.0f)
        for (int i = 0; i < count; i++) sums[i] += value(s->theta, type, at + i);
    store(s, sums, at, type, count);
}

/* Block number b, of which the last may be shorter. */
INLINED void block_or_rest(const Shift *s, int64_t b, int type) {
    if ((b + 1) * BLOCK <= s->size)
        block(s, b * BLOCK, type, BLOCK);
    else
        block(s, b * BLOCK, type, (int)(s->size - b * BLOCK));
}

/* out = decay theta + A B for `count` columns of `rows` rows. A whole tile stays in registers. Each
   value is summed over q in order, so that the edge of a tile changes no bit. */
INLINED void tile(const Shift *s, int64_t row, int64_t column, int rows, int count, int type) {
    const float *a = s->left + row * s->rank, *b = s->right + column;
    float product[ROWS][TILE] = {0}, sums[TILE];
    for (int q = 0; q < s->rank; q++)
        for (int r = 0; r < rows; r++)
            for (int t = 0; t < count; t++)
                product[r][t] = fmaf(a[r * s->rank + q], b[q * s->columns + t], product[r][t]);
    for (int r = 0; r < rows; r++) {
        int64_t at = (row + r) * s->columns + column;
        for (int t = 0; t < count; t++) {
            float theta = value(s->theta, type, at + t);
            sums[t] = theta + fmaf(s->drift, theta, product[r][t]);
        }
        store(s, sums, at, type, count);
    }
}

/* Ask for `count` values of theta before they are needed. */
static void fetch(const Shift *s, int64_t at, int count) {
    int64_t bytes = s->type == FP32 ? 4 : 2;
    const char *from = (const char *)s->theta + at * bytes;
    for (int64_t i = 0; i < count * bytes; i += 64) __builtin_prefetch(from + i);
}

/* ROWS rows of one strip of STRIP columns, fewer at the edges. */
INLINED void strip(const Shift *s, int64_t row, int64_t column, int type) {
    int64_t rows_left = s->size / s->columns - row, columns_left = s->columns - column;
    int rows = rows_left < ROWS ? (int)rows_left : ROWS;
    int count = columns_left < STRIP ? (int)columns_left : STRIP;
    /* while the product is summed, the next rows are on their way */
    for (int r = ROWS; r < 2 * ROWS && r < rows_left; r++)
        fetch(s, (row + r) * s->columns + column, count);
    for (int t = 0; t < count; t += TILE) {
        int left = count - t < TILE ? count - t : TILE;
        if (rows == ROWS && left == TILE)
            tile(s, row, column + t, ROWS, TILE, type);
        else
            tile(s, row, column + t, rows, left, type);
    }
}

/* Strip number i of a product: those of the same rows one after the other, so that theta is read in
   order. */
static void strip_of(const Shift *s, int64_t i, int64_t strips) {
    int64_t row = i / strips * ROWS, column = i % strips * STRIP;
    BY_TYPE(s->type, strip(s, row, column, TYPE));
}

static void block_of(const Shift *s, int64_t b) {
    BY_TYPE(s->type, block_or_rest(s, b, TYPE));
}

void shift(const Shift *s) {
    if (s->left) {
        int64_t strips = (s->columns + STRIP - 1) / STRIP;
        int64_t groups = (s->size / s->columns + ROWS - 1) / ROWS;
#pragma omp parallel for num_threads(s->threads) if (s->threads > 1 && strips * groups >= 32)
        for (int64_t i = 0; i < strips * groups; i++) strip_of(s, i, strips);
        return;
    }
    int64_t blocks = (s->size + BLOCK - 1) / BLOCK;
#pragma omp parallel for num_threads(s->threads) if (s->threads > 1 && blocks >= 128)
    for (int64_t b = 0; b < blocks; b++) block_of(s, b);
}

/* `rows` of `size` values, row r under the key (keys[2 r], keys[2 r + 1]). */
void draw(float *out, int64_t rows, int64_t size, const uint32_t *keys, int32_t rademacher,
          int32_t threads) {
    const float one = 1.0f;
    int64_t blocks = (size + BLOCK - 1) / BLOCK;
#pragma omp parallel for num_threads(threads) if (threads > 1 && rows * blocks >= 128)
    for (int64_t i = 0; i < rows * blocks; i++) {
        int64_t row = i / blocks, b = i % blocks;
        Shift s = {.out = out + row * size, .size = size, .type = FP32, .terms = 1};
        s.keys = keys + 2 * row, s.factors = &one, s.rademacher = rademacher;
        block_or_rest(&s, b, FP32);
    }
}
