/* safetensors: what valid files give, what broken ones are told. */
#include "format/safetensors.h"

#include "build.h"
#include "format/st_write.h"
#include "support.h"

/* A file of this header and n bytes of data. */
static void file_of(struct buf *b, const char *header, size_t data)
{
    buf_init(b, 1 << 20);
    put_u64(b, strlen(header));
    buf_adds(b, header);
    for (size_t i = 0; i < data; i++)
        buf_addc(b, (char)i);
}

static void valid_files(void **state)
{
    static const char header[] =
        "{\"b\":{\"dtype\":\"F32\",\"shape\":[2,1],\"data_offsets\":[3,11]},"
        "\"__metadata__\":{\"format\":\"pt\"},"
        "\"a\":{\"dtype\":\"I8\",\"shape\":[3],\"data_offsets\":[0,3],\"extra\":1},"
        "\"empty\":{\"dtype\":\"BF16\",\"shape\":[0,5],\"data_offsets\":[3,3]},"
        "\"scalar\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[11,12]}}   ";
    struct err e = { 0 };
    struct buf b;
    struct st *s;

    (void)state;
    file_of(&b, header, 12);
    OK(st_open_mem(&s, b.p, b.len, "t", &e), e);
    assert_int_equal(st_tensors(s), 4);
    assert_string_equal(st_tensor(s, 0)->name, "a"); /* in the order of the data */
    const struct tensor_view *t = st_find(s, "b");

    assert_int_equal(t->enc, ENC_F32);
    assert_int_equal(t->ndim, 2);
    assert_int_equal(t->shape[0], 2);
    assert_int_equal(t->nbytes, 8);
    assert_int_equal(t->data[0], 3);
    assert_int_equal(st_find(s, "scalar")->ndim, 0);
    assert_int_equal(st_find(s, "empty")->nbytes, 0);
    assert_null(st_find(s, "c"));
    assert_string_equal(json_string_value(json_object_get(st_metadata(s), "format")), "pt");
    st_close(s);
    for (size_t n = 0; n < b.len; n++) { /* an interrupted download never loads */
        char *cut = malloc(n ? n : 1);

        memcpy(cut, b.p, n);
        assert_int_equal(st_open_mem(&s, cut, n, "t", &e), -1);
        free(cut);
    }
    buf_release(&b);

    file_of(&b, "{}", 0);
    OK(st_open_mem(&s, b.p, b.len, "t", &e), e);
    assert_int_equal(st_tensors(s), 0);
    assert_null(st_metadata(s));
    st_close(s);
    buf_release(&b);
}

static void broken_files(void **state)
{
#define A "{\"a\":{\"dtype\":"
    static const struct {
        const char *header;
        const char *says;
        size_t data;
    } row[] = {
        { "[]", "not a JSON object", 0 },
        { " {}", "not a JSON object", 0 },
        { "{}\n", "padded with spaces", 0 },
        { "{\"a\":1}", "must be an object", 0 },
        { "{\"\":"
          "{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}",
          "name of 0 bytes", 1 },
        { A "\"Q4\",\"shape\":[1],\"data_offsets\":[0,1]}}", "dtype Q4", 1 },
        { A "1,\"shape\":[1],\"data_offsets\":[0,1]}}", "dtype ?", 1 },
        { A "\"U8\",\"data_offsets\":[0,1]}}", "\"shape\"", 1 },
        { A "\"U8\",\"shape\":[1.0],\"data_offsets\":[0,1]}}", "dimension 0", 1 },
        { A "\"U8\",\"shape\":[-1],\"data_offsets\":[0,1]}}", "dimension 0", 1 },
        { A "\"U8\",\"shape\":[1,1,1,1,1,1,1,1,1],\"data_offsets\":[0,1]}}", "9 dimensions", 1 },
        { A "\"U8\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,0]}}", "overflows", 0 },
        { A "\"I64\",\"shape\":[2305843009213693952],\"data_offsets\":[0,0]}}", "overflows", 0 },
        { A "\"U8\",\"shape\":[1]}}", "two integers", 1 },
        { A "\"U8\",\"shape\":[1],\"data_offsets\":[1,0]}}", "outside", 1 },
        { A "\"U8\",\"shape\":[1],\"data_offsets\":[-1,0]}}", "outside", 1 },
        { A "\"U8\",\"shape\":[2],\"data_offsets\":[0,2]}}", "outside the 1 bytes", 1 },
        { A "\"U8\",\"shape\":[1],\"data_offsets\":[0,2]}}", "span 2 bytes", 2 },
        { A "\"U8\",\"shape\":[1],\"data_offsets\":[1,2]}}", "leaving a hole", 2 },
        { A "\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", "1 bytes after", 2 },
        { A "\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},"
            "\"b\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}",
          "overlapping", 1 },
        { A "\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},"
            "\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1,2]}}",
          "duplicate", 2 },
        { "{\"__metadata__\":[]}", "__metadata__", 0 },
        { "{\"__metadata__\":{\"x\":1}}", "\"x\" must be a string", 0 },
    };
#undef A
    struct err e = { 0 };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        struct buf b;
        struct st *s;

        file_of(&b, row[i].header, row[i].data);
        if (!st_open_mem(&s, b.p, b.len, "file", &e))
            fail_msg("accepted: %s", row[i].header);
        if (!strstr(e.msg, row[i].says) || strncmp(e.msg, "file: ", 6))
            fail_msg("%s: \"%s\" does not say \"%s\"", row[i].header, e.msg, row[i].says);
        buf_release(&b);
    }
}

static void long_name(void **state)
{
    struct err e = { 0 };
    struct buf header, b;
    struct st *s;

    (void)state;
    for (size_t n = 4096; n <= 4097; n++) {
        buf_init(&header, 1 << 20);
        buf_adds(&header, "{\"");
        for (size_t i = 0; i < n; i++)
            buf_addc(&header, 'n');
        buf_adds(&header, "\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}}");
        file_of(&b, header.p, 0);
        if (n == 4096) {
            OK(st_open_mem(&s, b.p, b.len, "t", &e), e);
            st_close(s);
        } else {
            assert_int_equal(st_open_mem(&s, b.p, b.len, "t", &e), -1);
        }
        buf_release(&b);
        buf_release(&header);
    }
}

static int open_path(const void *arg, struct err *e)
{
    struct st *s;

    if (st_open(&s, arg, e))
        return -1;
    st_close(s);
    return 0;
}

/* What is written is read back. */
static void round_trip(void **state)
{
    static const float x[6] = { 1, 2, 3, 4, 5, 6 };
    static const uint16_t y[2] = { 7, 8 };
    const char *dir = folder_new();
    struct tensor_view t[2] = {
        { .name = "x", .enc = ENC_F32, .ndim = 2, .shape = { 2, 3 } },
        { .name = "y \"quoted\"", .enc = ENC_BF16, .ndim = 1, .shape = { 2 } },
    };
    struct st_writer w;
    struct err e = { 0 };
    struct st *s;
    char path[128];

    (void)state;
    snprintf(path, sizeof(path), "%s/x.safetensors", dir);
    OK(st_write_open(&w, path, t, 2, NULL, &e), e);
    OK(st_write_data(&w, x, sizeof(x), &e), e);
    OK(st_write_data(&w, y, sizeof(y), &e), e);
    OK(st_write_close(&w, &e), e);
    OK(st_open(&s, path, &e), e);
    assert_string_equal(st_path(s), path);
    assert_memory_equal(st_find(s, "x")->data, x, sizeof(x));
    assert_memory_equal(st_find(s, "y \"quoted\"")->data, y, sizeof(y));
    st_close(s);
    walk_faults(open_path, path);
    folder_remove(dir);
    assert_int_equal(st_open(&s, path, &e), -1);
    assert_int_equal(e.code, ERR_NOT_FOUND);
}

TEST_MAIN(cmocka_unit_test(valid_files), cmocka_unit_test(broken_files),
          cmocka_unit_test(long_name), cmocka_unit_test(round_trip))
