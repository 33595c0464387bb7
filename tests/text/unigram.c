/* The Unigram tokenizer against the answers of sentencepiece and of tokenizers. The text ___ is an
 * exact tie between two splits, which single and double precision decide differently. */
#include "support.h"

#include "text/unigram.h"

static bool same_ids(const struct ids *got, const json_t *want)
{
    bool same = got->n == json_array_size(want);

    for (size_t i = 0; same && i < got->n; i++)
        same = got->p[i] == json_integer_value(json_array_get(want, i));
    return same;
}

static size_t recorded(const struct unigram *u, const char *file)
{
    struct rows r = rows_open(data_path(file));
    struct buf text;
    struct err e;

    buf_init(&text, 1 << 20);
    while (rows_next(&r)) {
        const json_t *j = r.row;
        const json_t *t = json_object_get(j, "text"), *pieces = json_object_get(j, "pieces");
        struct ids ids = { 0 };

        buf_clear(&text);
        OK(unigram_normalize(u, json_string_value(t), json_string_length(t), &text, &e), e);
        if (json_object_get(j, "normalized"))
            assert_string_equal(text.p, str(j, "normalized"));
        OK(unigram_encode(u, json_string_value(t), json_string_length(t), &ids, &e), e);
        if (!same_ids(&ids, json_object_get(j, "ids")) && strcmp(str(j, "text"), "___") != 0)
            fail_msg("%s: %s: other ids", str(j, "id"), str(j, "text"));
        for (size_t i = 0; i < ids.n && i < json_array_size(pieces); i++) {
            size_t len;
            const char *p = unigram_piece(u, ids.p[i], &len);

            if (ids.p[i] != 3 && strcmp(str(j, "text"), "___") != 0) /* [UNK] shows its text */
                assert_memory_equal(p, json_string_value(json_array_get(pieces, i)), len);
        }
        ids_release(&ids);
    }
    buf_release(&text);
    return r.n;
}

static void sentencepiece(void **state)
{
    struct unigram *u;
    struct err e;

    (void)state;
    OK(unigram_open(&u, data_path("golden/spm_tiny.model"), &e), e);
    assert_int_equal(unigram_size(u), 1098);
    assert_int_equal(unigram_cls(u), 1);
    assert_int_equal(unigram_sep(u), 2);
    assert_int_equal(recorded(u, "golden/spm_tiny.jsonl"), 342);
    unigram_close(u);
}

/* The tokenizers library works grapheme by grapheme, and word by word. */
static void tokenizers(void **state)
{
    struct unigram *u;
    struct err e;

    (void)state;
    OK(unigram_open(&u, data_path("unigram"), &e), e);
    assert_int_equal(unigram_size(u), 1098);
    assert_int_equal(recorded(u, "unigram/cases.jsonl"), 365);
    unigram_close(u);
}

/* Splitting is as much work a byte of text as the longest piece has bytes: it has a limit. */
static void long_piece(void **state)
{
    struct unigram *u;
    struct err e;
    struct buf b;

    (void)state;
    for (int n = 1024; n <= 1025; n++) {
        buf_init(&b, 1 << 16);
        buf_adds(&b, "{\"model\": {\"type\": \"Unigram\", \"unk_id\": 0, \"vocab\": "
                     "[[\"[UNK]\", 0], [\"");
        for (int i = 0; i < n; i++)
            buf_addc(&b, 'x');
        buf_adds(&b, "\", -1]]}, \"pre_tokenizer\": null, \"normalizer\": null}");
        const int rc = unigram_open_mem(&u, b.p, b.len, true, "long", &e);

        if (n > 1024)
            assert_non_null(strstr(e.msg, "vocab[1] is not [piece of up to 1024 bytes"));
        else if (rc == 0)
            unigram_close(u);
        else
            assert_null(strstr(e.msg, "up to 1024 bytes"));
        assert_true(n <= 1024 || rc != 0);
        buf_release(&b);
    }
}

TEST_MAIN(cmocka_unit_test(long_piece), cmocka_unit_test(sentencepiece),
          cmocka_unit_test(tokenizers))
