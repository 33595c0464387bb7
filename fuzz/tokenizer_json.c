/* Any bytes as a tokenizer.json. */
#include "use_tok.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct err e = { 0 };
    struct tok *t;

    if (tok_from_json(&t, (const char *)data, size, "fuzz", &e))
        return 0;
    use_tok(t, true);
    tok_free(t);
    return 0;
}
