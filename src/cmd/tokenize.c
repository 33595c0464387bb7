/* tokenize.c - `puna tokenize`: text to token ids and back. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "base/utf8.h"
#include "cmd/common.h"
#include "cmd/opt.h"
#include "hub/models.h"
#include "text/tokenizer.h"

enum { LINE_MAX_BYTES = 1 << 30, TEXT_MAX = 1 << 30, IDS_MAX = 1 << 28 };

struct tokenize_cfg {
    const char *tokenizer, *text, *file;
    bool json, decode, quiet, allow_special, skip_special, lossy, meta_chunking, meta_names;
};

static const struct opt opts[] = {
    OPT(ARG, struct tokenize_cfg, tokenizer, NULL, "TOKENIZER", NULL,
        "tokenizer.model, tokenizer.json, GGUF file, model folder or a model's name"),
    OPT(ARG, struct tokenize_cfg, text, NULL, "TEXT", "",
        "the text, or with --decode the ids; none = --file or standard input"),
    OPT(STR, struct tokenize_cfg, file, "-f", "FILE", NULL, "one raw text in"),
    OPT(BOOL, struct tokenize_cfg, decode, "-d", NULL, "false", "ids in, text out"),
    OPT(BOOL, struct tokenize_cfg, quiet, "-q", NULL, "false", "print the ids alone, on one line"),
    OPT(BOOL, struct tokenize_cfg, json, NULL, NULL, "false",
        "JSON lines in and out; a single text gives one line"),
    OPT(BOOL, struct tokenize_cfg, allow_special, NULL, NULL, "false",
        "control-token text such as <|eot_id|> becomes the control token"),
    OPT(BOOL, struct tokenize_cfg, skip_special, NULL, NULL, "false",
        "with --decode: leave control tokens out"),
    OPT(BOOL, struct tokenize_cfg, lossy, NULL, NULL, "false",
        "replace invalid UTF-8 by U+FFFD instead of refusing it"),
    OPT(BOOL, struct tokenize_cfg, meta_chunking, NULL, NULL, "false",
        "cut very long texts and runs as Meta's tokenizer does"),
    OPT(BOOL, struct tokenize_cfg, meta_names, NULL, NULL, "false",
        "tokenizer.model: Meta's names of the reserved tokens, not Hugging Face's"),
    { .name = NULL },
};

static unsigned encode_flags(const struct tokenize_cfg *c, bool special)
{
    return (special ? TOK_ALLOW_SPECIAL : 0u) | (c->meta_chunking ? TOK_META_CHUNKS : 0u) |
           (c->meta_names ? TOK_META_NAMES : 0u);
}

static int encode(const struct tokenize_cfg *c, const struct tok *t, const char *text, size_t n,
                  bool special, struct ids *out, struct err *e)
{
    if (!c->lossy) {
        int32_t cp;

        for (size_t i = 0; i < n;) {
            const size_t k = utf8_next(text + i, n - i, &cp);

            if (cp < 0)
                return err_set(e, ERR_FORMAT,
                               "not valid UTF-8 at byte %zu of %zu; --lossy replaces what is not",
                               i, n);
            i += k;
        }
    }
    return tok_encode(t, text, n, encode_flags(c, special), out, e);
}

static int check_id(const struct tok *t, int64_t id, struct err *e)
{
    size_t n;

    if (id < 0 || id >= tok_size(t) || !tok_bytes(t, (int32_t)id, &n))
        return err_set(e, ERR_FORMAT, "no token has the id %" PRId64 "; ids end at %d", id,
                       (int)tok_size(t) - 1);
    return 0;
}

/* ---- JSON lines ---- */

static void print_json(json_t *take)
{
    json_dumpf(take, stdout, 0);
    putchar('\n');
    json_decref(take);
}

static void print_json_ids(const struct ids *ids)
{
    fputs("{\"ids\": [", stdout);
    for (size_t i = 0; i < ids->n; i++)
        printf("%s%d", i ? ", " : "", (int)ids->p[i]);
    puts("]}");
}

static void print_json_bytes(const struct buf *bytes)
{
    json_t *j = json_object();
    struct buf hex, text;

    buf_init(&hex, 2 * bytes->len);
    buf_init(&text, 3 * bytes->len);
    for (size_t i = 0; i < bytes->len; i++)
        buf_addf(&hex, "%02x", (unsigned char)bytes->p[i]);
    utf8_sanitize(&text, bytes->p, bytes->len);
    json_object_set_new(j, "bytes_hex", json_stringn(hex.p, hex.len));
    json_object_set_new(j, "text", json_stringn(text.p, text.len));
    buf_release(&hex);
    buf_release(&text);
    print_json(j);
}

static int encode_object(const struct tokenize_cfg *c, const struct tok *t, const json_t *j,
                         struct err *e)
{
    const char *text;
    struct ids ids = { 0 };
    bool special = c->allow_special;
    size_t n;
    const int got = json_get_str(j, "text", &text, &n, "the object", e);
    int rc = -1;

    if (got < 0 || json_get_bool(j, "allow_special", &special, "the object", e) < 0)
        return -1;
    if (!got)
        return err_set(e, ERR_FORMAT, "the object has no \"text\"");
    if (encode(c, t, text, n, special, &ids, e) == 0) {
        print_json_ids(&ids);
        rc = 0;
    }
    ids_release(&ids);
    return rc;
}

static int decode_object(const struct tokenize_cfg *c, const struct tok *t, const json_t *j,
                         struct err *e)
{
    struct ids ids = { 0 };
    struct buf bytes;
    json_t *list, *v;
    size_t i;
    const int got = json_get_arr(j, "ids", &list, "the object", e);
    int rc = -1;

    if (got < 0)
        return -1;
    if (!got)
        return err_set(e, ERR_FORMAT, "the object has no \"ids\"");
    buf_init(&bytes, TEXT_MAX);
    json_array_foreach(list, i, v)
    {
        if (!json_is_integer(v)) {
            err_set(e, ERR_FORMAT, "\"ids\": element %zu is not an integer", i);
            goto done;
        }
        if (check_id(t, json_integer_value(v), e))
            goto done;
        ids_add(&ids, (int32_t)json_integer_value(v));
    }
    tok_decode(t, ids.p, ids.n, c->skip_special, &bytes);
    if (buf_check(&bytes, "decoded text", e) == 0) {
        print_json_bytes(&bytes);
        rc = 0;
    }
done:
    ids_release(&ids);
    buf_release(&bytes);
    return rc;
}

/* Stops at the first line that is wrong: what was printed before it stands. */
static int json_lines(const struct tokenize_cfg *c, const struct tok *t, struct err *e)
{
    struct buf line;
    size_t number = 0;
    int rc;

    buf_init(&line, LINE_MAX_BYTES);
    while ((rc = file_line(&line, stdin, e)) == 1) {
        json_t *j;

        number++;
        if (strspn(line.p, " \t\r") == line.len)
            continue;
        rc = json_parse(&j, line.p, line.len, "JSON", e);
        if (rc == 0) {
            if (!json_is_object(j))
                rc = err_set(e, ERR_FORMAT, "must be a JSON object");
            else
                rc = c->decode ? decode_object(c, t, j, e) : encode_object(c, t, j, e);
            json_decref(j);
        }
        fflush(stdout); /* whoever sent the line may be waiting */
        if (rc) {
            err_wrap(e, "standard input, line %zu", number);
            break;
        }
    }
    buf_release(&line);
    return rc;
}

/* ---- one text ---- */

/* A token as a quoted string on one line; bytes that are no character as \xNN. */
static void print_quoted(const char *p, size_t n)
{
    putchar('"');
    while (n) {
        int32_t cp;
        const size_t k = utf8_next(p, n, &cp);

        if (cp == '\n')
            fputs("\\n", stdout);
        else if (cp == '\r')
            fputs("\\r", stdout);
        else if (cp == '\t')
            fputs("\\t", stdout);
        else if (cp == '"' || cp == '\\')
            printf("\\%c", (int)cp);
        else if (cp < 0 || cp < 0x20 || cp == 0x7F)
            for (size_t i = 0; i < k; i++)
                printf("\\x%02X", (unsigned char)p[i]);
        else if ((cp >= 0x80 && cp < 0xA0) || (cp >= 0x200B && cp <= 0x200F) ||
                 (cp >= 0x2028 && cp <= 0x202E) || (cp >= 0x2060 && cp <= 0x2069) || cp == 0xFEFF)
            printf("\\u%04X", (unsigned)cp); /* would move the cursor or show nothing */
        else
            fwrite(p, 1, k, stdout);
        p += k;
        n -= k;
    }
    putchar('"');
}

static void print_tokens(const struct tok *t, const struct ids *ids)
{
    for (size_t i = 0; i < ids->n; i++) {
        size_t n;
        const char *p = tok_bytes(t, ids->p[i], &n);

        printf("%7d  ", (int)ids->p[i]);
        print_quoted(p, n);
        puts(tok_is_special(t, ids->p[i]) ? "  special" : "");
    }
    fprintf(stderr, "%zu tokens\n", ids->n);
}

static int encode_text(const struct tokenize_cfg *c, const struct tok *t, const char *text,
                       size_t n, struct err *e)
{
    struct ids ids = { 0 };
    int rc = encode(c, t, text, n, c->allow_special, &ids, e);

    if (rc == 0 && c->json) {
        print_json_ids(&ids);
    } else if (rc == 0 && c->quiet) {
        for (size_t i = 0; i < ids.n; i++)
            printf("%s%d", i ? " " : "", (int)ids.p[i]);
        putchar('\n');
    } else if (rc == 0) {
        print_tokens(t, &ids);
    }
    ids_release(&ids);
    return rc;
}

/* Numbers apart by blanks, commas or brackets: what --quiet and --json print. */
static int parse_ids(const struct tok *t, const char *text, size_t n, struct ids *out,
                     struct err *e)
{
    for (const char *p = text, *stop = text + n; p < stop;) {
        char *end;

        if (strchr(" \t\r\n,[]", *p) && *p) {
            p++;
            continue;
        }
        errno = 0;
        const long long id = *p >= '0' && *p <= '9' ? strtoll(p, &end, 10) : (end = NULL, 0);

        if (!end || errno || (end < stop && !strchr(" \t\r\n,[]", *end)))
            return err_set(e, ERR_FORMAT, "byte %zu is not part of a list of ids",
                           (size_t)(p - text));
        if (check_id(t, id, e))
            return -1;
        ids_add(out, (int32_t)id);
        p = end;
    }
    return 0;
}

static int decode_text(const struct tokenize_cfg *c, const struct tok *t, const char *text,
                       size_t n, struct err *e)
{
    struct ids ids = { 0 };
    struct buf bytes;
    int rc;

    buf_init(&bytes, TEXT_MAX);
    rc = parse_ids(t, text, n, &ids, e);
    if (rc == 0) {
        tok_decode(t, ids.p, ids.n, c->skip_special, &bytes);
        rc = buf_check(&bytes, "decoded text", e);
    }
    if (rc == 0 && c->json)
        print_json_bytes(&bytes);
    else if (rc == 0)
        fwrite(bytes.p, 1, bytes.len, stdout);
    ids_release(&ids);
    buf_release(&bytes);
    return rc;
}

static int one_text(const struct tokenize_cfg *c, const struct tok *t, const char *what,
                    const char *text, size_t n, struct err *e)
{
    if (c->decode ? decode_text(c, t, text, n, e) : encode_text(c, t, text, n, e))
        return err_wrap(e, "%s", what);
    return 0;
}

static int texts(const struct tokenize_cfg *c, const struct tok *t, struct err *e)
{
    const char *what = "standard input";
    struct buf in;
    char *text;
    size_t n;
    int rc;

    if (opt_given(c, "text"))
        return one_text(c, t, "the argument", c->text, strlen(c->text), e);
    if (c->json && !c->file)
        return json_lines(c, t, e);
    if (c->file) {
        what = c->file;
        if (file_read(&text, &n, c->file, TEXT_MAX, e))
            return -1;
    } else {
        buf_init(&in, TEXT_MAX);
        if (stdin_read(&in, "the text", e)) {
            buf_release(&in);
            return -1;
        }
        n = in.len;
        text = buf_take(&in);
        buf_release(&in);
    }
    rc = one_text(c, t, what, text, n, e);
    free(text);
    return rc;
}

static int run(const void *cfg, struct err *e)
{
    const struct tokenize_cfg *c = cfg;
    struct tok *t;
    char *path;
    int rc;

    if (opt_given(c, "text") && c->file)
        return err_set(e, ERR_USAGE, "give either TEXT or --file FILE");
    if (hub_resolve(c->tokenizer, &path, e))
        return -1;
    rc = tok_open(&t, path, e);
    free(path);
    if (rc)
        return -1;
    rc = texts(c, t, e);
    tok_free(t);
    return rc;
}

const struct cmd cmd_tokenize = {
    .name = "tokenize",
    .summary = "text to token ids and back",
    .usage = "TOKENIZER [TEXT] [--decode] [--json]",
    .help =
        "Prints the tokens of a text, one a line: the id and the bytes it stands for. The text is "
        "TEXT, a --file, or standard input as a whole. No token is added in front, and text that "
        "looks like a control token is plain text unless --allow-special is given.\n"
        "\n"
        "With --decode it reads ids, apart by blanks or commas, and writes the exact bytes.\n"
        "\n"
        "With --json standard input is JSON lines: {\"text\", \"allow_special\"} in, {\"ids\"} "
        "out; "
        "with --decode {\"ids\"} in, {\"bytes_hex\", \"text\"} out, in order. It stops at the "
        "first "
        "line that is wrong.\n"
        "\n"
        "EXAMPLES\n"
        "  puna tokenize smollm2 'Hello, world'\n"
        "  puna tokenize smollm2 -q --file book.txt | wc -w\n"
        "  puna tokenize smollm2 --decode '19556 28 905'\n"
        "  puna tokenize tokenizer.model --json < lines.jsonl\n",
    .opts = opts,
    .cfg_size = sizeof(struct tokenize_cfg),
    .run = run,
};
