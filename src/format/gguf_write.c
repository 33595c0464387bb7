#include "format/gguf_write.h"

#include <string.h>

/* GGUF's value types. */
enum { TYPE_U32 = 4, TYPE_I32 = 5, TYPE_F32 = 6, TYPE_BOOL = 7, TYPE_STR = 8, TYPE_ARRAY = 9 };

static const size_t META_MAX = (size_t)512 << 20; /* Llama 3's vocabulary takes 8 MB */

static void put32(struct buf *b, uint32_t v)
{
    buf_add(b, &v, 4);
}

static void put64(struct buf *b, uint64_t v)
{
    buf_add(b, &v, 8);
}

static void put_text(struct buf *b, const char *p, size_t n)
{
    put64(b, n);
    buf_add(b, p, n);
}

static void put_key(struct gguf_meta *m, const char *key, uint32_t type)
{
    put_text(&m->b, key, strlen(key));
    put32(&m->b, type);
    m->n++;
}

void gguf_meta_init(struct gguf_meta *m)
{
    m->n = 0;
    buf_init(&m->b, META_MAX);
}

void gguf_meta_release(struct gguf_meta *m)
{
    buf_release(&m->b);
}

void gguf_put_u32(struct gguf_meta *m, const char *key, uint32_t v)
{
    put_key(m, key, TYPE_U32);
    put32(&m->b, v);
}

void gguf_put_f32(struct gguf_meta *m, const char *key, float v)
{
    put_key(m, key, TYPE_F32);
    buf_add(&m->b, &v, 4);
}

void gguf_put_bool(struct gguf_meta *m, const char *key, bool v)
{
    put_key(m, key, TYPE_BOOL);
    buf_addc(&m->b, v);
}

void gguf_put_str(struct gguf_meta *m, const char *key, const char *p, size_t n)
{
    put_key(m, key, TYPE_STR);
    put_text(&m->b, p, n);
}

void gguf_put_strs(struct gguf_meta *m, const char *key, uint64_t n)
{
    put_key(m, key, TYPE_ARRAY);
    put32(&m->b, TYPE_STR);
    put64(&m->b, n);
}

void gguf_put_item(struct gguf_meta *m, const char *p, size_t n)
{
    put_text(&m->b, p, n);
}

void gguf_put_i32s(struct gguf_meta *m, const char *key, const int32_t *p, size_t n)
{
    put_key(m, key, TYPE_ARRAY);
    put32(&m->b, TYPE_I32);
    put64(&m->b, n);
    buf_add(&m->b, p, n * sizeof(*p));
}

size_t gguf_align(size_t n)
{
    return (n + GGUF_ALIGN - 1) / GGUF_ALIGN * GGUF_ALIGN;
}

int gguf_write_head(struct buf *out, const struct gguf_meta *m, const struct tensor_view *t,
                    size_t n, struct err *e)
{
    size_t at = 0;

    if (buf_check(&m->b, "GGUF metadata", e))
        return -1;
    buf_adds(out, "GGUF");
    put32(out, 3);
    put64(out, n);
    put64(out, m->n);
    buf_add(out, m->b.p, m->b.len);
    for (size_t i = 0; i < n; i++) {
        const int type = enc_table[t[i].enc].gguf;

        if (type < 0)
            return err_set(e, ERR_FORMAT, "%s: %s cannot be written to GGUF", t[i].name,
                           enc_table[t[i].enc].name);
        put_text(out, t[i].name, strlen(t[i].name));
        put32(out, (uint32_t)t[i].ndim);
        for (int d = t[i].ndim; d-- > 0;) /* GGUF's first axis is the fastest */
            put64(out, t[i].shape[d]);
        put32(out, (uint32_t)type);
        put64(out, at);
        at = gguf_align(at + t[i].nbytes);
    }
    while (out->len % GGUF_ALIGN)
        buf_addc(out, 0);
    return buf_check(out, "head of a GGUF file", e);
}
