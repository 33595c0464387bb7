/* checkpoint.h - a model on disk, whatever its container: a folder of safetensors
 * with config.json, a GGUF file, or Meta's own files. Tensors are found by their Hugging Face names
 * (model.layers.0.self_attn.q_proj.weight) in any container; nothing is copied but what lies in
 * pieces (checkpoint_join). */
#ifndef PUNA_FORMAT_CHECKPOINT_H
#define PUNA_FORMAT_CHECKPOINT_H

#include "format/gguf.h"
#include "format/hparams.h"

struct checkpoint;

/* path: a folder with config.json and model.safetensors, or model.safetensors.index.json and its
 * shards; a folder that holds one GGUF model; a GGUF file; or a folder with Meta's params.json and
 * consolidated.NN.pth, or with those in its folder original. Opens and validates containers,
 * config and generation config. Does not look at the tokenizer.
 *
 * A folder that has SHA256SUMS is verified before anything in it is believed (format/sha256sums.h,
 * which says what that costs). */
int checkpoint_open(struct checkpoint **out, const char *path, struct err *e) MUST_USE;
void checkpoint_close(struct checkpoint *c);

/* One line about what is no error and yet should be known (code that came with the model and is
 * ignored, a rope scaling that was probably lost), or NULL. Commands print it once. */
const char *checkpoint_warning(const struct checkpoint *c);
const char *checkpoint_path(const struct checkpoint *c);
const struct hparams *checkpoint_hparams(const struct checkpoint *c);
const struct gen_defaults *checkpoint_gen_defaults(const struct checkpoint *c);
const struct gguf *checkpoint_gguf(const struct checkpoint *c); /* NULL for a folder */

size_t checkpoint_tensors(const struct checkpoint *c);
/* Under the file's own names. */
const struct tensor_view *checkpoint_tensor(const struct checkpoint *c, size_t i);
/* By Hugging Face name; NULL = absent. Data are NULL for a tensor that lies in pieces until it is
 * joined. "rope_freqs.weight" is GGUF's own. */
const struct tensor_view *checkpoint_find(const struct checkpoint *c, const char *hf_name);
/* The matrix of this Hugging Face name ("….weight"), whatever its planes: checked against the
 * configuration, borrowed from the mapping; w->p.order is NULL (quant_order makes it). */
int checkpoint_weight(const struct checkpoint *c, const char *hf_name, struct weight *w,
                      struct err *e) MUST_USE;
/* 1 and *w: t is (a plane of) a matrix of the architecture, stored soundly. */
int checkpoint_weight_of(const struct checkpoint *c, const struct tensor_view *t, struct weight *w);
/* How many weights t stands for, and in which encoding: rows * cols for the codes of a quantised
 * matrix and 0 for its other planes, otherwise t's own values. */
uint64_t checkpoint_values(const struct checkpoint *c, const struct tensor_view *t, enum enc *enc);
/* The tensors that a model of these sizes consists of, in the order of Hugging Face's files
 * (embedding, layers, norm, head unless tied), and their names in each kind of file. */
enum tensor_names { NAMES_HF, NAMES_GGUF, NAMES_META, NAMES_COUNT };
enum { CHECKPOINT_NAME = 128 };
size_t checkpoint_slots(const struct checkpoint *c);
void checkpoint_slot(const struct checkpoint *c, size_t i, enum tensor_names names,
                     char out[CHECKPOINT_NAME]);
/* "safetensors", "gguf" or "consolidated". */
const char *checkpoint_container(const struct checkpoint *c);

/* A tensor that lies in pieces (shards of Meta's files; heads without their copies) is copied
 * together: one of them, and given back, for who goes from one to the next; or all of them, for who
 * computes. Views that were asked for before have no data: ask again. */
int checkpoint_join(struct checkpoint *c, const char *hf_name, struct err *e) MUST_USE;
void checkpoint_unjoin(struct checkpoint *c, const char *hf_name);
int checkpoint_join_all(struct checkpoint *c, struct err *e) MUST_USE;

/* Sum of all tensor bytes. */
size_t checkpoint_bytes(const struct checkpoint *c);
/* Checks that every tensor the architecture needs is present with the shape the
 * config demands, none is left over that would change the result (a layer beyond
 * num_hidden_layers, a bias), and encodings hold weights. */
int checkpoint_check(const struct checkpoint *c, struct err *e) MUST_USE;
/* Walks every value of every weight (`puna inspect --check-tensors`, on by default below 64 MiB):
 * names tensor and index of a NaN or an infinity, and a matrix row so large that a normalised
 * input overflows float32. */
int checkpoint_check_values(const struct checkpoint *c, struct err *e) MUST_USE;
/* The same for one tensor; a storage type without weights passes. `path` prefixes messages. */
int tensor_check_values(const struct tensor_view *t, const char *path, struct err *e) MUST_USE;

#endif
