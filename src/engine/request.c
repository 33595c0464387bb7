#include "engine/request.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"

void request_defaults(struct gen_request *r, const struct checkpoint *ck, double temperature)
{
    const struct gen_defaults *d = checkpoint_gen_defaults(ck);
    struct sampling *s = &r->sampling;

    sampling_init(s);
    s->temperature = temperature;
    if (d->has_sample)
        s->temperature = d->sample ? 1 : 0;
    if (d->has_temperature && (!d->has_sample || d->sample))
        s->temperature = d->temperature;
    if (d->has_top_p)
        s->top_p = d->top_p;
    if (d->has_top_k)
        s->top_k = d->top_k;
    if (d->has_min_p)
        s->min_p = d->min_p;
    if (d->has_repetition)
        s->repetition_penalty = d->repetition;
}

static int read_num(const json_t *j, const char *key, double *out, struct err *e)
{
    return json_get_num(j, key, -1e30, 1e30, out, "request", e) < 0 ? -1 : 0;
}

static int read_int(const json_t *j, const char *key, int64_t min, int64_t *out, struct err *e)
{
    return json_get_int(j, key, min, INT32_MAX, out, "request", e) < 0 ? -1 : 0;
}

static int add_stop(struct request_mem *mem, size_t *n, const json_t *v, struct err *e)
{
    const char *s = json_string_value(v);

    if (!s || json_string_length(v) > REQUEST_STOP_BYTES || *n == REQUEST_STOPS ||
        strlen(s) != json_string_length(v))
        return err_set(e, ERR_USAGE,
                       "request: stop takes up to %d strings of up to %d bytes, without NUL",
                       REQUEST_STOPS, REQUEST_STOP_BYTES);
    if (*s)
        mem->stop[(*n)++] = s;
    return 0;
}

static int read_stops(struct gen_request *r, struct request_mem *mem, const json_t *j,
                      struct err *e)
{
    const json_t *stop = json_object_get(j, "stop");
    size_t n = 0;

    if (!stop || json_is_null(stop))
        return 0;
    if (!json_is_array(stop)) {
        if (add_stop(mem, &n, stop, e))
            return -1;
    } else {
        for (size_t i = 0; i < json_array_size(stop); i++)
            if (add_stop(mem, &n, json_array_get(stop, i), e))
                return -1;
    }
    r->stop = mem->stop;
    r->n_stop = n;
    return 0;
}

static int add_bias(struct request_mem *mem, size_t *n, int64_t id, const json_t *v, int32_t vocab,
                    struct err *e)
{
    const double b = json_number_value(v);

    if (id < 0 || id >= vocab)
        return err_set(e, ERR_USAGE, "request: logit_bias of token %lld; ids end at %d",
                       (long long)id, vocab - 1);
    if (!json_is_number(v) || !(b >= -100 && b <= 100))
        return err_set(e, ERR_USAGE, "request: logit_bias of token %lld is not within -100..100",
                       (long long)id);
    if (*n == REQUEST_BIASES)
        return err_set(e, ERR_USAGE, "request: logit_bias has more than %d tokens", REQUEST_BIASES);
    mem->bias[(*n)++] = (struct logit_bias){ .id = (int32_t)id, .bias = (float)b };
    return 0;
}

static int read_bias(struct gen_request *r, struct request_mem *mem, json_t *j, int32_t vocab,
                     struct err *e)
{
    json_t *bias = json_object_get(j, "logit_bias"), *v;
    const char *key;
    size_t n = 0, i;

    if (!bias || json_is_null(bias))
        return 0;
    if (!json_is_object(bias) && !json_is_array(bias))
        return err_set(e, ERR_USAGE, "request: logit_bias is neither an object nor a list");
    json_object_foreach(bias, key, v)
    {
        char *end;
        const long long id = strtoll(key, &end, 10);

        if (end == key || *end)
            return err_set(e, ERR_USAGE, "request: logit_bias '%.40s' is no token id", key);
        if (add_bias(mem, &n, id, v, vocab, e))
            return -1;
    }
    if (json_is_array(bias)) { /* as huggingface_hub sends it */
        json_array_foreach(bias, i, v)
        {
            if (json_is_number(v)) /* TGI declares a list of floats and ignores it */
                continue;
            if (!json_is_array(v) || !json_is_integer(json_array_get(v, 0)))
                return err_set(e, ERR_USAGE, "request: logit_bias[%zu] is not [id, bias]", i);
            if (add_bias(mem, &n, json_integer_value(json_array_get(v, 0)), json_array_get(v, 1),
                         vocab, e))
                return -1;
        }
    }
    r->sampling.bias = mem->bias;
    r->sampling.n_bias = n;
    return 0;
}

int request_read(struct gen_request *r, struct request_mem *mem, const json_t *j,
                 const struct engine *g, struct err *e)
{
    struct sampling *s = &r->sampling;
    int64_t max = (int64_t)r->max_new_tokens, seed = 0;
    bool skip_special = !r->keep_special, ignore_eos = false;
    int has_seed;

    if (read_int(j, "max_tokens", 0, &max, e) || read_int(j, "max_completion_tokens", 0, &max, e) ||
        read_int(j, "max_new_tokens", 0, &max, e) || read_int(j, "top_k", -1, &s->top_k, e) ||
        read_num(j, "temperature", &s->temperature, e) || read_num(j, "top_p", &s->top_p, e) ||
        read_num(j, "min_p", &s->min_p, e) ||
        read_num(j, "repetition_penalty", &s->repetition_penalty, e) ||
        read_num(j, "frequency_penalty", &s->frequency_penalty, e) ||
        read_num(j, "presence_penalty", &s->presence_penalty, e) ||
        json_get_bool(j, "skip_special_tokens", &skip_special, "request", e) < 0 ||
        json_get_bool(j, "ignore_eos", &ignore_eos, "request", e) < 0 || read_stops(r, mem, j, e) ||
        read_bias(r, mem, (json_t *)(uintptr_t)j, tok_size(g->tok), e))
        return -1;
    has_seed = json_get_int(j, "seed", INT64_MIN, INT64_MAX, &seed, "request", e);
    if (has_seed < 0)
        return -1;
    if (has_seed)
        s->seed = (uint64_t)seed;
    if (s->top_k < 0) /* -1 = off, as vLLM */
        s->top_k = 0;
    if (ignore_eos)
        r->n_eos = 0;
    r->max_new_tokens = (size_t)max;
    r->keep_special = !skip_special;
    return sampling_check(s, e);
}

static void add_eos(struct ids *out, int64_t id)
{
    for (size_t i = 0; i < out->n; i++)
        if (out->p[i] == id)
            return;
    if (id >= 0)
        ids_add(out, (int32_t)id);
}

void request_eos(struct ids *out, const struct engine *g, const struct chat_format *format)
{
    const struct gen_defaults *d = checkpoint_gen_defaults(g->model->ckpt);
    const struct hparams *hp = g->model->hp;
    struct ids ends = { 0 };

    for (int i = 0; i < d->n_eos; i++)
        add_eos(out, d->eos[i]);
    for (int i = 0; i < hp->n_eos && d->n_eos == 0; i++)
        add_eos(out, hp->eos[i]);
    add_eos(out, tok_eos(g->tok));
    if (format)
        chat_stops(format, g->tok, &ends);
    for (size_t i = 0; i < ends.n; i++)
        add_eos(out, ends.p[i]);
    ids_release(&ends);
}

json_t *request_token(const struct tok *t, int32_t id, float logprob)
{
    json_t *bytes = json_array(), *j;
    struct tok_stream stream = { 0 };
    const char *s;
    struct buf text;
    size_t n = 0;

    buf_init(&text, 1 << 16);
    tok_stream_add(&stream, t, id, false, &text);
    tok_stream_end(&stream, &text);
    s = tok_bytes(t, id, &n);
    for (size_t i = 0; s && i < n; i++)
        json_array_append_new(bytes, json_integer((unsigned char)s[i]));
    /* JSON has no -Infinity: a token that cannot come is as unlikely as OpenAI writes it */
    j = json_pack("{s:o, s:f, s:o}", "token", json_stringn(text.p, text.len), "logprob",
                  isfinite(logprob) ? (double)logprob : -9999.0, "bytes", bytes);
    buf_release(&text);
    return j;
}
