/* bench_load.h - load on a server of event streams: many clients on one thread, and what they saw.
 *
 * Closed loop: each of N clients sends its next request when the last one has ended. Open loop:
 * requests come as a Poisson process, whatever the server makes of them; a request's clock starts
 * when it was due. Prompts differ from their first word on, so that no cache answers one. */
#ifndef PUNA_CMD_BENCH_LOAD_H
#define PUNA_CMD_BENCH_LOAD_H

#include <jansson.h>

#include "base/err.h"

enum load_api { LOAD_COMPLETIONS, LOAD_CHAT, LOAD_TGI };

struct load_opts {
    const char *url; /* http://HOST[:PORT][/v1] */
    enum load_api api;
    const char *model, *key; /* key: NULL = none */
    const char *const *text; /* prompts; n_text 0 = random words */
    size_t n_text;
    size_t words; /* of a random prompt */
    size_t first; /* number of the first prompt: runs with other numbers share none */
    size_t new_tokens;
    double temperature; /* 0 = greedy */
    uint64_t seed;
    double timeout_s;               /* without a byte */
    double ttft_target, itl_target; /* seconds; what counts as good; 0 = any */
};

/* Seconds. */
struct load_dist {
    size_t n;
    double mean, p50, p90, p99, max;
};

struct load_result {
    double clients, rate; /* of the two the one that was asked for; the other is 0 */
    size_t requests, failed, good;
    double wall_s;
    size_t prompt_tokens, output_tokens;
    struct load_dist ttft; /* to the first chunk that carries text */
    struct load_dist itl;  /* between two chunks with text of one stream, all streams together */
    struct load_dist tpot; /* per request: (last - first chunk) / (tokens - 1) */
    struct load_dist e2e;  /* to the end of the stream */
    char first_error[256];
};

/* `requests` requests by `clients` clients, or at `rate` a second where clients is 0. Failed
 * requests are counted in r and are no error. */
int load_run(const struct load_opts *o, size_t clients, double rate, size_t requests,
             struct load_result *r, struct err *e) MUST_USE;

#endif
