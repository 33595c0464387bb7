#include "cmd/drafting.h"

#include "cmd/common.h"
#include "engine/draft.h"

int drafting_open(struct engine **out, const struct drafting *c, struct engine *g, size_t answers,
                  size_t *most, struct err *e)
{
    const struct engine_opts o = { .isa = -1, .chunk = g->chunk, .beside = g };

    *most = (size_t)c->speculate;
    if (!c->draft_model)
        return c->draft_min ? err_set(e, ERR_USAGE, "--draft-min needs --draft-model MODEL") : 0;
    if (*most == 0)
        *most = DRAFT_GUESSES;
    if ((size_t)c->draft_min > *most)
        return err_set(e, ERR_USAGE, "--draft-min %lld is more than --speculate %zu",
                       (long long)c->draft_min, *most);
    if (engine_open_named(out, c->draft_model, &o, e) || engine_set_drafter(g, *out, answers, e))
        return err_wrap(e, "--draft-model");
    return 0;
}
