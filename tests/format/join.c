/* format/pth.h, zip.h and join.h from memory: every failed allocation, and pieces of tensors. */
#include "format/build.h"
#include "format/join.h"
#include "format/pth.h"

#include "base/file.h"
#include "support.h"

static int open_seed(const void *arg, struct err *e)
{
    struct pth *p;

    if (pth_open(&p, arg, e))
        return -1;
    assert_int_equal(pth_tensors(p), 1);
    assert_non_null(pth_find(p, "w0"));
    pth_close(p);
    return 0;
}

static void test_faults(void **state)
{
    (void)state;
    walk_faults(open_seed, "fuzz/corpus/pth/ok_state_dict.pth");
    walk_faults(open_seed, "fuzz/corpus/pth/ok_zero_stride_expand.pth");
}

static const float a[] = { 1, 2, 3, 4 }, b[] = { 5, 6, 7, 8 };

static struct tensor_view view(const float *data, uint64_t rows, uint64_t cols)
{
    return (struct tensor_view){ .name = "x",
                                 .enc = ENC_F32,
                                 .ndim = 2,
                                 .shape = { rows, cols },
                                 .data = (const uint8_t *)data,
                                 .nbytes = rows * cols * sizeof(float) };
}

static void test_axes(void **state)
{
    const struct tensor_view piece[] = { view(a, 2, 2), view(b, 2, 2) };
    static const float below[] = { 1, 2, 3, 4, 5, 6, 7, 8 }, beside[] = { 1, 2, 5, 6, 3, 4, 7, 8 };
    struct joined j;
    struct err e = { 0 };

    (void)state;
    OK(join_init(&j, "x", piece, 2, -1, 4, &e), e);
    assert_true(j.axis == 0 && j.view.shape[0] == 4 && j.view.shape[1] == 2 && !j.view.data);
    OK(join_fill(&j, &e), e);
    assert_memory_equal(j.view.data, below, sizeof(below));
    join_drop(&j);
    assert_null(j.view.data);
    join_release(&j);
    OK(join_init(&j, "x", piece, 2, -1, 2, &e), e);
    assert_true(j.axis == 1 && j.view.shape[0] == 2 && j.view.shape[1] == 4);
    OK(join_fill(&j, &e), e);
    assert_memory_equal(j.view.data, beside, sizeof(beside));
    join_release(&j);
}

static void test_mismatch(void **state)
{
    const struct tensor_view piece[] = { view(a, 2, 2), view(b, 1, 4) };
    const struct tensor_view last = tensor_rows(&piece[0], 1, 1);
    struct joined j;
    struct err e = { 0 };

    (void)state;
    assert_int_equal(join_init(&j, "x", piece, 2, -1, 4, &e), -1);
    assert_non_null(strstr(e.msg, "in one shard"));
    assert_true(last.shape[0] == 1 && last.nbytes == 8 && last.data == piece[0].data + 8);
}

TEST_MAIN(cmocka_unit_test(test_faults), cmocka_unit_test(test_axes),
          cmocka_unit_test(test_mismatch))
