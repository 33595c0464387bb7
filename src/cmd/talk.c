/* talk.c - one conversation with a model. */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"
#include "base/rng.h"
#include "base/team.h"
#include "base/utf8.h"
#include "cmd/common.h"
#include "cmd/run_int.h"
#include "engine/request.h"
#include "hub/models.h"

/* ---- settings ---- */

/* "128001=-100" */
static int read_bias(struct logit_bias *out, const char *s, int32_t vocab, struct err *e)
{
    char *end;

    errno = 0;
    const long long id = strtoll(s, &end, 10);

    if (end == s || *end != '=' || errno || id < 0 || id >= vocab)
        return err_set(e, ERR_USAGE, "--logit-bias '%.60s': not ID=BIAS with an ID below %d", s,
                       vocab);
    const char *num = end + 1;
    const double bias = strtod(num, &end);

    if (end == num || *end || !(bias >= -100 && bias <= 100))
        return err_set(e, ERR_USAGE, "--logit-bias '%.60s': the bias is not within -100..100", s);
    *out = (struct logit_bias){ .id = (int32_t)id, .bias = (float)bias };
    return 0;
}

/* What the model's generation_config.json says. As in transformers, only do_sample true samples: a
 * model without one, as every GGUF file, answers greedily. *on = sampling is on; s->warm is the
 * temperature of it, also when it is off. */
static void model_defaults(struct settings *s, const struct checkpoint *c, bool *on)
{
    const struct gen_defaults *d = checkpoint_gen_defaults(c);

    sampling_init(&s->sampling);
    if (d->has_top_p)
        s->sampling.top_p = d->top_p;
    if (d->has_top_k)
        s->sampling.top_k = d->top_k;
    if (d->has_min_p)
        s->sampling.min_p = d->min_p;
    if (d->has_repetition)
        s->sampling.repetition_penalty = d->repetition;
    s->warm = d->has_temperature && d->temperature > 0 ? d->temperature : 1;
    s->max_new_tokens = (size_t)d->max_new_tokens;
    *on = d->has_sample && d->sample && !(d->has_temperature && d->temperature == 0);
}

int talk_settings(struct talk *t, struct err *e)
{
    const struct run_cfg *c = t->cfg;
    struct settings s = { 0 };
    void *bias = NULL;
    bool on;

    model_defaults(&s, t->engine->model->ckpt, &on);
    on |= opt_given(c, "top_p") || opt_given(c, "top_k") || opt_given(c, "min_p");
    s.sampling.temperature = opt_given(c, "temperature") ? c->temperature : on ? s.warm : 0;
    if (c->greedy)
        s.sampling.temperature = 0;
    if (opt_given(c, "top_p"))
        s.sampling.top_p = c->top_p;
    if (opt_given(c, "top_k"))
        s.sampling.top_k = c->top_k;
    if (opt_given(c, "min_p"))
        s.sampling.min_p = c->min_p;
    if (opt_given(c, "repetition_penalty"))
        s.sampling.repetition_penalty = c->repetition_penalty;
    s.sampling.frequency_penalty = c->frequency_penalty;
    s.sampling.presence_penalty = c->presence_penalty;
    s.seeded = opt_given(c, "seed") && c->seed >= 0;
    s.sampling.seed = s.seeded ? (uint64_t)c->seed : 0;
    if (opt_given(c, "max_new_tokens"))
        s.max_new_tokens = c->max_new_tokens > 0 ? (size_t)c->max_new_tokens : 0;
    s.stop = c->stop.p;
    s.n_stop = c->stop.n;
    if (mem_new(&bias, c->logit_bias.n, sizeof(*s.bias), "logit biases", e))
        return -1;
    s.bias = bias;
    for (size_t i = 0; i < c->logit_bias.n; i++)
        if (read_bias(&s.bias[i], c->logit_bias.p[i], tok_size(t->engine->tok), e))
            goto fail;
    s.sampling.bias = s.bias;
    s.sampling.n_bias = c->logit_bias.n;
    if (sampling_check(&s.sampling, e))
        goto fail;
    free(t->set.bias);
    t->set = s;
    return 0;
fail:
    free(s.bias);
    return -1;
}

static int choose_format(struct talk *t, struct err *e)
{
    const struct run_cfg *c = t->cfg;

    if (c->raw)
        return 0;
    if (c->template) {
        t->format = chat_by_name(c->template);
        if (!t->format)
            return err_set(e, ERR_USAGE, "--template: no chat format '%.60s'; there is %s",
                           c->template, chat_names());
        return 0;
    }
    if (chat_detect(&t->format, t->engine->tok, e) == 0)
        return 0;
    t->format = NULL;
    if (!c->json)
        return -1;
    t->no_format = xstrdup(e->msg); /* prompts can still be continued */
    return 0;
}

/* --grammar or --json-schema; what holds the sign of its notation is no file. */
static int open_grammar(struct talk *t, struct err *e)
{
    const struct run_cfg *c = t->cfg;
    const char *given = c->grammar ? c->grammar : c->json_schema;
    const bool here =
        given && (c->grammar ? strstr(given, "::=") != NULL : strchr(given, '{') != NULL);
    char *text = NULL;
    size_t n = 0;
    int rc;

    if (!given)
        return 0;
    if (c->grammar && c->json_schema)
        return err_set(e, ERR_USAGE, "--grammar and --json-schema: one of them");
    if (!here && file_read(&text, &n, given, GRAMMAR_TEXT_MAX, e))
        return -1;
    rc = grammars_get(t->engine->grammars, c->grammar ? GRAMMAR_GBNF : GRAMMAR_SCHEMA,
                      text ? text : given, text ? n : strlen(given), &t->grammar, e);
    free(text);
    return rc ? err_wrap(e, c->grammar ? "--grammar" : "--json-schema") : 0;
}

static int open_session(struct talk *t, struct err *e)
{
    const struct run_cfg *c = t->cfg;
    size_t most;

    if (c->speculate && !c->draft_model)
        return err_set(e, ERR_USAGE, "--speculate: who guesses? Give a --draft-model");
    if (drafting_open(&t->drafter, &DRAFTING(c), t->engine, 1, &most, e) ||
        session_new(&t->session, t->engine, (size_t)c->ctx, e))
        return -1;
    return t->drafter ? session_draft(t->session, (size_t)c->draft_min, most, e) : 0;
}

static int open_guards(struct talk *t, struct err *e)
{
    if (guarding_open(&t->guards, &GUARDING(t->cfg), t->engine, e))
        return -1;
    if (t->guards && t->cfg->raw)
        return err_set(e, ERR_USAGE, "guards judge the turns of a chat: leave out --raw");
    return 0;
}

int talk_open(struct talk *t, struct run_cfg *c, const char *ref, struct err *e)
{
    struct engine_opts o;

    *t = (struct talk){ .cfg = c, .messages = json_array() };
    if (engine_opts_fill(&o, c->threads, c->dtype, c->isa, c->device, e)) {
        talk_close(t);
        return -1;
    }
    team_pin(pin_from_name(c->pin));
    engine_opts_kv(&o, c->kv_dtype);
    engine_opts_weights(&o, c->weights);
    o.offload = c->offload;
    o.offload_tokens = (size_t)c->ctx;
    o.chunk = (size_t)c->batch_size;
    o.adapter = c->adapter;
    if (hub_resolve(ref, &t->model, e) || engine_open(&t->engine, t->model, &o, e) ||
        choose_format(t, e) || talk_settings(t, e) || open_session(t, e)) {
        talk_close(t);
        return -1;
    }
    if (open_grammar(t, e) || talk_tools_open(t, e) || open_guards(t, e)) {
        talk_close(t);
        return -1;
    }
    adapter_warn(t->engine);
    request_eos(&t->eos, t->engine, t->format);
    talk_system(t, c->system);
    return 0;
}

void talk_close(struct talk *t)
{
    session_free(t->session);
    grammar_unref(t->grammar);
    grammar_unref(t->must_call);
    kit_close(t->kit);
    guards_close(t->guards);
    engine_close(t->drafter);
    if (t->engine)
        engine_close(t->engine);
    ids_release(&t->eos);
    ids_release(&t->past);
    json_decref(t->messages);
    free(t->set.bias);
    free(t->model);
    free(t->no_format);
    *t = (struct talk){ 0 };
}

/* ---- the conversation ---- */

static bool has_role(const json_t *message, const char *role)
{
    const char *s = json_string_value(json_object_get(message, "role"));

    return s && !strcmp(s, role);
}

static json_t *message(const char *role, const char *text, size_t n)
{
    json_t *m = json_object();

    json_object_set_new(m, "role", json_string(role));
    json_object_set_new(m, "content", json_stringn(text, n));
    return m;
}

void talk_system(struct talk *t, const char *text)
{
    if (has_role(json_array_get(t->messages, 0), "system"))
        json_array_remove(t->messages, 0);
    if (text && *text)
        json_array_insert_new(t->messages, 0, message("system", text, strlen(text)));
    t->past.n = 0;
}

void talk_clear(struct talk *t)
{
    while (json_array_size(t->messages) >
           (has_role(json_array_get(t->messages, 0), "system") ? 1u : 0u))
        json_array_remove(t->messages, json_array_size(t->messages) - 1);
    t->past.n = 0;
    t->turn = 0;
}

void talk_date(const struct run_cfg *c, json_t *request)
{
    if (c->date)
        json_object_set_new(request, "date_string", json_string(c->date));
}

json_t *talk_chat_request(const struct talk *t, const json_t *messages)
{
    json_t *request =
        json_pack("{s:o}", "messages",
                  t->kit ? json_deep_copy(messages) : json_copy((json_t *)(uintptr_t)messages));

    talk_date(t->cfg, request);
    if (t->kit) {
        kit_declare(t->kit, t->format, request);
        if (t->format->no_tools)
            chat_spell_tools(request);
    }
    return request;
}

static int render(const struct talk *t, struct prompt *out, struct err *e)
{
    json_t *request = talk_chat_request(t, t->messages);
    const int rc = chat_render(t->format, t->engine->tok, request, out, e);

    json_decref(request);
    return rc;
}

static bool is_in(const struct ids *set, int32_t id)
{
    for (size_t i = 0; i < set->n; i++)
        if (set->p[i] == id)
            return true;
    return false;
}

/* Where ids of p go on after its first n bytes of text, at a control token; SIZE_MAX = nowhere. */
static size_t split_at(const struct tok *tok, const struct prompt *p, size_t n)
{
    size_t i = 0, at = 0, k;

    for (; i < p->ids.n && at < n; i++)
        at += tok_bytes(tok, p->ids.p[i], &k) ? k : 0;
    return at == n && i < p->ids.n && tok_is_special(tok, p->ids.p[i]) ? i : SIZE_MAX;
}

/* The prompt for the conversation, whose last message is the user's. An answer is repeated with the
 * ids that were generated, not with those that its text would be split into, so that the cache
 * stays valid; but only where their bytes are the beginning of what the template renders now: after
 * a stop string, an edited file or a changed system message everything is as the template says. */
static int compose(const struct talk *t, struct ids *out, struct err *e)
{
    const struct tok *tok = t->engine->tok;
    size_t n = t->past.n, from = SIZE_MAX;
    struct prompt full;
    struct buf said;
    int rc = -1;

    prompt_init(&full);
    buf_init(&said, full.text.max);
    if (render(t, &full, e))
        goto done;
    if (n && is_in(&t->eos, t->past.p[n - 1]))
        n--; /* the template closes the answer */
    tok_decode(tok, t->past.p, n, false, &said);
    if (n && said.len < full.text.len && !memcmp(said.p, full.text.p, said.len))
        from = split_at(tok, &full, said.len);
    if (from == SIZE_MAX)
        n = from = 0;
    ids_append(out, t->past.p, n);
    ids_append(out, full.ids.p + from, full.ids.n - from);
    rc = 0;
done:
    prompt_release(&full);
    buf_release(&said);
    return rc;
}

int talk_raw_ids(const struct talk *t, const char *text, size_t n, struct ids *out, struct err *e)
{
    const struct tok *tok = t->engine->tok;
    struct ids ids = { 0 };

    if (tok_encode(tok, text, n, TOK_ALLOW_SPECIAL, &ids, e)) {
        ids_release(&ids);
        return -1;
    }
    if (tok_adds_bos(tok) && tok_bos(tok) >= 0 && (ids.n == 0 || ids.p[0] != tok_bos(tok)))
        ids_add(out, tok_bos(tok));
    ids_append(out, ids.p, ids.n);
    ids_release(&ids);
    return 0;
}

void talk_request(const struct talk *t, struct gen_request *r)
{
    const struct settings *s = &t->set;

    *r = (struct gen_request){
        .sampling = s->sampling,
        .max_new_tokens = s->max_new_tokens,
        .stop = s->stop,
        .n_stop = s->n_stop,
        .eos = t->eos.p,
        .n_eos = t->eos.n,
        .grammar = t->grammar,
        .logprobs = t->cfg->logprobs || t->cfg->top_logprobs,
        .top_logprobs = (size_t)t->cfg->top_logprobs,
        .cancel = t->cancel,
    };
    if (!s->seeded)
        r->sampling.seed = rng_fresh_seed();
    else if (t->turn) /* the first answer draws from the seed itself, as a request of its own would
                       */
        r->sampling.seed = rng_u64(s->sampling.seed, t->turn);
}

int talk_turn(struct talk *t, struct gen_request *r, struct gen_result *out, struct err *e)
{
    struct ids ids = { 0 };
    int rc = compose(t, &ids, e);

    if (rc == 0) {
        r->prompt = ids.p;
        r->n_prompt = ids.n;
        rc = generate(t->session, r, out, e);
    }
    if (rc == 0) {
        t->last_seed = r->sampling.seed;
        t->last_prompt = ids.n;
        t->turn += out->ids.n > 0;
    }
    if (rc == 0 && out->ids.n) {
        t->past.n = 0;
        ids_append(&t->past, ids.p, ids.n);
        ids_append(&t->past, out->ids.p, out->ids.n);
    }
    ids_release(&ids);
    return rc;
}

static int ask_raw(struct talk *t, const char *text, size_t n, struct gen_request *r,
                   struct gen_result *out, struct err *e)
{
    struct ids ids = { 0 };
    int rc = talk_raw_ids(t, text, n, &ids, e);

    if (rc == 0 && ids.n == 0)
        rc = err_set(e, ERR_USAGE, "the prompt is empty");
    r->prompt = ids.p;
    r->n_prompt = ids.n;
    if (rc == 0)
        rc = generate(t->session, r, out, e);
    if (rc == 0) {
        t->last_seed = r->sampling.seed;
        t->last_prompt = ids.n;
        t->turn += out->ids.n > 0;
    }
    ids_release(&ids);
    return rc;
}

static void into_filter(void *arg, const char *p, size_t n)
{
    filter_text(arg, p, n);
}

/* Progress goes past the filter. */
static void past_filter(void *arg, size_t done, size_t total)
{
    const struct filter *f = arg;

    if (f->on_progress)
        f->on_progress(f->arg, done, total);
}

static int ask_plain(struct talk *t, struct gen_request *r, struct gen_result *out, struct err *e)
{
    struct filter f;
    int rc;

    filter_open(&f, t, t->messages, r->on_text, r->arg);
    f.on_progress = r->on_progress;
    r->on_text = into_filter;
    r->on_progress = past_filter;
    r->arg = &f;
    r->cancel = filter_cancel(&f);
    rc = talk_turn(t, r, out, e);
    if (rc == 0 && filter_end(&f, out, e)) {
        gen_result_release(out);
        rc = -1;
    }
    filter_close(&f);
    return rc;
}

static int ask_tools(struct talk *t, const struct gen_request *r, struct gen_result *out,
                     struct err *e)
{
    struct tool_talk w = { .t = t, .r = *r };
    const int rc = tool_talk(&w, t->messages, e);

    if (rc == 0) {
        *out = w.last;
        w.last = (struct gen_result){ 0 };
    }
    tool_talk_release(&w);
    return rc;
}

int talk_ask(struct talk *t, const char *text, size_t n,
             void (*on_text)(void *arg, const char *p, size_t n),
             void (*on_progress)(void *arg, size_t done, size_t total), void *arg,
             struct gen_result *out, struct err *e)
{
    const size_t had = json_array_size(t->messages);
    struct gen_request r;
    int rc;

    talk_request(t, &r);
    r.on_text = on_text;
    r.on_progress = on_progress;
    r.arg = arg;
    if (!t->format)
        return ask_raw(t, text, n, &r, out, e);
    json_array_append_new(t->messages, message("user", text, n));
    rc = guard_question(t, t->messages, out, e);
    if (rc == 0)
        rc = t->kit ? ask_tools(t, &r, out, e) : ask_plain(t, &r, out, e);
    if (rc == 0 && out->ids.n && !t->kit)
        json_array_append_new(t->messages, message("assistant", out->text.p, out->text.len));
    if (rc || out->ids.n == 0 || out->finish == FINISH_FILTER) {
        while (json_array_size(t->messages) > had)
            json_array_remove(t->messages, json_array_size(t->messages) - 1);
        t->past.n = 0; /* of a turn that is gone */
    }
    return rc < 0 ? -1 : 0;
}

/* ---- showing ---- */

void put_text(FILE *f, const char *p, size_t n)
{
    size_t k;

    if (!isatty(fileno(f))) {
        fwrite(p, 1, n, f);
        return;
    }
    for (size_t i = 0; i < n; i += k) {
        int32_t cp;

        k = utf8_next(p + i, n - i, &cp);
        if (cp == '\r') /* of CR LF */
            continue;
        if ((cp < 0x20 && cp != '\n' && cp != '\t') || (cp >= 0x7f && cp < 0xa0))
            putc('?', f);
        else
            fwrite(p + i, 1, k, f);
    }
}

void show_text(void *arg, const char *p, size_t n)
{
    struct shower *s = arg;

    if (n == 0)
        return;
    progress_end();
    put_text(stdout, p, n);
    s->newline = p[n - 1] == '\n';
    if (fflush(stdout) && s->cancel)
        *s->cancel = 1;
}

void show_progress(void *arg, size_t done, size_t total)
{
    (void)arg;
    if (total > 512) /* less is over before it can be read */
        progress_show("prompt", done, total);
}

static void show_logprobs(const struct talk *t, const struct gen_result *r)
{
    const size_t k = (size_t)t->cfg->top_logprobs;

    for (size_t i = 0; i < r->ids.n && r->logprob; i++) {
        size_t n;
        const char *s = tok_bytes(t->engine->tok, r->ids.p[i], &n);
        json_t *j = json_stringn(s ? s : "", s ? n : 0); /* NULL for bytes that are no text */
        char *q = j ? json_dumps(j, JSON_ENCODE_ANY) : NULL;

        fprintf(stderr, "%9.5f  %6d  ", (double)r->logprob[i], r->ids.p[i]);
        put_text(stderr, q ? q : "(bytes)", strlen(q ? q : "(bytes)"));
        free(q);
        json_decref(j);
        for (size_t m = 0; m < k && r->top; m++)
            fprintf(stderr, "  %d:%.5f", r->top[i * k + m].id, (double)r->top[i * k + m].logprob);
        fputc('\n', stderr);
    }
}

static void show_speed(const struct talk *t, const struct gen_result *r)
{
    const size_t fresh = t->last_prompt - r->cached;

    fprintf(stderr, "prompt: %zu tokens (%zu cached), %.1f tok/s, first token after %.2f s\n",
            t->last_prompt, r->cached, r->prompt_s > 0 ? (double)fresh / r->prompt_s : 0,
            r->prompt_s);
    fprintf(stderr, "answer: %zu tokens, %.1f tok/s; context: %zu of %zu", r->ids.n,
            r->decode_s > 0 && r->ids.n > 1 ? (double)(r->ids.n - 1) / r->decode_s : 0,
            t->last_prompt + r->ids.n, session_ctx(t->session));
    if (t->set.sampling.temperature > 0)
        fprintf(stderr, "; seed %llu", (unsigned long long)t->last_seed);
    if (r->guessed)
        fprintf(stderr, "; %zu of %zu guesses right", r->guessed_right, r->guessed);
    fputc('\n', stderr);
    memory_show(t->session);
}

void show_notes(const struct talk *t, const struct gen_result *r)
{
    show_logprobs(t, r);
    if (r->finish == FINISH_LENGTH && t->set.max_new_tokens && r->ids.n >= t->set.max_new_tokens)
        fprintf(stderr, "note: stopped after %zu tokens (--max-new-tokens)\n", r->ids.n);
    else if (r->finish == FINISH_LENGTH)
        fprintf(stderr,
                "note: the context of %zu tokens is full; start again with a larger --ctx (the "
                "model allows %lld)\n",
                session_ctx(t->session), (long long)t->engine->model->hp->ctx);
    if (t->cfg->verbose)
        show_speed(t, r);
}

/* The encoding that most of the weights' bytes are in. */
static const char *main_encoding(const struct checkpoint *c)
{
    size_t bytes[ENC_COUNT] = { 0 }, best = 0;

    for (size_t i = 0; i < checkpoint_tensors(c); i++)
        bytes[checkpoint_tensor(c, i)->enc] += checkpoint_tensor(c, i)->nbytes;
    for (size_t k = 1; k < ENC_COUNT; k++)
        if (bytes[k] > bytes[best])
            best = k;
    return enc_table[best].name;
}

void show_banner(const struct talk *t, FILE *f)
{
    const struct engine *g = t->engine;
    const char *base = strrchr(t->model, '/');
    unsigned flags = cpu_flags();

    if (t->cfg->isa)
        (void)cpu_flags_from_name(t->cfg->isa, &flags); /* talk_open has checked the name */
    base = base && base[1] ? base + 1 : t->model;
    put_text(f, base, strlen(base));
    fprintf(f, " | %s, %.2f GB | CPU %s, %d thread%s | context %zu of %lld\n",
            main_encoding(g->model->ckpt), (double)checkpoint_bytes(g->model->ckpt) * 1e-9,
            cpu_flags_name(flags), team_size(g->ctx->team), team_size(g->ctx->team) > 1 ? "s" : "",
            session_ctx(t->session), (long long)g->model->hp->ctx);
}
