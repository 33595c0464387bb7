/* common.h - what several commands share. */
#ifndef PUNA_CMD_COMMON_H
#define PUNA_CMD_COMMON_H

#include "engine/sched.h"

/* Fills *o from the options --threads, --dtype auto|f32|bf16, --isa NAME (NULL = all) and --device
 * cpu|cuda|auto. */
int engine_opts_fill(struct engine_opts *o, int64_t threads, const char *dtype, const char *isa,
                     const char *device, struct err *e) MUST_USE;
/* The cache's type from --kv-dtype KV_TYPES. */
#define KV_TYPES "auto|f32|f16|bf16|q8_0|fp8"
void engine_opts_kv(struct engine_opts *o, const char *kv_dtype);
/* What threads are kept on: the choices of --pin, for team_pin. */
#define PIN_HOW "auto|none|nodes|cores"
/* Where weights lie, from --weights WEIGHTS_HOW. */
#define WEIGHTS_HOW "auto|copy|map"
void engine_opts_weights(struct engine_opts *o, const char *weights);
/* Resolves a model reference (hub/models.h; NULL = the default model) and opens it. */
int engine_open_named(struct engine **out, const char *model, const struct engine_opts *o,
                      struct err *e) MUST_USE;

/* One line on stderr about an adapter's unknown keys, if any. */
void adapter_warn(const struct engine *g);
/* Planned and measured memory, one line on stderr, for --verbose. */
void memory_show(const struct session *s);
/* The same for a server. */
void memory_show_sched(struct sched *s);

/* Appends all of standard input to *out, whose limit holds. When nothing has come for a second, a
 * terminal is told that `what` is awaited. */
int stdin_read(struct buf *out, const char *what, struct err *e) MUST_USE;

/* Options that are accepted without effect, and why. */
struct idle_opt {
    const char *name, *why; /* as in the option's table: "json_output" */
};
/* One line on stderr for each of them that was given. */
void idle_show(const void *cfg, const struct idle_opt *list, size_t n);

/* One line on stderr, redrawn at most ten times a second; nothing unless stderr is a terminal. */
void progress_show(const char *what, size_t done, size_t total);
/* Wipes the line. */
void progress_end(void);

#endif
