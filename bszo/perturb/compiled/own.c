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

/* inner = c B_e x_p */
static void project(const Own *s, int64_t p, float *inner) {
    const float *right = s->right + s->of[p] * s->rank * s->columns;
    for (int q = 0; q < s->rank; q++) {
        const float *b = right + q * s->columns;
        float x[LANES], sums[LANES] = {0};
        int64_t j = 0;
        for (; j + LANES <= s->columns; j += LANES) {
            load(x, s->x, s->type, p * s->columns + j, LANES);
            for (int t = 0; t < LANES; t++) sums[t] = fmaf(x[t], b[j + t], sums[t]);
        }
        int rest = (int)(s->columns - j);
        load(x, s->x, s->type, p * s->columns + j, rest);
        for (int t = 0; t < rest; t++) sums[t] = fmaf(x[t], b[j + t], sums[t]);
        for (int half = LANES / 2; half; half /= 2)
            for (int t = 0; t < half; t++) sums[t] += sums[t + half];
        inner[q] = s->c * sums[0];
    }
}

/* y_p += A_e^T inner, `count` values of it from number j on. */
static inline void add_piece(const Own *s, int64_t p, const float *left, const float *inner,
                             int64_t j, int count) {
    float y[PIECE];
    load(y, s->y, s->type, p * s->rows + j, count);
    for (int q = 0; q < s->rank; q++)
        for (int t = 0; t < count; t++) y[t] = fmaf(inner[q], left[q * s->rows + j + t], y[t]);
    save(s->y, y, s->type, p * s->rows + j, count);
}

static void add_one(const Own *s, int64_t p) {
    const float *left = s->left + s->of[p] * s->rank * s->rows;
    float inner[s->rank];
    int64_t j = 0;
    project(s, p, inner);
    for (; j + PIECE <= s->rows; j += PIECE) add_piece(s, p, left, inner, j, PIECE);
    add_piece(s, p, left, inner, j, (int)(s->rows - j));
}

void add_own(const Own *s) {
#pragma omp parallel for num_threads(s->threads) if (s->threads > 1 && s->positions >= 32)
    for (int64_t p = 0; p < s->positions; p++) add_one(s, p);
}
