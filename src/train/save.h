/* save.h - what a run leaves behind: an adapter as PEFT loads it, or a model folder; and the state
 * to go on from, in a folder of its own that appears when it is complete. */
#ifndef PUNA_TRAIN_SAVE_H
#define PUNA_TRAIN_SAVE_H

#include <jansson.h>

#include "train/run.h"

/* The adapter, or the whole model, into dir (made when absent); each file complete or absent. */
int save_result(const struct net *n, const struct train_cfg *cfg, const char *dir,
                struct err *e) MUST_USE;
/* The gradients, float32, by the names of the parameters. */
int save_gradients(const struct net *n, const char *path, struct err *e) MUST_USE;

/* dir/name, complete or absent. */
int save_json(const char *dir, const char *name, const json_t *j, struct err *e) MUST_USE;
/* A file of one folder into another; absent there = not copied. */
int save_copy(const char *from_dir, const char *to_dir, const char *name, struct err *e) MUST_USE;
/* trainer_state.json. */
int save_trainer_state(const char *dir, const json_t *state, struct err *e) MUST_USE;

/* How far a run is. */
struct progress {
    size_t step, steps, steps_per_epoch;
    size_t tokens;    /* seen so far */
    double best;      /* lowest evaluation loss; INFINITY = none yet */
    size_t best_step; /* where it was */
    size_t worse;     /* evaluations since a better one */
};

/* After an evaluation: a loss is better where it is lower by cfg->better. */
void progress_evaluated(struct progress *p, const struct train_cfg *cfg, size_t step, double loss);
/* The object of trainer_state.json; log is borrowed, identity taken: what must be the same when a
 * run goes on. */
json_t *save_state(const struct train_cfg *cfg, const struct progress *p, json_t *log,
                   json_t *identity);

/* ---- checkpoints ---- */

struct saver {
    const char *output_dir;
    const struct param_list *params;
    /* writes what loads without the run into dir, made when absent; NULL = nothing */
    int (*result)(const void *arg, const char *dir, struct err *e);
    const void *arg;
};

/* output_dir/checkpoint-STEP: the result, values and moments of every parameter, and
 * trainer_state.json, which is `state`. */
int save_checkpoint(const struct saver *s, size_t step, const json_t *state,
                    struct err *e) MUST_USE;
/* Removes all but the newest `keep` checkpoints of the output folder, and never `best` (0 = none).
 */
void save_rotate(const char *output_dir, size_t keep, size_t best);
/* Goes on from cfg->resume: parameters, progress and log (owned). 0 = at the start, nothing is
 * changed; 1 = further on. Where another run's checkpoint is meant (identity, taken) the difference
 * is named. */
int save_resume(const struct train_cfg *cfg, const struct param_list *l, json_t *identity,
                struct progress *p, json_t **log, struct err *e) MUST_USE;
/* Parameters of the best checkpoint where cfg->keep_best asks for them: 1 = they are those now, 0 =
 * the last are the best, or none. */
int save_take_best(const struct train_cfg *cfg, const struct param_list *l,
                   const struct progress *p, struct err *e) MUST_USE;

#endif
