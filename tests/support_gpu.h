/* support_gpu.h - tests on a GPU: skipped, with the reason, where there is none. */
#ifndef PUNA_TESTS_SUPPORT_GPU_H
#define PUNA_TESTS_SUPPORT_GPU_H

#include "backend/cuda/cuda.h"
#include "engine/session.h"
#include "support.h"

/* Set up of a group: asks once whether there is a GPU. */
int gpu_ask(void **state);
bool gpu_there(void);
/* Ends the test as skipped where there is no GPU. */
void gpu_or_skip(void);
/* A context on the GPU, to be freed by its backend; gpu_or_skip where there is none. */
struct ctx *gpu_context(enum compute compute);

/* n bytes in memory of the device's, which its backend releases; and back. */
void *to_gpu(struct ctx *c, const void *p, size_t n);
void from_gpu(struct ctx *c, void *to, const void *d, size_t n);
/* A row for passes that ask nothing of it. */
struct batch one_row(void);
/* A failed launch shows when a pass ends. */
void check_calls(struct ctx *c);

/* Whether the device is an emulated one (backend/cuda_host). */
bool gpu_emulated(void);
/* Programs have a block on each multiprocessor: an emulated device has two until gpu_settle, a real
 * one what it has. Ends the test as skipped where there is no GPU. */
void gpu_for_programs(void);

/* One check of a test went wrong: its first 30 are shown before gpu_settle fails the test. */
#define MISS(...)                                                                                  \
    do {                                                                                           \
        if (gpu_missed())                                                                          \
            print_error(__VA_ARGS__);                                                              \
    } while (0)
bool gpu_missed(void);
void gpu_settle(void);

/* Runs a group of cases; a few of them where all but an emulated device has sanitizers in it: they
 * make the truth ten times slower, and do not look at the device. */
#define GPU_RUN(few, all)                                                                          \
    (gpu_ask(NULL)                 ? 1                                                             \
     : SANITIZED && gpu_emulated() ? cmocka_run_group_tests_name(__FILE__, few, NULL, NULL)        \
                                   : cmocka_run_group_tests_name(__FILE__, all, NULL, NULL))

/* A session of so many tokens on a device; gpu_or_skip where there is no GPU. *g: its engine, to be
 * closed after it. */
struct session *open_on(struct engine **g, const char *path, enum compute compute,
                        const char *device, size_t ctx);

#endif
