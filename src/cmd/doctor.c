/* doctor.c - `puna doctor`: what this machine offers, and why anything is off. */
#include <inttypes.h>
#include <langinfo.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/statvfs.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <jansson.h>

#include "backend/cpu/cpu.h"
#include "backend/cuda/cuda.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/team.h"
#include "cmd/opt.h"
#include "format/checkpoint.h"
#include "format/sha256sums.h"
#include "hub/models.h"
#include "tools/tool.h"

struct doctor_cfg {
    bool json;
};

static const struct opt opts[] = {
    OPT(BOOL, struct doctor_cfg, json, NULL, NULL, "false", "one JSON object on stdout"),
    { .name = NULL },
};

/* A row is fine, or off for a reason that does no harm, or a problem that wants its fix. */
enum status { OK, OFF, PROBLEM };
static const char *const status_name[] = { "ok", "off", "problem" };

struct doctor {
    json_t *checks;
    bool problem;
};

/* Adds a row; the result is borrowed, for numbers beside the text. */
static json_t *row(struct doctor *d, const char *name, enum status s, const char *fix,
                   const char *fmt, ...) PRINTF_LIKE(5, 6);

static json_t *row(struct doctor *d, const char *name, enum status s, const char *fix,
                   const char *fmt, ...)
{
    json_t *j = json_object();
    struct err text; /* for its cut to one clean line */
    va_list ap;
    char *msg;

    va_start(ap, fmt);
    if (vasprintf(&msg, fmt, ap) < 0)
        BUG("vasprintf");
    va_end(ap);
    err_set(&text, ERR_FAIL, "%s", msg);
    free(msg);
    json_object_set_new(j, "name", json_string(name));
    json_object_set_new(j, "status", json_string(status_name[s]));
    json_object_set_new(j, "text", json_string(text.msg));
    if (fix)
        json_object_set_new(j, "fix", json_string(fix));
    json_array_append_new(d->checks, j);
    d->problem |= s == PROBLEM;
    return j;
}

static void number(json_t *j, const char *key, uint64_t n)
{
    json_object_set_new(j, key, json_integer((json_int_t)n));
}

static double gb(uint64_t bytes)
{
    return (double)bytes / 1e9;
}

/* The first line of a small file of /proc or /sys. */
static bool first_line(char *out, size_t size, const char *path)
{
    FILE *f = fopen(path, "re");
    const bool ok = f && fgets(out, (int)size, f);

    if (f)
        fclose(f);
    if (ok)
        out[strcspn(out, "\n")] = 0;
    return ok;
}

/* What follows "key" and a colon on a line of the file. */
static bool field(char *out, size_t size, const char *path, const char *key)
{
    char line[512];
    FILE *f = fopen(path, "re");
    bool found = false;

    while (f && !found && fgets(line, sizeof(line), f)) {
        const char *v = strchr(line, ':');

        if (!v || strncmp(line, key, strlen(key)))
            continue;
        v += 1 + strspn(v + 1, " \t");
        snprintf(out, size, "%.*s", (int)strcspn(v, "\n"), v);
        found = true;
    }
    if (f)
        fclose(f);
    return found;
}

/* ---- the machine ---- */

static void check_cpu(struct doctor *d)
{
    char model[128] = "";
    struct utsname u;

    uname(&u);
    if (!field(model, sizeof(model), "/proc/cpuinfo", "model name"))
        snprintf(model, sizeof(model), "unknown model");
    row(d, "cpu", OK, NULL, "%s, %s, Linux %s", model, u.machine, u.release);
}

static void check_sets(struct doctor *d)
{
    static const struct {
        enum cpu_flag set;
        const char *name, *holds;
    } sets[] = {
        { CPU_AVX2, "avx2", "AVX2, FMA, F16C" },
        { CPU_AVX512, "avx512", "AVX-512 F, BW, DQ, VL, VNNI" },
        { CPU_AVX512_BF16, "avx512_bf16", "AVX-512 BF16, VBMI" },
        { CPU_AMX, "amx", "AMX-TILE, BF16, INT8" },
    };

    for (size_t i = 0; i < ARRAY_LEN(sets); i++) {
        const char *lacks;

        switch (cpu_set_state(sets[i].set, &lacks)) {
        case CPU_HAS:
            row(d, sets[i].name, OK, NULL, "%s", sets[i].holds);
            break;
        case CPU_OS_OFF:
            row(d, sets[i].name, OFF, "ask whoever set up the kernel or the virtual machine",
                "the CPU has it, the operating system has switched it off");
            break;
        case CPU_LACKS:
            row(d, sets[i].name, OFF, NULL, "this CPU has no %s", lacks);
            break;
        }
    }
}

/* Which kernels run by default; another set runs them where its name is given to --isa. */
static void check_kernels(struct doctor *d)
{
    static const struct {
        const char *name, *does;
    } sets[] = {
        { "generic", "plain C" },
        { "avx2", "vpmaddubsw for codes of 4 to 8 bits, vpmaddwd for NF4 and INT8, float32 "
                  "for the rest" },
        { "avx512", "vpdpbusd for codes of 4 to 8 bits, vpdpwssd for NF4, float32 for the rest" },
        { "avx512_bf16", "vpdpbusd for codes of 4 to 8 bits, vpdpwssd for NF4, vdpbf16ps for bf16 "
                         "and E4M3" },
        { "amx", "as avx512_bf16; for many rows tdpbssd for codes of 4 to 8 bits, tdpbf16ps for "
                 "bf16, prompts and their attention" },
    };
    const char *name = cpu_flags_name(cpu_flags());

    for (size_t i = 0; i < ARRAY_LEN(sets); i++)
        if (strcmp(sets[i].name, name) == 0)
            row(d, "kernels", OK, NULL, "%s: %s", name, sets[i].does);
}

static void check_threads(struct doctor *d)
{
    const long online = sysconf(_SC_NPROCESSORS_ONLN);
    const int used = team_default_size();
    cpu_set_t set;
    const int allowed =
        sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set) : (int)online;
    json_t *j;

    if (used < allowed)
        j = row(d, "threads", OK, NULL,
                "%d by default: of %ld CPUs %d are allowed here, less those that share a core or "
                "exceed the control group's quota",
                used, online, allowed);
    else
        j = row(d, "threads", OK, NULL, "%d by default: of %ld CPUs %d are allowed here", used,
                online, allowed);
    number(j, "default", (uint64_t)used);
    number(j, "online", (uint64_t)online);
    number(j, "allowed", (uint64_t)allowed);
}

static void check_memory(struct doctor *d)
{
    const size_t avail = mem_available(), enough = (size_t)256 << 20;
    unsigned long long kb = 0;
    char text[64] = "";
    json_t *j;

    if (field(text, sizeof(text), "/proc/meminfo", "MemTotal"))
        kb = strtoull(text, NULL, 10);
    if (avail < enough)
        j = row(d, "memory", PROBLEM, "close other programs, or raise the control group's limit",
                "%.2f GB available of %.1f GB: the default model needs %.2f GB", gb(avail),
                gb(kb * 1024), gb(enough));
    else
        j = row(d, "memory", OK, NULL, "%.1f GB available of %.1f GB", gb(avail), gb(kb * 1024));
    number(j, "available", avail);
    number(j, "total", kb * 1024);
}

/* A limit of the control group that /sys/fs/cgroup shows (version 2), "max" = none. */
static void check_group(struct doctor *d)
{
    char mem[64], cpu[64];
    const bool has_mem = first_line(mem, sizeof(mem), "/sys/fs/cgroup/memory.max");
    const bool has_cpu = first_line(cpu, sizeof(cpu), "/sys/fs/cgroup/cpu.max");
    double quota, period;
    struct buf b;

    buf_init(&b, 256);
    if (has_mem && strcmp(mem, "max"))
        buf_addf(&b, "memory %.1f GB", gb(strtoull(mem, NULL, 10)));
    if (has_cpu && sscanf(cpu, "%lf %lf", &quota, &period) == 2 && period > 0)
        buf_addf(&b, "%scpu %.2f", b.len ? ", " : "", quota / period);
    row(d, "cgroup", OK, NULL, "%s", b.len ? b.p : "no limits in /sys/fs/cgroup");
    buf_release(&b);
}

static void check_numa(struct doctor *d)
{
    const struct cpus *c = cpus_here();
    struct buf b;

    buf_init(&b, 256);
    buf_addf(&b, "%d %s that may be used, ", c->nodes, c->nodes == 1 ? "node" : "nodes");
    for (int i = 0, cores = 0; i < c->n; i++) {
        cores += c->at[i].rank == 0;
        if (i + 1 < c->n && c->at[i + 1].node == c->at[i].node)
            continue;
        buf_addf(&b, "%s%d", c->at[i].node ? "+" : "", cores);
        cores = 0;
    }
    buf_addf(&b, " %s, %d %s", c->cores == 1 ? "core" : "cores", c->n, c->n == 1 ? "CPU" : "CPUs");
    json_t *j = row(d, "numa", OK, NULL, "%s", b.p);

    number(j, "nodes", (uint64_t)c->nodes);
    number(j, "cores", (uint64_t)c->cores);
    buf_release(&b);
}

static void check_pin(struct doctor *d)
{
    const struct cpus *c = cpus_here();
    const enum pin pin = cpus_pin(c, PIN_AUTO, team_default_size());
    json_t *j =
        pin == PIN_NODES
            ? row(d, "pinning", OK, NULL, "threads stay on their node's cores (--pin nodes)")
            : row(d, "pinning", OK, NULL, "none by default%s; --pin cores keeps each thread on one",
                  c->nodes > 1 ? ": fewer threads than nodes" : ": one node");

    json_object_set_new(j, "default", json_string(pin_name(pin)));
}

static void check_huge_pages(struct doctor *d)
{
    char text[128];

    if (!first_line(text, sizeof(text), "/sys/kernel/mm/transparent_hugepage/enabled"))
        row(d, "huge pages", OFF, NULL, "this kernel has no transparent huge pages");
    else if (strstr(text, "[never]"))
        row(d, "huge pages", OFF,
            "echo madvise | sudo tee /sys/kernel/mm/transparent_hugepage/enabled",
            "switched off: reading weights is slower");
    else
        row(d, "huge pages", OK, NULL, "%s", strstr(text, "[always]") ? "always" : "on request");
}

static void check_gpu(struct doctor *d)
{
    struct ctx *c;
    struct err e;

    if (cuda_ctx_new(&c, COMPUTE_AUTO, &e)) {
        row(d, "gpu", OFF, NULL, "%s", e.msg);
        return;
    }
    json_t *j = row(d, "gpu", OK, NULL, "%s", cuda_ctx_name(c));

    number(j, "free", c->be->available(c));
    c->be->free(c);
}

/* ---- storage and models ---- */

static void check_disk(struct doctor *d)
{
    const uint64_t enough = (uint64_t)1 << 30;
    struct err e;
    struct statvfs v;
    char *cache, *at;
    json_t *j;

    if (hub_cache_dir(&cache, &e)) {
        row(d, "cache", PROBLEM, "set HOME or XDG_CACHE_HOME", "%s", e.msg);
        return;
    }
    at = xstrdup(cache);
    while (access(at, F_OK) && strrchr(at, '/') > at) /* it need not exist yet */
        *strrchr(at, '/') = 0;
    if (!file_is_dir(at) || access(at, W_OK) || statvfs(at, &v)) {
        row(d, "cache", PROBLEM, "set XDG_CACHE_HOME to a folder that can be written",
            "%s cannot be written", at);
    } else {
        const uint64_t left = (uint64_t)v.f_bavail * v.f_frsize;

        j = row(d, "cache", left < enough ? PROBLEM : OK,
                left < enough ? "free some space, or set XDG_CACHE_HOME to another disk" : NULL,
                "%s, %.1f GB free", cache, gb(left));
        number(j, "free", left);
    }
    free(at);
    free(cache);
}

static void check_default(struct doctor *d, const struct hub_model *m)
{
    char have[65];
    struct err e;
    struct map map;

    if (map_open(&map, m->path, &e)) {
        row(d, "default model", PROBLEM, "script/setup", "%s", e.msg);
        return;
    }
    if (sha256_hex(have, map.p ? (const void *)map.p : "", map.len, &e))
        row(d, "default model", PROBLEM, "reinstall libcrypto", "%s", e.msg);
    else if (strcmp(have, HUB_DEFAULT_SHA256))
        row(d, "default model", PROBLEM, "delete the file and run script/setup",
            "%s is damaged: its SHA-256 begins with %.12s, not %.12s", m->path, have,
            HUB_DEFAULT_SHA256);
    else
        row(d, "default model", OK, NULL, "%s is there and intact", m->name);
    map_close(&map);
}

static void check_models(struct doctor *d)
{
    const struct hub_model *def = NULL;
    struct hub_models m;
    struct err e;
    size_t usable = 0;

    if (hub_list(&m, &e)) {
        row(d, "models", PROBLEM, NULL, "%s", e.msg);
        return;
    }
    for (size_t i = 0; i < m.n; i++) {
        struct checkpoint *c;

        if (m.p[i].is_default)
            def = &m.p[i];
        if (checkpoint_open(&c, m.p[i].path, &e)) {
            row(d, "model", PROBLEM, "fetch it again, or delete it", "%s", e.msg);
            continue;
        }
        checkpoint_close(c);
        usable++;
    }
    number(row(d, "models", OK, NULL, "%zu usable of %zu; puna list shows them", usable, m.n),
           "usable", usable);
    if (def)
        check_default(d, def);
    else
        row(d, "default model", PROBLEM, "script/setup",
            HUB_DEFAULT " is not there; name another model, or fetch it");
    hub_models_release(&m);
}

/* ---- what surrounds the program ---- */

/* What runs code that a model wrote: it runs a line there. */
static void check_sandbox(struct doctor *d)
{
    struct err e;

    if (tool_by_name("code_interpreter")->check(&e))
        row(d, "sandbox", OFF, "install bubblewrap and python3, and allow user namespaces", "%s",
            e.msg);
    else
        row(d, "sandbox", OK, NULL, "code that a model writes can run behind the kernel's walls");
}

static void check_terminal(struct doctor *d)
{
    const char *charset = nl_langinfo(CODESET), *term = getenv("TERM");
    struct winsize w = { 0 };

    if (strcmp(charset, "UTF-8"))
        row(d, "locale", OFF, "export LC_ALL=C.UTF-8",
            "%s, not UTF-8: the line editor does not understand other letters", charset);
    else
        row(d, "locale", OK, NULL, "UTF-8");
    if (!isatty(1))
        row(d, "terminal", OFF, NULL, "standard output is not a terminal");
    else if (!term || !strcmp(term, "dumb"))
        row(d, "terminal", OFF, NULL, "no cursor movement: TERM is %s", term ? term : "not set");
    else
        row(d, "terminal", OK, NULL, "%s, %d columns%s", term,
            ioctl(1, TIOCGWINSZ, &w) == 0 ? (int)w.ws_col : 0,
            getenv("NO_COLOR") ? ", no colour (NO_COLOR)" : "");
}

/* The name of an option's variable, or NULL; *near is one that is spelt alike. */
static bool known_variable(const char *name, size_t n, char near[80])
{
    const char *all[1024];
    size_t count = 0, cmds_n;
    const struct cmd *const *cmds = cmd_all(&cmds_n);
    char *word = xmemdup0(name, n);
    bool known = false;

    near[0] = 0;
    for (size_t i = 0; i < cmds_n; i++)
        for (const struct opt *o = cmds[i]->opts; o->name && count < ARRAY_LEN(all); o++) {
            struct buf b;

            if (opt_positional(o))
                continue;
            buf_init(&b, 80);
            opt_env(o, &b);
            known |= !strcmp(b.p, word);
            all[count++] = buf_take(&b);
            buf_release(&b);
        }
    const char *best = opt_nearest(word, all, count);

    if (best)
        snprintf(near, 80, "%s", best);
    for (size_t i = 0; i < count; i++)
        free((void *)(uintptr_t)all[i]);
    free(word);
    return known;
}

static void check_environment(struct doctor *d)
{
    uint64_t n = 0;

    for (char **v = environ; *v; v++) {
        const size_t len = strcspn(*v, "=");
        char near[80];

        if (strncmp(*v, "PUNA_", 5))
            continue;
        if (known_variable(*v, len, near))
            n++;
        else if (near[0])
            row(d, "environment", PROBLEM, "rename or unset it",
                "%.*s is no option's name; did you mean %s?", (int)(len < 60 ? len : 60), *v, near);
        else
            row(d, "environment", OFF, NULL, "%.*s is no option's name", (int)(len < 60 ? len : 60),
                *v);
    }
    number(row(d, "environment", OK, NULL, "%" PRIu64 " options set by PUNA_... variables", n),
           "set", n);
}

/* ---- printing ---- */

static void print_table(const json_t *checks)
{
    json_t *j;
    size_t i;

    json_array_foreach(checks, i, j)
    {
        const char *fix = json_string_value(json_object_get(j, "fix"));

        printf("%-8s %-14s %s\n", json_string_value(json_object_get(j, "status")),
               json_string_value(json_object_get(j, "name")),
               json_string_value(json_object_get(j, "text")));
        if (fix)
            printf("%-8s %-14s fix: %s\n", "", "", fix);
    }
}

static int run(const void *cfg, struct err *e)
{
    const struct doctor_cfg *c = cfg;
    struct doctor d = { .checks = json_array() };

    (void)e;
    check_cpu(&d);
    check_sets(&d);
    check_kernels(&d);
    check_threads(&d);
    check_memory(&d);
    check_group(&d);
    check_numa(&d);
    check_pin(&d);
    check_huge_pages(&d);
    check_gpu(&d);
    check_disk(&d);
    check_models(&d);
    check_sandbox(&d);
    check_terminal(&d);
    check_environment(&d);
    if (c->json) {
        json_t *top = json_pack("{s:b, s:s, s:s, s:O}", "ok", !d.problem, "version", PUNA_VERSION,
                                "isa", cpu_flags_name(cpu_flags()), "checks", d.checks);

        BUG_ON(!top);
        json_dumpf(top, stdout, JSON_COMPACT);
        putchar('\n');
        json_decref(top);
    } else {
        print_table(d.checks);
    }
    json_decref(d.checks);
    return d.problem ? 1 : 0;
}

const struct cmd cmd_doctor = {
    .name = "doctor",
    .summary = "what this machine offers, and why anything is off",
    .usage = "[--json]",
    .help = "Looks at the CPU and its instruction sets, threads, memory, control group, NUMA, huge "
            "pages, GPU driver, cache, models, sandbox, terminal and environment. A row is ok, off "
            "(it could be "
            "better and says why) or a problem with its fix. It changes nothing and asks no "
            "network.\n"
            "\n"
            "Exit status: 0, or 1 when there is a problem.\n"
            "\n"
            "EXAMPLES\n"
            "  puna doctor\n"
            "  puna doctor --json | jq '.checks[] | select(.status == \"problem\")'\n",
    .opts = opts,
    .cfg_size = sizeof(struct doctor_cfg),
    .run = run,
};
