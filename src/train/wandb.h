/* wandb.h - a run in the files of Weights & Biases without a network: `wandb sync` sends them.
 *
 * DIR/wandb/offline-run-DATE_TIME-ID/run-ID.wandb is a log of records as LevelDB has it
 * (doc/log_format.md there), with another header and zlib's CRC-32: blocks of 32 KiB, in them
 * pieces of a checksum, a length, a kind and data. A record is a Record of wandb_internal.proto. */
#ifndef PUNA_TRAIN_WANDB_H
#define PUNA_TRAIN_WANDB_H

#include <jansson.h>

#include "base/err.h"

struct wandb;

struct wandb_run {
    const char *dir;                     /* the run's output folder */
    const char *project, *entity, *name; /* entity, name: NULL = the service's own */
    const json_t *config;                /* an object */
    bool again; /* the newest run of the folder is written anew, under its own ID: it goes on */
};

int wandb_open(struct wandb **out, const struct wandb_run *r, struct err *e) MUST_USE;
/* Values of a step by name; they are in the file when this returns. */
int wandb_step(struct wandb *w, int64_t step, const json_t *values, struct err *e) MUST_USE;
/* done: the run ended by itself. Legal on NULL. */
int wandb_close(struct wandb *w, bool done, struct err *e) MUST_USE;

#endif
