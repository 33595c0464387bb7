#include <string.h>

#include "cmd/opt.h"

static const struct cmd *const cmds[] = {
#define CMD(id) &cmd_##id,
#include "cmd/cmds.def"
#undef CMD
};

const struct cmd *const *cmd_all(size_t *n)
{
    *n = ARRAY_LEN(cmds);
    return cmds;
}

const struct cmd *cmd_find(const char *name)
{
    for (size_t i = 0; i < ARRAY_LEN(cmds); i++)
        if (!strcmp(cmds[i]->name, name))
            return cmds[i];
    return NULL;
}
