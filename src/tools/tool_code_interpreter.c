/* tool_code_interpreter.c - the release's code interpreter: what a run says to the model is Meta's
 * "completed" or "failed" with the streams in brackets (chat_code_result). */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/file.h"
#include "text/chat.h"
#include "tools/tool.h"

static int check(struct err *e)
{
    struct code *c = code_new(&code_limits_default);
    struct code_result r;
    int rc;

    code_result_init(&r);
    rc = code_run(c, "0", 1, &r, e);
    if (rc == 0 && r.end != CODE_OK)
        rc = err_set(e, ERR_FAIL, "the sandbox runs no code: %s", r.why);
    code_result_release(&r);
    code_free(c);
    return rc;
}

/* chat_code_result's object: the last expression's value is printed as Python's prompt does. */
static json_t *as_json(const struct code_result *r)
{
    json_t *j = json_object();
    struct buf out, err;

    buf_init(&out, SIZE_MAX);
    buf_init(&err, SIZE_MAX);
    buf_add(&out, r->out.p, r->out.len);
    if (r->value.len)
        buf_addf(&out, "%s\n", r->value.p);
    buf_add(&err, r->err.p, r->err.len);
    if (*r->why)
        buf_addf(&err, "%s; names and files of this session are lost\n", r->why);
    json_object_set_new(j, "status", json_string(r->end == CODE_OK ? "success" : "error"));
    if (out.len)
        json_object_set_new(j, "stdout", json_stringn(out.p, out.len));
    if (err.len)
        json_object_set_new(j, "stderr", json_stringn(err.p, err.len));
    buf_release(&out);
    buf_release(&err);
    return j;
}

static int save(const char *path, const struct buf *b, struct err *e)
{
    struct out_file f;

    if (out_open(&f, path, e))
        return -1;
    fwrite(b->p, 1, b->len, f.f);
    return out_commit(&f, e);
}

static int save_images(struct tool_session *s, const struct code_result *r, struct tool_result *out,
                       struct err *e)
{
    for (size_t i = 0; s->image_dir && i < r->n_images; i++) {
        char name[32];
        char *path;

        snprintf(name, sizeof(name), "plot-%zu.png", ++s->images);
        path = path_join(s->image_dir, name);
        const int rc = save(path, &r->image[i], e);

        if (rc == 0)
            buf_addf(&out->images, "%s\n", path);
        free(path);
        if (rc)
            return -1;
    }
    return 0;
}

static int run(struct tool_session *s, const char *input, size_t n, struct tool_result *out,
               struct err *e)
{
    struct code_result r;
    int rc;

    if (!s->code)
        s->code = code_new(&s->code_limits);
    code_result_init(&r);
    rc = code_run(s->code, input, n, &r, e);
    if (rc == 0) {
        json_t *j = as_json(&r);

        out->failed = r.end != CODE_OK;
        out->seconds = r.seconds;
        rc = chat_code_result(j, &out->text, e);
        json_decref(j);
    }
    if (rc == 0)
        rc = save_images(s, &r, out, e);
    code_result_release(&r);
    return rc;
}

const struct tool tool_code_interpreter = {
    .name = "code_interpreter",
    .arg = "code",
    .what = "Python in a sandbox, with names and files kept for the chat",
    .check = check,
    .run = run,
};
