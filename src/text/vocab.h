/* vocab.h - the token table: id to bytes, bytes to id, and the texts of added tokens.
 *
 * Private to src/text. Two ways lead from text to an id, and they never mix:
 *   - vocab_find: ordinary tokens only, so that ordinary text can never become a
 *     control token, whatever the file's vocabulary holds;
 *   - trie_match: added and special tokens, cut out of the text before it is split. */
#ifndef PUNA_TEXT_VOCAB_H
#define PUNA_TEXT_VOCAB_H

#include "base/buf.h"

enum {
    TOKEN_MAX = 1024,        /* bytes of one token; Llama 3's longest has 128 */
    TOKEN_IDS_MAX = 1 << 20, /* ids of one vocabulary; the largest published have 262,144 */
};

enum token_class {
    TOKEN_NONE = 0, /* no token has this id */
    TOKEN_NORMAL,
    TOKEN_ADDED,    /* matched in every text before splitting; shown by decoding */
    TOKEN_SPECIAL,  /* control: matched only where the caller allows it */
    TOKEN_UNUSED,   /* has a text, never comes out of encoding */
};

struct vocab {
    char *bytes;   /* owned: all tokens, one after the other */
    size_t used, room;
    struct vocab_item {
        uint32_t off, len;
    } *item;       /* owned, by id */
    uint8_t *cls;  /* owned, by id: enum token_class */
    int32_t n;     /* ids 0..n-1 */
    struct vocab_slot {
        uint32_t hash;
        int32_t id1; /* id + 1; 0 = free */
    } *slot;       /* owned: open addressing, at most half full; TOKEN_NORMAL only */
    size_t mask;
    uint64_t seed; /* of the hash: random, so that no file can be built to collide */
    size_t longest; /* bytes of the longest normal token */
    int32_t byte_id[256]; /* single bytes; -1 = none */
};

/* Room for n ids and `bytes` bytes in all. */
int vocab_init(struct vocab *v, int32_t n, size_t bytes, struct err *e) MUST_USE;
void vocab_release(struct vocab *v); /* legal on a zeroed struct */
/* Adds one token. Refuses ids outside 0..n-1, ids in use, empty or over-long tokens and a
 * normal token listed twice. */
int vocab_put(struct vocab *v, int32_t id, enum token_class cls, const char *p, size_t len,
              struct err *e) MUST_USE;
/* The normal token of exactly these bytes, or -1. */
int32_t vocab_find(const struct vocab *v, const char *p, size_t len);
/* -1 with a message when a byte has no token: any of the 256 with `all`, else only those of
 * readable ASCII (SmolLM2 has no token for 21 control and never-used bytes). */
int vocab_check_bytes(const struct vocab *v, bool all, struct err *e) MUST_USE;

/* GPT-2's byte letters: a token of a JSON or GGUF vocabulary spelt in printable characters.
 * Decodes p[0..n) to bytes (at most n, and at most TOKEN_MAX). -1 = a character outside the
 * alphabet or too long. */
int letters_decode(char *out, size_t *len, const char *p, size_t n);
/* Appends bytes in letters, as UTF-8. */
void letters_encode(struct buf *out, const char *p, size_t n);

/* Texts of added tokens, a byte trie. */
struct trie {
    struct trie_node {
        uint32_t child, next; /* node indexes; 0 = none */
        int32_t id;           /* token that ends here; -1 = none */
        uint8_t byte;
        bool special;
    } *node;                  /* owned; node 0 is unused */
    size_t n, cap;
    uint32_t root[256];
    bool any_added;           /* holds a token that is not special */
};

/* -1 with a message when the text is empty, longer than TOKEN_MAX or known. */
int trie_put(struct trie *t, const char *p, size_t n, int32_t id, bool special,
             struct err *e) MUST_USE;
void trie_release(struct trie *t);
/* The longest token that p[0..n) begins with, -1 = none; *len its length. */
int32_t trie_match(const struct trie *t, const char *p, size_t n, bool special, size_t *len);

#endif
