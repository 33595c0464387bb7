/* GGUF: what valid files give, and that broken ones are refused wherever they are cut. */
#include "format/gguf.h"

#include "build.h"
#include "support.h"

static void tiny(struct buf *out)
{
    struct gguf_build g;

    gguf_begin(&g);
    gguf_tiny_meta(&g);
    gguf_tiny_tensors(&g);
    gguf_done(&g, out);
}

static void values_of_every_type(void **state)
{
    static const int16_t i16 = -7;
    static const uint64_t u64 = UINT64_MAX;
    static const int64_t i64 = INT64_MIN;
    static const double f64 = 0.1;
    static const int32_t i32s[2] = { -1, 5 };
    static const float f32s[3] = { 1, 2, 3 };
    struct err e = { 0 };
    struct gguf_build b;
    struct buf file;
    struct gguf *g;
    int64_t v = 42;
    double d = 0;
    bool yes = false;
    struct gguf_str s;
    struct gguf_strs strs;
    const void *p;
    size_t n;

    (void)state;
    gguf_begin(&b);
    gguf_key(&b, "i16", 3);
    buf_add(&b.pairs, &i16, 2);
    gguf_key(&b, "u64", 10);
    buf_add(&b.pairs, &u64, 8);
    gguf_key(&b, "i64", 11);
    buf_add(&b.pairs, &i64, 8);
    gguf_key(&b, "f64", 12);
    buf_add(&b.pairs, &f64, 8);
    gguf_f32(&b, "f32", 0.5f);
    gguf_key(&b, "bool", 7);
    buf_addc(&b.pairs, 1);
    gguf_text(&b, "str", "text");
    gguf_array(&b, "strs", 8, 2);
    put_str(&b.pairs, "one");
    put_str(&b.pairs, "");
    gguf_array(&b, "i32s", 5, 2);
    buf_add(&b.pairs, i32s, sizeof(i32s));
    gguf_array(&b, "f32s", 6, 3);
    buf_add(&b.pairs, f32s, sizeof(f32s));
    gguf_done(&b, &file);
    OK(gguf_open_mem(&g, file.p, file.len, "t", &e), e);

    assert_int_equal(gguf_get_int(g, "absent", 0, 1, &v, &e), 0);
    assert_int_equal(v, 42);
    assert_int_equal(gguf_get_int(g, "i16", -10, 10, &v, &e), 1);
    assert_int_equal(v, -7);
    assert_int_equal(gguf_get_int(g, "i16", 0, 10, &v, &e), -1);
    assert_non_null(strstr(e.msg, "-7"));
    assert_int_equal(gguf_get_int(g, "u64", 0, INT64_MAX, &v, &e), -1);
    assert_int_equal(gguf_get_int(g, "i64", INT64_MIN, 0, &v, &e), 1);
    assert_true(v == INT64_MIN);
    assert_int_equal(gguf_get_int(g, "str", 0, 1, &v, &e), -1);
    assert_int_equal(gguf_get_int(g, "i32s", 0, 1, &v, &e), -1);
    assert_int_equal(gguf_get_num(g, "f64", &d, &e), 1);
    assert_true(d == 0.1);
    assert_int_equal(gguf_get_num(g, "f32", &d, &e), 1);
    assert_true(d == 0.5);
    assert_int_equal(gguf_get_num(g, "i16", &d, &e), -1);
    assert_int_equal(gguf_get_bool(g, "bool", &yes, &e), 1);
    assert_true(yes);
    assert_int_equal(gguf_get_bool(g, "i16", &yes, &e), -1);
    assert_int_equal(gguf_get_str(g, "str", &s, &e), 1);
    assert_int_equal(s.n, 4);
    assert_memory_equal(s.p, "text", 4);
    assert_int_equal(gguf_get_str(g, "strs", &s, &e), -1);
    assert_int_equal(gguf_get_strs(g, "strs", &strs, &e), 1);
    assert_int_equal(strs.n, 2);
    assert_int_equal(gguf_strs_next(&strs).n, 3);
    assert_int_equal(gguf_strs_next(&strs).n, 0);
    assert_int_equal(gguf_get_strs(g, "i32s", &strs, &e), -1);
    assert_int_equal(gguf_get_i32s(g, "i32s", &p, &n, &e), 1);
    assert_int_equal(n, 2);
    assert_memory_equal(p, i32s, sizeof(i32s));
    assert_int_equal(gguf_get_i32s(g, "f32s", &p, &n, &e), -1);
    assert_int_equal(gguf_get_f32s(g, "f32s", &p, &n, &e), 1);
    assert_int_equal(n, 3);
    assert_true(gguf_has_prefix(g, "f32"));
    assert_false(gguf_has_prefix(g, "llama."));
    gguf_close(g);
    buf_release(&file);
}

static void count_meta(void *arg, struct gguf_str key, uint32_t type, const char *value)
{
    assert_true(key.n > 0 && type < 13 && strlen(value) < 1000);
    ++*(int *)arg;
}

static void tensors_and_metadata(void **state)
{
    struct err e = { 0 };
    struct buf file;
    struct gguf *g;
    int n = 0;

    (void)state;
    tiny(&file);
    OK(gguf_open_mem(&g, file.p, file.len, "t", &e), e);
    assert_int_equal(gguf_version(g), 3);
    assert_int_equal(gguf_tensors(g), 11);

    const struct tensor_view *t = gguf_find(g, "blk.0.ffn_down.weight");

    assert_non_null(t);
    assert_int_equal(t->ndim, 2);
    assert_int_equal(t->shape[0], 8); /* rows first */
    assert_int_equal(t->shape[1], 16);
    assert_int_equal(t->enc, ENC_F16);
    assert_int_equal(t->nbytes, 256);
    assert_null(gguf_find(g, "blk.0.ffn_down"));
    gguf_each_meta(g, count_meta, &n);
    assert_int_equal(n, 12);
    gguf_close(g);
    buf_release(&file);
}

/* No prefix of a file is a file: an interrupted download never loads. */
static void every_prefix_is_refused(void **state)
{
    struct err e = { 0 };
    struct buf file;
    struct gguf *g;

    (void)state;
    tiny(&file);
    for (size_t n = 0; n < file.len; n++) {
        char *cut =
            malloc(n ? n : 1); /* its own block, so that a sanitizer sees every step beyond */

        memcpy(cut, file.p, n);
        e = (struct err){ 0 };
        if (!gguf_open_mem(&g, cut, n, "t", &e))
            fail_msg("the first %zu of %zu bytes were accepted", n, file.len);
        assert_int_equal(e.code, ERR_FORMAT);
        free(cut);
    }
    buf_release(&file);
}

/* One byte of the structure changed: refused or not, but never out of bounds. */
static void any_byte_may_lie(void **state)
{
    struct err e = { 0 };
    struct buf file;
    struct gguf *g;

    (void)state;
    tiny(&file);
    for (size_t i = 0; i < file.len - 1024; i++) {
        for (int k = 0; k < 3; k++) {
            const char old = file.p[i];

            file.p[i] = k == 0 ? (char)0xFF : k == 1 ? 0 : (char)(old + 1);
            if (!gguf_open_mem(&g, file.p, file.len, "t", &e))
                gguf_close(g);
            file.p[i] = old;
        }
    }
    buf_release(&file);
}

static int open_path(const void *arg, struct err *e)
{
    struct gguf *g;

    if (gguf_open(&g, arg, e))
        return -1;
    gguf_close(g);
    return 0;
}

/* Part no of 3: the first has the metadata; each has one tensor. */
static void write_part(const char *dir, unsigned no, unsigned says)
{
    struct gguf_build b;
    struct buf file;
    char name[64];

    gguf_begin(&b);
    if (no == 1)
        gguf_text(&b, "general.architecture", "llama");
    gguf_u16(&b, "split.no", (uint16_t)(says - 1));
    gguf_u16(&b, "split.count", 3);
    gguf_key(&b, "split.tensors.count", 5);
    put_u32(&b.pairs, 3);
    snprintf(name, sizeof(name), "t%u", no);
    gguf_add(&b, name, 0, 0, 8, 32);
    gguf_done(&b, &file);
    snprintf(name, sizeof(name), "m-%05u-of-00003.gguf", no);
    write_file(dir, name, file.p, file.len);
    buf_release(&file);
}

static void split_set(void **state)
{
    const char *dir = folder_new();
    struct err e = { 0 };
    struct gguf *g;
    char path[128];

    (void)state;
    for (unsigned i = 1; i <= 3; i++)
        write_part(dir, i, i);
    for (unsigned i = 1; i <= 3; i++) { /* from any of its files */
        snprintf(path, sizeof(path), "%s/m-%05u-of-00003.gguf", dir, i);
        OK(gguf_open(&g, path, &e), e);
        assert_int_equal(gguf_tensors(g), 3);
        assert_non_null(gguf_find(g, "t3"));
        assert_true(gguf_has_prefix(g, "general."));
        gguf_close(g);
    }
    walk_faults(open_path, path);

    write_part(dir, 2, 3); /* two files in each other's place */
    assert_int_equal(gguf_open(&g, path, &e), -1);
    assert_non_null(strstr(e.msg, "split.no"));
    write_part(dir, 2, 2);
    snprintf(path, sizeof(path), "%s/m-00003-of-00003.gguf", dir);
    assert_int_equal(unlink(path), 0);
    snprintf(path, sizeof(path), "%s/m-00001-of-00003.gguf", dir);
    assert_int_equal(gguf_open(&g, path, &e), -1);
    assert_int_equal(e.code, ERR_NOT_FOUND);
    folder_remove(dir);
}

static void split_needs_its_names(void **state)
{
    const char *dir = folder_new();
    struct err e = { 0 };
    struct gguf *g;
    char path[128], other[128];

    (void)state;
    write_part(dir, 1, 1);
    snprintf(path, sizeof(path), "%s/m-00001-of-00003.gguf", dir);
    snprintf(other, sizeof(other), "%s/model.gguf", dir);
    assert_int_equal(rename(path, other), 0);
    assert_int_equal(gguf_open(&g, other, &e), -1);
    assert_non_null(strstr(e.msg, "names back"));
    folder_remove(dir);
}

static void split_names(void **state)
{
    size_t stem;
    unsigned no, count;

    (void)state;
    assert_true(gguf_split_name("a/b-00002-of-00005.gguf", &stem, &no, &count));
    assert_int_equal(stem, 3);
    assert_int_equal(no, 2);
    assert_int_equal(count, 5);
    assert_false(gguf_split_name("b-2-of-5.gguf", &stem, &no, &count));
    assert_false(gguf_split_name("-00002-of-00005.gguf", &stem, &no, &count));
    assert_false(gguf_split_name("b-00002-of-00005.gguf.part", &stem, &no, &count));
}

static void real_file(void **state)
{
    struct err e = { 0 };
    struct gguf_strs tokens;
    struct gguf *g;

    (void)state;
    OK(gguf_open(&g, smollm2_path(), &e), e);
    assert_int_equal(gguf_tensors(g), 272);
    assert_int_equal(gguf_get_strs(g, "tokenizer.ggml.tokens", &tokens, &e), 1);
    assert_int_equal(tokens.n, 49152);
    assert_int_equal(gguf_find(g, "blk.29.ffn_down.weight")->enc, ENC_Q4_1);
    gguf_close(g);
    walk_faults(open_path, smollm2_path());
}

TEST_MAIN(cmocka_unit_test(values_of_every_type), cmocka_unit_test(tensors_and_metadata),
          cmocka_unit_test(every_prefix_is_refused), cmocka_unit_test(any_byte_may_lie),
          cmocka_unit_test(split_set), cmocka_unit_test(split_needs_its_names),
          cmocka_unit_test(split_names), cmocka_unit_test(real_file))
