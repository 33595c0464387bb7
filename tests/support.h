/* support.h - what test programs share. A test file defines its cases and ends with
 * TEST_MAIN(cmocka_unit_test(a), cmocka_unit_test(b), ...). */
#ifndef PUNA_TESTS_SUPPORT_H
#define PUNA_TESTS_SUPPORT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/buf.h"
#include "base/err.h"
#include "base/json.h"
#include "ops/pick.h"

/* tests/data/NAME (from the repository's root, where tests run; a static buffer of four). */
const char *data_path(const char *name);
/* The default model's GGUF and Meta's tokenizer.model in the user's cache, as script/setup puts
 * them there ($XDG_CACHE_HOME/puna/...). They fail the test, with what to run, when absent: never
 * skip. */
const char *smollm2_path(void);
const char *meta_tokenizer_path(void);
/* Deterministic pseudo-random floats in [-1, 1), malloc'd. */
float *random_floats(size_t n, uint64_t seed);
/* norm(a - b) / norm(b) */
double rel_error(const float *a, const float *b, size_t n);

/* What is asked of a row of n logits, by going through it for each; ask->row is not read. */
void pick_list_ref(struct pick_list *l, const float *logits, size_t n, const struct pick_ask *ask);

/* The lines of a .jsonl file, read as Python reads JSON: after each true of rows_next, the n-th is
 * in row, until the next call. Whoever begins goes on to the end: that closes the file. */
struct rows {
    json_t *row;
    size_t n;
    const char *path;
    FILE *f;
    struct buf line;
};
struct rows rows_open(const char *path);
bool rows_next(struct rows *r);
/* A member's text, "" where there is none. */
const char *str(const json_t *object, const char *key);

/* Sanitizers make the same arithmetic ten times slower. Where a case repeats it to see a figure,
 * not other code, it may do less of it here: the figure is for the build without them. */
#ifdef __SANITIZE_ADDRESS__
enum { SANITIZED = 1 };
#else
enum { SANITIZED = 0 };
#endif

/* A call that must succeed: on failure prints its message. */
#define OK(call, e)                                                                                \
    do {                                                                                           \
        if (call)                                                                                  \
            fail_msg("%s: %s", #call, (e).msg);                                                    \
    } while (0)

#define TEST_MAIN(...)                                                                             \
    int main(void)                                                                                 \
    {                                                                                              \
        const struct CMUnitTest tests[] = { __VA_ARGS__ };                                         \
        return cmocka_run_group_tests_name(__FILE__, tests, NULL, NULL);                           \
    }

/* The flags of an instruction set; false, after "not run", where this CPU lacks it. */
bool isa_here(const char *name, unsigned *flags);

#endif
