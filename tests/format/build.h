/* build.h - makes small model files for the tests of format/: GGUF in memory, and a folder for a
 * test to write into. */
#ifndef PUNA_TESTS_FORMAT_BUILD_H
#define PUNA_TESTS_FORMAT_BUILD_H

#include <ftw.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/fault.h"
#include "support.h"

/* ---- GGUF ---- */

static inline void put_u32(struct buf *b, uint32_t v)
{
    buf_add(b, &v, 4);
}

static inline void put_u64(struct buf *b, uint64_t v)
{
    buf_add(b, &v, 8);
}

static inline void put_str(struct buf *b, const char *s)
{
    put_u64(b, strlen(s));
    buf_adds(b, s);
}

/* A GGUF file under construction: pairs and tensor infos are collected apart, gguf_done joins them.
 */
struct gguf_build {
    struct buf pairs, infos, data;
    uint64_t n_pairs, n_tensors;
};

static inline void gguf_begin(struct gguf_build *g)
{
    *g = (struct gguf_build){ 0 };
    buf_init(&g->pairs, 1 << 24);
    buf_init(&g->infos, 1 << 24);
    buf_init(&g->data, 1 << 24);
}

static inline void gguf_key(struct gguf_build *g, const char *key, uint32_t type)
{
    put_str(&g->pairs, key);
    put_u32(&g->pairs, type);
    g->n_pairs++;
}

static inline void gguf_u32(struct gguf_build *g, const char *key, uint32_t v)
{
    gguf_key(g, key, 4);
    put_u32(&g->pairs, v);
}

static inline void gguf_u16(struct gguf_build *g, const char *key, uint16_t v)
{
    gguf_key(g, key, 2);
    buf_add(&g->pairs, &v, 2);
}

static inline void gguf_f32(struct gguf_build *g, const char *key, float v)
{
    gguf_key(g, key, 6);
    buf_add(&g->pairs, &v, 4);
}

static inline void gguf_text(struct gguf_build *g, const char *key, const char *v)
{
    gguf_key(g, key, 8);
    put_str(&g->pairs, v);
}

static inline void gguf_array(struct gguf_build *g, const char *key, uint32_t elem, uint64_t n)
{
    gguf_key(g, key, 9);
    put_u32(&g->pairs, elem);
    put_u64(&g->pairs, n);
}

/* rows 0: a vector. Data are zeros, or ones for f32. */
static inline void gguf_add(struct gguf_build *g, const char *name, uint32_t type, uint64_t rows,
                            uint64_t cols, size_t bytes)
{
    const float one = 1;

    put_str(&g->infos, name);
    put_u32(&g->infos, rows ? 2 : 1);
    put_u64(&g->infos, cols);
    if (rows)
        put_u64(&g->infos, rows);
    put_u32(&g->infos, type);
    put_u64(&g->infos, g->data.len);
    for (size_t i = 0; i < bytes; i += type == 0 ? 4 : 1)
        buf_add(&g->data, type == 0 ? (const void *)&one : "", type == 0 ? 4 : 1);
    while (g->data.len % 32)
        buf_addc(&g->data, 0);
    g->n_tensors++;
}

/* The finished file; releases the parts. buf_release(out). */
static inline void gguf_done(struct gguf_build *g, struct buf *out)
{
    buf_init(out, 1 << 24);
    buf_adds(out, "GGUF");
    put_u32(out, 3);
    put_u64(out, g->n_tensors);
    put_u64(out, g->n_pairs);
    buf_add(out, g->pairs.p, g->pairs.len);
    buf_add(out, g->infos.p, g->infos.len);
    while (g->n_tensors && out->len % 32)
        buf_addc(out, 0);
    buf_add(out, g->data.p, g->data.len);
    buf_release(&g->pairs);
    buf_release(&g->infos);
    buf_release(&g->data);
}

/* The metadata of a model with one layer: 8 wide, 2 heads of 4 over 1, 16 inside, 6 tokens. */
static inline void gguf_tiny_meta(struct gguf_build *g)
{
    gguf_text(g, "general.architecture", "llama");
    gguf_u32(g, "llama.embedding_length", 8);
    gguf_u32(g, "llama.feed_forward_length", 16);
    gguf_u32(g, "llama.block_count", 1);
    gguf_u32(g, "llama.attention.head_count", 2);
    gguf_u32(g, "llama.attention.head_count_kv", 1);
    gguf_u32(g, "llama.context_length", 512);
    gguf_f32(g, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
    gguf_f32(g, "llama.rope.freq_base", 500000);
    gguf_array(g, "tokenizer.ggml.tokens", 8, 6);
    for (const char *p = "a\0b\0c\0d\0e\0f\0"; *p; p += 2)
        put_str(&g->pairs, p);
    gguf_u32(g, "tokenizer.ggml.bos_token_id", 4);
    gguf_u32(g, "tokenizer.ggml.eos_token_id", 5);
}

static inline void gguf_tiny_tensors(struct gguf_build *g)
{
    gguf_add(g, "token_embd.weight", 1, 6, 8, 96);
    gguf_add(g, "output_norm.weight", 0, 0, 8, 32);
    gguf_add(g, "blk.0.attn_norm.weight", 0, 0, 8, 32);
    gguf_add(g, "blk.0.attn_q.weight", 1, 8, 8, 128);
    gguf_add(g, "blk.0.attn_k.weight", 1, 4, 8, 64);
    gguf_add(g, "blk.0.attn_v.weight", 1, 4, 8, 64);
    gguf_add(g, "blk.0.attn_output.weight", 1, 8, 8, 128);
    gguf_add(g, "blk.0.ffn_norm.weight", 0, 0, 8, 32);
    gguf_add(g, "blk.0.ffn_gate.weight", 1, 16, 8, 256);
    gguf_add(g, "blk.0.ffn_up.weight", 1, 16, 8, 256);
    gguf_add(g, "blk.0.ffn_down.weight", 1, 8, 16, 256);
}

/* ---- files ---- */

static inline int rm_one(const char *path, const struct stat *st, int flag, struct FTW *f)
{
    (void)st;
    (void)flag;
    (void)f;
    return remove(path);
}

/* A new folder (static buffer); folder_remove deletes it and what is in it. */
static inline const char *folder_new(void)
{
    static char path[64];

    snprintf(path, sizeof(path), "/tmp/puna-test.XXXXXX");
    if (!mkdtemp(path))
        fail_msg("mkdtemp");
    return path;
}

static inline void folder_remove(const char *path)
{
    nftw(path, rm_one, 16, FTW_DEPTH | FTW_PHYS);
}

static inline void write_file(const char *dir, const char *name, const void *p, size_t n)
{
    char path[512];
    FILE *f;

    snprintf(path, sizeof(path), "%s/%s", dir, name);
    f = fopen(path, "wb");
    if (!f || fwrite(p, 1, n, f) != n || fclose(f))
        fail_msg("cannot write %s", path);
}

/* Fails each fallible call of `open` in turn, until one run succeeds: every failure must say why
 * and leak nothing (the sanitizers look). open returns 0 or -1 and closes what it opened. */
static inline void walk_faults(int (*open)(const void *arg, struct err *e), const void *arg)
{
    for (long n = 1; n < 10000; n++) {
        struct err e = { 0 };

        fault_arm(n);
        const int rc = open(arg, &e);
        const long seen = fault_seen();

        fault_arm(0);
        if (rc == 0) {
            assert_true(seen < n);
            assert_true(n > 2);
            return;
        }
        assert_true(e.code != ERR_NONE && e.msg[0]);
    }
    fail_msg("never succeeded");
}

#endif
