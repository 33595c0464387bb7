/* Opens a tokenizer by path: what the file is shows in its first bytes. */
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "text/tok_int.h"

enum {
    TEMPLATE_MAX = 1 << 20,
    CONFIG_MAX = 64 << 20, /* tokenizer_config.json lists every added token */
};
static const size_t FILE_LIMIT = (size_t)512 << 20; /* 30 times the largest published */

static int open_gguf(struct tok **out, const char *path, struct err *e)
{
    struct gguf *g;

    if (gguf_open(&g, path, e))
        return -1;
    const int rc = tok_from_gguf(out, g, e);
    gguf_close(g);
    return rc;
}

static int open_file(struct tok **out, const char *path, struct err *e)
{
    const size_t len = strlen(path);
    struct map m;
    int rc = -1;

    if (map_open(&m, path, e))
        return -1;
    const char *text = m.p ? (const char *)m.p : "";
    size_t skip = 0;
    while (skip < m.len && skip < 64 && strchr(" \t\r\n", text[skip]))
        skip++;
    if (m.len >= 4 && memcmp(text, "GGUF", 4) == 0)
        rc = open_gguf(out, path, e);
    else if (m.len > FILE_LIMIT)
        err_set(e, ERR_FORMAT, "%s: %zu bytes are too many for a tokenizer", path, m.len);
    else if ((len > 5 && strcmp(path + len - 5, ".json") == 0) ||
             (skip < m.len && text[skip] == '{'))
        rc = tok_from_json(out, text, m.len, path, e);
    else
        rc = tok_from_tiktoken(out, text, m.len, path, e);
    map_close(&m);
    return rc;
}

/* "bos_token": "..." or {"content": "..."}; absent or null leaves *id as it is. */
static int named_token(const struct tok *t, const json_t *config, const char *key, int32_t *id,
                       const char *what, struct err *e)
{
    const json_t *v = json_object_get(config, key);
    const char *name;
    int32_t found;

    if (json_is_object(v))
        v = json_object_get(v, "content");
    if (!v || json_is_null(v))
        return 0;
    name = json_string_value(v);
    if (!name)
        return err_set(e, ERR_FORMAT, "%s: \"%s\" must be a string or an object with \"content\"",
                       what, key);
    found = tok_id(t, name);
    if (found < 0)
        return err_set(e, ERR_FORMAT, "%s: \"%s\" is \"%s\", which the tokenizer does not have",
                       what, key, name);
    *id = found;
    return 0;
}

/* "chat_template" is a string, or a list of {"name", "template"} of which "default" counts. */
static int config_template(struct tok *t, const json_t *config, const char *what, struct err *e)
{
    const json_t *v = json_object_get(config, "chat_template"), *item;
    size_t i;

    if (json_is_array(v)) {
        const json_t *list = v;

        v = NULL;
        json_array_foreach(list, i, item)
        {
            const char *name = json_string_value(json_object_get(item, "name"));

            if (name && strcmp(name, "default") == 0)
                v = json_object_get(item, "template");
        }
    }
    if (!v || json_is_null(v))
        return 0;
    if (!json_is_string(v) || json_string_length(v) > TEMPLATE_MAX)
        return err_set(e, ERR_FORMAT, "%s: \"chat_template\" must be text of at most %d bytes",
                       what, (int)TEMPLATE_MAX);
    free(t->chat_template);
    t->chat_template = xmemdup0(json_string_value(v), json_string_length(v));
    return 0;
}

int tok_read_template(struct tok *t, const char *path, struct err *e)
{
    json_t *config;
    int rc;

    if (json_parse_file(&config, path, CONFIG_MAX, e))
        return -1;
    rc = json_object_get(config, "chat_template")
             ? config_template(t, config, path, e)
             : err_set(e, ERR_FORMAT, "%s: no \"chat_template\" in it", path);
    json_decref(config);
    return rc;
}

static int read_config(struct tok *t, const char *dir, struct err *e)
{
    char *path = path_join(dir, "tokenizer_config.json");
    json_t *config = NULL;
    int rc = -1;

    if (!file_exists(path)) {
        rc = 0;
        goto done;
    }
    if (json_parse_file(&config, path, CONFIG_MAX, e))
        goto done;
    if (!json_is_object(config)) {
        err_set(e, ERR_FORMAT, "%s: must be an object", path);
        goto done;
    }
    if (named_token(t, config, "bos_token", &t->bos, path, e) ||
        named_token(t, config, "eos_token", &t->eos, path, e) ||
        config_template(t, config, path, e))
        goto done;
    rc = 0;
done:
    json_decref(config);
    free(path);
    return rc;
}

/* chat_template.jinja, where newer files keep it, wins over tokenizer_config.json. */
static int read_template(struct tok *t, const char *dir, struct err *e)
{
    char *path = path_join(dir, "chat_template.jinja"), *text;
    size_t n;
    int rc = 0;

    if (file_exists(path)) {
        rc = file_read(&text, &n, path, TEMPLATE_MAX, e);
        if (rc == 0) {
            free(t->chat_template);
            t->chat_template = text;
        }
    }
    free(path);
    return rc;
}

static int open_dir(struct tok **out, const char *dir, struct err *e)
{
    static const char *const names[] = { "tokenizer.json", "tokenizer.model",
                                         "original/tokenizer.model" };
    struct tok *t = NULL;
    size_t i;

    for (i = 0; i < ARRAY_LEN(names); i++) {
        char *path = path_join(dir, names[i]);
        const bool here = file_exists(path);
        const int rc = here ? open_file(&t, path, e) : 0;

        free(path);
        if (rc)
            return -1;
        if (here)
            break;
    }
    if (i == ARRAY_LEN(names))
        return err_set(e, ERR_NOT_FOUND, "%s: holds no tokenizer.json and no tokenizer.model", dir);
    if (read_config(t, dir, e) || read_template(t, dir, e)) {
        tok_free(t);
        return -1;
    }
    *out = t;
    return 0;
}

int tok_open(struct tok **out, const char *path, struct err *e)
{
    return file_is_dir(path) ? open_dir(out, path, e) : open_file(out, path, e);
}
