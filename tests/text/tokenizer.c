/* tests/text/tokenizer.c - every golden line of tests/data/golden (recorded with tiktoken and
 * Meta's tokenizer.model), and what the contract in text/tokenizer.h promises. */
#include "support.h"

#include "base/utf8.h"
#include "text/tokenizer.h"

static struct tok *meta;

static int open_meta(void **state)
{
    struct err e;

    (void)state;
    return tok_open(&meta, meta_tokenizer_path(), &e);
}

static int close_meta(void **state)
{
    (void)state;
    tok_free(meta);
    return 0;
}

static void from_hex(struct buf *out, const char *hex)
{
    for (; hex[0] && hex[1]; hex += 2) {
        const char two[3] = { hex[0], hex[1], 0 };

        buf_addc(out, (char)strtol(two, NULL, 16));
    }
}

static void check_ids(const struct ids *got, const json_t *want, const char *which)
{
    size_t i;

    for (i = 0; i < got->n && i < json_array_size(want); i++)
        if (got->p[i] != json_integer_value(json_array_get(want, i)))
            fail_msg("%s: id %zu is %d, want %lld", which, i, got->p[i],
                     (long long)json_integer_value(json_array_get(want, i)));
    if (got->n != json_array_size(want))
        fail_msg("%s: %zu ids, want %zu", which, got->n, json_array_size(want));
}

static void golden_encode_line(const json_t *j)
{
    const json_t *text = json_object_get(j, "text");
    const bool special = json_is_true(json_object_get(j, "allow_special"));
    const bool chunks = strcmp(str(j, "cat"), "longruns") == 0;
    const unsigned flags =
        (special ? TOK_ALLOW_SPECIAL | TOK_META_NAMES : 0) | (chunks ? TOK_META_CHUNKS : 0);
    struct ids ids = { 0 };
    struct buf in, back;
    struct err e;

    buf_init(&in, (size_t)1 << 24);
    buf_init(&back, (size_t)1 << 24);
    if (json_object_get(j, "bytes_hex"))
        from_hex(&in, str(j, "bytes_hex"));
    else
        buf_add(&in, json_string_value(text), json_string_length(text));
    OK(tok_encode(meta, in.p, in.len, flags, &ids, &e), e);
    check_ids(&ids, json_object_get(j, "ids"), str(j, "id"));
    if (!special) { /* the names differ, the text of ordinary tokens does not */
        tok_decode(meta, ids.p, ids.n, false, &back);
        assert_int_equal(back.len, json_string_length(text));
        assert_memory_equal(back.p, json_string_value(text), back.len);
    }
    ids_release(&ids);
    buf_release(&in);
    buf_release(&back);
}

static void golden_encode(void **state)
{
    struct rows r = rows_open(data_path("golden/tokenizer.jsonl"));

    (void)state;
    while (rows_next(&r))
        golden_encode_line(r.row);
    assert_int_equal(r.n, 1347);
}

static void golden_decode_line(const json_t *j)
{
    const json_t *list = json_object_get(j, "ids"), *text = json_object_get(j, "text");
    struct ids ids = { 0 };
    struct buf want, got, shown, live;
    struct tok_stream s = { .n = 0 };

    buf_init(&want, 1 << 20);
    buf_init(&got, 1 << 20);
    buf_init(&shown, 1 << 20);
    buf_init(&live, 1 << 20);
    from_hex(&want, str(j, "bytes_hex"));
    for (size_t i = 0; i < json_array_size(list); i++) {
        ids_add(&ids, (int32_t)json_integer_value(json_array_get(list, i)));
        tok_stream_add(&s, meta, ids.p[i], false, &live);
        assert_true(utf8_valid(live.p, live.len));
        assert_true(s.n <= 3);
    }
    tok_stream_end(&s, &live);
    tok_decode(meta, ids.p, ids.n, false, &got);
    utf8_sanitize(&shown, got.p, got.len);
    assert_int_equal(got.len, want.len);
    assert_memory_equal(got.p, want.p, want.len);
    assert_int_equal(shown.len, json_string_length(text));
    assert_memory_equal(shown.p, json_string_value(text), shown.len);
    assert_int_equal(live.len, shown.len);
    assert_memory_equal(live.p, shown.p, shown.len);
    ids_release(&ids);
    buf_release(&want);
    buf_release(&got);
    buf_release(&shown);
    buf_release(&live);
}

static void golden_decode(void **state)
{
    struct rows r = rows_open(data_path("golden/decode.jsonl"));

    (void)state;
    while (rows_next(&r))
        golden_decode_line(r.row);
    assert_int_equal(r.n, 101);
}

/* A stream shows after every token what the text up to there shows, but for an unfinished
 * character, whatever the tokens: single bytes cut every character everywhere. */
static void stream_line(const json_t *j)
{
    const json_t *text = json_object_get(j, "text");
    const char *p = json_string_value(text);
    const size_t n = json_string_length(text);
    struct tok_stream s = { .n = 0 };
    struct ids bytes = { 0 };
    struct buf live;
    struct err e;

    if (n > 2000 || strcmp(str(j, "cat"), "special") == 0)
        return;
    buf_init(&live, 1 << 20);
    for (size_t i = 0; i < n; i++) {
        char tail[4];
        const size_t whole = utf8_complete(p, i + 1);

        bytes.n = 0;
        /* a lone byte is not text: its id is found by what decodes to it */
        for (int32_t id = 0; id < 256 && bytes.n == 0; id++) {
            size_t len;
            const char *b = tok_bytes(meta, id, &len);

            if (len == 1 && b[0] == p[i])
                ids_add(&bytes, id);
        }
        assert_int_equal(bytes.n, 1);
        tok_stream_add(&s, meta, bytes.p[0], false, &live);
        assert_int_equal(live.len, whole);
        assert_memory_equal(live.p, p, whole);
        memcpy(tail, s.tail, sizeof(tail));
        assert_int_equal(s.n, i + 1 - whole);
        assert_memory_equal(tail, p + whole, s.n);
    }
    tok_stream_end(&s, &live);
    assert_int_equal(live.len, n);
    (void)e;
    ids_release(&bytes);
    buf_release(&live);
}

static void stream_cuts(void **state)
{
    struct rows r = rows_open(data_path("golden/tokenizer.jsonl"));

    (void)state;
    while (rows_next(&r))
        stream_line(r.row);
    assert_int_equal(r.n, 1347);
}

static void stream_invalid(void **state)
{
    struct tok_stream s = { .n = 0 };
    struct buf live;
    size_t n;

    (void)state;
    buf_init(&live, 1000);
    /* F0 9F, then a letter: the two bytes are one U+FFFD as soon as the letter comes */
    for (int32_t id = 0; id < 256; id++)
        if (*tok_bytes(meta, id, &n) == '\xF0')
            tok_stream_add(&s, meta, id, false, &live);
    assert_int_equal(s.n, 1);
    for (int32_t id = 0; id < 256; id++)
        if (*tok_bytes(meta, id, &n) == '\x9F')
            tok_stream_add(&s, meta, id, false, &live);
    assert_int_equal(s.n, 2);
    assert_int_equal(live.len, 0);
    tok_stream_add(&s, meta, 128009, true, &live); /* skipped: nothing changes */
    assert_int_equal(s.n, 2);
    tok_stream_add(&s, meta, 64, false, &live); /* "a" */
    assert_string_equal(live.p, "\xEF\xBF\xBD"
                                "a");
    tok_stream_add(&s, meta, 128009, false, &live);
    assert_string_equal(live.p, "\xEF\xBF\xBD"
                                "a<|eot_id|>");
    tok_stream_add(&s, meta, -1, false, &live);
    tok_stream_add(&s, meta, 128256, false, &live);
    assert_int_equal(live.len, 14);
    buf_release(&live);
}

static void facts(void **state)
{
    struct ids ids = { 0 };
    struct buf out;
    struct err e;
    size_t n;

    (void)state;
    assert_string_equal(tok_kind(meta), "tiktoken");
    assert_int_equal(tok_size(meta), 128256);
    assert_int_equal(tok_bos(meta), 128000);
    assert_int_equal(tok_eos(meta), 128001);
    assert_true(tok_adds_bos(meta));
    assert_null(tok_chat_template(meta));
    assert_int_equal(tok_id(meta, "<|eot_id|>"), 128009);
    assert_int_equal(tok_id(meta, "<|reserved_special_token_2|>"), 128005);
    assert_int_equal(tok_id(meta, "<|reserved_special_token_247|>"), 128255);
    assert_int_equal(tok_id(meta, "<|eot_id"), -1);
    assert_int_equal(tok_id(meta, "<|eot_id|> "), -1);
    assert_int_equal(tok_id(meta, "the"), -1);
    assert_int_equal(tok_id(meta, ""), -1);
    assert_true(tok_is_special(meta, 128255));
    assert_false(tok_is_special(meta, 127999));
    assert_false(tok_is_special(meta, -1));
    assert_false(tok_is_special(meta, 128256));
    assert_null(tok_bytes(meta, 128256, &n));
    assert_null(tok_bytes(meta, -1, &n));
    assert_non_null(tok_bytes(meta, 58040, &n));
    assert_int_equal(n, 128);

    OK(tok_encode(meta, "", 0, 0, &ids, &e), e);
    assert_int_equal(ids.n, 0);
    OK(tok_encode(meta, "<|eot_id|>", 10, TOK_PLAIN, &ids, &e), e);
    assert_true(ids.n > 1);
    for (size_t i = 0; i < ids.n; i++)
        assert_true(ids.p[i] < 128000);
    ids.n = 0;
    OK(tok_encode(meta, "a<|eot_id|><|eot_id|>", 21, TOK_ALLOW_SPECIAL, &ids, &e), e);
    assert_int_equal(ids.n, 3);
    assert_int_equal(ids.p[1], 128009);
    buf_init(&out, 100);
    tok_decode(meta, ids.p, ids.n, true, &out);
    assert_string_equal(out.p, "a");
    buf_release(&out);
    ids_release(&ids);
}

/* Long runs are O(n log n): 128 k of one letter, and of letters that merge in every way. */
static void long_pieces(void **state)
{
    const size_t n = 128000;
    char *text = malloc(n);
    struct ids ids = { 0 };
    struct buf out;
    struct err e;

    (void)state;
    for (int kind = 0; kind < 3; kind++) {
        for (size_t i = 0; i < n; i++)
            text[i] = (char)(kind == 0 ? 'a' : kind == 1 ? ' ' : 'a' + (i * i / 7 + i / 3) % 26);
        ids.n = 0;
        OK(tok_encode(meta, text, n, 0, &ids, &e), e);
        buf_init(&out, 2 * n);
        tok_decode(meta, ids.p, ids.n, false, &out);
        assert_int_equal(out.len, n);
        assert_memory_equal(out.p, text, n);
        buf_release(&out);
    }
    ids_release(&ids);
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(golden_encode), cmocka_unit_test(golden_decode),
        cmocka_unit_test(stream_cuts),   cmocka_unit_test(stream_invalid),
        cmocka_unit_test(facts),         cmocka_unit_test(long_pieces),
    };

    return cmocka_run_group_tests_name(__FILE__, tests, open_meta, close_meta);
}
