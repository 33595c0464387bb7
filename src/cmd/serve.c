/* serve.c - `puna serve`: a model behind the OpenAI API. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/team.h"
#include "cmd/common.h"
#include "cmd/drafting.h"
#include "cmd/guarding.h"
#include "cmd/opt.h"
#include "cmd/serve_config.h"
#include "cmd/serve_idle.h"
#include "engine/request.h"
#include "hub/models.h"
#include "server/adapters.h"
#include "server/http.h"
#include "tools/kit.h"

struct serve_cfg {
    struct opt_list args, model;
    const char *quantize, *hostname, *dtype, *kv_dtype, *weights, *isa, *device, *pin, *template,
        *served_model_name;
    const char *pooling, *compat, *config, *api_key_file, *ssl_certfile, *ssl_keyfile;
    struct opt_list api_key, allowed_host, cors_allow_origin, lora_adapters;
    int64_t models_max, requests_per_minute, num_shard, port, threads, max_batch_total_tokens,
        max_batch_size, max_queue;
    int64_t payload_limit, max_concurrent_requests, max_best_of, max_stop_sequences;
    int64_t max_top_n_tokens, max_client_batch_size, max_input_tokens, max_total_tokens;
    double graceful_termination_timeout, request_timeout, max_queue_time;
    bool offload, quiet, verbose, strict, prefix_cache, insecure_no_auth,
        allow_runtime_lora_updating, allow_runtime_model_loading;
    const char *enable_tools;
    const char *tokenizer_config_path;
    int64_t max_batch_prefill_tokens;
    bool disable_grammar_support;
    DRAFTING_FIELDS;
    GUARDING_FIELDS;
    SERVE_IDLE_FIELDS;
};

static const struct opt opts[] = {
    OPT(REST, struct serve_cfg, args, NULL, "[[NAME=]MODEL ...]", NULL,
        "folders, GGUF files or short names; default " HUB_DEFAULT),
    OPT(LIST, struct serve_cfg, model, "--model-id", "[NAME=]MODEL", NULL,
        "the same, as other servers name it; repeatable"),
    OPT_RANGE(INT, struct serve_cfg, models_max, NULL, "N", "4", 1, 64, "models at a time",
              .rare = true),
    OPT(BOOL, struct serve_cfg, allow_runtime_model_loading, NULL, NULL, "false",
        "let clients load and unload models of the command line and of puna list", .rare = true),
    OPT(STR, struct serve_cfg, quantize, NULL, "METHOD", NULL,
        "how the model is quantised, which its files say too: refused when they say otherwise"),
    OPT_RANGE(INT, struct serve_cfg, num_shard, "--tensor-parallel-size", "N", "1", 1, 1024,
              "devices to share the model; only 1", .rare = true),
    OPT(STR, struct serve_cfg, hostname, "--host", "ADDRESS", "127.0.0.1",
        "address to listen on; other than loopback it needs --api-key"),
    OPT_RANGE(INT, struct serve_cfg, port, "-p", "N", "8080", 0, 65535,
              "port; 0 = any free one, which is printed"),
    OPT(LIST, struct serve_cfg, api_key, NULL, "KEY", NULL, "key that clients send; repeatable"),
    OPT(STR, struct serve_cfg, api_key_file, NULL, "FILE", NULL,
        "file with a key a line, which nobody else may read"),
    OPT_RANGE(INT, struct serve_cfg, requests_per_minute, NULL, "N", "0", 0, 1e9,
              "requests of a key in a minute before the next gets status 429; 0 = any number",
              .rare = true),
    OPT(STR, struct serve_cfg, ssl_certfile, NULL, "FILE", NULL,
        "certificate chain in PEM form: connections speak TLS"),
    OPT(STR, struct serve_cfg, ssl_keyfile, NULL, "FILE", NULL, "its private key"),
    OPT(STR, struct serve_cfg, config, NULL, "FILE", NULL,
        "options as lines \"option: value\"; the command line and the environment go first"),
    OPT(BOOL, struct serve_cfg, insecure_no_auth, NULL, NULL, "false",
        "allow an address beyond loopback without a key"),
    OPT(STR, struct serve_cfg, served_model_name, "-a,--alias", "NAME", NULL,
        "the model's name in the API"),
    OPT(LIST, struct serve_cfg, allowed_host, NULL, "NAME", NULL,
        "further name that a Host header may carry; repeatable", .rare = true),
    OPT(LIST, struct serve_cfg, cors_allow_origin, NULL, "ORIGIN", NULL,
        "web page that may call from a browser; repeatable"),
    OPT(LIST, struct serve_cfg, lora_adapters, "--lora-modules", "NAME=DIR,...", NULL,
        "LoRA adapters as PEFT saves them, chosen by a request's model; repeatable"),
    OPT(BOOL, struct serve_cfg, allow_runtime_lora_updating, NULL, NULL, "false",
        "let clients load and unload adapters of this machine", .rare = true),
    OPT(STR, struct serve_cfg, template, "--chat-template", "NAME", NULL,
        "chat format, in place of the model's own template"),
    OPT(STR, struct serve_cfg, tokenizer_config_path, NULL, "FILE", NULL,
        "tokenizer_config.json whose chat template goes before the model's own", .rare = true),
    OPT(BOOL, struct serve_cfg, disable_grammar_support, NULL, NULL, "false",
        "refuse requests that bind the answer to a form", .rare = true),
    OPT_RANGE(INT, struct serve_cfg, max_batch_total_tokens, "-c,--ctx-size", "N", "0", 0, 1e12,
              "tokens of the KV cache, over all answers; 0 = what fits"),
    OPT_RANGE(INT, struct serve_cfg, max_batch_prefill_tokens, "--max-num-batched-tokens", "N", "0",
              0, 1 << 16, "rows of a pass, prompts' and answers'; 0 = 512, on a GPU 2048",
              .rare = true),
    OPT_RANGE(INT, struct serve_cfg, max_batch_size, "--parallel,--max-num-seqs", "N", "0", 0, 2048,
              "answers at a time; 0 = 64, on a GPU 256 to 1024"),
    OPT_RANGE(INT, struct serve_cfg, max_concurrent_requests, NULL, "N", "0", 0, 1e6,
              "requests answered or waiting before the next gets status 429; 0 = twice as many"),
    OPT_RANGE(INT, struct serve_cfg, max_input_tokens, "--max-input-length", "N", "0", 0, INT32_MAX,
              "longest prompt in tokens; 0 = the context"),
    OPT_RANGE(INT, struct serve_cfg, max_total_tokens, "--max-model-len", "N", "0", 0, INT32_MAX,
              "longest prompt and answer in tokens; 0 = the context"),
    OPT_RANGE(INT, struct serve_cfg, max_best_of, NULL, "N", "2", 1, 16,
              "largest best_of of /generate", .rare = true),
    OPT_RANGE(INT, struct serve_cfg, max_stop_sequences, NULL, "N", "4", 0, REQUEST_STOPS,
              "stop sequences of /generate", .rare = true),
    OPT_RANGE(INT, struct serve_cfg, max_top_n_tokens, NULL, "N", "5", 0, REQUEST_TOP,
              "largest top_n_tokens of /generate", .rare = true),
    OPT_RANGE(INT, struct serve_cfg, max_client_batch_size, NULL, "N", "4", 1, 64,
              "instances of a request to /vertex", .rare = true),
    OPT(BOOL, struct serve_cfg, strict, NULL, NULL, "false",
        "refuse unknown fields and models, as OpenAI does"),
    OPT(STR, struct serve_cfg, compat, NULL, "openai|tgi", "openai",
        "whose answers /v1 gives where the two differ", .rare = true),
    OPT(STR, struct serve_cfg, pooling, NULL, "mean|last", "mean",
        "what /v1/embeddings makes of a prompt's hidden states", .rare = true),
    OPT_RANGE(INT, struct serve_cfg, max_queue, NULL, "N", "1024", 0, 1e6, "requests that may wait",
              .rare = true),
    OPT_RANGE(NUM, struct serve_cfg, max_queue_time, NULL, "SECONDS", "0", 0, 1e6,
              "a request whose first token would come later gets status 429; 0 = any"),
    DRAFTING_OPTS(struct serve_cfg, ", from the text so far"),
    OPT(BOOL, struct serve_cfg, prefix_cache, NULL, NULL, "true",
        "keep what was computed for prompts that begin alike"),
    OPT_RANGE(INT, struct serve_cfg, payload_limit, NULL, "BYTES", "2000000", 1024, 1e9,
              "largest request", .rare = true),
    OPT_RANGE(NUM, struct serve_cfg, request_timeout, NULL, "SECONDS", "10", 0, 1e6,
              "for a request to arrive in, and a second more per KiB; 0 = any", .rare = true),
    OPT_RANGE(NUM, struct serve_cfg, graceful_termination_timeout, NULL, "SECONDS", "90", 0, 1e6,
              "longest wait for running answers after SIGTERM", .rare = true),
    OPT_RANGE(INT, struct serve_cfg, threads, "-t", "N", "0", 0, 1024, "threads; 0 = all cores"),
    OPT(STR, struct serve_cfg, pin, NULL, PIN_HOW, "auto",
        "threads on the CPU: kept on their NUMA node where there are several, or on a core each",
        .rare = true),
    OPT(STR, struct serve_cfg, dtype, NULL, "auto|f32|bf16|float32|bfloat16|float16", "auto",
        "arithmetic of the matrix products; float16 is auto"),
    OPT(STR, struct serve_cfg, kv_dtype, "--kv-cache-dtype", KV_TYPES, "auto",
        "type of the key-value cache"),
    OPT(STR, struct serve_cfg, weights, NULL, WEIGHTS_HOW, "auto",
        "quantised weights on the CPU: copied as its kernels take them, or mapped", .rare = true),
    OPT(STR, struct serve_cfg, device, NULL, "cpu|cuda|auto", "auto",
        "where to compute; auto: the GPU when there is one that holds the model"),
    OPT(BOOL, struct serve_cfg, offload, NULL, NULL, "false",
        "layers that the GPU has no room for wait in host memory", .rare = true),
    OPT(STR, struct serve_cfg, isa, NULL, "NAME", NULL, "highest instruction set to use",
        .rare = true),
    OPT(STR, struct serve_cfg, enable_tools, NULL, "LIST", NULL,
        "tools that the server runs where a request names them in builtin_tools, as run --tools"),
    GUARDING_OPTS(struct serve_cfg),
    OPT(BOOL, struct serve_cfg, quiet, "-q", NULL, "false", "no log"),
    OPT(BOOL, struct serve_cfg, verbose, "-v", NULL, "false",
        "at the end, memory as planned and as measured"),
    SERVE_IDLE_OPTS,
    { .name = NULL },
};

static bool is_loopback(const char *host)
{
    return strncmp(host, "127.", 4) == 0 || strcmp(host, "localhost") == 0 ||
           strcmp(host, "::1") == 0;
}

/* TGI is told how a model is quantised; the files know. */
static int check_quantize(const char *said, const struct engine *g, struct err *e)
{
    const enum quant_method m = g->model->hp->quant.method;
    const char *is = quant_method_name(m);

    if (!said || strcmp(said, is) == 0 ||
        (strncmp(said, "bitsandbytes", 12) == 0 && m == QUANT_BITSANDBYTES) ||
        (strcmp(said, "fp8") == 0 && (m == QUANT_FBGEMM_FP8 || m == QUANT_COMPRESSED)) ||
        (strcmp(said, "marlin") == 0 && (m == QUANT_GPTQ || m == QUANT_AWQ)))
        return 0;
    return err_set(e, ERR_USAGE,
                   "--quantize %s: the model's files say %s, and are served as they are; leave the "
                   "option out, or give a model that is quantised so",
                   said, *is ? is : "nothing of it");
}

static void on_listen(void *arg, int port)
{
    const struct server *s = arg;
    const struct served *first = s->models;

    printf("listening on http%s://%s:%d (model %s, %zu tokens of context)\n", s->o.cert ? "s" : "",
           s->o.host, port, first->name, sched_ctx(first->sched));
    for (const struct served *m = first->next; m; m = m->next)
        printf("and model %s, %zu tokens of context\n", m->name, sched_ctx(m->sched));
    fflush(stdout);
}

/* The last part of a path, without .gguf. */
static char *name_of(const char *ref)
{
    const char *base = ref && *ref ? ref : HUB_DEFAULT;
    size_t n;

    for (const char *p = base; (p = strchr(p, '/')) && p[1];)
        base = ++p;
    n = strcspn(base, "/");
    if (n > 5 && strcmp(base + n - 5, ".gguf") == 0)
        n -= 5;
    return xmemdup0(base, n);
}

/* The models of the command line: names and paths. */
struct list {
    struct known_model *p; /* owned, as are its texts */
    size_t n;
};

static void list_release(struct list *l)
{
    for (size_t i = 0; i < l->n; i++) {
        free((char *)(uintptr_t)l->p[i].name);
        free((char *)(uintptr_t)l->p[i].path);
    }
    free(l->p);
}

/* "NAME=MODEL" or "MODEL"; a path may hold the sign behind a slash. */
static int list_add(struct list *l, const char *spec, struct err *e)
{
    const char *eq = spec ? strchr(spec, '=') : NULL;
    const bool named = eq && !memchr(spec, '/', (size_t)(eq - spec));
    const char *ref = named ? eq + 1 : spec;
    char *path, *name;

    if (hub_resolve(ref, &path, e))
        return -1;
    name = named ? xmemdup0(spec, (size_t)(eq - spec)) : name_of(ref);
    l->p = xrealloc(l->p, (l->n + 1) * sizeof(*l->p));
    l->p[l->n++] = (struct known_model){ name, path };
    for (size_t i = 0; i + 1 < l->n; i++)
        if (!strcmp(l->p[i].name, name))
            return err_set(e, ERR_USAGE, "two models are called '%s': write NAME=MODEL", name);
    return 0;
}

static int list_models(struct list *l, const struct serve_cfg *c, struct err *e)
{
    int rc = c->args.n + c->model.n ? 0 : list_add(l, NULL, e);

    for (size_t i = 0; i < c->args.n && !rc; i++)
        rc = list_add(l, c->args.p[i], e);
    for (size_t i = 0; i < c->model.n && !rc; i++)
        rc = list_add(l, c->model.p[i], e);
    if (rc)
        return -1;
    if (l->n > (size_t)c->models_max)
        return err_set(e, ERR_USAGE, "%zu models, and --models-max is %lld", l->n,
                       (long long)c->models_max);
    if (c->served_model_name) {
        free((char *)(uintptr_t)l->p[0].name);
        l->p[0].name = xstrdup(c->served_model_name);
    }
    return 0;
}

static int check(const struct serve_cfg *c, struct err *e)
{
    if (!is_loopback(c->hostname) && !c->api_key.n && !c->insecure_no_auth)
        return err_set(e, ERR_USAGE,
                       "--hostname %s lets others in: give an --api-key, or "
                       "--insecure-no-auth if nobody else can reach it",
                       c->hostname);
    if (c->num_shard != 1)
        return err_set(e, ERR_USAGE,
                       "--num-shard %lld: a model is served by one device; leave it out",
                       (long long)c->num_shard);
    if (!c->ssl_certfile != !c->ssl_keyfile)
        return err_set(e, ERR_USAGE, "--ssl-certfile and --ssl-keyfile go together");
    return 0;
}

static void warn(const struct served *m)
{
    adapter_warn(m->engine);
    if (*m->engine->note)
        fprintf(stderr, "%s\n", m->engine->note);
}

/* The first model, with guards and a draft model beside it, and then the others. */
static int open_models(struct server *s, const struct serve_cfg *c, const struct list *l,
                       const struct served_opts *o, struct err *e)
{
    struct sched_opts first = o->sched;
    struct served_opts more = *o;
    struct served *m;

    if (served_open(&m, l->p[0].name, l->p[0].path, o, e))
        return -1;
    served_add(&s->models, m);
    warn(m);
    first.max_active = sched_active(m->engine, &first);
    if (s->o.max_concurrent == 0)
        s->o.max_concurrent = 2 * first.max_active;
    if (check_quantize(c->quantize, m->engine, e) ||
        (c->enable_tools && kit_open(&s->o.kit, c->enable_tools, e)) ||
        guarding_open(&s->o.guards, &GUARDING(c), m->engine, e) ||
        drafting_open(&m->drafter, &DRAFTING(c), m->engine, first.max_active, &first.speculate,
                      e) ||
        served_start(m, &first, 0, e))
        return -1;
    more.engine.beside = m->engine;
    more.n_adapters = 0;
    for (size_t i = 1; i < l->n; i++) {
        if (served_open(&m, l->p[i].name, l->p[i].path, &more, e))
            return -1;
        warn(m);
        if (served_start(m, &o->sched, served_promised(s->models), e)) {
            served_free(m);
            return err_wrap(e, "%s", l->p[i].path);
        }
        served_add(&s->models, m);
    }
    return 0;
}

/* The others compute in what is the first one's. */
static void close_models(struct server *s)
{
    for (struct served *m = s->models; m; m = m->next)
        served_stop(m);
    guards_close(s->o.guards);
    kit_close(s->o.kit);
    while (s->models) {
        struct served **last = &s->models, *m;

        while ((*last)->next)
            last = &(*last)->next;
        m = *last;
        *last = NULL;
        served_free(m);
    }
}

static int serve(const struct serve_cfg *c, struct err *e)
{
    struct list list = { 0 };
    struct served_opts o = { .sched = { .kv_tokens = (size_t)c->max_batch_total_tokens,
                                        .max_active = (size_t)c->max_batch_size,
                                        .max_queue = (size_t)c->max_queue,
                                        .max_wait_s = c->max_queue_time,
                                        .speculate = (size_t)c->speculate,
                                        .least = (size_t)c->draft_min,
                                        .no_prefix_cache = !c->prefix_cache },
                             .template = c->template,
                             .tokenizer_config = c->tokenizer_config_path,
                             .adapters = c->lora_adapters.p,
                             .n_adapters = c->lora_adapters.n,
                             .quiet = c->quiet };
    struct server s = { .o = { .host = c->hostname,
                               .port = (int)c->port,
                               .health_route = getenv("AIP_HEALTH_ROUTE"),
                               .predict_route = getenv("AIP_PREDICT_ROUTE"),
                               .keys = c->api_key.p,
                               .n_keys = c->api_key.n,
                               .hosts = c->allowed_host.p,
                               .n_hosts = c->allowed_host.n,
                               .origins = c->cors_allow_origin.p,
                               .n_origins = c->cors_allow_origin.n,
                               .max_body = (size_t)c->payload_limit,
                               .max_best_of = (size_t)c->max_best_of,
                               .max_stop_sequences = (size_t)c->max_stop_sequences,
                               .max_top_n_tokens = (size_t)c->max_top_n_tokens,
                               .max_client_batch_size = (size_t)c->max_client_batch_size,
                               .max_input_tokens = (size_t)c->max_input_tokens,
                               .max_total_tokens = (size_t)c->max_total_tokens,
                               .max_concurrent = (size_t)c->max_concurrent_requests,
                               .pooling = strcmp(c->pooling, "last") ? POOL_MEAN : POOL_LAST,
                               .cert = c->ssl_certfile,
                               .key = c->ssl_keyfile,
                               .per_minute = (size_t)c->requests_per_minute,
                               .max_wait_s = c->max_queue_time,
                               .strict = c->strict,
                               .compat_tgi = strcmp(c->compat, "tgi") == 0,
                               .request_s = c->request_timeout,
                               .drain_s = c->graceful_termination_timeout,
                               .quiet = c->quiet,
                               .runtime_adapters = c->allow_runtime_lora_updating,
                               .runtime_models = c->allow_runtime_model_loading,
                               .max_models = (size_t)c->models_max,
                               .opening = &o,
                               .no_grammar = c->disable_grammar_support } };
    const char *dtype = !strcmp(c->dtype, "float32")    ? "f32"
                        : !strcmp(c->dtype, "bfloat16") ? "bf16"
                                                        : c->dtype;
    int rc = -1;

    if (check(c, e) || engine_opts_fill(&o.engine, c->threads, dtype, c->isa, c->device, e) ||
        list_models(&list, c, e))
        goto done;
    team_pin(pin_from_name(c->pin));
    engine_opts_kv(&o.engine, c->kv_dtype);
    o.engine.chunk = (size_t)c->max_batch_prefill_tokens;
    if (!c->quiet)
        serve_idle_show(c);
    engine_opts_weights(&o.engine, c->weights);
    o.engine.offload = c->offload;
    o.engine.offload_tokens = (size_t)c->max_batch_total_tokens;
    o.sched.share = list.n;
    s.o.known = list.p;
    s.o.n_known = list.n;
    if (open_models(&s, c, &list, &o, e))
        goto done;
    rc = server_run(&s, on_listen, &s, e);
    for (const struct served *m = s.models; m && rc == 0 && c->verbose; m = m->next)
        memory_show_sched(m->sched);
done:
    close_models(&s);
    list_release(&list);
    return rc;
}

static int run(const void *cfg, struct err *e)
{
    struct serve_cfg *c = (struct serve_cfg *)(uintptr_t)cfg;

    struct buf config, keys;
    int rc = -1;

    buf_init(&config, SIZE_MAX / 2);
    buf_init(&keys, SIZE_MAX / 2);
    if (serve_config(c, c->args.n ? c->args.p[0] : "", c->config, &config, e) == 0 &&
        (!c->api_key_file || serve_keys(c, c->api_key_file, &keys, e) == 0))
        rc = serve(c, e);
    buf_release(&config);
    buf_release(&keys);
    return rc;
}

const struct cmd cmd_serve = {
    .name = "serve",
    .summary = "serve a model over HTTP, as OpenAI's API",
    .usage = "[[NAME=]MODEL ...] [OPTIONS]",
    .help = "Answers /v1/chat/completions, /v1/completions and /v1/models, many requests at a "
            "time. An answer is the same alone or in company, to the last bit.\n"
            "\n"
            "SIGTERM and Ctrl-C end it when running answers are done; a second one at once.\n"
            "\n"
            "EXAMPLES\n"
            "\n"
            "    puna serve\n"
            "    puna serve ./Llama-3.1-8B-Instruct --port 8000 --served-model-name llama\n"
            "    puna serve big=./Llama-3.1-8B-Instruct small=./Llama-3.2-1B-Instruct\n"
            "    curl localhost:8080/v1/chat/completions -H 'Content-Type: application/json' \\\n"
            "      -d '{\"messages\": [{\"role\": \"user\", \"content\": \"Hello\"}]}'\n",
    .opts = opts,
    .cfg_size = sizeof(struct serve_cfg),
    .run = run,
};
