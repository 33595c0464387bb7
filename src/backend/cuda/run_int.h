/* run_int.h - between run.c, which decides what ops share a kernel, route.c, which way products go
 * and what they want of their inputs, and product.c, which makes inputs and launches products. */
#ifndef PUNA_BACKEND_CUDA_RUN_INT_H
#define PUNA_BACKEND_CUDA_RUN_INT_H

#include "backend/cuda/cuda_int.h"

#ifdef PUNA_CUDA

struct copy16 { /* as in small.cu */
    CUdeviceptr p;
    int mode, kp, image;
};

struct batch_copy { /* as in small.cu */
    const void *from;
    void *to;
};

/* ---- route.c ---- */

enum route { ROUTE_PLAIN, ROUTE_STREAM, ROUTE_WIDE, ROUTE_LIBRARY };

struct inputs {
    bool act, bf16;       /* float32 inputs changed: by the weight's rule, rounded to bf16 */
    int mode;             /* enum prep_mode; PREP_F32: the product rounds them, by that rule */
    int image;            /* how they lie (image.cuh) */
    const int32_t *order; /* of w's columns, and on the device */
    const int32_t *dev_order, *place;
    size_t kp;
};

/* Whether nobody reads y [n] from op i on before it is written again, perhaps row after row. */
bool op_dead(const struct cuda *b, size_t i, const float *y, size_t n);
/* Columns of a record. */
size_t record_cols(const struct dev_weight *d);
/* Of wide.cu, for T rows: shared memory, and the kernel. */
/* Rows of x that wide_wgmma.cu multiplies. */
size_t wide_lines(size_t T);
size_t wide_shared(const struct dev_weight *d, size_t T);
enum kernel wide_kernel(const struct dev_weight *d, size_t T);
/* How T rows are multiplied by w. */
enum route route_of(const struct cuda *b, const struct weight *w, size_t T);
/* What T rows are to become for w; whether two orders, or what two weights want, are the same. */
struct inputs inputs_of(const struct cuda *b, const struct weight *w, size_t T);
bool inputs_same_order(const int32_t *a, const int32_t *b, size_t n);
/* Inputs that are x rounded to 16 bits, perhaps in another order, and nothing else. */
bool inputs_only16(const struct inputs *in);
bool inputs_plain(const struct inputs *in);
bool inputs_same(const struct cuda *b, const struct weight *a, const struct weight *w, size_t T);
/* What all products of o read of their input, if they read the same. */
bool inputs_one(const struct cuda *b, const struct op *o, struct inputs *in);
/* Whether a program writes what o reads, in->kp columns, in 16 bits at once in their order. A
 * weight that is away may not be there yet, nor its order. */
bool inputs_take16(const struct cuda *b, const struct op *o, const struct inputs *in);
/* The same of D columns, or as they are where o rounds them itself. Nobody would write the zeros of
 * padding. */
bool inputs_made(const struct cuda *b, const struct op *o, size_t D, struct inputs *in);
/* The op after i, if it is a product of y [T, D]. */
const struct op *op_consumer(const struct cuda *b, size_t i, const float *y, size_t T, size_t D);

/* ---- product.c ---- */

/* Where the next inputs in 16 bits go. */
struct gpu_room *input_next16(struct cuda *b);
/* x16 holds a copy of x from now on. */
void input_have(struct cuda *b, const float *x, size_t T, int kp, int mode, bool scaled);
/* The place for y [T, D] that a kernel makes for the products that `in` is about. */
bool input_room_made(struct cuda *b, const struct inputs *in, size_t T, size_t D);
/* a makes it there. */
void input_make(struct cuda *b, const struct inputs *in, size_t D, struct stream_args *a);
/* It did: y is there from now on. */
void input_have_made(struct cuda *b, const struct inputs *in, const float *y, size_t T, size_t D,
                     bool scaled);
/* A copy in 16 bits of y, which op i writes, for the product that follows. y becomes NULL where
 * nobody wants more than that. place: where its columns go, for a program; NULL: they stay. */
struct copy16 input_copy_for(struct cuda *b, size_t i, float **y, size_t T, size_t D,
                             const int32_t **place);
/* What makes T rows of x the inputs that w wants. */
struct act_args input_act(const struct inputs *in, const struct weight *w, const float *x,
                          size_t T);
/* x in 16 bits, to x16; nothing to do where the op before left it there. */
bool input_prepare(struct cuda *b, const struct inputs *in, const struct weight *w, const float *x,
                   size_t T);
/* Whether one kernel can do both. */
bool product_same_stream(const struct dev_weight *a, const struct dev_weight *w);
/* n outputs of one layout from x16, at most DEV_STREAM_ROWS rows. */
struct stream_args product_stream(struct cuda *b, const struct linear_out *out, size_t n, size_t T,
                                  bool add);
/* E4M3 by E4M3, where the checkpoint's rule for inputs is that. */
bool product_takes_f8(const struct cuda *b, const struct weight *w, const struct inputs *in);
/* x8 and the scales behind it. */
bool input_room_f8(struct cuda *b, struct act_args *a);
/* x8 is x from now on, as w wants it. */
void input_have_f8(struct cuda *b, const float *x, size_t T, const struct weight *w);
/* x, or its norm with weights `norm`, in the ways that a has room for. */
void input_norm_rows(struct cuda *b, struct act_args *a, const float *norm, float eps);
/* T rows of gated values, or of g alone, to where a says. */
void input_gated_rows(struct cuda *b, struct gated_args *a, size_t T);
/* Whether it has a kernel for them. */
bool input_whole_rows(const struct act_args *a);
/* A product of x8 for cuBLASLt. half: where y goes in bf16 instead; or NULL */
struct blas_product product_f8(const struct cuda *b, const struct linear_out *out, size_t T,
                               bool add, void *half);
/* Whether cuBLASLt has all products of o in E4M3, of one input. */
bool product_all_f8(struct cuda *b, const struct op *o);
/* x in E4M3, to x8, where w takes that; nothing to do where it is there. */
bool input_prepare_f8(struct cuda *b, const struct inputs *in, const struct weight *w,
                      const float *x, size_t T);
/* The same of x16, by a weight that is bf16 or f16. */
struct blas_product product16(const struct cuda *b, const struct linear_out *out, size_t T,
                              bool add, void *half);
/* A product by cuBLASLt: false where it has none. What is neither bf16 nor f16 nor E4M3 is widened
 * first, a slice of rows at a time. half: as for product_f8 */
bool product_library(struct cuda *b, const struct linear_out *out, const float *x, size_t T,
                     bool add, const struct inputs *in, void *half);
/* All outputs of o as one product p, [T] rows of all of them in bf16, to half; false: they are not
 * beside one another on the device. */
bool product_joined(struct cuda *b, const struct op *o, void *half, struct blas_product *p);
/* Gate and up of 17 to 64 rows, and gated values to where a says, which lie as `image` says. */
void product_gated_wide(struct cuda *b, const struct stream_args *a, int image,
                        const struct op *after);
/* The outputs of o from number i on that go along with it; how many they are. */
size_t product_some(struct cuda *b, const struct op *o, size_t i);

#endif
#endif
