/* Any bytes as a PyTorch file: its tensors are found by name and decoded. */
#include "format/checkpoint.h"
#include "format/pth.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct err e = { 0 };
    struct pth *p;

    if (pth_open_mem(&p, data, size, "fuzz", &e))
        return 0;
    for (size_t i = 0; i < pth_tensors(p); i++) {
        const struct tensor_view *t = pth_tensor(p, i);

        if (pth_find(p, t->name) != t)
            __builtin_trap();
        if (tensor_check_values(t, "fuzz", &e))
            continue;
    }
    pth_close(p);
    return 0;
}
