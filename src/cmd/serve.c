/* serve.c - `puna serve`: a model behind the OpenAI API. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "cmd/common.h"
#include "cmd/drafting.h"
#include "cmd/guarding.h"
#include "cmd/opt.h"
#include "cmd/serve_config.h"
#include "engine/request.h"
#include "hub/models.h"
#include "server/adapters.h"
#include "server/http.h"
#include "tools/kit.h"

struct serve_cfg {
    const char *model_id, *model, *quantize, *hostname, *dtype, *kv_dtype, *isa, *device, *template,
        *served_model_name;
    const char *pooling, *compat, *config, *api_key_file, *ssl_certfile, *ssl_keyfile;
    struct opt_list api_key, allowed_host, cors_allow_origin, lora_adapters;
    int64_t requests_per_minute, num_shard, port, threads, max_batch_total_tokens, max_batch_size,
        max_queue;
    int64_t payload_limit, max_concurrent_requests, max_best_of, max_stop_sequences;
    int64_t max_top_n_tokens, max_client_batch_size, max_input_tokens, max_total_tokens;
    double graceful_termination_timeout, request_timeout, max_queue_time;
    bool quiet, verbose, strict, prefix_cache, insecure_no_auth, allow_runtime_lora_updating;
    const char *enable_tools;
    DRAFTING_FIELDS;
    GUARDING_FIELDS;
};

static const struct opt opts[] = {
    OPT(ARG, struct serve_cfg, model_id, NULL, "[MODEL]", "",
        "folder, GGUF file or short name; default " HUB_DEFAULT),
    OPT(STR, struct serve_cfg, model, "--model-id", "MODEL", NULL,
        "the same, as other servers name it"),
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
        "let clients load and unload adapters of this machine"),
    OPT(STR, struct serve_cfg, template, "--chat-template", "NAME", NULL,
        "chat format, in place of the model's own template"),
    OPT_RANGE(INT, struct serve_cfg, max_batch_total_tokens, "-c,--ctx-size", "N", "0", 0, 1e12,
              "tokens of the KV cache, over all answers; 0 = what fits"),
    OPT_RANGE(INT, struct serve_cfg, max_batch_size, "--parallel", "N", "64", 1, 512,
              "answers at a time"),
    OPT_RANGE(INT, struct serve_cfg, max_concurrent_requests, NULL, "N", "128", 1, 1e6,
              "requests answered or waiting before the next gets status 429"),
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
    OPT(STR, struct serve_cfg, dtype, NULL, "auto|f32|bf16", "auto",
        "arithmetic of the matrix products"),
    OPT(STR, struct serve_cfg, kv_dtype, NULL, KV_TYPES, "auto", "type of the key-value cache"),
    OPT(STR, struct serve_cfg, device, NULL, "cpu|cuda|auto", "auto",
        "where to compute; auto: the GPU when there is one that holds the model"),
    OPT(STR, struct serve_cfg, isa, NULL, "NAME", NULL, "highest instruction set to use",
        .rare = true),
    OPT(STR, struct serve_cfg, enable_tools, NULL, "LIST", NULL,
        "tools that the server runs where a request names them in builtin_tools, as run --tools"),
    GUARDING_OPTS(struct serve_cfg),
    OPT(BOOL, struct serve_cfg, quiet, "-q", NULL, "false", "no log"),
    OPT(BOOL, struct serve_cfg, verbose, "-v", NULL, "false",
        "at the end, memory as planned and as measured"),
    { .name = NULL },
};

static bool is_loopback(const char *host)
{
    return strncmp(host, "127.", 4) == 0 || strcmp(host, "localhost") == 0 ||
           strcmp(host, "::1") == 0;
}

static int choose_format(const struct chat_format **out, const struct serve_cfg *c,
                         const struct engine *g, struct err *e)
{
    struct err why;

    if (c->template) {
        *out = chat_by_name(c->template);
        return *out ? 0
                    : err_set(e, ERR_USAGE, "--template %s: not one of %s", c->template,
                              chat_names());
    }
    if (chat_detect(out, g->tok, &why)) {
        *out = NULL;
        if (!c->quiet)
            fprintf(stderr, "no chat: %s\n", why.msg);
    }
    return 0;
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

    printf("listening on http%s://%s:%d (model %s, %zu tokens of context)\n", s->o.cert ? "s" : "",
           s->o.host, port, s->o.model_name, sched_ctx(s->sched));
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

static int serve(const struct serve_cfg *c, struct err *e)
{
    const char *ref = *c->model_id ? c->model_id : c->model;
    struct engine *drafter = NULL;
    struct engine_opts eo;
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
                               .runtime_adapters = c->allow_runtime_lora_updating } };
    struct sched_opts so = { .kv_tokens = (size_t)c->max_batch_total_tokens,
                             .max_active = (size_t)c->max_batch_size,
                             .max_queue = (size_t)c->max_queue,
                             .max_wait_s = c->max_queue_time,
                             .least = (size_t)c->draft_min,
                             .no_prefix_cache = !c->prefix_cache };
    char *name = c->served_model_name ? xstrdup(c->served_model_name) : name_of(ref);
    int rc = -1;

    s.o.model_name = name;
    if (!is_loopback(c->hostname) && !c->api_key.n && !c->insecure_no_auth) {
        err_set(e, ERR_USAGE,
                "--hostname %s lets others in: give an --api-key, or "
                "--insecure-no-auth if nobody else can reach it",
                c->hostname);
        goto done;
    }
    if (c->num_shard != 1) {
        err_set(e, ERR_USAGE, "--num-shard %lld: a model is served by one device; leave it out",
                (long long)c->num_shard);
        goto done;
    }
    if (!c->ssl_certfile != !c->ssl_keyfile) {
        err_set(e, ERR_USAGE, "--ssl-certfile and --ssl-keyfile go together");
        goto done;
    }
    if (engine_opts_fill(&eo, c->threads, c->dtype, c->isa, c->device, e))
        goto done;
    engine_opts_kv(&eo, c->kv_dtype);
    if (engine_open_named(&s.engine, ref, &eo, e) || check_quantize(c->quantize, s.engine, e) ||
        choose_format(&s.format, c, s.engine, e) ||
        adapters_open(&s.adapters, s.engine, name, c->lora_adapters.p, c->lora_adapters.n, e) ||
        (c->enable_tools && kit_open(&s.o.kit, c->enable_tools, e)) ||
        guarding_open(&s.o.guards, &GUARDING(c), s.engine, e) ||
        drafting_open(&drafter, &DRAFTING(c), s.engine, so.max_active, &so.speculate, e) ||
        sched_new(&s.sched, s.engine, &so, e))
        goto done;
    request_eos(&s.eos, s.engine, s.format);
    rc = server_run(&s, on_listen, &s, e);
    if (rc == 0 && c->verbose)
        memory_show_sched(s.sched);
done:
    sched_free(s.sched);
    guards_close(s.o.guards);
    kit_close(s.o.kit);
    adapters_free(s.adapters);
    engine_close(drafter);
    engine_close(s.engine);
    ids_release(&s.eos);
    free(name);
    return rc;
}

static int run(const void *cfg, struct err *e)
{
    struct serve_cfg *c = (struct serve_cfg *)(uintptr_t)cfg;

    struct buf config, keys;
    int rc = -1;

    buf_init(&config, SIZE_MAX / 2);
    buf_init(&keys, SIZE_MAX / 2);
    if (serve_config(c, c->model_id, c->config, &config, e) == 0 &&
        (!c->api_key_file || serve_keys(c, c->api_key_file, &keys, e) == 0))
        rc = serve(c, e);
    buf_release(&config);
    buf_release(&keys);
    return rc;
}

const struct cmd cmd_serve = {
    .name = "serve",
    .summary = "serve a model over HTTP, as OpenAI's API",
    .usage = "[MODEL] [OPTIONS]",
    .help = "Answers /v1/chat/completions, /v1/completions and /v1/models, many requests at a "
            "time. An answer is the same alone or in company, to the last bit.\n"
            "\n"
            "SIGTERM and Ctrl-C end it when running answers are done; a second one at once.\n"
            "\n"
            "EXAMPLES\n"
            "\n"
            "    puna serve\n"
            "    puna serve ./Llama-3.1-8B-Instruct --port 8000 --served-model-name llama\n"
            "    curl localhost:8080/v1/chat/completions -H 'Content-Type: application/json' \\\n"
            "      -d '{\"messages\": [{\"role\": \"user\", \"content\": \"Hello\"}]}'\n",
    .opts = opts,
    .cfg_size = sizeof(struct serve_cfg),
    .run = run,
};
