#include "train/wandb.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"
#include "base/rng.h"
#include "train/wire.h"

enum { BLOCK = 32768, HEAD = 7, RECORD_MAX = 1 << 24, ID = 8 };
enum { FULL = 1, FIRST, MIDDLE, LAST };

/* Fields of Record. */
enum { R_NUM = 1, R_HISTORY, R_SUMMARY, R_RUN = 17, R_EXIT, R_HEADER = 21 };

struct wandb {
    FILE *f;
    char *path;
    char id[ID + 1];
    size_t at;    /* bytes of the file */
    uint64_t num; /* records so far */
    double began;
};

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_REALTIME, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* ---- the log ---- */

static int put(struct wandb *w, const void *p, size_t n, struct err *e)
{
    if (fwrite(p, 1, n, w->f) != n)
        return err_set(e, ERR_FAIL, "%s: %s", w->path, strerror(errno));
    w->at += n;
    return 0;
}

static int piece(struct wandb *w, int kind, const char *p, size_t n, struct err *e)
{
    const uint8_t byte = (uint8_t)kind;
    struct buf head;
    int rc;

    buf_init(&head, HEAD);
    wire_little(&head, crc32(crc32(0, &byte, 1), p, n), 4);
    wire_little(&head, n, 2);
    wire_little(&head, byte, 1);
    rc = put(w, head.p, head.len, e) || put(w, p, n, e) ? -1 : 0;
    buf_release(&head);
    return rc;
}

/* A message cut into pieces where blocks end; a block's last bytes that hold no head are zeros. */
static int log_record(struct wandb *w, const struct buf *b, struct err *e)
{
    static const char zeros[HEAD] = { 0 };
    const char *p = b->p;
    size_t left = b->len;
    bool first = true, last = false;

    while (!last) {
        const size_t room = BLOCK - w->at % BLOCK;

        if (room < HEAD) {
            if (put(w, zeros, room, e))
                return -1;
            continue;
        }
        const size_t n = left < room - HEAD ? left : room - HEAD;

        last = n == left;
        if (piece(w, first && last ? FULL : first ? FIRST : last ? LAST : MIDDLE, p, n, e))
            return -1;
        first = false;
        p += n;
        left -= n;
    }
    return fflush(w->f) ? err_set(e, ERR_FAIL, "%s: %s", w->path, strerror(errno)) : 0;
}

/* A Record with one thing in it. */
static int record(struct wandb *w, unsigned field, const struct buf *message, struct err *e)
{
    struct buf b;
    int rc;

    buf_init(&b, RECORD_MAX);
    wire_number(&b, R_NUM, ++w->num);
    wire_bytes(&b, field, message->p, message->len);
    rc = log_record(w, &b, e);
    buf_release(&b);
    return rc;
}

/* ---- messages ---- */

/* 1 update or item { 1 key, 16 value_json } */
static void add_item(struct buf *b, const char *key, const json_t *v)
{
    char *text = json_dumps(v, JSON_ENCODE_ANY | JSON_COMPACT);
    struct buf item;

    buf_init(&item, RECORD_MAX);
    wire_text(&item, 1, key);
    wire_text(&item, 16, text ? text : "null");
    wire_bytes(b, 1, item.p, item.len);
    buf_release(&item);
    free(text);
}

static void add_all(struct buf *b, const json_t *values)
{
    const char *key;
    json_t *v;

    json_object_foreach((json_t *)(uintptr_t)values, key, v) add_item(b, key, v);
}

/* 1 version_info { 1 producer, 2 min_consumer } */
static int write_header(struct wandb *w, struct err *e)
{
    struct buf b, version;
    int rc;

    buf_init(&b, RECORD_MAX);
    buf_init(&version, RECORD_MAX);
    wire_text(&version, 1, PUNA_VERSION);
    wire_text(&version, 2, "0.0.0");
    wire_bytes(&b, 1, version.p, version.len);
    rc = record(w, R_HEADER, &b, e);
    buf_release(&version);
    buf_release(&b);
    return rc;
}

/* 1 run_id, 2 entity, 3 project, 4 config, 8 display_name, 13 host, 17 start_time { 1 seconds } */
static int write_run(struct wandb *w, const struct wandb_run *r, struct err *e)
{
    char host[256] = "host";
    struct buf b, part;
    int rc;

    (void)gethostname(host, sizeof(host) - 1);
    buf_init(&b, RECORD_MAX);
    buf_init(&part, RECORD_MAX);
    wire_text(&b, 1, w->id);
    if (r->entity)
        wire_text(&b, 2, r->entity);
    wire_text(&b, 3, r->project);
    add_all(&part, r->config);
    wire_bytes(&b, 4, part.p, part.len);
    if (r->name)
        wire_text(&b, 8, r->name);
    wire_text(&b, 13, host);
    buf_clear(&part);
    wire_number(&part, 1, (uint64_t)w->began);
    wire_bytes(&b, 17, part.p, part.len);
    rc = record(w, R_RUN, &b, e);
    buf_release(&part);
    buf_release(&b);
    return rc;
}

/* A step's history { 1 item, 2 step { 1 num } }, and the same as summary { 1 update }: the last
 * values stay. */
int wandb_step(struct wandb *w, int64_t step, const json_t *values, struct err *e)
{
    const double t = now();
    json_t *own = json_pack("{s:f, s:f, s:I}", "_timestamp", t, "_runtime", t - w->began, "_step",
                            (json_int_t)step);
    struct buf b, number;
    int rc;

    buf_init(&b, RECORD_MAX);
    buf_init(&number, RECORD_MAX);
    add_all(&b, values);
    add_all(&b, own);
    rc = record(w, R_SUMMARY, &b, e);
    wire_number(&number, 1, (uint64_t)step);
    wire_bytes(&b, 2, number.p, number.len);
    if (rc == 0)
        rc = record(w, R_HISTORY, &b, e);
    buf_release(&number);
    buf_release(&b);
    json_decref(own);
    return rc;
}

/* ---- a run's file ---- */

/* The newest run's folder in `all`, or NULL: names begin with the date. */
static char *newest(const char *all)
{
    DIR *d = opendir(all);
    char *best = NULL;

    for (const struct dirent *f; d && (f = readdir(d));)
        if (!strncmp(f->d_name, "offline-run-", 12) && strlen(f->d_name) > 12 + ID &&
            (!best || strcmp(f->d_name, best) > 0)) {
            free(best);
            best = xstrdup(f->d_name);
        }
    if (d)
        closedir(d);
    return best;
}

static char *new_name(void)
{
    static const char digits[] = "0123456789abcdefghijklmnopqrstuvwxyz";
    const time_t t = time(NULL);
    uint64_t bits = rng_fresh_seed();
    char when[32], id[ID + 1] = { 0 };
    struct tm tm;

    localtime_r(&t, &tm);
    strftime(when, sizeof(when), "%Y%m%d_%H%M%S", &tm);
    for (size_t i = 0; i < ID; i++, bits /= 36)
        id[i] = digits[bits % 36];
    return xasprintf("offline-run-%s-%s", when, id);
}

int wandb_open(struct wandb **out, const struct wandb_run *r, struct err *e)
{
    static const char head[] = ":W&B\xe1\xbe"; /* and a version, 0 */
    struct wandb *w = xcalloc(1, sizeof(*w));
    char *all = path_join(r->dir, "wandb"), *name = r->again ? newest(all) : NULL, *dir = NULL;
    int rc = -1;

    name = name ? name : new_name();
    dir = path_join(all, name);
    w->began = now();
    memcpy(w->id, name + strlen(name) - ID, ID);
    w->path = xasprintf("%s/run-%s.wandb", dir, w->id);
    if (dir_make(dir, e))
        goto done;
    w->f = fopen(w->path, "wbe");
    if (!w->f) {
        err_set(e, ERR_FAIL, "%s: %s", w->path, strerror(errno));
        goto done;
    }
    rc = put(w, head, sizeof(head), e) || write_header(w, e) || write_run(w, r, e) ? -1 : 0;
done:
    free(all);
    free(name);
    free(dir);
    if (rc)
        rc = wandb_close(w, false, NULL) ? -1 : rc;
    else
        *out = w;
    return rc;
}

int wandb_close(struct wandb *w, bool done, struct err *e)
{
    struct buf b;
    int rc = 0;

    if (!w)
        return 0;
    if (w->f && w->num) { /* 1 exit_code, 2 runtime */
        buf_init(&b, RECORD_MAX);
        wire_number(&b, 1, done ? 0 : 1);
        wire_number(&b, 2, (uint64_t)(now() - w->began));
        rc = record(w, R_EXIT, &b, e);
        buf_release(&b);
    }
    if (w->f && fclose(w->f) && rc == 0)
        rc = err_set(e, ERR_FAIL, "%s: %s", w->path, strerror(errno));
    free(w->path);
    free(w);
    return rc;
}
