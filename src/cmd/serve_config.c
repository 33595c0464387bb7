#include "cmd/serve_config.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/file.h"
#include "base/mem.h"
#include "cmd/common.h"
#include "cmd/opt.h"
#include "cmd/serve_idle.h"
#include "server/tls.h"

enum { MAX_FILE = 1 << 20, MAX_OPTIONS = 128 };

/* Names that text-generation-inference's images and SageMaker set. HOSTNAME is not among them: a
 * shell's HOSTNAME is the machine's name. */
static const char *const tgi_names[][2] = {
    { "MODEL_ID", "model" },
    { "HF_MODEL_ID", "model" },
    { "PORT", "port" },
    { "QUANTIZE", "quantize" },
    { "HF_MODEL_QUANTIZE", "quantize" },
    { "NUM_SHARD", "num_shard" },
    { "SM_NUM_GPUS", "num_shard" },
    { "SAGEMAKER_BIND_TO_PORT", "port" },
    { "LORA_ADAPTERS", "lora_adapters" },
    { "VLLM_ALLOW_RUNTIME_LORA_UPDATING", "allow_runtime_lora_updating" },
    { "AIP_HTTP_PORT", "port" },
    { "API_KEY", "api_key" },
    { "CORS_ALLOW_ORIGIN", "cors_allow_origin" },
    { "PAYLOAD_LIMIT", "payload_limit" },
    { "SPECULATE", "speculate" },
    { "DTYPE", "dtype" },
    { "KV_CACHE_DTYPE", "kv_dtype" },
    { "MAX_BATCH_PREFILL_TOKENS", "max_batch_prefill_tokens" },
    { "TOKENIZER_CONFIG_PATH", "tokenizer_config_path" },
    { "DISABLE_GRAMMAR_SUPPORT", "disable_grammar_support" },
    { "MAX_CONCURRENT_REQUESTS", "max_concurrent_requests" },
    { "MAX_BATCH_SIZE", "max_batch_size" },
    { "MAX_BATCH_TOTAL_TOKENS", "max_batch_total_tokens" },
    { "MAX_INPUT_TOKENS", "max_input_tokens" },
    { "MAX_INPUT_LENGTH", "max_input_tokens" },
    { "MAX_TOTAL_TOKENS", "max_total_tokens" },
    { "MAX_BEST_OF", "max_best_of" },
    { "MAX_STOP_SEQUENCES", "max_stop_sequences" },
    { "MAX_TOP_N_TOKENS", "max_top_n_tokens" },
    { "MAX_CLIENT_BATCH_SIZE", "max_client_batch_size" },
    { "GRACEFUL_TERMINATION_TIMEOUT", "graceful_termination_timeout" },
};

void serve_idle_show(const void *cfg)
{
    static const struct idle_opt list[] = {
        { "revision", "the model is what is on this machine" },
        { "sharded", "a model is served by one device" },
        { "validation_workers", "requests are read by the thread that answers them" },
        { "waiting_served_ratio", "prompts and answers share every pass" },
        { "max_waiting_tokens", "prompts and answers share every pass" },
        { "cuda_graphs", "there is nothing to capture" },
        { "cuda_memory_fraction", "what fits is computed; --max-batch-total-tokens says less" },
        { "prometheus_port", "/metrics is on the port of everything else" },
        { "shard_uds_path", "there is one process" },
        { "master_addr", "there is one process" },
        { "master_port", "there is one process" },
        { "huggingface_hub_cache", "nothing is downloaded" },
        { "weights_cache_override", "nothing is downloaded" },
        { "otlp_endpoint", "trace ids are passed on, and are in the log" },
        { "otlp_service_name", "trace ids are passed on, and are in the log" },
        { "watermark_gamma", "answers have no watermark" },
        { "watermark_delta", "answers have no watermark" },
        { "ngrok", "the server listens on --hostname alone" },
        { "ngrok_authtoken", "the server listens on --hostname alone" },
        { "ngrok_edge", "the server listens on --hostname alone" },
        { "usage_stats", "nothing is sent to anybody" },
        { "disable_custom_kernels", "there is one set of kernels" },
        { "json_output", "the log is JSON lines already" },
        { "trust_remote_code", "a model is data; no code of it runs" },
        { "enable_prefill_logprobs", "they are always to be had" },
    };

    idle_show(cfg, list, ARRAY_LEN(list));
}

/* Also by another name: the model is a positional too. */
static bool given(const void *cfg, const char *positional, const char *name)
{
    name = opt_canonical(&cmd_serve, name);
    return name && (opt_given(cfg, name) || (strcmp(name, "model") == 0 && *positional));
}

static int from_environment(void *cfg, const char *model, struct err *e)
{
    for (size_t i = 0; i < ARRAY_LEN(tgi_names); i++) {
        const char *value = getenv(tgi_names[i][0]);

        if (value && *value && !given(cfg, model, tgi_names[i][1]) &&
            opt_set(cfg, tgi_names[i][1], value, e))
            return err_wrap(e, "environment variable %s", tgi_names[i][0]);
    }
    /* Vertex AI and SageMaker call a container from outside; SageMaker kills it after 30 s */
    const bool sagemaker = getenv("SAGEMAKER_BIND_TO_PORT") != NULL;

    if ((sagemaker || getenv("AIP_HTTP_PORT")) && !given(cfg, model, "hostname") &&
        opt_set(cfg, "hostname", "0.0.0.0", e))
        return -1;
    if (sagemaker && !given(cfg, model, "graceful_termination_timeout") &&
        opt_set(cfg, "graceful_termination_timeout", "25", e))
        return -1;
    return 0;
}

/* ---- files ---- */

/* The next line of *p without blanks around it; ends it with a NUL. NULL = no more. */
static char *next_line(char **p)
{
    char *s = *p, *end;

    if (!*s)
        return NULL;
    end = s + strcspn(s, "\n");
    *p = *end ? end + 1 : end;
    s += strspn(s, " \t\r");
    while (end > s && strchr(" \t\r\n", end[-1]))
        end--;
    *end = 0;
    return s;
}

static char *unquoted(char *s)
{
    const size_t n = strlen(s);

    if (n >= 2 && (*s == '"' || *s == '\'') && s[n - 1] == *s) {
        s[n - 1] = 0;
        return s + 1;
    }
    s[strcspn(s, "#")] = 0; /* a comment follows a blank */
    for (size_t k = strlen(s); k && strchr(" \t", s[k - 1]);)
        s[--k] = 0;
    return s;
}

/* "name: value" or "name = value"; a list is a name that comes again, or "name:" and lines
 * "- value". */
struct reading {
    void *cfg;
    const char *model;
    char name[64]; /* of the last line that had one, _ for - */
    bool skip;     /* it was given elsewhere */
    size_t n;
    char seen[MAX_OPTIONS][64];
};

static int take_name(struct reading *r, const char *line, size_t n, struct err *e)
{
    bool again = false;

    if (n == 0 || n >= sizeof(r->name))
        return err_set(e, ERR_USAGE, "'%.40s' is not \"option: value\"", line);
    memcpy(r->name, line, n);
    r->name[n] = 0;
    for (char *p = r->name; *p; p++)
        *p = *p == '-' ? '_' : *p;
    for (size_t i = 0; i < r->n && !again; i++)
        again = strcmp(r->seen[i], r->name) == 0;
    if (again)
        return 0;
    if (r->n == MAX_OPTIONS)
        return err_set(e, ERR_USAGE, "more than %d options", MAX_OPTIONS);
    memcpy(r->seen[r->n++], r->name, sizeof(r->name));
    r->skip = given(r->cfg, r->model, r->name);
    return 0;
}

static int take_line(struct reading *r, char *line, struct err *e)
{
    if (!*line || *line == '#')
        return 0;
    if (strncmp(line, "- ", 2) == 0 && *r->name) {
        line += 1 + strspn(line + 1, " \t");
    } else {
        const size_t n = strcspn(line, ":= \t");

        if (take_name(r, line, n, e))
            return -1;
        line += n + strspn(line + n, " \t");
        if (*line != ':' && *line != '=')
            return err_set(e, ERR_USAGE, "'%.40s' has no value: write \"option: value\"", r->name);
        line++;
        line += strspn(line, " \t");
        if (!*line || *line == '#')
            return 0; /* a list follows */
    }
    return r->skip ? 0 : opt_set(r->cfg, r->name, unquoted(line), e);
}

static int read_text(const char *file, struct buf *text, struct err *e)
{
    char *p = NULL;
    size_t n;

    if (file_read(&p, &n, file, MAX_FILE, e))
        return -1;
    buf_add(text, p, n);
    free(p);
    if (strlen(text->p) != n)
        return err_set(e, ERR_FORMAT, "%s: holds a NUL byte: it is no text", file);
    return 0;
}

int serve_config(void *cfg, const char *model, const char *file, struct buf *text, struct err *e)
{
    struct reading *r;
    char *p, *line;
    int rc = 0, at = 0;

    if (from_environment(cfg, model, e))
        return -1;
    if (!file)
        return 0;
    if (read_text(file, text, e))
        return -1;
    r = xcalloc(1, sizeof(*r));
    r->cfg = cfg;
    r->model = model;
    p = text->p;
    while (rc == 0 && (line = next_line(&p))) {
        at++;
        rc = take_line(r, line, e);
    }
    free(r);
    return rc ? err_wrap(e, "%s:%d", file, at) : 0;
}

int serve_keys(void *cfg, const char *file, struct buf *text, struct err *e)
{
    char *p, *line;
    size_t n = 0;

    if (secret_check(file, 077, e) || read_text(file, text, e))
        return -1;
    p = text->p;
    while ((line = next_line(&p))) {
        if (!*line || *line == '#')
            continue;
        if (opt_set(cfg, "api_key", line, e))
            return -1;
        n++;
    }
    return n ? 0 : err_set(e, ERR_USAGE, "%s: holds no key; one a line", file);
}
