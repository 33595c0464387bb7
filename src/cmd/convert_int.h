/* convert_int.h - the parts of `puna convert`. */
#ifndef PUNA_CMD_CONVERT_INT_H
#define PUNA_CMD_CONVERT_INT_H

#include "base/work.h"
#include "format/checkpoint.h"
#include "format/gguf_write.h"
#include "model/lora.h"
#include "text/tokenizer.h"

enum row_order {
    ORDER_SAME,
    ORDER_PAIRS,  /* Hugging Face's rows of q and k to GGUF's and Meta's */
    ORDER_HALVES, /* and back (MODEL.md) */
};

/* A tensor to be written. */
struct conv_tensor {
    char name[CHECKPOINT_NAME];
    struct tensor_view out;   /* name, enc, shape and size; no data */
    char hf[CHECKPOINT_NAME]; /* its name in the checkpoint; "": `values` */
    struct weight src;        /* borrowed from the checkpoint; data only while joined */
    float *values;            /* owned; computed, f32 */
    enum row_order order;
    bool whole;  /* src is an adapter's, in place of the checkpoint's */
    bool unties; /* a head that an adapter makes differ from the embedding */
    size_t end;  /* where it ends in the stream of files (base/work.h) */
    size_t pad;  /* zero bytes in front of it */
};

struct conv {
    const char *src, *dst;
    const char *adapter; /* folder of a LoRA adapter to be merged; NULL = none */
    struct model *base;  /* owned, with lora: what the adapter is checked against */
    struct lora *lora;
    struct checkpoint *c;
    struct tok *tok;
    struct hparams hp; /* of what is written */
    bool to_gguf;
    bool instruct;             /* Meta's own files: an Instruct model */
    const char *chat_template; /* file of another chat template; NULL = the source's */
    bool new_template;         /* tok's chat template is not the source's */
    int outtype;               /* enum enc of matrices, or -1: as they are */
    size_t max_shard;
    struct conv_tensor *t; /* owned */
    size_t n;
    struct work_file *file; /* owned, names too */
    struct buf *head;       /* owned: of each file */
    size_t *first;          /* owned: the first tensor of each file; [n_files] = n */
    size_t n_files;
    size_t resumed; /* bytes that an earlier run had written */
};

/* Writes v->dst from v->src. Fill src, dst, adapter, to_gguf, outtype and max_shard before, and
 * call conv_release after. */
int conv_run(struct conv *v, struct err *e) MUST_USE;
void conv_release(struct conv *v);
/* --json: what was written. */
void conv_print_json(const struct conv *v);
/* SIZE of --max-shard-size. */
int conv_parse_size(size_t *out, const char *text, struct err *e) MUST_USE;

/* Fills t, file, head and first. */
int conv_plan(struct conv *v, struct err *e) MUST_USE;
/* What identifies this conversion: 64 hexadecimal digits. */
int conv_key(const struct conv *v, char key[65], struct err *e) MUST_USE;
/* GGUF metadata of v->hp and v->tok. */
int conv_gguf_meta(const struct conv *v, struct gguf_meta *m, struct err *e) MUST_USE;
/* The small files of a Hugging Face folder. */
int conv_hf_files(const struct conv *v, struct work *w, struct err *e) MUST_USE;
/* The divisors of GGUF's rope_freqs.weight, hd/2 of them, for hp's llama3 scaling. */
void conv_rope_divisors(float *out, const struct hparams *hp);
/* A scaling of Llama 3.1 or 3.2 with exactly these divisors, or an error. */
int conv_rope_from_divisors(struct hparams *hp, const struct tensor_view *t,
                            struct err *e) MUST_USE;

#endif
