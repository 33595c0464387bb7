/* base/work.h: an output of several files that is interrupted anywhere and continued. */
#include <sys/stat.h>
#include <unistd.h>

#include "base/fault.h"
#include "base/file.h"
#include "base/work.h"
#include "format/build.h"

#include "support.h"

static const char key_a[] = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
static const char key_b[] = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";
static const struct work_file files[] = { { "one", 10 }, { "two", 1 }, { "three", 20 } };
enum { TOTAL = 31, PIECE = 3 }; /* pieces cross from file to file */

static char byte_at(size_t i)
{
    return (char)('A' + i % 50);
}

/* Goes on where it can, and marks after every piece. *from: where it began. */
static int produce(const char *dst, size_t *from, struct err *e)
{
    struct work w;
    int rc = 0;

    if (work_open(&w, dst, true, key_a, files, ARRAY_LEN(files), e))
        return -1;
    *from = w.at;
    while (rc == 0 && w.at < TOTAL) {
        const size_t n = TOTAL - w.at < PIECE ? TOTAL - w.at : PIECE;
        char piece[PIECE];

        for (size_t i = 0; i < n; i++)
            piece[i] = byte_at(w.at + i);
        rc = work_write(&w, piece, n, e) || work_mark(&w, e) ? -1 : 0;
    }
    if (rc == 0)
        rc = work_put(&w, "note", "hello", 5, e);
    if (rc == 0)
        rc = work_finish(&w, e);
    work_stop(&w);
    return rc;
}

static void check_result(const char *dst)
{
    size_t at = 0;

    for (size_t i = 0; i < ARRAY_LEN(files); i++) {
        char *path = path_join(dst, files[i].name), *text;
        struct err e = { 0 };
        size_t n;

        OK(file_read(&text, &n, path, 100, &e), e);
        assert_int_equal(n, files[i].bytes);
        for (size_t k = 0; k < n; k++)
            assert_int_equal(text[k], byte_at(at++));
        free(text);
        free(path);
    }
}

/* Each fallible call fails once; the next run must go on and end with the same bytes. */
static void test_every_failure(void **state)
{
    const char *dir = folder_new();
    char *dst = path_join(dir, "out"), *partial = path_join(dir, "out.partial");
    size_t resumed = 0;

    (void)state;
    for (long n = 1; n < 1000; n++) {
        struct err e = { 0 };
        size_t from = 0;

        fault_arm(n);
        const int rc = produce(dst, &from, &e);

        fault_arm(0);
        if (rc == 0) {
            assert_true(n > 20 && resumed > 10);
            check_result(dst);
            folder_remove(dir);
            free(dst);
            free(partial);
            return;
        }
        assert_true(e.msg[0]);
        if (!file_is_dir(dst)) { /* the last sync may fail after the rename */
            OK(produce(dst, &from, &e), e);
            resumed += from > 0;
            assert_int_equal(from % PIECE, from == TOTAL ? 1 : 0);
        }
        check_result(dst);
        assert_false(file_is_dir(partial));
        folder_remove(dst);
    }
    fail_msg("never succeeded");
}

static void test_other_work(void **state)
{
    const char *dir = folder_new();
    char *dst = path_join(dir, "out");
    struct work w, again;
    struct err e = { 0 };

    (void)state;
    OK(work_open(&w, dst, true, key_a, files, ARRAY_LEN(files), &e), e);
    assert_int_equal(work_open(&again, dst, true, key_a, files, ARRAY_LEN(files), &e), -1);
    assert_non_null(strstr(e.msg, "another process"));
    OK(work_write(&w, "ABC", 3, &e), e);
    OK(work_mark(&w, &e), e);
    work_stop(&w);
    assert_int_equal(work_open(&again, dst, true, key_b, files, ARRAY_LEN(files), &e), -1);
    assert_non_null(strstr(e.msg, "another conversion"));
    /* a file shorter than the journal says: from the start */
    char *one = path_join(dir, "out.partial/one");

    assert_int_equal(truncate(one, 2), 0);
    OK(work_open(&w, dst, true, key_a, files, ARRAY_LEN(files), &e), e);
    assert_int_equal(w.at, 0);
    work_stop(&w);
    /* more than any disk has */
    const struct work_file huge = { "huge", SIZE_MAX / 4 };
    char *big = path_join(dir, "big");

    assert_int_equal(work_open(&w, big, false, key_a, &huge, 1, &e), -1);
    assert_int_equal(e.code, ERR_MEMORY);
    assert_non_null(strstr(e.msg, "free"));
    free(big);
    free(one);
    free(dst);
    folder_remove(dir);
}

TEST_MAIN(cmocka_unit_test(test_every_failure), cmocka_unit_test(test_other_work))
