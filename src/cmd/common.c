#include "cmd/common.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/mem.h"
#include "cmd/opt.h"
#include "engine/memory.h"
#include "hub/models.h"

static void place_progress(void *arg, size_t done, size_t total)
{
    (void)arg;
    progress_show("weights to the GPU", done, total);
    if (done == total)
        progress_end();
}

int engine_opts_fill(struct engine_opts *o, int64_t threads, const char *dtype, const char *isa,
                     const char *device, struct err *e)
{
    unsigned flags;

    *o = (struct engine_opts){
        .threads = (int)threads, .isa = -1, .device = device, .progress = place_progress
    };
    if (dtype && !strcmp(dtype, "f32"))
        o->compute = COMPUTE_F32;
    else if (dtype && !strcmp(dtype, "bf16"))
        o->compute = COMPUTE_BF16;
    if (isa) {
        if (cpu_flags_from_name(isa, &flags))
            return err_set(e, ERR_USAGE,
                           "--isa %s: not one of generic, avx2, avx512, avx512_bf16, amx", isa);
        if (flags & ~cpu_flags())
            return err_set(e, ERR_HARDWARE, "--isa %s: this CPU offers %s", isa,
                           cpu_flags_name(cpu_flags()));
        o->isa = (int)flags;
    }
    return 0;
}

void engine_opts_kv(struct engine_opts *o, const char *kv_dtype)
{
    o->kv = strcmp(kv_dtype, "auto") ? kv_dtype : NULL;
}

void engine_opts_weights(struct engine_opts *o, const char *weights)
{
    o->weights = !strcmp(weights, "copy")  ? WEIGHTS_COPY
                 : !strcmp(weights, "map") ? WEIGHTS_MAP
                                           : WEIGHTS_LATER;
}

void adapter_warn(const struct engine *g)
{
    if (g->adapter && peft_warning(g->adapter->peft))
        fprintf(stderr, "warning: %s\n", peft_warning(g->adapter->peft));
}

int engine_open_named(struct engine **out, const char *model, const struct engine_opts *o,
                      struct err *e)
{
    char *path;

    if (hub_resolve(model, &path, e))
        return -1;
    const int rc = engine_open(out, path, o, e);

    if (rc == 0) {
        adapter_warn(*out);
        if (*(*out)->note)
            fprintf(stderr, "%s\n", (*out)->note);
    }
    free(path);
    return rc;
}

static void show(const struct plan_use *all, const struct plan_use *used, size_t ctx, size_t tokens)
{
    const double mib = 1 << 20;

    fprintf(stderr,
            "memory: %.1f MiB planned for %zu tokens (weights %.1f, cache %.1f, work %.1f, program "
            "%.1f), %.1f for the %zu used; %.1f measured\n",
            (double)all->total / mib, ctx, (double)all->weights / mib, (double)all->kv_cache / mib,
            (double)(all->activations + all->scratch + all->logits) / mib,
            (double)all->runtime / mib, (double)used->total / mib, tokens,
            (double)mem_peak_rss() / mib);
}

void memory_show(const struct session *s)
{
    const struct engine *g = session_engine(s);
    struct plan_use all, used;

    engine_plan(&all, g, session_ctx(s), 1);
    engine_plan_touched(&used, g, session_ctx(s), 1);
    show(&all, &used, session_ctx(s), g->peak.tokens);
}

void memory_show_sched(struct sched *s)
{
    struct sched_stats now;
    struct plan_use all, used;
    size_t tokens;

    sched_stats(s, &now);
    sched_memory(s, &all, &used, &tokens);
    show(&all, &used, now.kv_blocks * KV_BLOCK, tokens);
}

void idle_show(const void *cfg, const struct idle_opt *list, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        const struct opt o = { .name = list[i].name };
        struct buf flag;

        if (!opt_given(cfg, list[i].name))
            continue;
        buf_init(&flag, 256);
        opt_flag(&o, &flag);
        fprintf(stderr, "%s has no effect: %s\n", flag.p, list[i].why);
        buf_release(&flag);
    }
}

static bool drawn;

void progress_show(const char *what, size_t done, size_t total)
{
    static double last;
    struct winsize w = { 0 };
    const char *term = getenv("TERM");
    char bar[31];

    if (!isatty(2) || total == 0 || !term || !strcmp(term, "dumb"))
        return;
    const double now = clock_seconds();

    if (drawn && now - last < 0.1)
        return;
    last = now;
    drawn = true;
    const size_t full = done * (sizeof(bar) - 1) / total;

    memset(bar, '.', sizeof(bar) - 1);
    memset(bar, '#', full < sizeof(bar) - 1 ? full : sizeof(bar) - 1);
    bar[sizeof(bar) - 1] = 0;
    if (ioctl(2, TIOCGWINSZ, &w) == 0 && w.ws_col && w.ws_col < 72) /* one line, or \r fails */
        fprintf(stderr, "\r%s %zu%%", what, done * 100 / total);
    else
        fprintf(stderr, "\r%s [%s] %zu/%zu", what, bar, done, total);
    fflush(stderr);
}

void progress_end(void)
{
    if (drawn)
        fputs("\r\033[K", stderr);
    drawn = false;
}

/* ---- standard input ---- */

int stdin_read(struct buf *out, const char *what, struct err *e)
{
    struct pollfd p = { .fd = STDIN_FILENO, .events = POLLIN };
    char part[1 << 16];
    ssize_t n = 1;

    if (isatty(STDERR_FILENO) && poll(&p, 1, 1000) == 0)
        fprintf(stderr, "reading %s from standard input (Ctrl-D ends it)\n", what);
    while (n > 0 && !out->full) {
        n = read(STDIN_FILENO, part, sizeof(part));
        if (n > 0)
            buf_add(out, part, (size_t)n);
        else if (n < 0 && errno == EINTR)
            n = 1;
    }
    if (n < 0)
        return err_set(e, ERR_FAIL, "standard input: %s", strerror(errno));
    return buf_check(out, "standard input", e);
}
