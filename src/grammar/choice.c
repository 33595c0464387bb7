/* choice.c - the simplest grammars. */
#include "grammar/read.h"

int read_choice(struct exprs *x, const json_t *list, struct err *e)
{
    const uint32_t root = ex_new_rule(x, "root", 4);
    uint32_t all = EX_NONE;

    if (!json_is_array(list) || json_array_size(list) == 0)
        return err_set(e, ERR_USAGE, "choices are a list of one text or more");
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *v = json_array_get(list, i);

        if (!json_is_string(v) || json_string_length(v) == 0)
            return err_set(e, ERR_USAGE, "choice %zu is no text", i);
        all = ex_alt(x, all, ex_textn(x, json_string_value(v), json_string_length(v)));
    }
    x->rule[root].body = all;
    return 0;
}

void read_json(struct exprs *x)
{
    struct json_rules j = { .x = x };
    const uint32_t root = ex_new_rule(x, "root", 4);
    const uint32_t body = json_any_object(&j);

    x->rule[root].body = body;
}
