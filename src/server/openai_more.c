/* openai_more.c - fields that vLLM adds to OpenAI's, and its /tokenize and /detokenize. */
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/mem.h"
#include "server/field.h"
#include "server/openai.h"

static int read_stop_ids(const struct call *c, struct oai *o, struct gen_request *r, struct err *e)
{
    const int32_t vocab = tok_size(c->m->engine->tok);
    json_t *list = NULL;
    size_t n = 0;

    if (json_get_arr(c->body, "stop_token_ids", &list, "request", e) < 0)
        return -1;
    if (r->n_eos + json_array_size(list) > ARRAY_LEN(o->eos))
        return err_set(e, ERR_USAGE, "request: stop_token_ids has %zu entries, at most %zu",
                       json_array_size(list), ARRAY_LEN(o->eos) - r->n_eos);
    for (; n < r->n_eos; n++)
        o->eos[n] = r->eos[n];
    for (size_t i = 0; i < json_array_size(list); i++, n++) {
        const json_t *v = json_array_get(list, i);
        const json_int_t id = json_integer_value(v);

        if (!json_is_integer(v) || id < 0 || id >= vocab)
            return err_set(e, ERR_USAGE, "request: stop_token_ids[%zu] is no token id below %d", i,
                           vocab);
        o->eos[n] = (int32_t)id;
    }
    r->eos = o->eos;
    r->n_eos = n;
    return 0;
}

int oai_template_kwargs(struct call *c, bool all, struct err *e)
{
    static const char *const fields[] = { "builtin_tools", "date_string", "tools_in_user_message" };
    json_t *kwargs = NULL, *v;
    const char *key;

    if (json_get_obj(c->body, "chat_template_kwargs", &kwargs, "request", e) < 0)
        return -1;
    json_object_foreach(kwargs, key, v)
    {
        bool counts = all && !field_known(key, ~0u);

        for (size_t i = 0; i < ARRAY_LEN(fields) && !counts; i++)
            counts = strcmp(key, fields[i]) == 0;
        if (counts && !json_object_get(c->body, key))
            json_object_set(c->body, key, v);
    }
    return 0;
}

int oai_read_more(struct call *c, struct oai *o, struct gen_request *r, struct err *e)
{
    int64_t min = 0, cut = 0;

    if ((o->chat && oai_template_kwargs(c, false, e)) || read_stop_ids(c, o, r, e) ||
        json_get_bool(c->body, "include_stop_str_in_output", &r->keep_stop, "request", e) < 0 ||
        json_get_int(c->body, "min_tokens", 0, INT32_MAX, &min, "request", e) < 0 ||
        json_get_int(c->body, "truncate_prompt_tokens", 1, INT32_MAX, &cut, "request", e) < 0)
        return -1;
    if (r->max_new_tokens && (size_t)min > r->max_new_tokens)
        return err_set(e, ERR_USAGE, "request: min_tokens is %lld and max_tokens %zu",
                       (long long)min, r->max_new_tokens);
    r->min_new_tokens = (size_t)min;
    o->cut = (size_t)cut;
    return 0;
}

void oai_cut(const struct oai *o, struct ids *ids)
{
    if (o->cut == 0 || ids->n <= o->cut)
        return;
    memmove(ids->p, ids->p + ids->n - o->cut, o->cut * sizeof(*ids->p));
    ids->n = o->cut;
}

int oai_take_final(struct call *c, json_t **content, struct err *e)
{
    json_t *messages = json_object_get(c->body, "messages");
    const size_t n = json_array_size(messages);
    json_t *last = json_array_get(messages, n ? n - 1 : 0);
    const char *role = json_string_value(json_object_get(last, "role"));
    json_t *text = json_object_get(last, "content");
    const bool is_answer = role && strcmp(role, "assistant") == 0 && json_is_string(text);
    bool asked = false, generate = true;

    *content = NULL;
    if (json_get_bool(c->body, "continue_final_message", &asked, "request", e) < 0 ||
        json_get_bool(c->body, "add_generation_prompt", &generate, "request", e) < 0)
        return -1;
    if (asked && !is_answer)
        return err_set(e, ERR_USAGE,
                       "request: continue_final_message needs a last message that is an "
                       "assistant's text");
    if (!asked && !(c->s->o.compat_tgi && is_answer && n > 1 && generate))
        return 0;
    *content = json_incref(text);
    json_array_remove(messages, n - 1);
    json_object_set_new(c->body, "add_generation_prompt", json_true());
    return 0;
}

/* ---- /tokenize and /detokenize ---- */

static void reply_ids(struct call *c, const struct ids *ids)
{
    const struct tok *tok = c->m->engine->tok;
    json_t *list = json_array(), *texts = json_array();
    bool strings = json_is_true(json_object_get(c->body, "return_token_strs"));

    for (size_t i = 0; i < ids->n; i++) {
        json_array_append_new(list, json_integer(ids->p[i]));
        if (strings) {
            json_t *t = request_token(tok, ids->p[i], 0);

            json_array_append(texts, json_object_get(t, "token"));
            json_decref(t);
        }
    }
    reply_json(c, 200,
               json_pack("{s:I, s:I, s:o, s:o}", "count", (json_int_t)ids->n, "max_model_len",
                         (json_int_t)server_ctx(c->s, c->m), "tokens", list, "token_strs",
                         strings ? json_incref(texts) : json_null()));
    json_decref(texts);
}

void vllm_tokenize(struct call *c)
{
    struct ids ids = { 0 };
    struct prompt p;
    struct err e;
    bool special = true;
    int rc;

    c->dialect = OPENAI;
    prompt_init(&p);
    if (json_object_get(c->body, "messages")) {
        rc = fields_check(c, c->body, IN_CHAT | IN_TOKENIZE, &e) || oai_render(c, &p, &e);
    } else {
        const json_t *text = json_object_get(c->body, "prompt");

        rc = fields_check(c, c->body, IN_TOKENIZE, &e);
        if (rc == 0 && !json_is_string(text))
            rc = err_set(&e, ERR_USAGE, "request: prompt is no text");
        if (rc == 0)
            rc = json_get_bool(c->body, "add_special_tokens", &special, "request", &e) < 0;
        if (rc == 0 && special)
            rc = oai_input_ids(c, text, &ids, &e);
        else if (rc == 0)
            rc = tok_encode(c->m->engine->tok, json_string_value(text), json_string_length(text),
                            TOK_PLAIN, &ids, &e);
    }
    if (rc)
        reply_refusal(c, &e);
    else
        reply_ids(c, p.ids.n ? &p.ids : &ids);
    prompt_release(&p);
    ids_release(&ids);
}

void detokenize(struct call *c)
{
    const json_t *tokens = json_object_get(c->body, "tokens");
    struct tok_stream stream = { 0 };
    struct ids ids = { 0 };
    struct err e;
    struct buf text;

    buf_init(&text, SIZE_MAX / 2);
    if (fields_check(c, c->body, IN_TOKENIZE, &e) ||
        (!json_is_array(tokens) &&
         err_set(&e, ERR_USAGE, "request: tokens is no list of token ids")) ||
        oai_input_ids(c, tokens, &ids, &e)) {
        reply_refusal(c, &e);
    } else {
        for (size_t i = 0; i < ids.n; i++)
            tok_stream_add(&stream, c->m->engine->tok, ids.p[i], false, &text);
        tok_stream_end(&stream, &text);
        reply_json(c, 200, json_pack("{s:s%}", "prompt", text.p, text.len));
    }
    ids_release(&ids);
    buf_release(&text);
}
