/* offload.c - models larger than a device: which layers' matrices wait in host memory, and pass
 * through two buffers on the device while the layers before them compute. */
#include "plan/plan_int.h"

size_t plan_away_bytes(const struct plan_weights *w, int64_t away, size_t *largest)
{
    size_t n = 0;

    *largest = 0;
    for (int64_t l = 0; l < w->layers; l++) {
        if (!layer_away(w->layers, away, l))
            continue;
        n += w->layer[l];
        *largest = w->layer[l] > *largest ? w->layer[l] : *largest;
    }
    return n;
}

bool plan_offload(struct plan_offload *o, const struct plan_query *q, size_t room)
{
    struct plan_query at = *q;
    struct plan_use u;
    size_t largest;

    for (at.away = 0; at.away <= q->hp->layers; at.away++) {
        plan_infer(&u, &at);
        *o = (struct plan_offload){ .away = at.away,
                                    .device = u.total,
                                    .host = plan_away_bytes(q->w, at.away, &largest) };
        if (u.total <= room)
            return true;
    }
    return false;
}
