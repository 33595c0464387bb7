/* cuda_bf16.h - of NVIDIA's, what kernels use: they convert with base/num.h. */
#include "device.h"
