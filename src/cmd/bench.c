/* bench.c - `puna bench`: load, prefill, decode and batched decode of one model, with this
 * machine's ceilings measured in the same run. The object it prints has the fields of
 * bench/compare.py, so that two programs compare line by line. Random tokens, one warm-up each;
 * sampling is part of none. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "backend/cpu/ceiling.h"
#include "backend/cuda/cuda.h"
#include "base/clock.h"
#include "base/mem.h"
#include "base/rng.h"
#include "cmd/bench_products.h"
#include "cmd/common.h"
#include "cmd/opt.h"
#include "cmd/samples.h"
#include "engine/memory.h"

struct bench_cfg {
    const char *model;
    int64_t pp, tg, pp_batched, tg_batched, threads, reps;
    const char *batches, *depths, *products, *pin, *dtype, *kv_dtype, *weights, *isa, *device;
    bool json, ceilings, offload;
};

static const struct opt opts[] = {
    OPT(ARG, struct bench_cfg, model, NULL, "MODEL", "", "folder, GGUF file or short name"),
    OPT_RANGE(INT, struct bench_cfg, pp, "-p", "N", "512", 0, 1e6, "prompt tokens (0 = skip)"),
    OPT_RANGE(INT, struct bench_cfg, tg, "-n", "N", "64", 0, 1e6, "decode steps (0 = skip)"),
    OPT(STR, struct bench_cfg, batches, NULL, "LIST", "1,2,4,8,16,32",
        "numbers of sequences for batched decode, comma separated; empty = skip"),
    OPT_RANGE(INT, struct bench_cfg, pp_batched, NULL, "N", "32", 1, 1e5,
              "prompt of each sequence"),
    OPT_RANGE(INT, struct bench_cfg, tg_batched, NULL, "N", "16", 1, 1e5, "steps of each sequence"),
    OPT(STR, struct bench_cfg, depths, NULL, "LIST", NULL,
        "one sequence that grows: prefill up to each length, and --tg-batched steps there"),
    OPT(STR, struct bench_cfg, products, NULL, "LIST", NULL,
        "the matrix products of the layers alone, of so many rows each", .rare = true),
    OPT_RANGE(INT, struct bench_cfg, threads, "-t", "N", "0", 0, 1024, "threads (0 = all cores)"),
    OPT(STR, struct bench_cfg, pin, NULL, PIN_HOW, "auto",
        "threads on the CPU: kept on their NUMA node where there are several, or on a core each",
        .rare = true),
    OPT_RANGE(INT, struct bench_cfg, reps, "-r", "N", "5", 1, 1000, "repetitions of each figure"),
    OPT(STR, struct bench_cfg, dtype, NULL, "auto|f32|bf16", "auto",
        "arithmetic of the matrix products"),
    OPT(STR, struct bench_cfg, kv_dtype, NULL, KV_TYPES, "auto", "type of the key-value cache"),
    OPT(STR, struct bench_cfg, weights, NULL, WEIGHTS_HOW, "auto",
        "quantised weights on the CPU: copied as its kernels take them, or mapped", .rare = true),
    OPT(STR, struct bench_cfg, device, NULL, "cpu|cuda|auto", "auto",
        "where to compute; auto: the GPU when there is one that holds the model"),
    OPT(BOOL, struct bench_cfg, offload, NULL, NULL, "false",
        "layers that the GPU has no room for wait in host memory", .rare = true),
    OPT(STR, struct bench_cfg, isa, NULL, "NAME", NULL, "highest instruction set to use"),
    OPT(BOOL, struct bench_cfg, ceilings, NULL, NULL, "true",
        "measure read bandwidth and arithmetic peaks in the same run"),
    OPT(BOOL, struct bench_cfg, json, NULL, NULL, NULL, "one JSON object on stdout"),
    { .name = NULL },
};

struct bench {
    const struct bench_cfg *c;
    struct engine *g;
    uint64_t draw;
    struct ceilings top;
    struct cuda_ceilings gpu;
};

/* {"median", "best", "samples"} of tokens / seconds; sorts a copy. */
static json_t *rates(double tokens, const double *seconds, size_t n)
{
    double *r = xcalloc(n, sizeof(*r));
    json_t *samples = json_array();

    for (size_t i = 0; i < n; i++) {
        r[i] = tokens / seconds[i];
        json_array_append_new(samples, json_real(r[i]));
    }
    samples_sort(r, n);
    json_t *j =
        json_pack("{s:f, s:f, s:o}", "median", n % 2 ? r[n / 2] : (r[n / 2 - 1] + r[n / 2]) / 2,
                  "best", r[n - 1], "samples", samples);

    free(r);
    return j;
}

static int32_t random_token(struct bench *b)
{
    return (int32_t)(rng_u64(1, b->draw++) % (uint64_t)b->g->model->hp->vocab);
}

static int measure_prefill(struct bench *b, json_t *out, struct err *e)
{
    const size_t n = (size_t)b->c->pp, reps = (size_t)b->c->reps;
    int32_t *ids = xcalloc(n, sizeof(*ids));
    double *seconds = xcalloc(reps, sizeof(*seconds));
    struct session *s = NULL;
    const float *logits;
    int rc = session_new(&s, b->g, n, e);

    for (size_t r = 0; rc == 0 && r <= reps; r++) { /* the first is the warm-up */
        for (size_t i = 0; i < n; i++)
            ids[i] = random_token(b);
        session_cut(s, 0);
        const double start = clock_seconds();

        rc = session_eval(s, ids, n, &logits, NULL, NULL, NULL, e);
        if (r > 0)
            seconds[r - 1] = clock_seconds() - start;
    }
    if (rc == 0)
        json_object_set_new(out, "prefill",
                            json_pack("{s:I, s:o}", "tokens", (json_int_t)n, "tok_per_s",
                                      rates((double)n, seconds, reps)));
    session_free(s);
    free(seconds);
    free(ids);
    return rc;
}

/* B sequences, each with a cache of its own, advanced one token a step: straight over
 * llama_forward. */
struct herd {
    size_t n, blocks_each;
    struct kv_cache kv;
    float *logits;
    int32_t *rows;         /* token, pos, slot, seq, want: [n] each */
    const int32_t **table; /* [n] */
    int32_t *block;        /* [n * blocks_each] */
    struct pick_ask *ask;  /* of every row; NULL where logits come to the host as they are */
    struct pick_list *head;
};

static int herd_new(struct herd *h, struct bench *b, size_t n, size_t tokens, struct err *e)
{
    const struct hparams *hp = b->g->model->hp;
    void *logits;

    *h = (struct herd){ .n = n, .blocks_each = (tokens + KV_BLOCK - 1) / KV_BLOCK };
    if (kv_new(&h->kv, b->g->ctx, hp, b->g->kv, n * h->blocks_each, e))
        return -1;
    if (mem_new(&logits, n * (size_t)hp->vocab, sizeof(float), "logits", e)) {
        kv_release(&h->kv);
        return -1;
    }
    h->logits = logits;
    h->rows = xcalloc(5 * n, sizeof(*h->rows));
    h->table = xcalloc(n, sizeof(*h->table));
    h->block = xcalloc(n * h->blocks_each, sizeof(*h->block));
    for (size_t i = 0; i < n * h->blocks_each; i++)
        h->block[i] = (int32_t)i;
    for (size_t i = 0; i < n; i++)
        h->table[i] = h->block + i * h->blocks_each;
    if (b->g->ctx->be->pick) {
        h->ask = xcalloc(n, sizeof(*h->ask));
        h->head = xcalloc(n, sizeof(*h->head));
        for (size_t i = 0; i < n; i++)
            h->ask[i] = (struct pick_ask){ .row = i, .bare = true };
    }
    return 0;
}

static void herd_release(struct herd *h)
{
    kv_release(&h->kv);
    free(h->logits);
    free(h->rows);
    free(h->table);
    free(h->block);
    free(h->ask);
    free(h->head);
}

static int herd_step(struct bench *b, struct herd *h, size_t position, struct err *e)
{
    int32_t *token = h->rows, *pos = token + h->n, *slot = pos + h->n, *seq = slot + h->n,
            *want = seq + h->n;

    for (size_t i = 0; i < h->n; i++) {
        token[i] = random_token(b);
        pos[i] = slot[i] = (int32_t)position;
        seq[i] = want[i] = (int32_t)i;
    }
    const struct batch batch = { .T = h->n,
                                 .token = token,
                                 .pos = pos,
                                 .slot = slot,
                                 .seq = seq,
                                 .n_seq = h->n,
                                 .block_table = h->table,
                                 .want = want,
                                 .n_want = h->n };

    const struct ctx *c = b->g->ctx;

    /* as the scheduler does: logits stay on a device that tells their heads */
    if (llama_forward(b->g->ctx, b->g->model, b->g->acts, &h->kv, &batch, h->ask ? NULL : h->logits,
                      e))
        return -1;
    return h->ask ? c->be->pick(b->g->ctx, h->ask, h->n, (size_t)b->g->model->hp->vocab, h->head, e)
                  : 0;
}

/* Fills every sequence from position `first` up to `end`, as prompts would. */
static int herd_prompt(struct bench *b, struct herd *h, size_t first, size_t end, struct err *e)
{
    const size_t most = b->g->chunk < end - first ? b->g->chunk : end - first;
    int32_t *rows = xcalloc(3 * most + h->n, sizeof(*rows)), *seq = rows + most, *slot = seq + most;
    int32_t *prompt = slot + most;
    int rc = 0;

    for (size_t s = 0; s < h->n; s++)
        prompt[s] = (int32_t)end;

    for (size_t s = 0; s < h->n && rc == 0; s++) {
        for (size_t at = first; at < end && rc == 0; at += most) {
            const size_t T = end - at < most ? end - at : most;

            for (size_t i = 0; i < T; i++) {
                rows[i] = random_token(b);
                seq[i] = (int32_t)s;
                slot[i] = (int32_t)(at + i);
            }
            const struct batch batch = { .T = T,
                                         .token = rows,
                                         .pos = slot,
                                         .slot = slot,
                                         .seq = seq,
                                         .n_seq = h->n,
                                         .prompt = prompt,
                                         .block_table = h->table };

            rc = llama_forward(b->g->ctx, b->g->model, b->g->acts, &h->kv, &batch, NULL, e);
        }
    }
    free(rows);
    return rc;
}

/* reps times `steps` steps from position `first` on, after a warm-up; {"tok_per_s"...} */
static int herd_rates(struct bench *b, struct herd *h, size_t first, size_t steps, json_t **out,
                      struct err *e)
{
    const size_t reps = (size_t)b->c->reps;
    double *seconds = xcalloc(reps, sizeof(*seconds));
    int rc = herd_step(b, h, first, e);

    for (size_t r = 0; r < reps && rc == 0; r++) {
        const double start = clock_seconds();

        for (size_t i = 0; i < steps && rc == 0; i++)
            rc = herd_step(b, h, first + i, e);
        seconds[r] = clock_seconds() - start;
    }
    if (rc == 0)
        *out = rates((double)(h->n * steps), seconds, reps);
    free(seconds);
    return rc;
}

/* reps times `steps` steps of n sequences after `first` cached positions; {"tok_per_s"...} */
static int measure_steps(struct bench *b, size_t n, size_t first, size_t steps, json_t **out,
                         struct err *e)
{
    struct herd h;

    if (herd_new(&h, b, n, first + steps + 2, e))
        return -1;

    int rc = herd_prompt(b, &h, 0, first, e);

    if (rc == 0)
        rc = herd_rates(b, &h, first, steps, out, e);
    herd_release(&h);
    return rc;
}

/* What a decoded token reads of the weights: of a table of embeddings that is no head, one row. */
static size_t decode_bytes(const struct model *m)
{
    const size_t all = checkpoint_bytes(m->ckpt), table = m->embed.rows * m->embed.row_bytes;

    return m->head.data == m->embed.data || table > all ? all : all - table;
}

static int measure_decode(struct bench *b, json_t *out, struct err *e)
{
    json_t *r;

    if (measure_steps(b, 1, 0, (size_t)b->c->tg, &r, e))
        return -1;
    json_object_set_new(out, "decode",
                        json_pack("{s:I, s:I, s:o}", "tokens", (json_int_t)b->c->tg, "read_bytes",
                                  (json_int_t)decode_bytes(b->g->model), "tok_per_s", r));
    return 0;
}

/* The next number of a comma separated list, from 1 to most; 0 at its end, < 0 after an error. */
static long next_number(const char *option, const char *list, const char **at, size_t most,
                        struct err *e)
{
    char *end;

    if (!*at || !**at)
        return 0;
    const long n = strtol(*at, &end, 10);

    if (end == *at || n < 1 || (size_t)n > most || (*end && *end != ','))
        return err_set(e, ERR_USAGE, "%s %s: numbers from 1 to %zu, comma separated", option, list,
                       most);
    *at = *end ? end + 1 : end;
    return n;
}

static int measure_batched(struct bench *b, json_t *out, struct err *e)
{
    json_t *list = json_array(), *r;
    const char *p = b->c->batches;
    long n;

    json_object_set_new(out, "batched", list);
    while ((n = next_number("--batches", b->c->batches, &p, b->g->chunk, e)) > 0) {
        if (measure_steps(b, (size_t)n, (size_t)b->c->pp_batched, (size_t)b->c->tg_batched, &r, e))
            return -1;
        json_array_append_new(list, json_pack("{s:I, s:I, s:I, s:o}", "sequences", (json_int_t)n,
                                              "prompt", (json_int_t)b->c->pp_batched, "tokens",
                                              (json_int_t)b->c->tg_batched, "tok_per_s", r));
    }
    return (int)n;
}

/* What a token decoded after `depth` others reads: weights and cache. */
static size_t read_at(const struct engine *g, size_t depth)
{
    const size_t blocks = (depth + KV_BLOCK - 1) / KV_BLOCK;

    return decode_bytes(g->model) + kv_bytes(g->model->hp, g->kv, blocks);
}

/* The last of --depths, which grow; 0 without any, < 0 after an error. */
static long deepest(const struct bench *b, struct err *e)
{
    const char *p = b->c->depths;
    long n, last = 0;

    while ((n = next_number("--depths", b->c->depths, &p, (size_t)b->g->model->hp->ctx, e)) > 0) {
        if (n <= last)
            return err_set(e, ERR_USAGE,
                           "--depths %s: %ld follows %ld; each is larger than the one before",
                           b->c->depths, n, last);
        last = n;
    }
    return n < 0 ? n : last;
}

/* One sequence, filled up to each depth in turn: the rate of the whole prompt that far, and that of
 * steps after it. One pass over the longest gives every point of a curve. */
static int measure_depths(struct bench *b, json_t *out, struct err *e)
{
    const long last = deepest(b, e);
    const size_t steps = (size_t)b->c->tg_batched;
    const char *p = b->c->depths;
    double seconds = 0;
    size_t at = 0;
    struct herd h;
    json_t *list, *r;
    int rc = 0;

    if (last <= 0)
        return (int)last;
    if (herd_new(&h, b, 1, (size_t)last + steps, e))
        return -1;
    json_object_set_new(out, "depths", list = json_array());
    while (rc == 0 && at < (size_t)last) {
        const size_t depth = (size_t)next_number("--depths", b->c->depths, &p, (size_t)last, e);
        const double start = clock_seconds();

        rc = herd_prompt(b, &h, at, depth, e);
        seconds += clock_seconds() - start;
        at = depth;
        if (rc == 0 && (rc = herd_rates(b, &h, depth, steps, &r, e)) == 0)
            json_array_append_new(list, json_pack("{s:I, s:f, s:o, s:I}", "context",
                                                  (json_int_t)depth, "prefill_tok_per_s",
                                                  (double)depth / seconds, "tok_per_s", r,
                                                  "read_bytes", (json_int_t)read_at(b->g, depth)));
    }
    herd_release(&h);
    return rc;
}

static int measure_products(struct bench *b, json_t *out, struct err *e)
{
    json_t *const list = json_array();
    const char *p = b->c->products;
    long n = 0;

    json_object_set_new(out, "products", list);
    while ((n = next_number("--products", b->c->products, &p, b->g->chunk, e)) > 0)
        if (bench_products(b->g, (size_t)n, (size_t)b->c->reps, list, e))
            return -1;
    return (int)n;
}

static json_t *load_average(void)
{
    double l[3] = { 0, 0, 0 };

    (void)!getloadavg(l, 3);
    return json_pack("[f,f,f]", l[0], l[1], l[2]);
}

/* Opens the model and runs one token, as the first answer would. */
static int measure_load(struct bench *b, const struct engine_opts *o, json_t *out, struct err *e)
{
    const double start = clock_seconds();
    struct session *s;
    const float *logits;
    const int32_t id = 0;

    if (engine_open_named(&b->g, b->c->model, o, e))
        return -1;
    const double opened = clock_seconds() - start;

    if (session_new(&s, b->g, 256 < b->g->model->hp->ctx ? 256 : 0, e))
        return -1;
    const int rc = session_eval(s, &id, 1, &logits, NULL, NULL, NULL, e);

    const double first = clock_seconds() - start, settle = clock_seconds();

    session_free(s);
    engine_settle(b->g);
    json_object_set_new(out, "load",
                        json_pack("{s:s, s:f, s:f, s:f}", "mode",
                                  o->weights == WEIGHTS_COPY ? "copy" : "mmap", "model_s", opened,
                                  "first_token_s", first, "settle_s", clock_seconds() - settle));
    return rc;
}

static json_t *describe(const struct bench *b)
{
    const char *path = checkpoint_path(b->g->model->ckpt), *slash = strrchr(path, '/');
    struct stat st;
    const json_int_t size =
        stat(path, &st) == 0 && S_ISREG(st.st_mode) ? (json_int_t)st.st_size : 0;

    return json_pack("{s:s, s:I, s:I}", "file", slash ? slash + 1 : path, "file_bytes", size,
                     "tensor_bytes", (json_int_t)checkpoint_bytes(b->g->model->ckpt));
}

static double median(const json_t *figure)
{
    return json_number_value(json_object_get(json_object_get(figure, "tok_per_s"), "median"));
}

static void print_depths(const json_t *list, double read)
{
    const json_t *d;
    size_t i;

    if (list)
        printf("%-24s %12s %12s\n", "after", "prefill", "decode");
    json_array_foreach(list, i, d)
    {
        const json_int_t n = json_integer_value(json_object_get(d, "context"));
        const double bytes = json_number_value(json_object_get(d, "read_bytes"));

        printf("%-24lld %12.1f %12.1f", n,
               json_number_value(json_object_get(d, "prefill_tok_per_s")), median(d));
        if (read > 0)
            printf("   %.0f %% of read bandwidth", 100 * median(d) * bytes / read);
        putchar('\n');
    }
}

static void print_products(const json_t *list, double read)
{
    static const char *const figures[] = { "qkv_us", "o_us", "gate_up_us", "down_us", "layer_us" };
    const json_t *p;
    size_t i;

    if (json_array_size(list))
        printf("%-24s %9s %9s %9s %9s %9s\n", "products, us a layer", "q k v", "o", "gate, up",
               "down", "all");
    json_array_foreach(list, i, p)
    {
        const double us = json_number_value(json_object_get(p, "layer_us"));
        const double rate = json_number_value(json_object_get(p, "bytes")) / us * 1e6;

        printf("%-24lld", json_integer_value(json_object_get(p, "rows")));
        for (size_t k = 0; k < ARRAY_LEN(figures); k++)
            printf(" %9.2f", json_number_value(json_object_get(p, figures[k])));
        printf("   %.1f GB/s", rate / 1e9);
        if (read > 0)
            printf(", %.0f %% of read bandwidth", 100 * rate / read);
        putchar('\n');
    }
}

static void print_table(const json_t *out, const struct engine *g, const struct ceilings *top,
                        const struct cuda_ceilings *gpu)
{
    const double most = top->read_2m > top->read_4k ? top->read_2m : top->read_4k;
    const double read = gpu->read > 0 ? gpu->read : most, bytes = (double)decode_bytes(g->model);
    const json_t *pp = json_object_get(out, "prefill"), *tg = json_object_get(out, "decode"), *b;
    size_t i;

    printf("%-24s %12s\n", "figure", "tok/s median");
    if (pp)
        printf("prefill %-16lld %12.1f\n", json_integer_value(json_object_get(pp, "tokens")),
               median(pp));
    if (tg) {
        printf("decode  %-16lld %12.1f", json_integer_value(json_object_get(tg, "tokens")),
               median(tg));
        if (read > 0)
            printf("   %.0f %% of read bandwidth", 100 * median(tg) * bytes / read);
        putchar('\n');
    }
    json_array_foreach(json_object_get(out, "batched"), i, b) printf(
        "batched %-16lld %12.1f\n", json_integer_value(json_object_get(b, "sequences")), median(b));
    print_depths(json_object_get(out, "depths"), read);
    print_products(json_object_get(out, "products"), read);

    const json_t *m = json_object_get(out, "memory");

    printf("memory: peak %.1f MiB, planned %.1f\n",
           json_number_value(json_object_get(m, "peak_rss_bytes")) / (1 << 20),
           json_number_value(json_object_get(m, "planned_bytes")) / (1 << 20));
    if (gpu->read > 0)
        printf("ceilings: read %.0f GB/s; products of 8192 cubed: bf16 %.0f, E4M3 %.0f TFLOP/s\n",
               gpu->read / 1e9, gpu->bf16 / 1e12, gpu->f8 / 1e12);
    if (top->read_4k > 0)
        printf("ceilings: read %.1f GB/s (4 KiB pages) %.1f (2 MiB); fp32 %.0f, bf16 %.0f, int8 "
               "%.0f Gop/s\n",
               top->read_4k / 1e9, top->read_2m / 1e9, top->fp32 / 1e9, top->bf16 / 1e9,
               top->int8 / 1e9);
}

/* The planner's figure for all that was run: the hungriest phase, with scratch for the widest. */
static size_t planned(const struct bench *b)
{
    const struct bench_cfg *c = b->c;
    const size_t reps = (size_t)c->reps + 1, each = (size_t)(c->pp_batched + c->tg_batched) + 2;
    size_t rows = (size_t)c->pp < b->g->chunk ? (size_t)c->pp : b->g->chunk, most = 1;
    const long last = deepest(b, NULL);
    const size_t deep = last > 0 ? (size_t)(last + c->tg_batched) : 1;
    struct plan_use u, all = { 0 };

    for (const char *p = c->batches; p && *p;) {
        char *end;
        const size_t n = (size_t)strtol(p, &end, 10);

        most = n > most ? n : most;
        p = *end ? end + 1 : end;
    }
    rows = most > rows ? most : rows;
    if (deep > rows)
        rows = deep < b->g->chunk ? deep : b->g->chunk;
    const size_t phase[][2] = {
        { (size_t)c->pp, 1 }, { (size_t)c->tg + 2, 1 }, { each, most }, { deep, 1 }
    };
    const size_t lookups = reps * (size_t)(c->pp + c->tg) + reps * each * most + deep;

    for (size_t i = 0; i < ARRAY_LEN(phase); i++) {
        engine_plan_run(&u, b->g, phase[i][0] ? phase[i][0] : 1, phase[i][1], rows, lookups);
        if (u.total > all.total)
            all = u;
    }
    return all.total;
}

static int measure_gpu(struct bench *b, json_t *out, struct err *e)
{
    if (cuda_ceiling(b->g->ctx, &b->gpu, e))
        return -1;
    json_object_set_new(out, "ceilings",
                        json_pack("{s:f, s:f, s:f}", "read_bytes_per_s", b->gpu.read,
                                  "bf16_ops_per_s", b->gpu.bf16, "f8_ops_per_s", b->gpu.f8));
    return 0;
}

static int measure_all(struct bench *b, const struct engine_opts *o, json_t *out, struct err *e)
{
    const struct bench_cfg *c = b->c;

    json_object_set_new(out, "load_average_before", load_average());
    if (measure_load(b, o, out, e))
        return -1;
    json_object_set_new(out, "model", describe(b));
    json_object_set_new(out, "device", json_string(b->g->ctx->be->name));
    json_object_set_new(out, "threads", json_integer(team_size(b->g->ctx->team)));
    json_object_set_new(out, "pin", json_string(pin_name(team_pinned(b->g->ctx->team))));
    json_object_set_new(out, "isa",
                        json_string(cpu_flags_name(o->isa < 0 ? cpu_flags() : (unsigned)o->isa)));
    const size_t loaded = mem_peak_rss();

    if ((c->pp > 0 && measure_prefill(b, out, e)) || (c->tg > 0 && measure_decode(b, out, e)) ||
        measure_batched(b, out, e) || measure_depths(b, out, e) || measure_products(b, out, e))
        return -1;
    json_object_set_new(out, "memory",
                        json_pack("{s:I, s:I, s:I}", "loaded_peak_rss_bytes", (json_int_t)loaded,
                                  "peak_rss_bytes", (json_int_t)mem_peak_rss(), "planned_bytes",
                                  (json_int_t)planned(b)));
    if (!c->ceilings)
        return 0;
    if (!ctx_on_host(b->g->ctx)) /* the CPU's would be beside the point */
        return measure_gpu(b, out, e);
    if (ceiling_measure(&b->top, b->g->ctx->team, o->isa < 0 ? cpu_flags() : (unsigned)o->isa,
                        (size_t)512 << 20, 5, e))
        return -1;
    json_object_set_new(out, "ceilings",
                        json_pack("{s:f, s:f, s:f, s:f, s:f}", "read_4k_bytes_per_s",
                                  b->top.read_4k, "read_2m_bytes_per_s", b->top.read_2m,
                                  "fp32_ops_per_s", b->top.fp32, "bf16_ops_per_s", b->top.bf16,
                                  "int8_ops_per_s", b->top.int8));
    return 0;
}

static int run(const void *cfg, struct err *e)
{
    struct bench b = { .c = cfg };
    struct engine_opts o;
    json_t *out = json_object();
    int rc = engine_opts_fill(&o, b.c->threads, b.c->dtype, b.c->isa, b.c->device, e);

    o.no_tokenizer = true;
    team_pin(pin_from_name(b.c->pin));
    engine_opts_kv(&o, b.c->kv_dtype);
    engine_opts_weights(&o, b.c->weights);
    o.offload = b.c->offload;
    if (rc == 0)
        rc = measure_all(&b, &o, out, e);
    if (rc == 0 && b.c->json) {
        json_dumpf(out, stdout, JSON_INDENT(1));
        putchar('\n');
    } else if (rc == 0) {
        print_table(out, b.g, &b.top, &b.gpu);
    }
    json_decref(out);
    engine_close(b.g);
    return rc;
}

const struct cmd cmd_bench = {
    .name = "bench",
    .summary = "speed of a model on this machine, beside the machine's ceilings",
    .usage = "[MODEL]",
    .help = "Measures load, prefill (--pp tokens into an empty cache), decode (--tg single steps) "
            "and batched\n"
            "decode (for each number of --batches), and in the same run the read bandwidth and the "
            "arithmetic\n"
            "peaks of this machine; --depths draws a curve over the context. Tokens are random; "
            "rates count all sequences.\n"
            "\n"
            "    puna bench smollm2\n"
            "    puna bench model.gguf --pp 2048 --batches 1,8,32 --json\n",
    .opts = opts,
    .cfg_size = sizeof(struct bench_cfg),
    .run = run,
};
