/* plan.c - `puna plan`: what a model takes on a device, and what would fit. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysinfo.h>

#include "backend/cpu/ceiling.h"
#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "cmd/plan_int.h"
#include "hub/models.h"

enum { DEFAULT_CTX = 8192, CONFIG_MAX = 1 << 20, READ_BUFFER = 256 << 20 };

static const struct opt opts[] = {
    OPT(ARG, struct plan_cfg, model, NULL, "MODEL", "",
        "1b, 3b, 8b, 70b, 405b ..., a config.json, a model; none = all that is published"),
    OPT(STR, struct plan_cfg, device, "-d", "NAME", "cpu",
        "cpu = this machine, or l4, rtx4090, a100-40x8, h100x8 ..."),
    OPT(STR, struct plan_cfg, enc, "-e,--encoding", "NAME", NULL,
        "how weights are stored; default: the file's own, bf16 for a configuration"),
    OPT_RANGE(INT, struct plan_cfg, ctx, "-c,--ctx-size", "N", NULL, 1, 1 << 30,
              "tokens of a sequence; default 8192 or the model's own"),
    OPT_RANGE(INT, struct plan_cfg, batch, "-b,--sequences,--parallel", "N", "1", 1, 1 << 20,
              "sequences at a time"),
    OPT(STR, struct plan_cfg, kv_dtype, NULL, "auto|f32|f16|bf16|q8_0|fp8", "auto",
        "type of the cache"),
    OPT_RANGE(INT, struct plan_cfg, tp, NULL, "N", NULL, 1, 65536,
              "parts of every matrix; default: all devices over --pp"),
    OPT_RANGE(INT, struct plan_cfg, pp, NULL, "N", "1", 1, 512, "stages of layers"),
    OPT_RANGE(INT, struct plan_cfg, chunk, NULL, "N", "512", 1, 1 << 20,
              "prompt rows of one forward pass"),
    OPT_RANGE(INT, struct plan_cfg, threads, "-t", "N", "0", 0, 1024, "threads (0 = all cores)"),
    OPT(STR, struct plan_cfg, dtype, NULL, "auto|f32|bf16", "auto",
        "arithmetic of the matrix products (cpu)"),
    OPT(BOOL, struct plan_cfg, offload, NULL, NULL, "false",
        "layers that one GPU has no room for wait in host memory"),
    OPT_RANGE(NUM, struct plan_cfg, memory, NULL, "GiB", NULL, 0.001, 1e6,
              "memory of one device, in place of what it has"),
    OPT_RANGE(NUM, struct plan_cfg, bandwidth, NULL, "GB/s", NULL, 0.001, 1e6,
              "read bandwidth of one device; cpu: default measured"),
    OPT(STR, struct plan_cfg, train, NULL, "full|lora|qlora", NULL,
        "plan a training step instead of inference"),
    OPT(STR, struct plan_cfg, optim, "--optimizer", "adamw|adamw8|adamw-bf16|lean", "adamw",
        "what is kept per parameter: 16, 10, 8 or 4 bytes"),
    OPT_RANGE(INT, struct plan_cfg, rank, "-r", "N", "16", 1, 4096, "rank of the adapter"),
    OPT(STR, struct plan_cfg, targets, NULL, "attention|all", "attention",
        "matrices that have an adapter"),
    OPT_RANGE(INT, struct plan_cfg, zero, NULL, "N", "0", 0, 3,
              "share out over the devices: 1 optimizer states, 2 gradients too, 3 weights too"),
    OPT(BOOL, struct plan_cfg, recompute, NULL, NULL, "true",
        "keep each layer's input and compute the rest again"),
    OPT(BOOL, struct plan_cfg, whole_logits, NULL, NULL, "false",
        "logits of all tokens at once, as PyTorch does"),
    OPT(BOOL, struct plan_cfg, post, NULL, NULL, "false",
        "the three memory tables of the Llama 3.1 release post, checked"),
    OPT(BOOL, struct plan_cfg, json, NULL, NULL, "false", "one JSON object on stdout"),
    { .name = NULL },
};

/* What is planned. */
struct target {
    char name[96];
    struct hparams hp;
    struct model *model; /* owned; NULL = a configuration alone */
    int scheme;          /* -1 = the tensors of model */
    struct plan_weights w;
};

static int read_config(struct hparams *hp, const char *path, struct err *e)
{
    const size_t n = strlen(path);
    json_t *j;

    if (json_parse_file(&j, path, CONFIG_MAX, e))
        return -1;
    const bool meta = n >= 11 && !strcmp(path + n - 11, "params.json");
    const int rc = meta ? hparams_from_params(hp, j, path, e) : hparams_from_config(hp, j, path, e);

    json_decref(j);
    return rc;
}

/* A folder that has its config.json and no weights yet is planned from that. */
static int open_path(struct target *t, const char *path, struct err *e)
{
    const size_t n = strlen(path);
    char *config;
    int rc;

    if (n > 5 && !strcmp(path + n - 5, ".json"))
        return read_config(&t->hp, path, e);
    rc = model_open(&t->model, path, e);
    if (rc == 0) {
        t->hp = *t->model->hp;
        return 0;
    }
    if (e->code != ERR_NOT_FOUND || !file_is_dir(path))
        return -1;
    config = path_join(path, "config.json");
    if (file_exists(config))
        rc = read_config(&t->hp, config, e);
    free(config);
    return rc;
}

static int target_open(struct target *t, const char *model, const char *enc, struct err *e)
{
    const struct plan_model *m = plan_model_find(model);
    char *path = NULL;
    int rc = 0;

    t->scheme = enc ? scheme_from_name(enc) : -1;
    if (enc && t->scheme < 0)
        return err_set(e, ERR_USAGE,
                       "no encoding '%.40s': bf16, f32, fp8, fp8-meta, int8, int4, "
                       "nf4, nf4-dq, q8_0, q4_0, q4_k_m are known",
                       enc);
    if (m) {
        t->hp = m->hp;
        snprintf(t->name, sizeof(t->name), "%s", m->name);
    } else {
        const bool config = strlen(model) > 5 && !strcmp(model + strlen(model) - 5, ".json");

        if (!config && hub_resolve(model, &path, e))
            return err_wrap(e, "no published configuration '%.60s' (puna plan lists them), and",
                            model);
        snprintf(t->name, sizeof(t->name), "%s", path ? path : model);
        rc = open_path(t, path ? path : model, e);
    }
    free(path);
    if (rc)
        return -1;
    if (t->scheme < 0 && !t->model)
        t->scheme = SCHEME_BF16;
    if (t->scheme < 0)
        plan_weights_model(&t->w, t->model);
    else
        plan_weights_scheme(&t->w, &t->hp, (enum scheme)t->scheme);
    return 0;
}

/* ---- device ---- */

static int device_open(struct plan_device *d, const struct plan_cfg *c, struct err *e)
{
    *d = (struct plan_device){ .cpu = true, .count = 1, .key = "cpu", .name = "this machine" };
    if (strcmp(c->device, "cpu") && plan_device_find(d, c->device, e))
        return -1;
    if (d->cpu)
        d->memory = mem_available();
    if (opt_given(c, "memory"))
        d->memory = (size_t)(c->memory * (1 << 30));
    if (opt_given(c, "bandwidth")) {
        d->bandwidth = c->bandwidth * 1e9;
    } else if (d->cpu && !c->train && !c->post) {
        struct team *team;

        if (team_new(&team, (int)c->threads, e))
            return -1;
        const int rc = ceiling_read(&d->bandwidth, team, READ_BUFFER, 3, e);

        team_free(team);
        return rc;
    }
    return 0;
}

/* With --offload, what the device has no room for. */
static void send_away(struct plan_query *q, const struct plan_cfg *c, const struct plan_device *d)
{
    struct plan_offload o;

    q->away = 0;
    if (c->offload && plan_offload(&o, q, d->memory))
        q->away = o.away;
}

static int query_fill(struct plan_query *q, const struct plan_cfg *c, const struct target *t,
                      const struct plan_device *d, struct err *e)
{
    const char *kv = c->kv_dtype;

    *q = (struct plan_query){
        .hp = &t->hp,
        .w = &t->w,
        .model = t->scheme < 0 ? t->model : NULL,
        .kv = t->hp.dtype,
        .ctx = (size_t)(t->hp.ctx < DEFAULT_CTX ? t->hp.ctx : DEFAULT_CTX),
        .sequences = (size_t)c->batch,
        .chunk = (size_t)c->chunk,
        .pp = (int)c->pp,
        .tp = c->pp <= d->count ? d->count / (int)c->pp : 1,
        .cpu = d->cpu,
        .threads = c->threads ? (int)c->threads : get_nprocs(),
        .flags = cpu_flags(),
        .tokenizer = t->hp.vocab,
    };
    if (opt_given(c, "ctx"))
        q->ctx = (size_t)c->ctx;
    if (opt_given(c, "tp"))
        q->tp = (int)c->tp;
    else /* as many devices as divide it: 9 heads leave 5 of 8 idle */
        while (t->hp.heads % q->tp || t->hp.ffn % q->tp)
            q->tp--;
    q->compute = !strcmp(c->dtype, "f32")    ? COMPUTE_F32
                 : !strcmp(c->dtype, "bf16") ? COMPUTE_BF16
                                             : COMPUTE_AUTO;
    if (strcmp(kv, "auto"))
        q->kv = (enum enc)kv_from_name(kv);
    else if (q->compute == COMPUTE_F32)
        q->kv = ENC_F32;
    if ((int64_t)q->tp * q->pp > d->count)
        return err_set(e, ERR_USAGE, "--tp %d and --pp %d need %lld devices, %s is %d", q->tp,
                       q->pp, (long long)q->tp * q->pp, d->key, d->count);
    if (c->offload && (d->cpu || d->count > 1))
        return err_set(e, ERR_USAGE, "--offload is for one GPU (--device l4 ...), not %s", d->key);
    if (plan_query_check(q, e))
        return -1;
    send_away(q, c, d);
    return 0;
}

/* ---- output ---- */

struct size_text size_text(size_t n)
{
    struct size_text t;
    const double x = (double)n;

    if (n == SIZE_MAX)
        snprintf(t.s, sizeof(t.s), "-");
    else if (x < 10e3)
        snprintf(t.s, sizeof(t.s), "%zu B", n);
    else if (x < 1 << 20)
        snprintf(t.s, sizeof(t.s), "%.1f KiB", x / 1024);
    else if (x < 1 << 30)
        snprintf(t.s, sizeof(t.s), "%.1f MiB", x / (1 << 20));
    else
        snprintf(t.s, sizeof(t.s), "%.2f GiB", x / (1 << 30));
    return t;
}

/* One encoding of the model on the device. */
struct row {
    const char *enc;
    size_t weights; /* of all devices */
    struct plan_use use;
    bool fits;
    size_t longest, most;
    double rate;
};

static void row_fill(struct row *r, const struct plan_query *q, const struct plan_device *d)
{
    plan_infer(&r->use, q);
    r->weights = plan_weights_total(q->w);
    r->fits = r->use.total <= d->memory;
    r->longest = plan_longest_ctx(q, d->memory);
    r->most = plan_most_sequences(q, d->memory);
    r->rate = d->bandwidth > 0 ? plan_decode_rate(q, d->bandwidth, 0) : 0;
}

static json_t *use_json(const struct plan_use *u)
{
    return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "weights", (json_int_t)u->weights,
                     "kv_cache", (json_int_t)u->kv_cache, "activations", (json_int_t)u->activations,
                     "scratch", (json_int_t)u->scratch, "logits", (json_int_t)u->logits, "runtime",
                     (json_int_t)u->runtime, "total", (json_int_t)u->total);
}

static json_t *row_json(const struct row *r)
{
    json_t *j = use_json(&r->use);

    json_object_set_new(j, "encoding", json_string(r->enc));
    json_object_set_new(j, "weights_all_devices", json_integer((json_int_t)r->weights));
    json_object_set_new(j, "fits", json_boolean(r->fits));
    json_object_set_new(j, "longest_ctx", json_integer((json_int_t)r->longest));
    json_object_set_new(j, "most_sequences", json_integer((json_int_t)r->most));
    json_object_set_new(j, "decode_tok_per_s_bound", json_real(r->rate));
    return j;
}

static void print_rows(const struct row *r, size_t n)
{
    printf("\n  %-10s %12s %12s  %-4s %12s %10s %10s\n", "ENCODING", "WEIGHTS", "TOTAL", "FITS",
           "LONGEST CTX", "SEQUENCES", "TOK/S <=");
    for (size_t i = 0; i < n; i++)
        printf("  %-10s %12s %12s  %-4s %12zu %10zu %10.1f\n", r[i].enc, size_text(r[i].weights).s,
               size_text(r[i].use.total).s, r[i].fits ? "yes" : "no", r[i].longest, r[i].most,
               r[i].rate);
}

static void print_use(const struct row *r, const struct plan_query *q, const struct plan_device *d)
{
    const struct {
        const char *name;
        size_t n;
    } part[] = {
        { "weights", r->use.weights },         { "kv cache", r->use.kv_cache },
        { "activations", r->use.activations }, { "scratch", r->use.scratch },
        { "logits", r->use.logits },           { d->cpu ? "program" : "runtime", r->use.runtime },
    };

    for (size_t i = 0; i < ARRAY_LEN(part); i++) {
        if (!part[i].n)
            continue;
        printf("  %-12s %12s", part[i].name, size_text(part[i].n).s);
        if (i == 1)
            printf("   %s a token in %s", size_text(plan_kv_per_token(q)).s, enc_table[q->kv].name);
        putchar('\n');
    }
    printf("  %-12s %12s   of %s%s: %s\n", "total", size_text(r->use.total).s,
           size_text(d->memory).s, d->count > 1 ? " on each device" : "",
           r->fits ? "fits" : "does not fit");
    if (q->away) {
        size_t largest;
        const size_t away = plan_away_bytes(q->w, q->away, &largest);

        printf("\n  %lld of %lld layers stay on the device; %s of weights wait in host memory\n",
               (long long)(q->hp->layers - q->away), (long long)q->hp->layers, size_text(away).s);
    }
    printf("\n  longest context %zu tokens, %zu sequence%s at a time\n", r->longest, q->sequences,
           q->sequences == 1 ? "" : "s");
    printf("  most sequences  %zu of %zu tokens\n", r->most, q->ctx);
    if (r->rate > 0)
        printf("  decode          at most %.1f tok/s (%.1f with a full cache), by %.0f GB/s\n",
               r->rate, plan_decode_rate(q, d->bandwidth, q->ctx), d->bandwidth / 1e9);
}

/* ---- the command ---- */

/* The numbers and the nearest settings that fit. */
static int refuse(const char *name, const struct row *r, const struct row *all,
                  const struct plan_query *q, const struct plan_device *d, struct err *e)
{
    char hint[256] = "";
    size_t at = 0;

    if (r->longest)
        at += (size_t)snprintf(hint + at, sizeof(hint) - at, "; --ctx %zu fits", r->longest);
    if (r->most)
        at += (size_t)snprintf(hint + at, sizeof(hint) - at, "; --batch %zu fits", r->most);
    for (int s = 0; !at && s < SCHEME_COUNT; s++)
        if (all[s].fits && all[s].use.total < r->use.total) {
            at += (size_t)snprintf(hint, sizeof(hint), "; --enc %s fits", all[s].enc);
            break;
        }
    struct plan_offload o;

    if (!d->cpu && d->count == 1 && q->away == 0 && plan_offload(&o, q, d->memory))
        at += (size_t)snprintf(hint + at, sizeof(hint) - at,
                               "; --offload fits, with %lld of %lld layers on it",
                               (long long)(q->hp->layers - o.away), (long long)q->hp->layers);
    for (int n = 2 * d->count; !d->cpu && n <= 1024; n *= 2) {
        struct plan_query more = *q;
        struct plan_use u;
        struct err none;

        more.tp = n / q->pp;
        if (plan_query_check(&more, &none))
            break;
        plan_infer(&u, &more);
        if (u.total <= d->memory) {
            snprintf(hint + at, sizeof(hint) - at, "; %d such devices hold it", n);
            break;
        }
    }
    return err_set(e, ERR_MEMORY, "%s needs %s%s, %s has %s%s", name, size_text(r->use.total).s,
                   d->count > 1 ? " on each device" : "", d->name, size_text(d->memory).s,
                   *hint ? hint : "; nothing smaller fits either");
}

static int plan_one(const struct plan_cfg *c, const struct plan_device *d, json_t *out,
                    struct err *e)
{
    struct target t = { 0 };
    struct plan_query q;
    struct plan_weights *w = NULL;
    struct row r, all[SCHEME_COUNT];
    int rc = -1;

    if (target_open(&t, c->model, c->enc, e))
        goto done;
    if (c->train && c->offload) {
        err_set(e, ERR_USAGE, "--offload is for inference, not for --train");
        goto done;
    }
    if (c->train) {
        rc = plan_training(c, t.name, &t.hp, &t.w, t.model || c->enc, d, out, e);
        goto done;
    }
    if (query_fill(&q, c, &t, d, e))
        goto done;
    w = xcalloc(1, sizeof(*w));
    r.enc = t.scheme < 0 ? "file" : scheme_table[t.scheme].name;
    row_fill(&r, &q, d);
    for (int s = 0; s < SCHEME_COUNT; s++) {
        struct plan_query as = q;

        plan_weights_scheme(w, &t.hp, (enum scheme)s);
        as.w = w;
        as.model = NULL;
        send_away(&as, c, d);
        all[s].enc = scheme_table[s].name;
        row_fill(&all[s], &as, d);
    }
    if (c->json) {
        json_t *list = json_array();

        for (int s = 0; s < SCHEME_COUNT; s++)
            json_array_append_new(list, row_json(&all[s]));
        json_object_update_new(out, row_json(&r));
        json_object_update_new(
            out,
            json_pack("{s:s, s:I, s:I, s:I, s:I, s:i, s:i, s:I, s:s, s:I, s:o}", "model", t.name,
                      "params", (json_int_t)t.w.params, "ctx", (json_int_t)q.ctx, "batch",
                      (json_int_t)q.sequences, "chunk", (json_int_t)q.chunk, "tp", q.tp, "pp", q.pp,
                      "layers_away", (json_int_t)q.away, "kv_dtype", enc_table[q.kv].name,
                      "kv_per_token", (json_int_t)plan_kv_per_token(&q), "encodings", list));
    } else {
        printf("%s: %.2f billion parameters, %lld tokens of context\n", t.name,
               (double)t.w.params / 1e9, (long long)t.hp.ctx);
        printf("%s weights, %zu sequence%s of %zu tokens, on %s\n\n", r.enc, q.sequences,
               q.sequences == 1 ? "" : "s", q.ctx, d->name);
        print_use(&r, &q, d);
        print_rows(all, SCHEME_COUNT);
    }
    rc = r.fits ? 0 : refuse(t.name, &r, all, &q, d, e);
done:
    free(w);
    model_close(t.model);
    return rc;
}

/* Every published model in every scheme. */
static int plan_all(const struct plan_cfg *c, const struct plan_device *d, json_t *out,
                    struct err *e)
{
    struct target *t = xcalloc(1, sizeof(*t));
    json_t *list = json_array();
    size_t n;
    const struct plan_model *m = plan_models(&n);
    int rc = 0;

    json_object_set_new(out, "models", list);
    if (!c->json)
        printf("%s, %s%s\n\n  %-14s %-10s %12s  %-4s %12s %10s %10s\n", d->name,
               size_text(d->memory).s, d->count > 1 ? " each" : "", "MODEL", "ENCODING", "TOTAL",
               "FITS", "LONGEST CTX", "SEQUENCES", "TOK/S <=");
    for (size_t i = 0; i < n && !rc; i++) {
        for (int s = 0; s < SCHEME_COUNT && !rc; s++) {
            struct plan_query q;
            struct row r = { .enc = scheme_table[s].name };

            t->hp = m[i].hp;
            plan_weights_scheme(&t->w, &t->hp, (enum scheme)s);
            if ((rc = query_fill(&q, c, t, d, e)))
                break;
            row_fill(&r, &q, d);
            if (c->json) {
                json_t *j = row_json(&r);

                json_object_set_new(j, "model", json_string(m[i].key));
                json_array_append_new(list, j);
            } else {
                printf("  %-14s %-10s %12s  %-4s %12zu %10zu %10.1f\n", s ? "" : m[i].key, r.enc,
                       size_text(r.use.total).s, r.fits ? "yes" : "no", r.longest, r.most, r.rate);
            }
        }
    }
    free(t);
    return rc;
}

static int run(const void *cfg, struct err *e)
{
    const struct plan_cfg *c = cfg;
    struct plan_device d;
    json_t *out;
    int rc;

    if (c->train && !c->model[0])
        return err_set(e, ERR_USAGE, "--train %s: which model?", c->train);
    if (device_open(&d, c, e))
        return -1;
    out = json_pack("{s:{s:s, s:s, s:i, s:I, s:f}}", "device", "key", d.key, "name", d.name,
                    "count", d.count, "memory", (json_int_t)d.memory, "bandwidth", d.bandwidth);
    if (c->post)
        plan_post_tables(c, out);
    rc = c->post ? 0 : c->model[0] ? plan_one(c, &d, out, e) : plan_all(c, &d, out, e);
    if (c->json && (rc == 0 || e->code == ERR_MEMORY)) {
        json_dumpf(out, stdout, JSON_INDENT(1) | JSON_REAL_PRECISION(6));
        putchar('\n');
    }
    json_decref(out);
    return rc;
}

const struct cmd cmd_plan = {
    .name = "plan",
    .summary = "memory of a model by arithmetic: what it needs, and what fits",
    .usage = "[MODEL] [--device NAME] [--ctx N] [--batch N]",
    .help =
        "Adds up weights, cache and working memory of a model on this machine or on a named GPU, "
        "without weights at hand: MODEL is a published configuration (1b, 3b, 8b, 70b, 405b, "
        "guard-8b ...), a config.json or params.json, a model folder, a GGUF file or a name that "
        "puna list shows. Shows the longest context, the most sequences and a bound of the decode "
        "speed, for every encoding. Without MODEL: everything that is published.\n"
        "\n"
        "Exit status: 0 when it fits; 6 when not, with the nearest settings that do.\n"
        "\n"
        "EXAMPLES\n"
        "  puna plan 8b\n"
        "  puna plan 70b --device h100x4 --ctx 32768 --batch 16\n"
        "  puna plan 405b --device h100x8 --enc int4\n"
        "  puna plan 8b --train qlora --device rtx4090 --ctx 2048\n"
        "  puna plan model.gguf --json\n",
    .opts = opts,
    .cfg_size = sizeof(struct plan_cfg),
    .run = run,
};
