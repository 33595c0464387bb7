#include "train/save.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "format/safetensors.h"
#include "format/st_write.h"

enum { CONFIG_MAX = 1 << 24 };

/* ---- tensors ---- */

/* The model's row for row h of what is written (struct param, turn). */
static size_t model_row(size_t h, size_t hd)
{
    return hd ? h / hd * hd + h % (hd / 2) * 2 + h % hd / (hd / 2) : h;
}

static struct tensor_view view_of(const struct param *p, enum enc enc)
{
    struct tensor_view t = { .name = p->name, .enc = enc, .ndim = p->rows == 1 ? 1 : 2 };

    t.shape[0] = p->rows == 1 ? p->cols : p->rows;
    t.shape[1] = p->cols;
    return t;
}

/* One parameter's values, or gradients, at `from`, rows (of a vector: values) in the order of
 * Hugging Face. */
static int write_rows(struct st_writer *w, const struct param *p, const void *from, bool half,
                      enum enc enc, struct err *e)
{
    const size_t n = p->rows == 1 ? p->cols : p->rows, cols = p->rows == 1 ? 1 : p->cols;
    const size_t bytes = cols * enc_table[enc].bytes;
    float *x = xmalloc((cols + 1) * sizeof(*x));
    uint8_t *row = xmalloc(bytes);
    int rc = 0;

    for (size_t h = 0; rc == 0 && h < n; h++) {
        const size_t at = model_row(h, p->turn) * cols;

        if (half)
            bf16_decode_row(x, (const uint16_t *)from + at, cols);
        else
            memcpy(x, (const float *)from + at, cols * sizeof(*x));
        enc_table[enc].encode(row, x, cols);
        rc = st_write_data(w, row, bytes, e);
    }
    free(x);
    free(row);
    return rc;
}

static int write_params(const struct net *n, const char *path, enum enc enc, bool gradients,
                        struct err *e)
{
    const struct param_list *l = net_params(n);
    struct tensor_view *t = xcalloc(l->n, sizeof(*t));
    struct st_writer w;
    int rc;

    for (size_t i = 0; i < l->n; i++)
        t[i] = view_of(l->p[i], enc);
    rc = st_write_open(&w, path, t, l->n, "pt", e);
    for (size_t i = 0; rc == 0 && i < l->n; i++) {
        const struct param *p = l->p[i];
        const bool half = gradients ? p->half_g : p->half != NULL;
        const void *from = gradients ? p->g : half ? (const void *)p->half : p->w, *at;
        void *owned;

        rc = param_view(l, &at, &owned, from, p->rows * p->cols * (half ? 2 : sizeof(float)), e);
        if (rc == 0)
            rc = write_rows(&w, p, at, half, enc, e);
        free(owned);
    }
    if (rc == 0)
        rc = st_write_close(&w, e);
    free(t);
    return rc;
}

int save_gradients(const struct net *n, const char *path, struct err *e)
{
    return write_params(n, path, ENC_F32, true, e);
}

/* ---- results ---- */

static int save_adapter(const struct net *n, const struct train_cfg *cfg, const char *dir,
                        struct err *e)
{
    const struct net_cfg *c = net_config(n);
    char *path = path_join(dir, "adapter_model.safetensors");
    json_t *targets = json_array(), *saved = json_array(), *j;
    int rc;

    for (size_t i = 0; i < NET_TARGETS; i++)
        if (c->targets >> i & 1)
            json_array_append_new(targets, json_string(net_target_names[i]));
    for (size_t i = 0; i < NET_SAVES; i++)
        if (c->save >> i & 1)
            json_array_append_new(saved, json_string(net_save_names[i]));
    /* alpha as a whole number where it is one: PEFT's own type */
    json_t *alpha =
        c->alpha == floor(c->alpha) ? json_integer((json_int_t)c->alpha) : json_real(c->alpha);

    j = json_pack("{s:s, s:s, s:s, s:b, s:I, s:o, s:f, s:s, s:o, s:b, s:b, s:b, s:o}", "peft_type",
                  "LORA", "task_type", "CAUSAL_LM", "base_model_name_or_path", cfg->base_name,
                  "inference_mode", 1, "r", (json_int_t)c->rank, "lora_alpha", alpha,
                  "lora_dropout", c->dropout, "bias", "none", "target_modules", targets,
                  "use_rslora", c->rslora, "use_dora", c->dora, "fan_in_fan_out", 0,
                  "modules_to_save", c->save ? json_incref(saved) : json_null());
    json_decref(saved);
    rc = write_params(n, path, ENC_F32, false, e);
    if (rc == 0)
        rc = save_json(dir, "adapter_config.json", j, e);
    json_decref(j);
    free(path);
    return rc;
}

static int save_full(const struct net *n, const struct train_cfg *cfg, const char *dir,
                     struct err *e)
{
    static const char *const kept[] = { "generation_config.json", "tokenizer.json",
                                        "tokenizer_config.json",  "special_tokens_map.json",
                                        "chat_template.jinja",    "tokenizer.model" };
    char *path = path_join(dir, "model.safetensors"), *from = path_join(cfg->model, "config.json");
    json_t *config = NULL;
    int rc = write_params(n, path, cfg->bf16 ? ENC_BF16 : ENC_F32, false, e);

    if (rc == 0)
        rc = json_parse_file(&config, from, CONFIG_MAX, e);
    if (rc == 0) {
        json_object_del(config, "dtype");
        json_object_set_new(config, "torch_dtype", json_string(cfg->bf16 ? "bfloat16" : "float32"));
        rc = save_json(dir, "config.json", config, e);
    }
    for (size_t i = 0; rc == 0 && i < ARRAY_LEN(kept); i++)
        rc = save_copy(cfg->model, dir, kept[i], e);
    json_decref(config);
    free(path);
    free(from);
    return rc;
}

int save_result(const struct net *n, const struct train_cfg *cfg, const char *dir, struct err *e)
{
    if (dir_make(dir, e))
        return -1;
    return net_config(n)->full ? save_full(n, cfg, dir, e) : save_adapter(n, cfg, dir, e);
}
