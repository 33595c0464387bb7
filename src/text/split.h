/* split.h - cuts plain text into the pieces that BPE works on, with regular expressions
 * run by PCRE2's JIT. Private to src/text (and its tests).
 *
 * Letters, numbers and white space are those of Unicode 16, not those of the installed
 * PCRE2 (Debian 12's 10.42 has Unicode 14 and counts U+180E as white space): \p{L}, \p{N},
 * \s and \S are replaced by explicit ranges before an expression is compiled. Only the
 * expressions known by name here are ever compiled, so no file can bring one that
 * backtracks without end. */
#ifndef PUNA_TEXT_SPLIT_H
#define PUNA_TEXT_SPLIT_H

#include "base/buf.h"
#include "base/err.h"

enum split_kind {
    SPLIT_LLAMA3,     /* Llama 3; GPT-4's but for case-insensitive contractions */
    SPLIT_GPT2,       /* GPT-2; Hugging Face's ByteLevel with use_regex */
    SPLIT_QWEN2,      /* Llama 3's with single digits */
    SPLIT_DIGIT,      /* every number character alone; Hugging Face's Digits */
    SPLIT_DIGIT_RUNS, /* runs of number characters */
    SPLIT_KINDS,
};

struct splitter;

int splitter_new(struct splitter **out, struct err *e) MUST_USE;
void splitter_free(struct splitter *s);
/* One more stage: it cuts every piece of the stage before, seeing nothing beyond that piece. */
int splitter_add(struct splitter *s, enum split_kind kind, struct err *e) MUST_USE;
size_t splitter_steps(const struct splitter *s);
enum split_kind splitter_step(const struct splitter *s, size_t i);
/* The expression as a tokenizer.json writes it. */
const char *split_regex(enum split_kind kind);
/* The expression of a tokenizer.json by its text: 1 and *out, or 0 when it is not known. */
int split_by_regex(enum split_kind *out, const char *regex, size_t n);

/* Calls fn for every piece of text[0..n), which is valid UTF-8, in order; the pieces cover
 * it. fn returns 0 to go on. May be called by many threads at once. */
typedef int split_fn(void *arg, const char *piece, size_t n, struct err *e);
int split_run(const struct splitter *s, const char *text, size_t n, split_fn *fn, void *arg,
              struct err *e) MUST_USE;

/* White space as Unicode has it (the class S of the tables). */
bool uc_is_space(int32_t cp);
/* Appends the expression with its classes replaced by ranges; for tests. */
void split_expand(struct buf *out, const char *regex);

#endif
