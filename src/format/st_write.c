#include "format/st_write.h"

#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

static const char *dtype_name(enum enc enc)
{
    switch (enc) {
    case ENC_F64:
        return "F64";
    case ENC_F32:
        return "F32";
    case ENC_F16:
        return "F16";
    case ENC_BF16:
        return "BF16";
    case ENC_I64:
        return "I64";
    case ENC_I32:
        return "I32";
    case ENC_I16:
        return "I16";
    case ENC_I8:
        return "I8";
    case ENC_U8:
        return "U8";
    case ENC_BOOL:
        return "BOOL";
    case ENC_F8_E4M3:
        return "F8_E4M3";
    case ENC_F8_E5M2:
        return "F8_E5M2";
    default:
        return NULL;
    }
}

static int header(char **out, size_t *data, const struct tensor_view *t, size_t n,
                  const char *format, struct err *e)
{
    json_t *root = json_object();
    size_t at = 0;

    if (format)
        json_object_set_new(root, "__metadata__", json_pack("{s:s}", "format", format));
    for (size_t i = 0; i < n; i++) {
        json_t *shape = json_array();
        size_t count = 1, bytes;

        for (int d = 0; d < t[i].ndim; d++) {
            json_array_append_new(shape, json_integer((json_int_t)t[i].shape[d]));
            if (!mul_ok(&count, count, (size_t)t[i].shape[d]))
                count = SIZE_MAX;
        }
        json_t *entry = json_object();
        const char *dtype = dtype_name(t[i].enc);

        if (!dtype || !mul_ok(&bytes, count, enc_table[t[i].enc].bytes) ||
            bytes > (size_t)INT64_MAX - at) {
            json_decref(shape);
            json_decref(entry);
            json_decref(root);
            return err_set(e, ERR_FORMAT, "%s: %s cannot be written to safetensors", t[i].name,
                           enc_table[t[i].enc].name);
        }
        json_object_set_new(entry, "dtype", json_string(dtype));
        json_object_set_new(entry, "shape", shape);
        json_object_set_new(entry, "data_offsets",
                            json_pack("[I,I]", (json_int_t)at, (json_int_t)(at + bytes)));
        json_object_set_new(root, t[i].name, entry);
        at += bytes;
    }
    *out = json_dumps(root, JSON_COMPACT);
    json_decref(root);
    *data = at;
    return *out ? 0 : err_set(e, ERR_MEMORY, "no memory for a safetensors header");
}

int st_write_head(struct buf *out, size_t *data, const struct tensor_view *t, size_t n,
                  const char *format, struct err *e)
{
    char *text;

    if (header(&text, data, t, n, format, e))
        return -1;
    /* spaces bring the data to a multiple of 8, so that readers may map it */
    const size_t len = strlen(text), padded = (len + 7) / 8 * 8;

    for (int i = 0; i < 8; i++)
        buf_addc(out, (char)((uint64_t)padded >> 8 * i));
    buf_add(out, text, len);
    buf_add(out, "        ", padded - len);
    free(text);
    return buf_check(out, "head of a safetensors file", e);
}

int st_write_open(struct st_writer *w, const char *path, const struct tensor_view *t, size_t n,
                  const char *format, struct err *e)
{
    struct buf head;
    size_t data;
    int rc = -1;

    buf_init(&head, SIZE_MAX / 2);
    if (st_write_head(&head, &data, t, n, format, e) || out_open(&w->out, path, e))
        goto done;
    w->left = head.len + data;
    rc = st_write_data(w, head.p, head.len, e);
done:
    buf_release(&head);
    return rc;
}

int st_write_data(struct st_writer *w, const void *p, size_t n, struct err *e)
{
    BUG_ON(n > w->left);
    if (n && fwrite(p, 1, n, w->out.f) != n) {
        err_set(e, ERR_FAIL, "%s: %s", w->out.path, strerror(errno));
        st_write_abort(w);
        return -1;
    }
    w->left -= n;
    return 0;
}

int st_write_close(struct st_writer *w, struct err *e)
{
    BUG_ON(w->left > 0);
    return out_commit(&w->out, e);
}

void st_write_abort(struct st_writer *w)
{
    out_abort(&w->out);
}
