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

void *to_gpu(struct ctx *c, const void *p, size_t n)
{
    struct err e;
    void *d;

    OK(c->be->alloc(c, &d, n, "test", &e), e);
    OK(c->be->upload(c, d, p, n, &e), e);
    return d;
}

void from_gpu(struct ctx *c, void *to, const void *d, size_t n)
{
    struct err e;

    OK(c->be->download(c, to, d, n, &e), e);
}

struct batch one_row(void)
{
    static const int32_t zero[1];
    static const int32_t *const table[] = { zero };

    return (struct batch){ .T = 1,
                           .token = zero,
                           .pos = zero,
                           .slot = zero,
                           .seq = zero,
                           .n_seq = 1,
                           .block_table = table };
}

void check_calls(struct ctx *c)
{
    const struct batch b = one_row();
    struct pass p = { .b = &b, .V = 1, .D = 1, .key = { &b, c, b.block_table } };
    struct err e;

    assert_true(c->be->enter(c, &p, &e) >= 0);
    OK(c->be->leave(c, &p, &e), e);
}

struct session *open_on(struct engine **g, const char *path, enum compute compute,
                        const char *device, size_t ctx)
{
    const struct engine_opts o = {
        .threads = 2, .compute = compute, .isa = -1, .no_tokenizer = true, .device = device
    };
    struct session *s;
    struct err e;

    gpu_or_skip();
    OK(engine_open(g, path, &o, &e), e);
    OK(session_new(&s, *g, ctx, &e), e);
    return s;
}
