/* The eye on a connection's bytes: whatever comes, however it is cut, it ends up the same.
 *
 * seeds: fuzz/corpus/wire */
#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/event.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "server/wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n);

static struct evbuffer *fed(struct event_base *base, const uint8_t *p, size_t n, size_t cut,
                            struct bufferevent *pair[2])
{
    if (bufferevent_pair_new(base, 0, pair))
        abort();
    wire_watch(pair[1]);
    bufferevent_enable(pair[1], EV_READ);
    for (size_t at = 0; at < n; at += cut) {
        bufferevent_write(pair[0], p + at, n - at < cut ? n - at : cut);
        event_base_loop(base, EVLOOP_NONBLOCK);
    }
    return bufferevent_get_input(pair[1]);
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
    static struct event_base *base;
    struct bufferevent *whole[2], *cut[2];

    if (!base)
        base = event_base_new();
    if (n < 2 || n > 4096)
        return -1;
    struct evbuffer *a = fed(base, p + 1, n - 1, n, whole),
                    *b = fed(base, p + 1, n - 1, 1 + *p % 64, cut);
    const size_t len = evbuffer_get_length(a);

    if (len != evbuffer_get_length(b) || len > n - 1)
        abort();
    if (len && memcmp(evbuffer_pullup(a, -1), evbuffer_pullup(b, -1), len) != 0)
        abort();
    for (int i = 0; i < 2; i++) {
        bufferevent_free(whole[i]);
        bufferevent_free(cut[i]);
    }
    return 0;
}
