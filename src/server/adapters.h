/* adapters.h - a server's LoRA adapters: each has a name, requests choose one by it, and they may
 * be loaded and unloaded while the server runs. Only the server's thread calls these. */
#ifndef PUNA_SERVER_ADAPTERS_H
#define PUNA_SERVER_ADAPTERS_H

#include <jansson.h>

#include "engine/session.h"

struct adapters;

enum { MAX_NAME = 256 };

/* Whether a client may be shown this name; `what` has one: "a model" or "an adapter". */
int check_name(const char *what, const char *name, struct err *e) MUST_USE;

/* list[i]: "name=folder" or "folder", several with commas. `base` is the model's own name, which no
 * adapter may have. The engine is borrowed. */
int adapters_open(struct adapters **out, struct engine *g, const char *base,
                  const char *const *list, size_t n, struct err *e) MUST_USE;
void adapters_free(struct adapters *a);
/* Waits for folders that are still being read: their calls are then in the mailbox. */
void adapters_settle(struct adapters *a);

/* The adapter of this name; NULL = none has it, or it is being unloaded. */
const struct lora *adapters_find(const struct adapters *a, const char *name);
/* A generation begins, and has ended. NULL, the model itself, is legal. */
void adapters_use(struct adapters *a, const struct lora *l);
void adapters_leave(struct adapters *a, const struct lora *l);

/* The i-th one's name and folder, sorted by name; false = there are no more. */
bool adapters_get(const struct adapters *a, size_t i, const char **name, const char **path);

#endif
