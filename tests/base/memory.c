/* Buffers, files, JSON, checked sizes: what stands between us and a hostile world. */
#include "support.h"

#include <sys/stat.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/fault.h"
#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"

static char dir[] = "/tmp/puna-test-XXXXXX";

static int make_dir(void **state)
{
    (void)state;
    return mkdtemp(dir) ? 0 : -1;
}

static int remove_dir(void **state)
{
    static const char *const left[] = { "out", "fifo", "large" };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(left); i++) {
        char *p = path_join(dir, left[i]);

        unlink(p);
        free(p);
    }
    return rmdir(dir);
}

static void buffers_have_a_maximum(void **state)
{
    struct buf b;
    struct err e;

    (void)state;
    buf_init(&b, 10);
    buf_adds(&b, "12345678");
    buf_adds(&b, "90");
    assert_int_equal(buf_check(&b, "x", &e), 0);
    buf_addc(&b, '!');
    assert_int_equal(buf_check(&b, "answer", &e), -1);
    assert_string_equal(b.p, "1234567890");
    assert_non_null(strstr(e.msg, "answer"));
    buf_clear(&b);
    buf_addf(&b, "%s-%d", "abc", 42);
    assert_string_equal(b.p, "abc-42");
    buf_remove(&b, 1, 3);
    assert_string_equal(b.p, "a42");
    char *p = buf_take(&b);

    assert_string_equal(p, "a42");
    assert_int_equal(b.len, 0);
    free(p);
    buf_release(&b);
    buf_release(&b);
}

static void messages_carry_no_control_characters(void **state)
{
    struct err e;
    char name[2000];

    (void)state;
    err_set(&e, ERR_FORMAT, "bad name %s", "\x1b[31mred\n");
    assert_string_equal(e.msg, "bad name ?[31mred?");
    err_wrap(&e, "%s", "file");
    assert_string_equal(e.msg, "file: bad name ?[31mred?");
    memset(name, 'x', sizeof(name) - 1);
    name[sizeof(name) - 1] = 0;
    err_wrap(&e, "%s", name);
    assert_int_equal(strlen(e.msg), sizeof(e.msg) - 1);
    assert_int_equal(err_set(NULL, ERR_FAIL, "nobody asks"), -1);
}

static void sizes_do_not_wrap(void **state)
{
    size_t n = 7;
    void *p;
    struct err e;

    (void)state;
    assert_false(mul_ok(&n, SIZE_MAX / 2, 3));
    assert_false(add_ok(&n, SIZE_MAX, 1));
    assert_int_equal(n, 7);
    assert_int_equal(mem_new(&p, SIZE_MAX / 4, 8, "tensor", &e), -1);
    assert_non_null(strstr(e.msg, "tensor"));
}

static void files_appear_whole_or_not_at_all(void **state)
{
    char *path = path_join(dir, "out"), *text;
    struct out_file o;
    struct err e;
    size_t n;

    (void)state;
    OK(out_open(&o, path, &e), e);
    fputs("half", o.f);
    out_abort(&o);
    assert_false(file_exists(path));
    OK(out_open(&o, path, &e), e);
    fputs("whole", o.f);
    assert_false(file_exists(path));
    OK(out_commit(&o, &e), e);
    OK(file_read(&text, &n, path, 100, &e), e);
    assert_string_equal(text, "whole");
    free(text);
    assert_int_equal(file_read(&text, &n, path, 4, &e), -1); /* over the cap */
    OK(out_open(&o, path, &e), e);
    fputs("failed", o.f);
    fault_arm(1);
    assert_int_equal(out_commit(&o, &e), -1);
    fault_arm(0);
    OK(file_read(&text, &n, path, 100, &e), e);
    assert_string_equal(text, "whole"); /* the old one is still there */
    free(text);
    free(path);
}

static void only_regular_files_are_opened(void **state)
{
    char *fifo = path_join(dir, "fifo");
    struct map m;
    struct err e;

    (void)state;
    assert_int_equal(mkfifo(fifo, 0600), 0);
    assert_int_equal(map_open(&m, fifo, &e), -1); /* and does not hang */
    assert_int_equal(map_open(&m, "/dev/zero", &e), -1);
    assert_int_equal(map_open(&m, dir, &e), -1);
    assert_int_equal(map_open(&m, "/nonexistent", &e), -1);
    assert_int_equal(e.code, ERR_NOT_FOUND);
    free(fifo);
}

/* What /proc/self/smaps says of the mapping at p: its line that begins with key; "" = none. */
static void map_says(char out[256], const void *p, const char *key)
{
    char line[512];
    bool here = false;
    FILE *f = fopen("/proc/self/smaps", "re");

    assert_non_null(f);
    *out = 0;
    while (fgets(line, sizeof(line), f)) {
        unsigned long long from, to;

        if (sscanf(line, "%llx-%llx ", &from, &to) == 2)
            here = (uintptr_t)p >= from && (uintptr_t)p < to;
        else if (here && strncmp(line, key, strlen(key)) == 0)
            snprintf(out, 256, "%.255s", line);
    }
    fclose(f);
}

static void large_files_ask_for_huge_pages(void **state)
{
    char *path = path_join(dir, "large"), flags[256];
    struct map small, large;
    struct err e;

    (void)state;
    if (access("/sys/kernel/mm/transparent_hugepage/enabled", R_OK)) {
        print_message("this system has no transparent huge pages: nothing to ask for\n");
        free(path);
        return;
    }
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(ftruncate(fileno(f), MEM_HUGE - 1), 0);
    OK(map_open(&small, path, &e), e);
    assert_int_equal(ftruncate(fileno(f), MEM_HUGE), 0);
    OK(map_open(&large, path, &e), e);
    fclose(f);
    map_says(flags, small.p, "VmFlags:");
    assert_null(strstr(flags, " hg"));
    map_says(flags, large.p, "VmFlags:");
    assert_non_null(strstr(flags, " hg"));
    map_close(&small);
    map_close(&large);
    free(path);
}

static void large_memory_begins_a_huge_page(void **state)
{
    static const size_t sizes[] = { MEM_HUGE, MEM_HUGE + 1, MEM_HUGE + 12345678 };
    char flags[256];
    struct err e;
    void *p;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
        OK(mem_map(&p, sizes[i], "memory", &e), e);
        assert_int_equal((uintptr_t)p % (2 << 20), 0);
        ((uint8_t *)p)[sizes[i] - 1] = 1;
        assert_int_equal(*(uint8_t *)p, 0);
        if (access("/sys/kernel/mm/transparent_hugepage/enabled", R_OK) == 0) {
            map_says(flags, p, "VmFlags:");
            assert_non_null(strstr(flags, " hg"));
        }
        mem_unmap(p, sizes[i]);
    }
    assert_int_equal(mem_map(&p, PTRDIFF_MAX, "memory", &e), -1);
}

/* Kilobytes of the mapping at p that are in this process's memory. */
static long map_resident(const void *p)
{
    char line[256];
    long kb = -1;

    map_says(line, p, "Rss:");
    assert_int_equal(sscanf(line, "Rss: %ld kB", &kb), 1);
    return kb;
}

static void forgotten_pages_come_back_from_the_file(void **state)
{
    enum { LEN = 1 << 20 };
    char *path = path_join(dir, "out");
    uint8_t *mine = xcalloc(1, LEN);
    struct map m;
    struct err e;
    size_t sum = 0;

    (void)state;
    memset(mine, 1, LEN);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(mine, 1, LEN, f), LEN);
    fclose(f);
    OK(map_open(&m, path, &e), e);
    for (size_t i = 0; i < LEN; i++)
        sum += m.p[i];
    assert_int_equal(map_resident(m.p), LEN / 1024);
    map_forget(m.p + 1, LEN - 2); /* not the first page, nor the last */
    assert_int_equal(map_resident(m.p), 8);
    map_forget(m.p, LEN + 1); /* more than there is of it */
    assert_int_equal(map_resident(m.p), 8);
    for (size_t i = 0; i < LEN; i++)
        sum += m.p[i];
    assert_int_equal(sum, 2 * LEN);
    map_ahead(m.p + LEN / 2 + 1, SIZE_MAX); /* as far as the file goes */
    map_ahead(mine, LEN);
    assert_int_equal(m.p[LEN / 2 + 1], 1);
    map_forget(mine, LEN); /* no file */
    for (size_t i = 0; i < LEN; i++)
        sum += mine[i];
    assert_int_equal(sum, 3 * LEN);
    map_close(&m);
    free(mine);
    free(path);
}

static int parses(const char *text)
{
    json_t *j;
    struct err e;

    if (json_parse(&j, text, strlen(text), "test", &e))
        return 0;
    json_decref(j);
    return 1;
}

static void json_is_strict(void **state)
{
    char deep[24001];

    (void)state;
    assert_true(parses("{\"a\": [1, 2.5, null]}"));
    assert_false(parses("{\"a\": 1, \"a\": 2}"));
    assert_false(parses("{\"a\": NaN}"));
    assert_false(parses("{} {}"));
    assert_false(parses("// x\n{}"));
    memset(deep, '[', 12000);
    memset(deep + 12000, ']', 12000);
    deep[24000] = 0;
    assert_false(parses(deep));
}

static void json_fields_have_types_and_ranges(void **state)
{
    json_t *j;
    struct err e;
    int64_t n = -5;
    double x = 0;
    bool b = false;
    const char *text = "{\"n\": 3, \"x\": 2.5, \"b\": true, \"s\": \"v\", \"z\": null}";

    (void)state;
    OK(json_parse(&j, text, strlen(text), "test", &e), e);
    assert_int_equal(json_get_int(j, "n", 0, 10, &n, "cfg", &e), 1);
    assert_int_equal(n, 3);
    assert_int_equal(json_get_int(j, "n", 4, 10, &n, "cfg", &e), -1);
    assert_int_equal(json_get_int(j, "x", 0, 10, &n, "cfg", &e), -1);
    assert_int_equal(json_get_int(j, "z", 0, 10, &n, "cfg", &e), 0);
    assert_int_equal(json_get_int(j, "absent", 0, 10, &n, "cfg", &e), 0);
    assert_int_equal(json_get_num(j, "n", 0, 10, &x, "cfg", &e), 1);
    assert_int_equal(json_get_bool(j, "b", &b, "cfg", &e), 1);
    assert_int_equal(json_get_bool(j, "s", &b, "cfg", &e), -1);
    json_decref(j);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(buffers_have_a_maximum),
        cmocka_unit_test(messages_carry_no_control_characters),
        cmocka_unit_test(sizes_do_not_wrap),
        cmocka_unit_test(files_appear_whole_or_not_at_all),
        cmocka_unit_test(only_regular_files_are_opened),
        cmocka_unit_test(large_files_ask_for_huge_pages),
        cmocka_unit_test(large_memory_begins_a_huge_page),
        cmocka_unit_test(forgotten_pages_come_back_from_the_file),
        cmocka_unit_test(json_is_strict),
        cmocka_unit_test(json_fields_have_types_and_ranges),
    };

    return cmocka_run_group_tests_name(__FILE__, tests, make_dir, remove_dir);
}
