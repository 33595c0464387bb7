/* support_model.h - opening models and goldens in tests. */
#ifndef PUNA_TESTS_SUPPORT_MODEL_H
#define PUNA_TESTS_SUPPORT_MODEL_H

#include "engine/session.h"
#include "format/safetensors.h"

/* An engine without tokenizer; fails the test when it cannot be opened. */
struct engine *engine_for(const char *path, enum compute compute, int threads, int isa,
                          size_t chunk);
struct session *session_for(struct engine *g, size_t ctx);

/* The quantised model tests/data/quantised/NAME, put together in a folder of its own from what it
 * shares with tests/data/tiny-llama31 (small/...: with small) and what it does not. */
char *quantised_new(const char *name);
void quantised_free(char *path);
/* Turns a GPTQ folder into compressed-tensors' pack-quantized (tests/repack.py). */
void repack(const char *path);
/* Turns what is in 16 bits into float32, scales too (tests/widen.py): --dtype auto is then the rule
 * of the quantised matrices and nothing else. */
void widen(const char *path);
/* A model of random weights so small that a pass takes no time (tests/micro.py); quantised_free
 * it. */
char *micro_new(void);
/* A variant of a LoRA adapter (tests/adapter.py) in a folder of its own; quantised_free it. */
char *adapter_new(const char *from, const char *kind);

/* A tensor of a golden file, checked for encoding; count in *n. Aligned copy, free() it. */
void *golden(const char *path, const char *name, enum enc enc, size_t *n);

#endif
