/* hold.h - text on its way to a reader, held back until a guard has judged it: whole sentences at a
 * time, so that nothing of a sentence is shown that turns out to violate a policy. */
#ifndef PUNA_GUARD_HOLD_H
#define PUNA_GUARD_HOLD_H

#include "base/buf.h"

struct hold {
    struct buf text; /* all of it */
    size_t judged;   /* bytes of text that were found harmless */
};

void hold_init(struct hold *h);
void hold_release(struct hold *h);
void hold_add(struct hold *h, const char *p, size_t n);
/* Bytes of the text up to which it should be judged next: the end of the first sentence that is
 * worth a judgement, or, with `last` (no more text comes), all that is left. 0 = nothing now. The
 * text alone says where these places are, not how it came, so an answer is cut at the same place
 * whatever runs beside it; to be asked again after each judgement. */
size_t hold_due(const struct hold *h, bool last);

#endif
