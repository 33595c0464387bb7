/* logits.c - `puna logits`: token ids in, logits out, as safetensors; for comparing
 * implementations. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "cmd/common.h"
#include "cmd/opt.h"
#include "format/safetensors.h"
#include "format/st_write.h"

struct logits_cfg {
    const char *model, *ids, *output, *positions, *dtype, *device, *isa, *adapter;
    int64_t position_start, threads;
};

static const struct opt opts[] = {
    OPT(ARG, struct logits_cfg, model, NULL, "MODEL", NULL, "folder, GGUF file or short name"),
    OPT(STR, struct logits_cfg, ids, NULL, "FILE", NULL,
        "safetensors file with `ids` [batch, time] int32"),
    OPT(STR, struct logits_cfg, output, "-o", "FILE", NULL,
        "safetensors file to write: `logits` [batch, time, vocab] float32"),
    OPT(STR, struct logits_cfg, positions, NULL, "LIST", NULL,
        "keep these rows of each sequence only: ascending, comma separated"),
    OPT_RANGE(INT, struct logits_cfg, position_start, NULL, "N", "0", 0, 1e9,
              "position of the first token"),
    OPT(STR, struct logits_cfg, dtype, NULL, "auto|f32|bf16", "f32",
        "arithmetic of the matrix products; auto is what `run` uses"),
    OPT(STR, struct logits_cfg, device, NULL, "cpu|cuda|auto", "cpu",
        "where to compute; auto: the GPU when there is one that holds the model"),
    OPT(STR, struct logits_cfg, adapter, NULL, "DIR", NULL, "LoRA adapter as PEFT saves it"),
    OPT_RANGE(INT, struct logits_cfg, threads, "-t", "N", "0", 0, 1024, "threads (0 = all cores)"),
    OPT(STR, struct logits_cfg, isa, NULL, "NAME", NULL, "highest instruction set to use"),
    { .name = NULL },
};

/* Ascending row numbers below `time`; malloc'd. */
static int parse_rows(int32_t **out, size_t *n, const char *list, size_t time, struct err *e)
{
    int32_t *rows = NULL;
    long last = -1;

    *n = 0;
    for (const char *p = list;; p++) {
        char *end;
        const long v = strtol(p, &end, 10);

        if (end == p || v <= last || (size_t)v >= time || (*end && *end != ',')) {
            free(rows);
            return err_set(e, ERR_USAGE,
                           "--positions %s: ascending numbers below %zu, comma separated", list,
                           time);
        }
        rows = xrealloc(rows, (*n + 1) * sizeof(*rows));
        rows[(*n)++] = (int32_t)(last = v);
        if (!*end)
            break;
        p = end;
    }
    *out = rows;
    return 0;
}

struct job {
    const struct logits_cfg *c;
    struct engine *g;
    const struct tensor_view *ids; /* [batch, time] */
    int32_t *rows;                 /* NULL = all */
    size_t n_rows;
};

/* One sequence after another, in slices that bound the logits held at once. */
static int write_sequence(const struct job *j, struct session *s, struct st_writer *w, size_t at,
                          struct err *e)
{
    enum { SLICE = 128 };
    const size_t time = (size_t)j->ids->shape[1], V = (size_t)j->g->model->hp->vocab;
    int32_t ids[SLICE], rows[SLICE];
    size_t next = 0;
    void *logits;
    int rc = 0;

    if (mem_new(&logits, SLICE * V, sizeof(float), "logits", e))
        return -1;
    session_cut(s, 0);
    session_set_position(s, (int32_t)j->c->position_start);
    for (size_t t = 0; t < time && rc == 0; t += SLICE) {
        const size_t k = time - t < SLICE ? time - t : SLICE;
        size_t want = 0;

        memcpy(ids, j->ids->data + (at * time + t) * sizeof(int32_t), k * sizeof(int32_t));
        for (; next < j->n_rows && (j->rows ? (size_t)j->rows[next] : next) < t + k; next++)
            rows[want++] = (int32_t)((j->rows ? (size_t)j->rows[next] : next) - t);
        rc = session_eval_rows(s, ids, k, rows, want, logits, e);
        if (rc == 0)
            rc = st_write_data(w, logits, want * V * sizeof(float), e);
        progress_show("logits", at * time + t + k, (size_t)j->ids->shape[0] * time);
    }
    free(logits);
    return rc;
}

static int write_all(const struct job *j, struct err *e)
{
    const struct tensor_view head = {
        .name = "logits",
        .enc = ENC_F32,
        .ndim = 3,
        .shape = { j->ids->shape[0], j->n_rows, (uint64_t)j->g->model->hp->vocab },
    };
    struct st_writer w = { 0 };
    struct session *s;
    int rc;

    if (session_new(&s, j->g, (size_t)j->ids->shape[1], e))
        return -1;
    rc = st_write_open(&w, j->c->output, &head, 1, NULL, e);
    for (size_t i = 0; i < j->ids->shape[0] && rc == 0; i++)
        rc = write_sequence(j, s, &w, i, e);
    progress_end();
    if (rc == 0)
        rc = st_write_close(&w, e);
    else
        st_write_abort(&w);
    session_free(s);
    return rc;
}

static int run(const void *cfg, struct err *e)
{
    struct job j = { .c = cfg };
    struct engine_opts o;
    struct st *st = NULL;
    int rc = -1;

    if (!j.c->ids || !j.c->output)
        return err_set(e, ERR_USAGE, "--ids FILE and -o FILE are needed");
    if (engine_opts_fill(&o, j.c->threads, j.c->dtype, j.c->isa, j.c->device, e) ||
        st_open(&st, j.c->ids, e))
        return -1;
    o.no_tokenizer = true;
    o.adapter = j.c->adapter;
    j.ids = st_find(st, "ids");
    if (!j.ids || j.ids->enc != ENC_I32 || j.ids->ndim != 2 || j.ids->shape[1] == 0) {
        err_set(e, ERR_FORMAT, "%s: needs a tensor `ids` of shape [batch, time] and type I32",
                j.c->ids);
        goto done;
    }
    j.n_rows = (size_t)j.ids->shape[1];
    if (j.c->positions &&
        parse_rows(&j.rows, &j.n_rows, j.c->positions, (size_t)j.ids->shape[1], e))
        goto done;
    if (engine_open_named(&j.g, j.c->model, &o, e) == 0)
        rc = write_all(&j, e);
done:
    engine_close(j.g);
    free(j.rows);
    st_close(st);
    return rc;
}

const struct cmd cmd_logits = {
    .name = "logits",
    .summary = "raw logits of given token ids, as safetensors",
    .usage = "MODEL --ids FILE -o FILE",
    .help =
        "Reads `ids` [batch, time] (int32) and writes `logits` [batch, time, vocab] (float32); "
        "sequences do\n"
        "not see one another. The default arithmetic keeps activations in float32.\n"
        "\n"
        "    puna logits model/ --ids ids.safetensors -o out.safetensors --positions 0,63,127\n",
    .opts = opts,
    .cfg_size = sizeof(struct logits_cfg),
    .run = run,
};
