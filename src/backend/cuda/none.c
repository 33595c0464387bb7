/* none.c - what a program without CUDA kernels says. */
#include <unistd.h>

#include "backend/cuda/cuda.h"

const struct train_ops train_ops_cuda; /* there is no context to call it with */

int cuda_ctx_new(struct ctx **out, enum compute compute, struct err *e)
{
    (void)out;
    (void)compute;
    return err_set(e, ERR_HARDWARE,
                   "no GPU can be used: this puna was built without nvcc; build it where the CUDA "
                   "toolkit is, or use --device cpu");
}

void cuda_try(struct ctx *c, unsigned what)
{
    (void)c;
    (void)what;
}

const char *cuda_ctx_name(const struct ctx *c)
{
    (void)c;
    return "";
}

int cuda_ceiling(struct ctx *c, struct cuda_ceilings *out, struct err *e)
{
    (void)c;
    (void)out;
    return err_set(e, ERR_HARDWARE, "no GPU can be used: this puna was built without nvcc");
}

bool cuda_present(void)
{
    return access("/dev/nvidia0", F_OK) == 0;
}
