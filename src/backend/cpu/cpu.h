/* cpu.h - the CPU backend: fills the op table with kernels chosen at run time.
 * Kernel bodies (kern_*.inc) are compiled once per ISA with their own flags; only the table
 * fillers leave their object files, so nothing of a higher ISA runs before the test. */
#ifndef PUNA_BACKEND_CPU_CPU_H
#define PUNA_BACKEND_CPU_CPU_H

#include "ops/train.h"

enum cpu_flag {
    CPU_AVX2 = 1,   /* AVX2, FMA, F16C */
    CPU_AVX512 = 2, /* F, BW, DQ, VL, VNNI */
    CPU_AVX512_BF16 = 4,
    CPU_AMX = 8, /* AMX-TILE, AMX-BF16, AMX-INT8, and permission from the kernel */
};

/* What this machine can run; PUNA has no environment switch for it, callers mask. */
unsigned cpu_flags(void);
/* Whether one set with all below it can be used; of CPU_LACKS, *lacks is the first feature that is
 * not there (a static string). */
enum cpu_state { CPU_HAS, CPU_OS_OFF, CPU_LACKS };
enum cpu_state cpu_set_state(enum cpu_flag set, const char **lacks);
/* "avx512+bf16", "generic" ... ; a static string */
const char *cpu_flags_name(unsigned flags);
/* Highest level by name ("generic", "avx2", "avx512", "avx512_bf16", "amx"), -1 = unknown. */
int cpu_flags_from_name(const char *name, unsigned *flags);

/* A context on the CPU: op table for `flags`, a team of `threads` (0 = default), scratch
 * that grows with the largest batch. Only one thread drives it. */
int cpu_ctx_new(struct ctx **out, int threads, unsigned flags, enum compute compute,
                struct err *e) MUST_USE;
void cpu_ctx_free(struct ctx *c);
/* What training adds; for contexts of this backend. */
extern const struct train_ops train_ops_cpu;

/* The scratch of a context, known before there is one: the planner adds up what each product of
 * a forward pass of T rows needs (they share it: the largest counts). The same functions size it
 * when the pass runs; rooms then grow by a quarter more, of which nothing is touched. */
struct cpu_need {
    size_t x8, xb, xf; /* the input in 8 bits, in bf16, rounded */
    size_t thread;     /* of each thread */
    size_t angle;      /* cosines and sines of rope */
};
/* One weight (its data may be NULL). Start from a zeroed struct. */
void cpu_need_linear(struct cpu_need *need, unsigned flags, enum compute compute,
                     const struct weight *w, size_t T);
void cpu_need_rope(struct cpu_need *need, size_t head_dim, size_t T);
size_t cpu_need_bytes(const struct cpu_need *need, int threads);
/* What a context holds now. */
size_t cpu_ctx_scratch(const struct ctx *c);

#endif
