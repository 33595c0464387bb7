/* models.h - model references: what a user may write where a command wants a model.
 *
 * A reference is a path (a GGUF file or a model folder), a short name ("smollm2:135m"), or the name
 * of something in the cache, $XDG_CACHE_HOME/puna/models (~/.cache/puna/models), in any case:
 * "smollm2-135m-instruct", "SmolLM2-135M-Instruct.Q4_1", "org/model". What exists as a path wins.
 */
#ifndef PUNA_HUB_MODELS_H
#define PUNA_HUB_MODELS_H

#include "base/err.h"

#define HUB_DEFAULT "smollm2:135m"
/* Its digest as published; script/assets.txt has the same one. */
#define HUB_DEFAULT_SHA256 "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

/* The path of a reference, free() it. NULL = the default model. A reference that cannot be found is
 * ERR_NOT_FOUND and says what to do; whether it is a model is for the reader to say. */
int hub_resolve(const char *ref, char **path, struct err *e) MUST_USE;
/* Would hub_resolve find it? */
bool hub_known(const char *ref);

/* $XDG_CACHE_HOME/puna and $XDG_STATE_HOME/puna (~/.local/state), free() them. An error when
 * neither the variable nor HOME is set. */
int hub_cache_dir(char **out, struct err *e) MUST_USE;
int hub_state_dir(char **out, struct err *e) MUST_USE;

struct hub_model {
    char *name; /* what to type */
    char *path;
    size_t bytes; /* on disk; of a folder, its weight files */
    bool is_default;
};

struct hub_models {
    struct hub_model *p; /* owned, sorted by name */
    size_t n;
};

/* Every GGUF file (of a split set the first) and model folder in the cache. No cache = none. */
int hub_list(struct hub_models *out, struct err *e) MUST_USE;
void hub_models_release(struct hub_models *m);

#endif
