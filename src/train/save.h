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

/* ---- checkpoints ---- */

struct saver {
    const char *output_dir;
    const struct param_list *params;
    /* writes what loads without the run into dir, made when absent */
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
/* The newest checkpoint's folder, free() it; NULL = there is none. */
char *save_newest(const char *output_dir);
/* Parameters and moments, and trainer_state.json, json_decref it. */
int save_load(const struct param_list *l, const char *dir, json_t **state, struct err *e) MUST_USE;
/* Refuses to go on where what must be the same is not: `want` of this run (taken), `was` of the
 * checkpoint. */
int save_same(json_t *want, const json_t *was, const char *dir, struct err *e) MUST_USE;

#endif
