/* list.c - `puna list`: the models on this machine. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "base/mem.h"
#include "cmd/opt.h"
#include "format/checkpoint.h"
#include "hub/models.h"

struct list_cfg {
    bool json;
};

static const struct opt opts[] = {
    OPT(BOOL, struct list_cfg, json, NULL, NULL, "false", "one JSON object on stdout"),
    { .name = NULL },
};

/* What a line shows of one model. */
struct row {
    const struct hub_model *m;
    /* "q4_1" or "q4_k+q6_k": those with a tenth of the bytes or more, largest first */
    char enc[48];
    uint64_t params;
    int64_t ctx;
    struct err e; /* why it cannot be used; ERR_NONE = it can */
};

static void describe_encodings(struct row *r, const struct checkpoint *c)
{
    size_t bytes[ENC_COUNT] = { 0 }, total = 0;

    for (size_t i = 0; i < checkpoint_tensors(c); i++) {
        const struct tensor_view *t = checkpoint_tensor(c, i);
        enum enc enc;

        r->params += checkpoint_values(c, t, &enc);
        bytes[enc] += t->nbytes;
        total += t->nbytes;
    }
    for (;;) {
        const size_t len = strlen(r->enc);
        int best = 0;

        for (int k = 1; k < ENC_COUNT; k++)
            if (bytes[k] > bytes[best])
                best = k;
        if (bytes[best] == 0 || (len && bytes[best] < total / 10))
            return;
        snprintf(r->enc + len, sizeof(r->enc) - len, "%s%s", len ? "+" : "", enc_table[best].name);
        bytes[best] = 0;
    }
}

static void describe(struct row *r, const struct hub_model *m)
{
    struct checkpoint *c;

    *r = (struct row){ .m = m };
    if (checkpoint_open(&c, m->path, &r->e))
        return;
    describe_encodings(r, c);
    r->ctx = checkpoint_hparams(c)->ctx;
    checkpoint_close(c);
}

static void human_bytes(char out[16], size_t n)
{
    static const char unit[] = "kMGT";
    double v = (double)n / 1000;
    int u = 0;

    while (v >= 999.5 && u < 3) {
        v /= 1000;
        u++;
    }
    snprintf(out, 16, v < 9.95 ? "%.1f %cB" : "%.0f %cB", v, unit[u]);
}

static void human_params(char out[16], uint64_t n)
{
    if (n == 0)
        snprintf(out, 16, "-");
    else if (n >= 1000000000)
        snprintf(out, 16, "%.1fB", (double)n / 1e9);
    else
        snprintf(out, 16, "%.0fM", (double)n / 1e6);
}

static void print_table(const struct row *rows, size_t n)
{
    int name = 4, enc = 8;

    for (size_t i = 0; i < n; i++) {
        if ((int)strlen(rows[i].m->name) > name)
            name = (int)strlen(rows[i].m->name);
        if ((int)strlen(rows[i].enc) > enc)
            enc = (int)strlen(rows[i].enc);
    }
    printf("%-*s  %7s  %-*s  %6s  %7s  %s\n", name, "NAME", "SIZE", enc, "ENCODING", "PARAMS",
           "CONTEXT", "PATH");
    for (size_t i = 0; i < n; i++) {
        char size[16], params[16];

        human_bytes(size, rows[i].m->bytes);
        human_params(params, rows[i].params);
        printf("%-*s  %7s  %-*s  %6s  ", name, rows[i].m->name, size, enc, rows[i].enc, params);
        if (rows[i].e.code)
            printf("%7s  %s\n", "-", rows[i].m->path);
        else
            printf("%7" PRId64 "  %s\n", rows[i].ctx, rows[i].m->path);
    }
    for (size_t i = 0; i < n; i++)
        if (rows[i].e.code)
            fprintf(stderr, "note: %s cannot be used: %s\n", rows[i].m->name, rows[i].e.msg);
}

static void print_json(const struct row *rows, size_t n)
{
    json_t *top = json_object(), *list = json_array();

    for (size_t i = 0; i < n; i++) {
        const struct row *r = &rows[i];
        json_t *j = json_object();

        json_object_set_new(j, "name", json_string(r->m->name));
        json_object_set_new(j, "path", json_string(r->m->path));
        json_object_set_new(j, "bytes", json_integer((json_int_t)r->m->bytes));
        json_object_set_new(j, "default", json_boolean(r->m->is_default));
        json_object_set_new(j, "ok", json_boolean(!r->e.code));
        if (r->e.code) {
            json_object_set_new(j, "reason", json_string(r->e.msg));
        } else {
            json_object_set_new(j, "encoding", json_string(r->enc));
            json_object_set_new(j, "params", json_integer((json_int_t)r->params));
            json_object_set_new(j, "context", json_integer((json_int_t)r->ctx));
        }
        json_array_append_new(list, j);
    }
    json_object_set_new(top, "models", list);
    json_dumpf(top, stdout, JSON_COMPACT);
    putchar('\n');
    json_decref(top);
}

static int run(const void *cfg, struct err *e)
{
    const struct list_cfg *c = cfg;
    struct hub_models m;
    struct row *rows;
    void *p;

    if (hub_list(&m, e))
        return -1;
    if (mem_new(&p, m.n, sizeof(*rows), "list of models", e)) {
        hub_models_release(&m);
        return -1;
    }
    rows = p;
    for (size_t i = 0; i < m.n; i++)
        describe(&rows[i], &m.p[i]);
    if (c->json)
        print_json(rows, m.n);
    else if (m.n)
        print_table(rows, m.n);
    else
        fputs("no models in the cache; run script/setup to fetch " HUB_DEFAULT "\n", stderr);
    free(rows);
    hub_models_release(&m);
    return 0;
}

const struct cmd cmd_list = {
    .name = "list",
    .summary = "list the models on this machine",
    .usage = "[--json]",
    .help =
        "Shows every GGUF file and model folder under $XDG_CACHE_HOME/puna/models "
        "(~/.cache/puna/models): the "
        "name that other commands take, its size on disk, how its weights are encoded, parameters, "
        "context "
        "and path. A model that cannot be used is listed too, and why is said on standard error.\n"
        "\n"
        "EXAMPLES\n"
        "  puna list\n"
        "  puna list --json | jq -r '.models[].name'\n",
    .opts = opts,
    .cfg_size = sizeof(struct list_cfg),
    .run = run,
};
