/* Addresses without gaps: what is taken does not meet, and has memory behind it; what nothing uses
 * has none. */
#include "base/arena.h"

#include "base/rng.h"
#include "support.h"

enum { CHUNK = 1024, CHUNKS = 40, SPANS = 60 };

struct memory {
    bool there[CHUNKS];
    size_t n, most; /* that are; that may be */
};

static bool map(void *arg, size_t first, size_t count)
{
    struct memory *m = arg;

    assert_true(count > 0 && first + count <= CHUNKS);
    if (m->n + count > m->most)
        return false;
    for (size_t i = first; i < first + count; i++) {
        assert_false(m->there[i]);
        m->there[i] = true;
    }
    m->n += count;
    return true;
}

static void unmap(void *arg, size_t first, size_t count)
{
    struct memory *m = arg;

    assert_true(count > 0 && first + count <= CHUNKS);
    for (size_t i = first; i < first + count; i++) {
        assert_true(m->there[i]);
        m->there[i] = false;
    }
    m->n -= count;
}

static struct arena arena_of(struct memory *m)
{
    struct arena a = { .chunk = CHUNK, .n_chunks = CHUNKS, .map = map, .unmap = unmap, .arg = m };

    arena_init(&a);
    return a;
}

static void together(void **state)
{
    struct memory m = { .most = CHUNKS };
    struct arena a = arena_of(&m);
    size_t at[4];

    (void)state;
    assert_true(arena_take(&a, &at[0], 1));
    assert_true(arena_take(&a, &at[1], CHUNK));
    assert_true(arena_take(&a, &at[2], 0));
    assert_int_equal(at[0], 0);
    assert_int_equal(at[1], ARENA_ALIGN);
    assert_int_equal(at[2], ARENA_ALIGN + CHUNK);
    assert_int_equal(m.n, 2);
    arena_give(&a, at[1]);
    assert_int_equal(m.n, 2); /* others are in both */
    assert_true(arena_take(&a, &at[1], CHUNK / 2));
    assert_int_equal(at[1], ARENA_ALIGN);
    assert_false(arena_take(&a, &at[3], (CHUNKS - 1) * CHUNK));
    assert_false(arena_take(&a, &at[3], SIZE_MAX));
    assert_true(arena_take(&a, &at[3], (CHUNKS - 2) * CHUNK));
    assert_int_equal(m.n, CHUNKS);
    arena_give(&a, at[3]);
    assert_int_equal(m.n, 2);
    m.most = 5;
    assert_false(arena_take(&a, &at[3], 7 * CHUNK));
    assert_int_equal(m.n, 2); /* as it was */
    arena_release(&a);
    assert_int_equal(m.n, 0);
}

/* Spans that come and go, with memory for some of them. */
static void often(void **state)
{
    struct memory m = { .most = CHUNKS - 9 };
    struct arena a = arena_of(&m);
    size_t at[SPANS], n[SPANS] = { 0 }, failed = 0;

    (void)state;
    for (uint64_t step = 0; step < 4000; step++) {
        const uint64_t r = rng_u64(7, step);
        const size_t k = r % SPANS, want = 1 + (r >> 8) % (r & 1 << 20 ? 200 : 3 * CHUNK);

        if (n[k]) {
            arena_give(&a, at[k]);
            n[k] = 0;
        } else if (arena_take(&a, &at[k], want)) {
            n[k] = want;
        } else {
            failed++;
        }
        bool used[CHUNKS] = { 0 };
        size_t count = 0;

        for (size_t i = 0; i < SPANS; i++) {
            for (size_t c = at[i] / CHUNK; n[i] && c * CHUNK < at[i] + n[i]; c++)
                used[c] = true;
            for (size_t j = 0; n[i] && j < i; j++)
                assert_true(!n[j] || at[i] + n[i] <= at[j] || at[j] + n[j] <= at[i]);
        }
        for (size_t i = 0; i < CHUNKS; i++) {
            assert_int_equal(used[i], m.there[i]);
            count += used[i];
        }
        assert_int_equal(count, m.n);
    }
    assert_in_range(failed, 1, 1000);
    arena_release(&a);
    assert_int_equal(m.n, 0);
}

TEST_MAIN(cmocka_unit_test(together), cmocka_unit_test(often))
