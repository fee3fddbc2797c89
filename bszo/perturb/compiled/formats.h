/* Numbers of 32 and 16 bits: values come in from any of them, are worked on in fp32, and go out
   rounded to the nearest. */

#ifndef FORMATS_H
#define FORMATS_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum { FP32, BF16, FP16 };

/* always inlined, so that a `type` that is a constant leaves no branch in a loop */
#define INLINED static inline __attribute__((always_inline))

static inline uint32_t bits_of(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static inline float float_of(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static inline uint16_t nearest_bf16(float x) {
    uint32_t bits = bits_of(x);
    uint32_t rounded = (bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16; /* ties to even */
    return x != x ? 0x7FC0u : (uint16_t)rounded;
}

INLINED float value(const void *from, int type, int64_t at) {
    if (type == FP32) return ((const float *)from)[at];
    if (type == BF16) return float_of((uint32_t)((const uint16_t *)from)[at] << 16);
    return (float)((const _Float16 *)from)[at];
}

INLINED void put(void *to, float x, int type, int64_t at) {
    if (type == FP32)
        ((float *)to)[at] = x;
    else if (type == BF16)
        ((uint16_t *)to)[at] = nearest_bf16(x);
    else
        ((_Float16 *)to)[at] = (_Float16)x;
}

/* The statement with the constant TYPE for `type`: a loop for each. */
#define BY_TYPE(type, ...)              \
    if ((type) == BF16) {               \
        enum { TYPE = BF16 };           \
        __VA_ARGS__;                    \
    } else if ((type) == FP16) {        \
        enum { TYPE = FP16 };           \
        __VA_ARGS__;                    \
    } else {                            \
        enum { TYPE = FP32 };           \
        __VA_ARGS__;                    \
    }

#endif
