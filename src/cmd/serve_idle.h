/* serve_idle.h - options of text-generation-inference that `puna serve` takes and has no use for,
 * so that a command line that was written for it starts. Those that would change answers are not
 * among them. */
#ifndef PUNA_CMD_SERVE_IDLE_H
#define PUNA_CMD_SERVE_IDLE_H

#include "cmd/opt.h"

#define SERVE_IDLE_FIELDS                                                                          \
    const char *revision, *sharded, *validation_workers, *waiting_served_ratio,                    \
        *max_waiting_tokens, *cuda_graphs, *cuda_memory_fraction, *prometheus_port,                \
        *shard_uds_path, *master_addr, *master_port, *huggingface_hub_cache,                       \
        *weights_cache_override, *otlp_endpoint, *otlp_service_name, *watermark_gamma,             \
        *watermark_delta, *ngrok_authtoken, *ngrok_edge, *usage_stats;                             \
    bool disable_custom_kernels, json_output, trust_remote_code, enable_prefill_logprobs, ngrok

#define SERVE_IDLE(kind, field, arg)                                                               \
    OPT(kind, struct serve_cfg, field, NULL, arg, NULL, "accepted, has no effect here",            \
        .rare = true)

#define SERVE_IDLE_OPTS                                                                            \
    SERVE_IDLE(STR, revision, "NAME"), SERVE_IDLE(STR, sharded, "BOOL"),                           \
        SERVE_IDLE(STR, validation_workers, "N"), SERVE_IDLE(STR, waiting_served_ratio, "X"),      \
        SERVE_IDLE(STR, max_waiting_tokens, "N"), SERVE_IDLE(STR, cuda_graphs, "LIST"),            \
        SERVE_IDLE(STR, cuda_memory_fraction, "X"), SERVE_IDLE(STR, prometheus_port, "N"),         \
        SERVE_IDLE(STR, shard_uds_path, "PATH"), SERVE_IDLE(STR, master_addr, "NAME"),             \
        SERVE_IDLE(STR, master_port, "N"), SERVE_IDLE(STR, huggingface_hub_cache, "DIR"),          \
        SERVE_IDLE(STR, weights_cache_override, "DIR"), SERVE_IDLE(STR, otlp_endpoint, "URL"),     \
        SERVE_IDLE(STR, otlp_service_name, "NAME"), SERVE_IDLE(STR, watermark_gamma, "X"),         \
        SERVE_IDLE(STR, watermark_delta, "X"), SERVE_IDLE(STR, ngrok_authtoken, "TEXT"),           \
        SERVE_IDLE(STR, ngrok_edge, "NAME"), SERVE_IDLE(STR, usage_stats, "NAME"),                 \
        SERVE_IDLE(BOOL, disable_custom_kernels, NULL), SERVE_IDLE(BOOL, json_output, NULL),       \
        SERVE_IDLE(BOOL, trust_remote_code, NULL),                                                 \
        SERVE_IDLE(BOOL, enable_prefill_logprobs, NULL), SERVE_IDLE(BOOL, ngrok, NULL)

/* Says on standard error which of them were given, and why they have no effect. */
void serve_idle_show(const void *cfg);

#endif
