/* Any bytes as a GGUF file: its metadata are walked by type, its tensors decoded, its sizes read.
 */
#include <float.h>

#include "format/checkpoint.h"
#include "format/gguf.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static unsigned char last_byte; /* keeps reads from being optimised away */

static void ask(void *arg, struct gguf_str key, uint32_t type, const char *value)
{
    const struct gguf *g = arg;
    struct err e;
    char name[256];
    struct gguf_strs strs;
    struct gguf_str s;
    int64_t v;
    double d;
    bool b;
    const void *p;
    size_t n;

    if (key.n >= sizeof(name) || type > 12 || !value)
        return;
    memcpy(name, key.p, key.n);
    name[key.n] = 0;
    if (gguf_get_int(g, name, INT64_MIN, INT64_MAX, &v, &e) == 0)
        __builtin_trap(); /* a key that is there is found */
    if (gguf_get_num(g, name, &d, &e) > 0 || gguf_get_bool(g, name, &b, &e) > 0 ||
        gguf_get_str(g, name, &s, &e) > 0)
        return;
    if (gguf_get_strs(g, name, &strs, &e) > 0)
        while (strs.n) {
            s = gguf_strs_next(&strs);
            for (size_t i = 0; i < s.n; i++)
                last_byte ^= (unsigned char)s.p[i];
        }
    if (gguf_get_i32s(g, name, &p, &n, &e) > 0 || gguf_get_f32s(g, name, &p, &n, &e) > 0)
        for (size_t i = 0; i < n; i++)
            last_byte ^= ((const unsigned char *)p)[4 * i + 3];
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct err e = { 0 };
    struct hparams h;
    struct gguf *g;

    if (gguf_open_mem(&g, data, size, "fuzz", &e))
        return 0;
    gguf_each_meta(g, ask, g);
    for (size_t i = 0; i < gguf_tensors(g); i++) {
        const struct tensor_view *t = gguf_tensor(g, i);

        if (gguf_find(g, t->name) != t)
            __builtin_trap();
        if (tensor_check_values(t, "fuzz", &e))
            continue;
    }
    if (hparams_from_gguf(&h, g, &e) == 0) {
        float inv_freq[2048];

        rope_inv_freq(inv_freq, &h, NULL); /* head_dim is at most 4096 */
        for (int64_t i = 0; i < h.head_dim / 2; i++)
            if (!(inv_freq[i] >= 0 && inv_freq[i] <= FLT_MAX))
                __builtin_trap();
    }
    gguf_close(g);
    return 0;
}
