#include "support_gpu.h"

static const char *why_not; /* NULL = there is a GPU */
static bool emulated;
static int misses;

int gpu_ask(void **state)
{
    static struct err e;
    struct ctx *c;

    (void)state;
    if (cuda_ctx_new(&c, COMPUTE_AUTO, &e)) {
        why_not = e.msg;
        /* a machine without a GPU skips; one whose GPU fails does not */
        if (strncmp(e.msg, "no GPU", 6) && !strstr(e.msg, "driver does not start")) {
            print_error("%s\n", e.msg);
            return -1;
        }
    } else {
        emulated = strstr(cuda_ctx_name(c), "emulated") != NULL;
        c->be->free(c);
    }
    return 0;
}

bool gpu_there(void)
{
    return !why_not;
}

void gpu_or_skip(void)
{
    if (why_not) {
        print_message("not run: %s\n", why_not);
        skip();
    }
}

bool gpu_emulated(void)
{
    return emulated;
}

void gpu_for_programs(void)
{
    gpu_or_skip();
    setenv("EMULATED_MULTIPROCESSORS", "2", 1);
}

struct ctx *gpu_context(enum compute compute)
{
    struct ctx *c = NULL;
    struct err e;

    gpu_or_skip();
    OK(cuda_ctx_new(&c, compute, &e), e);
    return c;
}

bool gpu_missed(void)
{
    return ++misses <= 30;
}

void gpu_settle(void)
{
    const int n = misses;

    misses = 0;
    unsetenv("EMULATED_MULTIPROCESSORS");
    if (n)
        fail_msg("%d checks failed", n);
}
