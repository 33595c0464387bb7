/* cuda_fp16.h - of NVIDIA's, what kernels use. */
#include "device.h"
