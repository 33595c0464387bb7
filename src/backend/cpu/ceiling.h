/* ceiling.h - what this machine can do at best, measured: the yardstick beside every figure
 * of `puna bench`. Streaming reads of a buffer far larger than the last cache, and chains of
 * multiply-adds on registers (one multiply-add = two operations), on all threads of a team. */
#ifndef PUNA_BACKEND_CPU_CEILING_H
#define PUNA_BACKEND_CPU_CEILING_H

#include "base/team.h"

struct ceilings {
    double read_4k, read_2m; /* bytes per second, with 4 KiB and 2 MiB pages */
    double fp32, bf16, int8; /* operations per second; 0 = the CPU has no such instruction */
};

/* Best of `reps` short runs each; buffer of `bytes` (512 MiB is far larger than any cache). */
int ceiling_measure(struct ceilings *out, struct team *t, unsigned flags, size_t bytes, int reps,
                    struct err *e) MUST_USE;
/* Operations a second in float32, or of bf16 pairs where `halves` and the CPU has them. */
double ceiling_products(struct team *t, unsigned flags, bool halves, int reps);
/* Read bandwidth alone, best of both page sizes, for brackets around a decode figure. */
int ceiling_read(double *out, struct team *t, size_t bytes, int reps, struct err *e) MUST_USE;

/* Filled by ceiling_<isa>.c. */
struct ceiling_kern {
    /* Sums n bytes, a multiple of 256, prefetching what lies `ahead` of them. */
    uint64_t (*read)(const uint8_t *p, size_t n, size_t ahead);
    /* Run n rounds of independent chains; return operations done. */
    double (*fp32)(size_t n);
    double (*bf16)(size_t n);
    double (*int8)(size_t n);
};
void ceiling_kern_avx2(struct ceiling_kern *k);
void ceiling_kern_avx512(struct ceiling_kern *k);
void ceiling_kern_avx512_bf16(struct ceiling_kern *k);
void ceiling_kern_amx(struct ceiling_kern *k);

#endif
