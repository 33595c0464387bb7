/* Any bytes as a GGUF file whose vocabulary is read. */
#include "use_tok.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct err e = { 0 };
    struct gguf *g;
    struct tok *t;

    if (gguf_open_mem(&g, data, size, "fuzz", &e))
        return 0;
    if (tok_from_gguf(&t, g, &e) == 0) {
        use_tok(t, true);
        tok_free(t);
    }
    gguf_close(g);
    return 0;
}
