/* unigram.h - SentencePiece's Unigram tokenizer (Kudo 2018, arXiv:1804.10959): text is normalised,
 * and split into the pieces whose scores sum to the most. The tokenizer of Prompt Guard.
 *
 * From a SentencePiece model (spm.model) or a Hugging Face tokenizer.json; each says how it
 * normalises, and is obeyed. No text becomes a control token. */
#ifndef PUNA_TEXT_UNIGRAM_H
#define PUNA_TEXT_UNIGRAM_H

#include "base/buf.h"
#include "text/tokenizer.h"

struct unigram;

/* A file, or a folder that holds tokenizer.json or spm.model. */
int unigram_open(struct unigram **out, const char *path, struct err *e) MUST_USE;
/* The bytes of a tokenizer.json, or of a SentencePiece model; `what` names them in messages. */
int unigram_open_mem(struct unigram **out, const void *data, size_t n, bool json, const char *what,
                     struct err *e) MUST_USE;
void unigram_close(struct unigram *u);
size_t unigram_size(const struct unigram *u);
/* [CLS] and [SEP]: what stands before and behind a text. */
int32_t unigram_cls(const struct unigram *u);
int32_t unigram_sep(const struct unigram *u);
/* Text as it is before it is split; appended. */
int unigram_normalize(const struct unigram *u, const char *text, size_t n, struct buf *out,
                      struct err *e) MUST_USE;
/* Appends the ids of a text, without [CLS] and [SEP]. */
int unigram_encode(const struct unigram *u, const char *text, size_t n, struct ids *out,
                   struct err *e) MUST_USE;
/* The piece of an id; NULL = no such id. Not NUL-terminated. */
const char *unigram_piece(const struct unigram *u, int32_t id, size_t *n);

#endif
