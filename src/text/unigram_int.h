/* unigram_int.h - what the files of unigram.h share. Private to src/text. */
#ifndef PUNA_TEXT_UNIGRAM_INT_H
#define PUNA_TEXT_UNIGRAM_INT_H

#include <jansson.h>

#include "text/unigram.h"

/* SentencePiece's rules of normalisation: a Darts double array over byte strings, whose values are
 * offsets of NUL-terminated replacements. */
struct charsmap {
    uint32_t *unit; /* owned; NULL = no rules */
    size_t n;
    char *text; /* owned */
    size_t text_len;
};
int charsmap_read(struct charsmap *m, const void *blob, size_t n, struct err *e) MUST_USE;
void charsmap_release(struct charsmap *m);
/* The replacement of the longest (or shortest) prefix of p[0..n) that has one, and its length; NULL
 * = none. */
const char *charsmap_find(const struct charsmap *m, const char *p, size_t n, bool longest,
                          size_t *matched);

/* Bytes of a piece, at most: splitting takes this much work for each byte of text. */
enum { PIECE_MAX = 1024 };

enum piece_type { PIECE_NORMAL = 1, PIECE_UNKNOWN = 2, PIECE_CONTROL = 3, PIECE_USER = 4 };

struct piece {
    char *text; /* owned */
    uint32_t len;
    float score;
    enum piece_type type;
};

enum step_kind { STEP_STRIP, STEP_CHARSMAP, STEP_REPLACE };
struct norm_step {
    enum step_kind kind;
    bool left, right;    /* STEP_STRIP */
    struct charsmap map; /* STEP_CHARSMAP, grapheme by grapheme as Hugging Face does */
    struct pcre2_real_code_8 *pattern; /* STEP_REPLACE */
    char *content;
    size_t content_len;
};

struct unigram {
    struct piece *piece;
    size_t n;
    int32_t unk, cls, sep;
    float unknown_score;
    size_t longest;    /* piece, in bytes */
    int32_t *table;    /* hash of pieces that match text: id + 1, 0 = free */
    size_t table_size; /* a power of two */
    /* as SentencePiece normalises */
    bool spm, dummy_prefix, trim, escape;
    struct charsmap map;
    /* as a tokenizer.json says */
    struct norm_step *step;
    size_t n_steps;
    bool prepend, split; /* Metaspace */
    struct pcre2_real_code_8 *grapheme;
};

/* path is for messages. */
int unigram_read_spm(struct unigram *u, const uint8_t *data, size_t n, const char *path,
                     struct err *e) MUST_USE;
int unigram_read_json(struct unigram *u, const char *text, size_t n, const char *path,
                      struct err *e) MUST_USE;
/* Takes piece->text. */
void unigram_add(struct unigram *u, const struct piece *piece);
int unigram_norm_spm(const struct unigram *u, const char *p, size_t n, struct buf *out,
                     struct err *e) MUST_USE;
int unigram_norm_json(const struct unigram *u, const char *p, size_t n, struct buf *out,
                      struct err *e) MUST_USE;

#endif
