#include "train/rows.h"

#include <openssl/sha.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "base/utf8.h"

static const size_t MOST = (size_t)4 << 30;

static int add(json_t *rows, json_t *row, const char *what, struct err *e)
{
    if (!json_is_object(row)) {
        json_decref(row);
        return err_set(e, ERR_FORMAT, "%s: not a JSON object", what);
    }
    json_array_append_new(rows, row);
    return 0;
}

static int read_lines(json_t *rows, const char *text, size_t n, const char *path, struct err *e)
{
    size_t line = 1;

    for (const char *p = text, *end; p < text + n; p = end + 1, line++) {
        char what[300];
        json_t *row;

        end = memchr(p, '\n', (size_t)(text + n - p));
        if (!end)
            end = text + n;
        if (strspn(p, " \t\r") >= (size_t)(end - p))
            continue;
        snprintf(what, sizeof(what), "%.250s line %zu", path, line);
        if (json_parse(&row, p, (size_t)(end - p), what, e) || add(rows, row, what, e))
            return -1;
    }
    return 0;
}

static int read_array(json_t *rows, const char *text, size_t n, const char *path, struct err *e)
{
    json_t *all, *row;
    size_t i;
    int rc = 0;

    if (json_parse(&all, text, n, path, e))
        return -1;
    json_array_foreach(all, i, row)
    {
        char what[300];

        snprintf(what, sizeof(what), "%.250s row %zu", path, i + 1);
        rc = rc ? rc : add(rows, json_incref(row), what, e);
    }
    json_decref(all);
    return rc;
}

/* One field (RFC 4180) from *p; moves *p behind it. The field's text is left in b. */
static int csv_field(struct buf *b, const char **p, const char *end)
{
    const char *s = *p;

    buf_clear(b);
    if (s < end && *s == '"') {
        for (s++; s < end; s++) {
            if (*s == '"' && s + 1 < end && s[1] == '"')
                s++;
            else if (*s == '"')
                break;
            buf_addc(b, *s);
        }
        if (s == end)
            return -1;
        s++;
        if (s < end && *s != ',' && *s != '\n' && *s != '\r')
            return -1;
    } else {
        for (; s < end && *s != ',' && *s != '\n' && *s != '\r'; s++)
            buf_addc(b, *s);
    }
    *p = s;
    return 0;
}

/* What a field says: true and false, and lists and objects, are read as JSON. */
static json_t *csv_value(const struct buf *b)
{
    json_t *v = NULL;

    if (!strcasecmp(b->p, "true") || !strcasecmp(b->p, "false"))
        return json_boolean(!strcasecmp(b->p, "true"));
    if ((b->p[0] == '[' || b->p[0] == '{') && !json_parse(&v, b->p, b->len, "field", NULL))
        return v;
    return json_stringn(b->p, b->len);
}

static int read_csv(json_t *rows, const char *text, size_t n, const char *path, struct err *e)
{
    const char *p = text, *end = text + n;
    json_t *names = json_array(), *row = NULL;
    struct buf b;
    size_t line = 0;
    int rc = -1;

    buf_init(&b, MOST);
    while (p < end) {
        size_t col = 0;

        line++;
        row = line > 1 ? json_object() : NULL;
        for (bool more = true; more; col++) {
            if (csv_field(&b, &p, end)) {
                err_set(e, ERR_FORMAT, "%s: record %zu: quotes do not match", path, line);
                goto done;
            }
            const char *name = json_string_value(json_array_get(names, col));

            if (line == 1) {
                json_array_append_new(names, json_string(b.p));
            } else if (name) {
                json_object_set_new(row, name, csv_value(&b));
            }
            more = p < end && *p == ',';
            p += more;
        }
        p += p < end && *p == '\r';
        p += p < end && *p == '\n';
        if (line > 1 && col == 1 && json_array_size(names) > 1 && b.len == 0) {
            json_decref(row); /* an empty line */
            row = NULL;
            continue;
        }
        if (line > 1 && col != json_array_size(names)) {
            err_set(e, ERR_FORMAT, "%s: record %zu has %zu fields, the header %zu", path, line, col,
                    json_array_size(names));
            goto done;
        }
        if (row)
            json_array_append_new(rows, row);
        row = NULL;
    }
    rc = 0;
done:
    json_decref(row);
    json_decref(names);
    buf_release(&b);
    return rc;
}

int rows_read(json_t **out, const char *path, char digest[65], struct err *e)
{
    unsigned char sha[SHA256_DIGEST_LENGTH];
    const size_t len = strlen(path);
    json_t *rows = json_array();
    size_t n;
    char *text;
    int rc;

    if (file_read(&text, &n, path, MOST, e)) {
        json_decref(rows);
        return -1;
    }
    SHA256((const unsigned char *)text, n, sha);
    for (size_t i = 0; i < sizeof(sha); i++)
        snprintf(digest + 2 * i, 3, "%02x", sha[i]);
    if (!utf8_valid(text, n))
        rc = err_set(e, ERR_FORMAT, "%s: not valid UTF-8", path);
    else if (len > 4 && !strcasecmp(path + len - 4, ".csv"))
        rc = read_csv(rows, text, n, path, e);
    else if (text[strspn(text, " \t\r\n")] == '[')
        rc = read_array(rows, text, n, path, e);
    else
        rc = read_lines(rows, text, n, path, e);
    free(text);
    if (rc == 0 && json_array_size(rows) == 0)
        rc = err_set(e, ERR_FORMAT, "%s: no rows", path);
    if (rc)
        json_decref(rows);
    else
        *out = rows;
    return rc;
}
