#include <string.h>

#include "base/utf8.h"
#include "text/pyjson.h"
#include "text/toolcall_int.h"

void jpipe_init(struct jpipe *j, size_t max)
{
    *j = (struct jpipe){ 0 };
    buf_init(&j->out, max);
}

void jpipe_release(struct jpipe *j)
{
    buf_release(&j->out);
}

void jpipe_reset(struct jpipe *j)
{
    buf_clear(&j->out);
    j->where = JPIPE_VALUE;
    j->depth = 0;
    j->comma = j->escape = j->is_key = false;
    j->hex_left = 0;
    j->high = 0;
}

bool jpipe_in_string(const struct jpipe *j)
{
    return j->where == JPIPE_STRING;
}

static bool is_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

static void fail(struct jpipe *j)
{
    j->where = JPIPE_ERROR;
}

/* The separator that was read before it was known whether an element follows. */
static void separate(struct jpipe *j)
{
    if (j->comma)
        buf_adds(&j->out, ", ");
    j->comma = false;
}

static void value_done(struct jpipe *j, size_t from)
{
    if (j->value_end)
        j->value_end(j->arg, j->depth, from);
    j->where = j->depth ? JPIPE_MORE : JPIPE_DONE;
}

static void value_begin(struct jpipe *j, char c)
{
    static const char scalars[] = "-+0123456789tfnTFN";

    separate(j);
    if (j->value_start)
        j->value_start(j->arg, j->depth, c);
    j->value_at = j->out.len;
    if (c == '"' || c == '\'') {
        j->quote = c;
        j->is_key = false;
        j->where = JPIPE_STRING;
        buf_addc(&j->out, '"');
    } else if (c == '{' || c == '[' || c == '(') {
        if (j->depth == JPIPE_DEPTH) {
            fail(j);
            return;
        }
        j->start[j->depth] = j->out.len;
        j->stack[j->depth++] = c == '{' ? '}' : c == '[' ? ']' : ')';
        j->where = c == '{' ? JPIPE_KEY : JPIPE_FIRST;
        buf_addc(&j->out, c == '(' ? '[' : c);
    } else if (memchr(scalars, c, sizeof(scalars) - 1)) {
        j->scalar[0] = c;
        j->n_scalar = 1;
        j->where = JPIPE_SCALAR;
    } else {
        fail(j);
    }
}

static void close_level(struct jpipe *j)
{
    const char c = j->stack[--j->depth];

    j->comma = false; /* a trailing one */
    buf_addc(&j->out, c == ')' ? ']' : c);
    value_done(j, j->start[j->depth]);
}

static void add_code_point(struct jpipe *j, int32_t cp)
{
    char s[4];
    struct buf quoted;

    buf_init(&quoted, 16);
    pyjson_string(&quoted, s, utf8_put(s, cp), 0);
    buf_add(&j->out, quoted.p + 1, quoted.len - 2);
    buf_release(&quoted);
}

/* Half a surrogate pair is no character. */
static void flush_high(struct jpipe *j)
{
    if (j->high)
        add_code_point(j, 0xFFFD);
    j->high = 0;
}

static void escape_digit(struct jpipe *j, char c)
{
    const int d = hex_digit((unsigned char)c);

    if (d < 0) {
        fail(j);
        return;
    }
    j->hex = j->hex << 4 | d;
    if (--j->hex_left)
        return;
    if (j->hex >= 0xDC00 && j->hex <= 0xDFFF && j->high) {
        add_code_point(j, 0x10000 + ((j->high - 0xD800) << 10 | (j->hex - 0xDC00)));
        j->high = 0;
        return;
    }
    flush_high(j);
    if (j->hex >= 0xD800 && j->hex <= 0xDBFF)
        j->high = j->hex;
    else
        add_code_point(j, j->hex >= 0xDC00 && j->hex <= 0xDFFF ? 0xFFFD : j->hex);
}

static void escaped(struct jpipe *j, char c)
{
    j->escape = false;
    if (c == 'u' || c == 'x') {
        j->hex_left = c == 'u' ? 4 : 2;
        j->hex = 0;
        return;
    }
    flush_high(j);
    if (memchr("\"\\bfnrt", c, 7)) {
        buf_addc(&j->out, '\\');
        buf_addc(&j->out, c);
    } else if (c == '\'' || c == '/') {
        buf_addc(&j->out, c);
    } else if (c != '\n') { /* Python: a line continued */
        buf_adds(&j->out, "\\\\");
        if ((uint8_t)c < 0x20)
            add_code_point(j, c);
        else
            buf_addc(&j->out, c);
    }
}

static void string_end(struct jpipe *j)
{
    flush_high(j);
    buf_addc(&j->out, '"');
    if (!j->is_key) {
        value_done(j, j->value_at);
        return;
    }
    if (j->depth <= JPIPE_KEYS)
        j->key[j->depth - 1].n = j->out.len - 1 - j->key[j->depth - 1].at;
    j->where = JPIPE_COLON;
}

static void string_byte(struct jpipe *j, char c)
{
    if (j->hex_left) {
        escape_digit(j, c);
    } else if (j->escape) {
        escaped(j, c);
    } else if (c == '\\') {
        j->escape = true;
    } else if (c == j->quote) {
        string_end(j);
    } else {
        flush_high(j);
        if (c == '"' || (uint8_t)c < 0x20)
            add_code_point(j, c);
        else
            buf_addc(&j->out, c);
    }
}

static bool scalar_end(struct jpipe *j)
{
    struct err e;
    json_t *v;

    if (pyjson_read(&v, j->scalar, j->n_scalar, PYJSON_LENIENT | PYJSON_FINITE, "", &e)) {
        fail(j);
        return false;
    }
    pyjson_write(&j->out, v, 0, 0);
    json_decref(v);
    value_done(j, j->value_at);
    return true;
}

static void key_byte(struct jpipe *j, char c)
{
    if (c == '}') {
        close_level(j);
    } else if (c == '"' || c == '\'') {
        separate(j);
        j->quote = c;
        j->is_key = true;
        j->where = JPIPE_STRING;
        buf_addc(&j->out, '"');
        if (j->depth <= JPIPE_KEYS)
            j->key[j->depth - 1].at = j->out.len;
    } else {
        fail(j);
    }
}

static void more_byte(struct jpipe *j, char c)
{
    const char close = j->stack[j->depth - 1];

    if (c == close) {
        close_level(j);
    } else if (c == ',') {
        j->comma = true;
        j->where = close == '}' ? JPIPE_KEY : JPIPE_FIRST;
    } else {
        fail(j);
    }
}

void jpipe_byte(struct jpipe *j, char c)
{
    if (j->where == JPIPE_STRING) {
        string_byte(j, c);
        return;
    }
    if (j->where == JPIPE_SCALAR) {
        if ((c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
            c == '.' || c == '-' || c == '+') {
            if (j->n_scalar == JPIPE_SCALAR_MAX)
                fail(j);
            else
                j->scalar[j->n_scalar++] = c;
            return;
        }
        if (!scalar_end(j))
            return;
    }
    if (is_blank(c))
        return;
    switch (j->where) {
    case JPIPE_FIRST:
        if (c == j->stack[j->depth - 1]) {
            close_level(j);
            break;
        }
        /* fall through */
    case JPIPE_VALUE:
        value_begin(j, c);
        break;
    case JPIPE_KEY:
        key_byte(j, c);
        break;
    case JPIPE_COLON:
        if (c == ':') {
            buf_adds(&j->out, ": ");
            j->where = JPIPE_VALUE;
        } else {
            fail(j);
        }
        break;
    case JPIPE_MORE:
        more_byte(j, c);
        break;
    default:
        fail(j);
    }
}
