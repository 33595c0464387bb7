/* Any bytes as a safetensors file: every tensor lies inside, and together they tile the data. */
#include <string.h>

#include "format/checkpoint.h"
#include "format/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct err e = { 0 };
    struct st *s;
    uint64_t header;
    size_t sum = 0;

    if (st_open_mem(&s, data, size, "fuzz", &e))
        return 0;
    for (size_t i = 0; i < st_tensors(s); i++) {
        const struct tensor_view *t = st_tensor(s, i);

        if (t->data < data || t->nbytes > size - (size_t)(t->data - data) || strlen(t->name) > 4096)
            __builtin_trap();
        sum += t->nbytes;
        if (tensor_check_values(t, "fuzz", &e))
            continue;
    }
    memcpy(&header, data, 8);
    if (sum + 8 + header != size)
        __builtin_trap();
    st_close(s);
    return 0;
}
