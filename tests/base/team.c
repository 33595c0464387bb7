/* team: every thread runs once per call, barriers hold, parts cover the whole. */
#include <stdatomic.h>

#include "base/team.h"
#include "support.h"

enum { MAX = 8, ROUNDS = 20 };

struct job {
    struct team *team;
    atomic_int calls[MAX];
    atomic_int step[ROUNDS];
    atomic_int early;
};

static void count(void *arg, int me, int n)
{
    struct job *j = arg;

    assert_in_range(me, 0, n - 1);
    atomic_fetch_add(&j->calls[me], 1);
}

static void in_step(void *arg, int me, int n)
{
    struct job *j = arg;

    for (int r = 0; r < ROUNDS; r++) {
        atomic_fetch_add(&j->step[r], 1);
        team_barrier(j->team, me);
        if (atomic_load(&j->step[r]) != n)
            atomic_fetch_add(&j->early, 1);
    }
}

static void runs_and_barriers(void **state)
{
    (void)state;
    for (int n = 1; n <= MAX; n++) {
        struct job j = { 0 };
        struct err e;

        OK(team_new(&j.team, n, &e), e);
        assert_int_equal(team_size(j.team), n);
        for (int r = 0; r < 500; r++)
            team_run(j.team, count, &j);
        for (int i = 0; i < n; i++)
            assert_int_equal(j.calls[i], 500);
        for (int again = 0; again < 5; again++) {
            memset(j.step, 0, sizeof(j.step));
            team_run(j.team, in_step, &j);
        }
        assert_int_equal(j.early, 0);
        team_free(j.team);
    }
}

static void sizes(void **state)
{
    struct team *t = NULL;
    struct err e;

    (void)state;
    assert_in_range(team_default_size(), 1, 1024);
    OK(team_new(&t, 0, &e), e);
    assert_int_equal(team_size(t), team_default_size());
    team_free(t);
    t = NULL;
    assert_int_equal(team_new(&t, -1, &e), -1);
    assert_int_equal(team_new(&t, 100000, &e), -1);
    assert_null(t);
    team_free(NULL);
}

static void parts(void **state)
{
    (void)state;
    for (size_t total = 0; total < 70; total++) {
        for (int n = 1; n <= 9; n++) {
            size_t at = 0;

            for (int me = 0; me < n; me++) {
                size_t lo, hi;

                team_part(total, 8, me, n, &lo, &hi);
                assert_int_equal(lo, at);
                assert_true(hi == total || hi % 8 == 0);
                at = hi;
            }
            assert_int_equal(at, total);
        }
    }
}

TEST_MAIN(cmocka_unit_test(runs_and_barriers), cmocka_unit_test(sizes), cmocka_unit_test(parts))
