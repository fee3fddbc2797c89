/* What a direction of each example's own adds to a layer's answer:

   y_p += c A_e^T (B_e x_p)    for every position p, of example e

   The sums over x are fp32 in LANES parts, which a processor adds side by side; y is rounded once.
   The order of all sums is fixed, so that every processor and compiler finds the same bits. */

#include "formats.h"

enum { LANES = 128, PIECE = 256 }; /* values of x, and of y, that are worked on at a time */

typedef struct {
    void *y;            /* (positions, rows), of `type` */
    const void *x;      /* (positions, columns), of `type` */
    const float *left;  /* A (examples, rank, rows) */
    const float *right; /* B (examples, rank, columns) */
    const int64_t *of;  /* the example of each position */
    int64_t positions, rows, columns;
    int32_t rank, type, threads;
    float c;
} Own;

/* sums += x b, `count` values of x from number `at` on. */
INLINED void multiply(const Own *s, float *sums, const float *b, int64_t at, int type, int count) {
    for (int t = 0; t < count; t++) sums[t] = fmaf(value(s->x, type, at + t), b[t], sums[t]);
}

/* inner = c B_e x_p */
INLINED void project(const Own *s, int64_t p, float *inner, int type) {
    for (int q = 0; q < s->rank; q++) {
        const float *b = s->right + (s->of[p] * s->rank + q) * s->columns;
        float sums[LANES] = {0};
        int64_t at = p * s->columns, j = 0;
        for (; j + LANES <= s->columns; j += LANES) multiply(s, sums, b + j, at + j, type, LANES);
        multiply(s, sums, b + j, at + j, type, (int)(s->columns - j));
        for (int half = LANES / 2; half; half /= 2)
            for (int t = 0; t < half; t++) sums[t] += sums[t + half];
        inner[q] = s->c * sums[0];
    }
}

/* y_p += A_e^T inner, `count` values of it from number j on. */
INLINED void add_piece(const Own *s, int64_t p, const float *inner, int64_t j, int type, int count) {
    const float *left = s->left + s->of[p] * s->rank * s->rows + j;
    int64_t at = p * s->rows + j;
    float y[PIECE];
    for (int t = 0; t < count; t++) y[t] = value(s->y, type, at + t);
    for (int q = 0; q < s->rank; q++)
        for (int t = 0; t < count; t++) y[t] = fmaf(inner[q], left[q * s->rows + t], y[t]);
    for (int t = 0; t < count; t++) put(s->y, y[t], type, at + t);
}

/* The same of all values where the rank is 1: one sum of two numbers, which takes no buffer. */
INLINED void add_single(const Own *s, int64_t p, float inner, int type) {
    const float *left = s->left + s->of[p] * s->rows;
    for (int64_t t = 0, at = p * s->rows; t < s->rows; t++, at++)
        put(s->y, fmaf(inner, left[t], value(s->y, type, at)), type, at);
}

INLINED void add_one(const Own *s, int64_t p, int type) {
    float inner[s->rank];
    int64_t j = 0;
    project(s, p, inner, type);
    if (s->rank == 1) {
        add_single(s, p, inner[0], type);
        return;
    }
    for (; j + PIECE <= s->rows; j += PIECE) add_piece(s, p, inner, j, type, PIECE);
    add_piece(s, p, inner, j, type, (int)(s->rows - j));
}

void add_own(const Own *s) {
#pragma omp parallel for num_threads(s->threads) if (s->threads > 1 && s->positions >= 32)
    for (int64_t p = 0; p < s->positions; p++) BY_TYPE(s->type, add_one(s, p, TYPE));
}
