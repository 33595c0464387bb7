/* attn.cu - attention by rows (attn.cuh), for passes that are no program. */
#include "backend/cuda/attn.cuh"

enum { FEW_WARPS = 4 };

/* grid: (splits, kv heads * parts of their query heads, rows); 128 threads */
template <int ENC, int GH> __device__ static inline void attn_body(const attn_args &a)
{
    __shared__ float scratch[2 * FEW_WARPS * (256 + 2)];
    const int t = a.rows ? a.rows[blockIdx.z] : blockIdx.z;

    if ((int)blockIdx.x * a.span <= a.slot[t])
        attn_item<ENC, GH, FEW_WARPS, 4>(a, t, blockIdx.y, blockIdx.x,
                                         a.done + blockIdx.z * gridDim.y + blockIdx.y, scratch,
                                         (int)(sizeof(scratch) / sizeof(*scratch)));
}

#define ATTN(name, enc, gh)                                                                        \
    extern "C" __global__ void __launch_bounds__(FEW_WARPS *WARP)                                  \
        attn_##name##_##gh(const __grid_constant__ attn_args a)                                    \
    {                                                                                              \
        attn_body<enc, gh>(a);                                                                     \
    }
#define ATTNS(name, enc)                                                                           \
    ATTN(name, enc, 1)                                                                             \
    ATTN(name, enc, 4)                                                                             \
    ATTN(name, enc, 8)

ATTNS(f32, DEV_ENC_F32)
ATTNS(f16, DEV_ENC_F16)
ATTNS(bf16, DEV_ENC_BF16)
ATTNS(f8, DEV_ENC_F8_E4M3)
