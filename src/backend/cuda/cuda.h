/* cuda.h - the CUDA backend: the op table on one NVIDIA GPU. The driver (libcuda.so.1) is opened at
 * run time; kernels were compiled by nvcc into the program. A program that was built without nvcc
 * says so here (none.c). */
#ifndef PUNA_BACKEND_CUDA_CUDA_H
#define PUNA_BACKEND_CUDA_CUDA_H

#include "ops/backend.h"
#include "ops/train.h"

/* A context on the first GPU. ERR_HARDWARE with the reason: no kernels in this program, no driver,
 * no device, one too old. Free it through c->be; after everything that lives in its memory. */
int cuda_ctx_new(struct ctx **out, enum compute compute, struct err *e) MUST_USE;
extern const struct train_ops train_ops_cuda; /* for its contexts; without DoRA */
/* Kernels that are not used unless asked for: by a call, before anything is computed, or by
 * PUNA_CUDA_TRY=NAME,... in the environment. */
enum cuda_try {
    CUDA_TRY_WIDE = 1,  /* "wide": before Hopper too, products of 33 to 64 rows from records */
    CUDA_TRY_MMA = 2,   /* "mma": attention of prompts and of training on Hopper by the kernels of
                           earlier devices */
    CUDA_TRY_WHOLE = 4, /* "whole": before Hopper too, one row by codes of four bits in whole
                           numbers; not to the bits of the same row in a batch */
    CUDA_TRY_DETERMINISTIC = 8, /* "deterministic": a row's products have the same bits beside any 1
                                   to 16 rows, with codes of quantised weights too; slower */
    CUDA_TRY_APART = 16, /* "apart", in the environment only: each tensor has an allocation of its
                            own; compute-sanitizer takes a copy from two of them for a wrong one */
};
void cuda_try(struct ctx *c, unsigned what);
/* "NVIDIA H100 80GB HBM3, 79.1 GiB" */
const char *cuda_ctx_name(const struct ctx *c);
/* What the device can do at most, measured now: bytes read per second from its memory, and
 * operations per second of an 8192^3 product through cuBLASLt on random data; 0 = not to be had.
 * Takes 4 GiB. */
struct cuda_ceilings {
    double read, bf16, f8;
};
int cuda_ceiling(struct ctx *c, struct cuda_ceilings *out, struct err *e) MUST_USE;
/* Whether there is a GPU with a driver, used or not. */
bool cuda_present(void);

#endif
