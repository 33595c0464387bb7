/* bench_serve.c - `puna bench serve`: load on a running server, of ours or another, as a table,
 * JSON and a plot. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "cmd/bench_load.h"
#include "cmd/bench_plot.h"
#include "cmd/opt.h"

enum { MOST_LEVELS = 32, PROMPT_FILE_MAX = 256 << 20 };

struct cfg {
    const char *url, *api, *clients, *rate, *prompts, *model, *api_key, *svg;
    int64_t requests, prompt_tokens, new_tokens, seed;
    double temperature, ttft_target, itl_target, timeout;
    bool json;
};

static const struct opt opts[] = {
    OPT(ARG, struct cfg, url, NULL, "[URL]", "http://127.0.0.1:8080",
        "the server, with or without /v1"),
    OPT(STR, struct cfg, api, NULL, "completions|chat|tgi", "completions",
        "which streams are asked"),
    OPT(STR, struct cfg, clients, "-c", "LIST", "1,4,8,16",
        "closed loop: numbers of clients, comma separated; each sends its next request when the "
        "last has ended"),
    OPT(STR, struct cfg, rate, NULL, "LIST", NULL,
        "open loop instead: requests a second, comma separated, at random moments"),
    OPT_RANGE(INT, struct cfg, requests, "-r", "N", "32", 1, 1e6,
              "requests per level, and at least two per client"),
    OPT_RANGE(INT, struct cfg, prompt_tokens, "-p", "N", "128", 1, 1e6,
              "length of each prompt, of random words"),
    OPT(STR, struct cfg, prompts, NULL, "FILE", NULL, "prompts instead, one a line"),
    OPT_RANGE(INT, struct cfg, new_tokens, "-n", "N", "64", 1, 1e6, "length of each answer"),
    OPT_RANGE(NUM, struct cfg, temperature, NULL, "T", "0", 0, 100,
              "of the answers' sampling, without top-k and top-p; 0 = greedy"),
    OPT_RANGE(NUM, struct cfg, ttft_target, NULL, "SECONDS", "2", 0, 1e6,
              "first token of a good answer; 0 = any"),
    OPT_RANGE(NUM, struct cfg, itl_target, NULL, "SECONDS", "0.1", 0, 1e6,
              "time per token of a good answer; 0 = any"),
    OPT(STR, struct cfg, model, NULL, "NAME", "default", "the requests' model"),
    OPT(STR, struct cfg, api_key, NULL, "KEY", NULL, "sent as Authorization: Bearer KEY"),
    OPT_RANGE(INT, struct cfg, seed, NULL, "N", "1", 0, INT32_MAX, "of prompts and moments"),
    OPT_RANGE(NUM, struct cfg, timeout, NULL, "SECONDS", "300", 1, 1e6,
              "longest silence of a stream"),
    OPT(STR, struct cfg, svg, NULL, "FILE", NULL, "also writes a plot"),
    OPT(BOOL, struct cfg, json, NULL, NULL, NULL, "one JSON object on stdout"),
    { .name = NULL },
};

/* "1,4,8" */
static int read_list(const char *name, const char *text, double *out, size_t *n, bool whole,
                     struct err *e)
{
    const char *p = text;

    for (*n = 0; *p; p += *p == ',') {
        char *end;
        const double v = strtod(p, &end);

        if (end == p || (*end && *end != ',') || !(v > 0) || v > 1e5 || (whole && v != floor(v)) ||
            *n == MOST_LEVELS)
            return err_set(e, ERR_USAGE, "--%s %s: up to %d positive numbers, comma separated",
                           name, text, MOST_LEVELS);
        out[(*n)++] = v;
        p = end;
    }
    return *n ? 0 : err_set(e, ERR_USAGE, "--%s is empty", name);
}

/* The lines of a file that hold something; *text and its buffer are the caller's. */
static int read_prompts(const char *path, char **file, const char ***text, size_t *n, struct err *e)
{
    size_t cap = 0, len;
    char *save = NULL;

    if (file_read(file, &len, path, PROMPT_FILE_MAX, e))
        return -1;
    for (char *line = strtok_r(*file, "\r\n", &save); line; line = strtok_r(NULL, "\r\n", &save)) {
        if (*n == cap) {
            cap = cap ? 2 * cap : 64;
            *text = xrealloc(*text, cap * sizeof(**text));
        }
        (*text)[(*n)++] = line;
    }
    return *n ? 0 : err_set(e, ERR_FORMAT, "%s holds no prompt", path);
}

/* One answer of one token: how long is a prompt of so many words? */
static int count_tokens(struct load_opts o, size_t words, size_t *tokens, struct err *e)
{
    struct load_result r;

    o.words = words;
    o.new_tokens = 1;
    o.temperature = 0;
    if (load_run(&o, 1, 0, 1, &r, e))
        return -1;
    if (r.failed)
        return err_set(e, ERR_NETWORK, "%s: %s", o.url, r.first_error);
    *tokens = r.prompt_tokens;
    if (*tokens == 0)
        return err_set(e, ERR_NETWORK,
                       "%s does not say how many tokens a prompt has: use --prompts", o.url);
    return 0;
}

/* A line through two lengths, then one correction. */
static int choose_words(struct load_opts *o, size_t want, struct err *e)
{
    size_t few, many, got;

    if (count_tokens(*o, 16, &few, e) || count_tokens(*o, 64, &many, e))
        return -1;
    o->first++; /* these began as the first prompt does */
    const double each = many > few ? (double)(many - few) / 48 : 1;
    const double words = 16 + ((double)want - (double)few) / each;

    o->words = words < 1 ? 1 : (size_t)lround(words);
    if (count_tokens(*o, o->words, &got, e))
        return -1;
    const double better = (double)o->words + ((double)want - (double)got) / each;

    o->words = better < 1 ? 1 : (size_t)lround(better);
    o->first++;
    return 0;
}

static json_t *dist_json(const struct load_dist *d)
{
    return json_pack("{s:I, s:f, s:f, s:f, s:f, s:f}", "n", (json_int_t)d->n, "mean", 1e3 * d->mean,
                     "p50", 1e3 * d->p50, "p90", 1e3 * d->p90, "p99", 1e3 * d->p99, "max",
                     1e3 * d->max);
}

static json_t *level_json(const struct load_result *r)
{
    json_t *j = json_pack("{s:I, s:I, s:f, s:I, s:I, s:f, s:f, s:f, s:I, s:f}", "requests",
                          (json_int_t)r->requests, "errors", (json_int_t)r->failed, "wall_s",
                          r->wall_s, "prompt_tokens", (json_int_t)r->prompt_tokens, "output_tokens",
                          (json_int_t)r->output_tokens, "output_tok_per_s",
                          (double)r->output_tokens / r->wall_s, "total_tok_per_s",
                          (double)(r->output_tokens + r->prompt_tokens) / r->wall_s, "req_per_s",
                          (double)(r->requests - r->failed) / r->wall_s, "good",
                          (json_int_t)r->good, "good_req_per_s", (double)r->good / r->wall_s);

    if (r->clients > 0)
        json_object_set_new(j, "clients", json_integer((json_int_t)r->clients));
    else
        json_object_set_new(j, "rate", json_real(r->rate));
    json_object_set_new(j, "first_error", r->failed ? json_string(r->first_error) : json_null());
    json_object_set_new(j, "ttft_ms", dist_json(&r->ttft));
    json_object_set_new(j, "itl_ms", dist_json(&r->itl));
    json_object_set_new(j, "tpot_ms", dist_json(&r->tpot));
    json_object_set_new(j, "e2e_ms", dist_json(&r->e2e));
    return j;
}

static void print_head(bool open)
{
    printf("%8s %9s %9s %8s %8s  %-23s  %-23s %6s\n", open ? "rate/s" : "clients", "output/s",
           "all/s", "req/s", "good/s", "TTFT p50 / p90 / p99 ms", "ITL p50 / p90 / p99 ms",
           "failed");
}

static void print_level(const struct load_result *r)
{
    char ttft[64], itl[64];

    snprintf(ttft, sizeof(ttft), "%.0f / %.0f / %.0f", 1e3 * r->ttft.p50, 1e3 * r->ttft.p90,
             1e3 * r->ttft.p99);
    snprintf(itl, sizeof(itl), "%.1f / %.1f / %.1f", 1e3 * r->itl.p50, 1e3 * r->itl.p90,
             1e3 * r->itl.p99);
    printf("%8g %9.1f %9.1f %8.2f %8.2f  %-23s  %-23s %6zu\n",
           r->clients > 0 ? r->clients : r->rate, (double)r->output_tokens / r->wall_s,
           (double)(r->output_tokens + r->prompt_tokens) / r->wall_s,
           (double)(r->requests - r->failed) / r->wall_s, (double)r->good / r->wall_s, ttft, itl,
           r->failed);
    fflush(stdout);
}

static int measure(const struct cfg *c, struct load_opts *o, const double *level, size_t n,
                   json_t *out, struct err *e)
{
    struct load_result r[MOST_LEVELS];
    json_t *list = json_array();
    size_t failed = 0;

    json_object_set_new(out, "levels", list);
    if (!c->json)
        print_head(c->rate != NULL);
    for (size_t i = 0; i < n; i++) {
        const size_t clients = c->rate ? 0 : (size_t)level[i];
        size_t requests = (size_t)c->requests;

        requests = requests < 2 * clients ? 2 * clients : requests;
        if (load_run(o, clients, level[i], requests, &r[i], e))
            return -1;
        o->first += requests;
        json_array_append_new(list, level_json(&r[i]));
        if (!c->json)
            print_level(&r[i]);
        failed += r[i].failed;
        if (r[i].failed)
            fprintf(stderr, "%zu of %zu requests failed: %s\n", r[i].failed, r[i].requests,
                    r[i].first_error);
    }
    if (c->svg && plot_levels(c->svg, r, n, e))
        return -1;
    return failed ? 1 : 0;
}

static int run(const void *cfg, struct err *e)
{
    const struct cfg *c = cfg;
    struct load_opts o = {
        .url = c->url,
        .api = strcmp(c->api, "tgi") == 0    ? LOAD_TGI
               : strcmp(c->api, "chat") == 0 ? LOAD_CHAT
                                             : LOAD_COMPLETIONS,
        .model = c->model,
        .key = c->api_key,
        .new_tokens = (size_t)c->new_tokens,
        .temperature = c->temperature,
        .seed = (uint64_t)c->seed,
        .timeout_s = c->timeout,
        .ttft_target = c->ttft_target,
        .itl_target = c->itl_target,
    };
    double level[MOST_LEVELS];
    const char **text = NULL;
    size_t n = 0, n_text = 0;
    char *file = NULL;
    json_t *out = json_pack("{s:s, s:s, s:I, s:f, s:f}", "url", c->url, "api", c->api, "new_tokens",
                            (json_int_t)c->new_tokens, "ttft_target_ms", 1e3 * c->ttft_target,
                            "itl_target_ms", 1e3 * c->itl_target);
    int rc = -1;

    if (read_list(c->rate ? "rate" : "clients", c->rate ? c->rate : c->clients, level, &n, !c->rate,
                  e))
        goto done;
    if (c->prompts) {
        if (read_prompts(c->prompts, &file, &text, &n_text, e))
            goto done;
        o.text = text;
        o.n_text = n_text;
    } else {
        if (choose_words(&o, (size_t)c->prompt_tokens, e))
            goto done;
        json_object_set_new(out, "prompt_tokens", json_integer(c->prompt_tokens));
    }
    rc = measure(c, &o, level, n, out, e);
    if (rc >= 0 && c->json) {
        json_dumpf(out, stdout, JSON_INDENT(1));
        putchar('\n');
    }
done:
    json_decref(out);
    free(file);
    free(text);
    return rc;
}

const struct cmd cmd_bench_serve = {
    .name = "bench_serve",
    .summary = "load on a running server: first tokens, rhythm, throughput",
    .usage = "[URL] [OPTIONS]",
    .help = "Sends streaming requests to an OpenAI-style or TGI server, as `puna bench serve` or "
            "`puna bench_serve`, and\n"
            "prints for each level: tokens and requests a second, those a second that met the "
            "targets, time to the\n"
            "first token, and time between tokens. Status 1: a request failed.\n"
            "\n"
            "EXAMPLES\n"
            "\n"
            "    puna bench serve http://127.0.0.1:8080\n"
            "    puna bench serve --rate 1,2,4,8 --requests 100 --svg load.svg\n"
            "    puna bench serve --api tgi --prompts prompts.txt --json\n",
    .opts = opts,
    .cfg_size = sizeof(struct cfg),
    .run = run,
};
