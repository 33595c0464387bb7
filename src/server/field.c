#include "server/field.h"

#include <string.h>

const struct field server_fields[] = {
#define FIELD(name, types, where, help) { #name, types, where, help },
#include "server/field.def"
#undef FIELD
    { .name = NULL },
};

static const struct field *find(const char *name, unsigned where)
{
    for (const struct field *f = server_fields; f->name; f++)
        if (f->where & where && strcmp(f->name, name) == 0)
            return f;
    return NULL;
}

bool field_known(const char *name, unsigned where)
{
    return find(name, where) != NULL;
}

int fields_check(struct call *c, const json_t *body, unsigned where, struct err *e)
{
    const char *key;
    json_t *v;

    json_object_foreach((json_t *)(uintptr_t)body, key, v)
    {
        const struct field *f = find(key, where);

        if (!f && c->strict)
            return err_set(e, ERR_USAGE, "Unrecognized request argument supplied: %.64s", key);
        if (!f || f->where & IGNORED)
            call_ignore(c, key);
    }
    return 0;
}
