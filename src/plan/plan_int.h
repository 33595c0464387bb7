/* plan_int.h - sums that stay at SIZE_MAX instead of wrapping round. */
#ifndef PUNA_PLAN_PLAN_INT_H
#define PUNA_PLAN_PLAN_INT_H

#include "base/mem.h"
#include "plan/plan.h"

/* A CUDA context and the workspaces of its libraries: 0.5 to 1 GB are seen; an assumption. */
static const size_t plan_cuda_runtime = (size_t)768 << 20;

/* Bytes per second from pinned host memory to a device: PCIe 4.0 with 16 lanes; an assumption. */
static const double plan_host_link = 25e9;

static inline size_t plan_add(size_t a, size_t b)
{
    size_t r;

    return add_ok(&r, a, b) ? r : SIZE_MAX;
}

static inline size_t plan_mul(size_t a, size_t b)
{
    size_t r;

    return mul_ok(&r, a, b) ? r : SIZE_MAX;
}

#endif
