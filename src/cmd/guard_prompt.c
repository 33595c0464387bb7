/* guard_prompt.c - `puna guard` with a Prompt Guard: one text, or JSON lines. */
#include <stdio.h>
#include <string.h>

#include "backend/cpu/cpu.h"
#include "backend/cuda/cuda.h"
#include "cmd/guard_int.h"
#include "guard/prompt_guard.h"

struct scorer {
    const struct guard_cfg *c;
    struct prompt_guard *g;
};

static double attack(const struct guard_cfg *c, const struct prompt_scores *s)
{
    return c->third_party ? s->injection : s->jailbreak;
}

static bool is_unsafe(const struct guard_cfg *c, const struct prompt_scores *s)
{
    return attack(c, s) >= (opt_given(c, "threshold") ? c->threshold : 0.5);
}

static json_t *answer_line(void *arg, json_t *request, struct err *e)
{
    const struct scorer *a = arg;
    const struct deberta *m = prompt_guard_model(a->g);
    const json_t *text = json_object_get(request, "text");
    struct prompt_scores s;
    json_t *labels;

    if (!json_is_string(text)) {
        err_set(e, ERR_USAGE, "request: Prompt Guard needs a text");
        return NULL;
    }
    if (prompt_guard_score(a->g, json_string_value(text), json_string_length(text),
                           a->c->temperature, &s, e))
        return NULL;
    labels = json_object();
    for (size_t i = 0; i < deberta_labels(m); i++)
        json_object_set_new(labels, deberta_label(m, i), json_real(s.p[i]));
    return json_pack("{s:s, s:f, s:o, s:f, s:f, s:I}", "verdict",
                     is_unsafe(a->c, &s) ? "unsafe" : "safe", "probability", attack(a->c, &s),
                     "labels", labels, "jailbreak", s.jailbreak, "injection", s.injection,
                     "windows", (json_int_t)s.windows);
}

static int one(const struct scorer *a, struct err *e)
{
    const struct deberta *m = prompt_guard_model(a->g);
    struct prompt_scores s;
    struct buf text;
    int rc = -1;

    buf_init(&text, GUARD_TEXT_MAX);
    buf_adds(&text, a->c->text);
    if ((*a->c->text || guard_stdin(&text, e) == 0) &&
        prompt_guard_score(a->g, text.p, text.len, a->c->temperature, &s, e) == 0) {
        printf("%s\nprobability %.4f\n", is_unsafe(a->c, &s) ? "unsafe" : "safe", attack(a->c, &s));
        for (size_t i = 0; i < deberta_labels(m); i++)
            printf("  %-10s %.4f\n", deberta_label(m, i), s.p[i]);
        rc = is_unsafe(a->c, &s) ? GUARD_UNSAFE : 0;
    }
    buf_release(&text);
    return rc;
}

int guard_prompt(const struct guard_cfg *c, const char *dir, const struct engine_opts *o,
                 struct err *e)
{
    const unsigned flags = o->isa < 0 ? cpu_flags() : (unsigned)o->isa;
    struct scorer a = { .c = c };
    struct ctx *ctx;
    int rc = -1;

    if (c->answer || c->categories || c->exclude)
        return err_set(e, ERR_USAGE,
                       "%s is a Prompt Guard, which reads one text: --answer, --categories and "
                       "--exclude are for Llama Guard",
                       dir);
    if (c->device && !strcmp(c->device, "cuda")
            ? cuda_ctx_new(&ctx, o->compute, e)
            : cpu_ctx_new(&ctx, o->threads, flags, o->compute, e))
        return -1;
    if (prompt_guard_open(&a.g, ctx, NULL, dir, e) == 0)
        rc = c->json ? guard_lines(answer_line, &a, e) : one(&a, e);
    prompt_guard_close(a.g);
    ctx->be->free(ctx);
    return rc;
}
