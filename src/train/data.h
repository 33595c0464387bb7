/* data.h - examples to train on: rows of a file (JSON lines, a JSON array, CSV) made into token ids
 * and labels.
 *
 * Which columns a row has decides what it is (docs/sft.md):
 *   input_ids [, labels]            pre-tokenised; labels -100 are not asked
 *   messages, or conversations      a chat, through the model's template
 *   prompt, completion [, label]    the completion is asked; label true or false: an unpaired row
 *   prompt, chosen, rejected        a preference; without prompt the common beginning is the prompt
 *   text                            plain text, every token asked
 * prompt, completion, chosen and rejected are text, lists of messages, or lists of ids. */
#ifndef PUNA_TRAIN_DATA_H
#define PUNA_TRAIN_DATA_H

#include "text/chat.h"

/* A sequence; label[i] is ids[i] or -1 = not asked. */
struct example {
    int32_t *ids, *label; /* owned; label lies behind ids */
    size_t n, prompt;     /* tokens; those before the completion, 0 = none told apart */
    bool good;            /* an unpaired row's label */
    size_t row;           /* of the file, from 1 */
};

enum data_kind {
    DATA_SFT,      /* one example for each row */
    DATA_PAIRS,    /* two: chosen, rejected */
    DATA_UNPAIRED, /* one, with `good`; a preference row gives two */
};

struct data_cfg {
    enum data_kind kind;
    const struct tok *tok;          /* NULL: pre-tokenised rows alone */
    const struct chat_format *chat; /* NULL: no chats */
    const char *text_field;
    size_t max_length;    /* longer rows are cut at the end; 0 = no limit */
    bool assistant_only;  /* of a chat, answers alone are asked */
    bool completion_only; /* of prompt and completion, the completion alone */
};

struct data {
    struct example *p; /* owned */
    size_t n;
    size_t tokens, asked, cut, dropped; /* tokens; those asked; rows cut, rows with nothing asked */
    size_t chatml;   /* plain texts with ChatML's marks, which are no tokens of the model */
    size_t row;      /* the last that was read */
    char digest[65]; /* SHA-256 of the file, in hexadecimal */
};

int data_read(struct data *d, const char *path, const struct data_cfg *cfg, struct err *e) MUST_USE;
void data_release(struct data *d);
/* Which of n are held out: a share of each class, drawn by the seed, never all of one. class NULL =
 * one class; classes are below DATA_CLASSES. free() it. */
enum { DATA_CLASSES = 16 };
bool *data_draw(size_t n, const int32_t *class, double share, uint64_t seed) MUST_USE;
/* Moves a share of the rows, `each` examples a row, from d to held. */
void data_split(struct data *d, struct data *held, size_t each, double share, uint64_t seed);

#endif
