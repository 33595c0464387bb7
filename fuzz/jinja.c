/* Any bytes as a chat template. */
#include "text/jinja.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    json_t *request = json_pack("{s:[{s:s,s:s}],s:b}", "messages", "role", "user", "content", "hi",
                                "add_generation_prompt", 1);
    const struct jinja_vars vars = { .request = request };
    struct buf text, marks;
    struct jinja *j;
    struct err e;

    buf_init(&text, 1 << 20);
    buf_init(&marks, 1 << 20);
    if (jinja_parse(&j, (const char *)data, size, &e) == 0) {
        if (jinja_render(j, &vars, &text, &marks, &e) == 0 && text.len != marks.len)
            __builtin_trap();
        jinja_free(j);
    }
    buf_release(&text);
    buf_release(&marks);
    json_decref(request);
    return 0;
}
