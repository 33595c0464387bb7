#include "cmd/guarding.h"

#include <stdlib.h>

#include "hub/models.h"

int guarding_open(struct guards **out, const struct guarding *c, struct engine *beside,
                  struct err *e)
{
    const bool both = !c->guard_input && !c->guard_output;
    char *guard = NULL, *prompt_guard = NULL;
    int rc = 0;

    if (!c->guard && !both)
        return err_set(e, ERR_USAGE, "--guard-input and --guard-output need --guard MODEL");
    if ((c->guard && hub_resolve(c->guard, &guard, e)) ||
        (c->prompt_guard && hub_resolve(c->prompt_guard, &prompt_guard, e)))
        rc = -1;
    const struct guards_opts go = { .guard = guard,
                                    .prompt_guard = prompt_guard,
                                    .input = c->guard && (both || c->guard_input),
                                    .output = c->guard && (both || c->guard_output),
                                    .threshold = c->guard_threshold,
                                    .attack = c->prompt_guard_threshold,
                                    .ctx = (size_t)c->guard_ctx,
                                    .beside = beside };

    if (rc == 0 && (guard || prompt_guard))
        rc = guards_open(out, &go, e);
    free(guard);
    free(prompt_guard);
    return rc;
}
