#include "train/events.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/num.h"
#include "train/wire.h"

struct events {
    FILE *f;
    char *path;
};

enum { RECORD_MAX = 1 << 12 }; /* a tag and a few numbers */

/* 1 wall_time: double, 2 step: int64 */
static void event_start(struct buf *b, int64_t step)
{
    struct timespec t;
    double now;
    uint64_t bits;

    clock_gettime(CLOCK_REALTIME, &t);
    now = (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
    memcpy(&bits, &now, 8);
    wire_varint(b, 1 << 3 | 1);
    wire_little(b, bits, 8);
    wire_varint(b, 2 << 3);
    wire_varint(b, (uint64_t)step);
}

/* ---- records ---- */

static uint32_t masked(const void *p, size_t n)
{
    const uint32_t c = crc32c(p, n);

    return (c >> 15 | c << 17) + 0xa282ead8u;
}

static int record(struct events *ev, const struct buf *data, struct err *e)
{
    struct buf b;
    int rc = 0;

    buf_init(&b, RECORD_MAX);
    wire_little(&b, data->len, 8);
    wire_little(&b, masked(b.p, 8), 4);
    buf_add(&b, data->p, data->len);
    wire_little(&b, masked(data->p, data->len), 4);
    if (fwrite(b.p, 1, b.len, ev->f) != b.len || fflush(ev->f))
        rc = err_set(e, ERR_FAIL, "%s: %s", ev->path, strerror(errno));
    buf_release(&b);
    return rc;
}

int events_open(struct events **out, const char *dir, struct err *e)
{
    struct events *ev = xcalloc(1, sizeof(*ev));
    char *runs = path_join(dir, "runs"), host[256] = "host";
    struct buf b;
    int rc = -1;

    buf_init(&b, RECORD_MAX);
    (void)gethostname(host, sizeof(host) - 1);
    ev->path = xasprintf("%s/events.out.tfevents.%lld.%s.%d.0", runs, (long long)time(NULL), host,
                         (int)getpid());
    if (dir_make(runs, e))
        goto done;
    ev->f = fopen(ev->path, "wbe");
    if (!ev->f) {
        err_set(e, ERR_FAIL, "%s: %s", ev->path, strerror(errno));
        goto done;
    }
    event_start(&b, 0);
    wire_bytes(&b, 3, "brain.Event:2", 13);
    rc = record(ev, &b, e);
done:
    if (rc)
        events_close(ev);
    else
        *out = ev;
    buf_release(&b);
    free(runs);
    return rc;
}

/* Event 5 summary { 1 value { 1 tag: string, 2 simple_value: float } } */
int events_scalar(struct events *ev, int64_t step, const char *tag, double value, struct err *e)
{
    struct buf v, summary, b;

    buf_init(&v, RECORD_MAX);
    buf_init(&summary, RECORD_MAX);
    buf_init(&b, RECORD_MAX);
    wire_bytes(&v, 1, tag, strlen(tag));
    wire_varint(&v, 2 << 3 | 5);
    wire_little(&v, f32_bits((float)value), 4);
    wire_bytes(&summary, 1, v.p, v.len);
    event_start(&b, step);
    wire_bytes(&b, 5, summary.p, summary.len);
    const int rc = record(ev, &b, e);

    buf_release(&v);
    buf_release(&summary);
    buf_release(&b);
    return rc;
}

void events_close(struct events *ev)
{
    if (!ev)
        return;
    if (ev->f)
        fclose(ev->f);
    free(ev->path);
    free(ev);
}
