/* inspect.c - `puna inspect`: what a file or a model folder holds, and whether it can be used.
 *
 * Everything found goes into one JSON object, which is then printed as it is or as tables. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "base/file.h"
#include "base/json.h"
#include "base/utf8.h"
#include "cmd/inspect_int.h"
#include "cmd/opt.h"
#include "format/checkpoint.h"
#include "format/peft.h"
#include "format/pth.h"
#include "format/safetensors.h"
#include "text/chat.h"

enum { REFUSED = 2, JSON_MAX = 1 << 26, CHECK_BELOW = 64 << 20 };

struct inspect_cfg {
    const char *path;
    bool json;
    bool check_tensors;
};

static const struct opt opts[] = {
    OPT(ARG, struct inspect_cfg, path, NULL, "PATH", NULL, "a file or a model folder"),
    OPT(BOOL, struct inspect_cfg, json, NULL, NULL, "false", "one JSON object on stdout"),
    OPT(BOOL, struct inspect_cfg, check_tensors, NULL, NULL, "false",
        "look at every weight for NaN and infinity (default: below 64 MiB)"),
    { .name = NULL },
};

/* What is found out about one path. */
struct report {
    const char *path;
    json_t *top;
    bool check_always, check_never; /* --check-tensors, --no-check-tensors */
};

/* ---- what a path may be ---- */

static bool wants_values(const struct report *r, size_t bytes)
{
    return !r->check_never && (r->check_always || bytes < CHECK_BELOW);
}

static int tokenizer_report(struct report *r, const struct tok *t, struct err *e)
{
    const struct chat_format *format;
    json_t *j = json_object();

    report_text(j, "kind", tok_kind(t));
    report_int(j, "size", tok_size(t));
    if (tok_bos(t) >= 0)
        report_int(j, "bos", tok_bos(t));
    if (tok_eos(t) >= 0)
        report_int(j, "eos", tok_eos(t));
    report_put(r->top, "tokenizer", j);
    if (!tok_chat_template(t))
        return 0; /* a base model, or a file without its folder */
    if (chat_detect(&format, t, e))
        return err_wrap(e, "%s", r->path);
    report_text(j, "chat_format", format->name);
    return 0;
}

static int model_tokenizer(struct report *r, const struct checkpoint *c, struct err *e)
{
    const int64_t vocab = checkpoint_hparams(c)->vocab;
    struct tok *t;
    int rc;

    if (checkpoint_gguf(c) ? tok_from_gguf(&t, checkpoint_gguf(c), e) : tok_open(&t, r->path, e))
        return -1;
    if (tok_size(t) > vocab)
        rc = err_set(e, ERR_FORMAT,
                     "%s: the tokenizer has ids up to %d, the model a vocabulary of %lld", r->path,
                     (int)tok_size(t) - 1, (long long)vocab);
    else
        rc = tokenizer_report(r, t, e);
    tok_free(t);
    return rc;
}

static int inspect_model(struct report *r, struct err *e)
{
    struct checkpoint *c;
    int rc = -1;

    report_text(r->top, "kind", "model");
    if (checkpoint_open(&c, r->path, e))
        return -1;
    report_hparams(r->top, checkpoint_hparams(c));
    report_generation(r->top, checkpoint_gen_defaults(c));
    if (checkpoint_warning(c))
        report_text(r->top, "warning", checkpoint_warning(c));
    if (checkpoint_gguf(c)) {
        report_gguf(r->top, checkpoint_gguf(c));
    } else {
        json_t *list = json_array();
        struct totals sum = { 0 };

        for (size_t i = 0; i < checkpoint_tensors(c); i++)
            report_tensor(list, checkpoint_tensor(c, i), &sum);
        report_text(r->top, "container", checkpoint_container(c));
        report_tensors(r->top, list, &sum);
    }
    if (checkpoint_check(c, e) || model_tokenizer(r, c, e) ||
        (wants_values(r, checkpoint_bytes(c)) && checkpoint_check_values(c, e)))
        goto done;
    report_encodings(r->top, c);
    rc = 0;
done:
    checkpoint_close(c);
    return rc;
}

/* A GGUF file that says anything about a model is held to all of it; other files may carry tensors
 * or metadata alone. */
static int inspect_gguf(struct report *r, struct err *e)
{
    struct gguf *g;
    size_t bytes = 0;
    int rc = -1;

    if (gguf_open(&g, r->path, e))
        return -1;
    if (gguf_has_prefix(g, "llama.") || gguf_has_prefix(g, "tokenizer.") ||
        gguf_find(g, "token_embd.weight")) {
        gguf_close(g);
        return inspect_model(r, e);
    }
    report_text(r->top, "kind", "tensors");
    report_gguf(r->top, g);
    for (size_t i = 0; i < gguf_tensors(g); i++)
        bytes += gguf_tensor(g, i)->nbytes;
    for (size_t i = 0; wants_values(r, bytes) && i < gguf_tensors(g); i++)
        if (tensor_check_values(gguf_tensor(g, i), r->path, e))
            goto done;
    rc = 0;
done:
    gguf_close(g);
    return rc;
}

static int inspect_safetensors(struct report *r, struct err *e)
{
    json_t *list = json_array();
    struct totals sum = { 0 };
    struct st *s;
    int rc = -1;

    if (st_open(&s, r->path, e)) {
        json_decref(list);
        return -1;
    }
    for (size_t i = 0; i < st_tensors(s); i++)
        report_tensor(list, st_tensor(s, i), &sum);
    report_text(r->top, "kind", "tensors");
    report_text(r->top, "container", "safetensors");
    if (st_metadata(s))
        report_put(r->top, "metadata", json_deep_copy(st_metadata(s)));
    report_tensors(r->top, list, &sum);
    /* Not only weights live in such files: values are looked at on request. */
    for (size_t i = 0; r->check_always && i < st_tensors(s); i++)
        if (tensor_check_values(st_tensor(s, i), r->path, e))
            goto done;
    rc = 0;
done:
    st_close(s);
    return rc;
}

static int inspect_pth(struct report *r, struct err *e)
{
    json_t *list;
    struct totals sum = { 0 };
    struct pth *p;
    size_t bytes = 0;
    int rc = -1;

    if (pth_open(&p, r->path, e))
        return -1;
    list = json_array();
    for (size_t i = 0; i < pth_tensors(p); i++) {
        report_tensor(list, pth_tensor(p, i), &sum);
        bytes += pth_tensor(p, i)->nbytes;
    }
    report_text(r->top, "kind", "tensors");
    report_text(r->top, "container", "pth");
    report_tensors(r->top, list, &sum);
    for (size_t i = 0; wants_values(r, bytes) && i < pth_tensors(p); i++)
        if (tensor_check_values(pth_tensor(p, i), r->path, e))
            goto done;
    rc = 0;
done:
    pth_close(p);
    return rc;
}

static int inspect_tokenizer(struct report *r, struct err *e)
{
    struct tok *t;

    report_text(r->top, "kind", "tokenizer");
    if (tok_open(&t, r->path, e))
        return -1;
    const int rc = tokenizer_report(r, t, e);

    tok_free(t);
    return rc;
}

static bool has_any(const json_t *j, const char *const *key, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (json_object_get(j, key[i]))
            return true;
    return false;
}

/* Which of the JSON files of a model this is shows in its keys, whatever its name. */
static int inspect_json(struct report *r, struct err *e)
{
    static const char *const config[] = { "model_type", "architectures", "hidden_size" };
    static const char *const params[] = { "dim", "n_layers", "n_heads" };
    static const char *const generation[] = { "temperature", "top_p",      "top_k",
                                              "do_sample",   "max_length", "max_new_tokens",
                                              "eos_token_id" };
    static const char *const tokenizer[] = { "added_tokens", "pre_tokenizer", "decoder",
                                             "post_processor", "normalizer" };
    struct hparams h;
    struct gen_defaults d;
    json_t *j;
    int rc = -1;

    if (json_parse_file(&j, r->path, JSON_MAX, e))
        return -1;
    const json_t *model = json_object_get(j, "model");

    if (has_any(j, tokenizer, ARRAY_LEN(tokenizer))) {
        rc = inspect_tokenizer(r, e);
    } else if (has_any(j, config, ARRAY_LEN(config))) {
        report_text(r->top, "kind", "config");
        rc = hparams_from_config(&h, j, r->path, e);
        if (!rc)
            report_hparams(r->top, &h);
        if (json_object_get(j, "auto_map"))
            report_text(r->top, "warning", "auto_map is ignored: no code from a model is run");
    } else if (has_any(j, params, ARRAY_LEN(params)) || has_any(model, params, ARRAY_LEN(params))) {
        report_text(r->top, "kind", "params");
        rc = hparams_from_params(&h, j, r->path, e);
        if (!rc)
            report_hparams(r->top, &h);
    } else if (has_any(j, generation, ARRAY_LEN(generation))) {
        report_text(r->top, "kind", "generation");
        rc = gen_defaults_read(&d, j, r->path, e);
        if (!rc)
            report_generation(r->top, &d);
    } else {
        err_set(e, ERR_FORMAT,
                "%s: not a config.json, generation_config.json, params.json or tokenizer.json",
                r->path);
    }
    json_decref(j);
    return rc;
}

static bool has_ending(const char *path, const char *tail)
{
    const size_t n = strlen(path), t = strlen(tail);

    return n >= t && !strcmp(path + n - t, tail);
}

static int inspect_adapter(struct report *r, struct err *e)
{
    json_t *j = json_object();
    uint64_t values = 0, rank = 0;
    struct peft *p;

    report_text(r->top, "kind", "adapter");
    report_put(r->top, "adapter", j);
    if (peft_open(&p, r->path, e))
        return -1;
    for (size_t i = 0; i < peft_modules(p); i++) {
        const struct peft_module *m = peft_module(p, i);
        const struct tensor_view *const all[] = { m->a,         m->b,      m->bias,
                                                  m->magnitude, m->weight, m->tokens };

        for (size_t k = 0; k < sizeof(all) / sizeof(*all); k++)
            values += all[k] ? all[k]->shape[0] * (all[k]->ndim == 2 ? all[k]->shape[1] : 1) : 0;
        rank = m->a && m->a->shape[0] > rank ? m->a->shape[0] : rank;
    }
    report_text(j, "base", peft_base(p));
    report_int(j, "modules", (int64_t)peft_modules(p));
    report_int(j, "largest_rank", (int64_t)rank);
    report_int(j, "values", (int64_t)values);
    if (peft_warning(p))
        report_text(r->top, "warning", peft_warning(p));
    peft_close(p);
    return 0;
}

static bool is_adapter(const char *path)
{
    char *own = path_join(path, "adapter_config.json"), *model = path_join(path, "config.json");
    const bool yes = file_exists(own) && !file_exists(model);

    free(own);
    free(model);
    return yes;
}

static int inspect_path(struct report *r, struct err *e)
{
    struct map m;
    uint8_t head[16] = { 0 };

    if (file_is_dir(r->path))
        return is_adapter(r->path) ? inspect_adapter(r, e) : inspect_model(r, e);
    if (map_open(&m, r->path, e))
        return -1;
    if (m.p)
        memcpy(head, m.p, m.len < sizeof(head) ? m.len : sizeof(head));
    map_close(&m);
    if (!memcmp(head, "GGUF", 4) || has_ending(r->path, ".gguf"))
        return inspect_gguf(r, e);
    if (has_ending(r->path, ".safetensors"))
        return inspect_safetensors(r, e);
    if (has_ending(r->path, "tokenizer.json") || has_ending(r->path, ".model"))
        return inspect_tokenizer(r, e);
    if (has_ending(r->path, ".json") || head[0] == '{')
        return inspect_json(r, e);
    if (!memcmp(head, "PK\3\4", 4) || head[0] == 0x80 || has_ending(r->path, ".pth"))
        return inspect_pth(r, e);
    if (head[8] == '{')
        return inspect_safetensors(r, e);
    return err_set(e, ERR_FORMAT, "%s: not a kind of file that puna reads", r->path);
}

static int run(const void *cfg, struct err *e)
{
    const struct inspect_cfg *c = cfg;
    const bool given = opt_given(cfg, "check_tensors");
    struct report r = { .path = c->path,
                        .top = json_object(),
                        .check_always = given && c->check_tensors,
                        .check_never = given && !c->check_tensors };
    const int rc = inspect_path(&r, e);
    const char *warning = json_string_value(json_object_get(r.top, "warning"));

    if (rc) {
        fprintf(stderr, "error: %s\n", e->msg);
        json_object_clear(r.top);
        report_put(r.top, "ok", json_false());
        report_text(r.top, "path", c->path);
        report_text(r.top, "reason", e->msg);
    } else {
        report_put(r.top, "ok", json_true());
        report_text(r.top, "path", c->path);
        if (warning)
            fprintf(stderr, "warning: %s\n", warning);
    }
    if (c->json) {
        json_dumpf(r.top, stdout, JSON_COMPACT | JSON_REAL_PRECISION(9));
        putchar('\n');
    } else if (!rc) {
        report_print(r.top);
    }
    json_decref(r.top);
    return rc ? REFUSED : 0;
}

const struct cmd cmd_inspect = {
    .name = "inspect",
    .summary = "show what a file or model folder holds, and whether it can be used",
    .usage = "PATH [--json] [--check-tensors]",
    .help =
        "PATH is a model or adapter folder, a safetensors, GGUF or .pth file, a tokenizer.model\n"
        "or tokenizer.json, or a config.json, generation_config.json or params.json. A folder and\n"
        "a GGUF model are checked as loading would check them: containers, sizes against every\n"
        "tensor, tokenizer against vocabulary, chat template. What loading would refuse is\n"
        "refused here, with the reason in one line.\n"
        "\n"
        "Weights are looked at one by one, for NaN, infinity and overflow, where they are less\n"
        "than 64 MiB; --check-tensors does it whatever the size, --no-check-tensors never.\n"
        "\n"
        "Exit status: 0, or 2 when the path is refused.\n"
        "\n"
        "EXAMPLES\n"
        "  puna inspect model.gguf\n"
        "  puna inspect --json Llama-3.1-8B-Instruct | jq .hparams\n",
    .opts = opts,
    .cfg_size = sizeof(struct inspect_cfg),
    .run = run,
};
