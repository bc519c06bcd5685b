/* limits.h - private to num/: the loops behind limit_* of num.h, by vector unit. A NULL is a unit that a family lacks. */
#ifndef MARILL_NUM_LIMITS_H
#define MARILL_NUM_LIMITS_H

#include "num/num.h"

typedef struct Limits {
    bool (*runs)(void);                        // on this processor
    uint64_t (*aes)(uint64_t steps);
    uint64_t (*bytes)(uint64_t steps);
    uint64_t (*products)(uint64_t steps);
    uint64_t (*load)(const void *data, size_t len, uint64_t times);
} Limits;

#if defined(__x86_64__)
extern const Limits limits_avx512, limits_avx2;
#endif

extern volatile uint64_t limit_sink;           // results go here, so that no loop is optimised away

#endif
