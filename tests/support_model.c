#include "support.h"
#include "support_model.h"

#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/mem.h"

struct engine *engine_for(const char *path, enum compute compute, int threads, int isa,
                          size_t chunk)
{
    const struct engine_opts o = {
        .threads = threads, .compute = compute, .isa = isa, .chunk = chunk, .no_tokenizer = true
    };
    struct engine *g;
    struct err e;

    OK(engine_open(&g, path, &o, &e), e);
    return g;
}

struct session *session_for(struct engine *g, size_t ctx)
{
    struct session *s;
    struct err e;

    OK(session_new(&s, g, ctx, &e), e);
    return s;
}

void *golden(const char *path, const char *name, enum enc enc, size_t *n)
{
    struct st *st;
    struct err e;

    OK(st_open(&st, path, &e), e);
    const struct tensor_view *t = st_find(st, name);

    if (!t)
        fail_msg("%s has no %s", path, name);
    assert_int_equal(t->enc, enc);
    void *p = malloc(t->nbytes ? t->nbytes : 1);

    assert_non_null(p);
    memcpy(p, t->data, t->nbytes);
    *n = t->nbytes / enc_table[enc].bytes;
    st_close(st);
    return p;
}

/* Runs a program found on the path and fails the test unless it succeeds. */
static void run(char *const argv[])
{
    pid_t pid;
    int status;

    assert_int_equal(posix_spawnp(&pid, argv[0], NULL, NULL, argv, environ), 0);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    if (status)
        fail_msg("%s %s failed", argv[0], argv[1]);
}

char *quantised_new(const char *name)
{
    char *out = xstrdup("/tmp/puna-quantised-XXXXXX"), own[128];
    const bool small = !strncmp(name, "small/", 6);
    /* double quantisation shares its codes with the plain file */
    const bool nested = !strcmp(name, "bnb-nf4-dq");

    assert_non_null(mkdtemp(out));
    snprintf(own, sizeof(own), "tests/data/quantised/%s", name);
    run((char *[]){ "python3", "tests/overlay.py",
                    small ? "tests/data/quantised/small" : "tests/data/tiny-llama31",
                    nested ? "tests/data/quantised/bnb-nf4" : own, own, out, NULL });
    return out;
}

void repack(const char *path)
{
    run((char *[]){ "python3", "tests/repack.py", (char *)(uintptr_t)path, NULL });
}

void widen(const char *path)
{
    run((char *[]){ "python3", "tests/widen.py", (char *)(uintptr_t)path, NULL });
}

char *micro_new(void)
{
    char *out = xstrdup("/tmp/puna-micro-XXXXXX");

    assert_non_null(mkdtemp(out));
    run((char *[]){ "python3", "tests/micro.py", out, NULL });
    return out;
}

char *adapter_new(const char *from, const char *kind)
{
    char *out = xstrdup("/tmp/puna-adapter-XXXXXX");

    assert_non_null(mkdtemp(out));
    run((char *[]){ "python3", "tests/adapter.py", (char *)(uintptr_t)from, (char *)(uintptr_t)kind,
                    out, NULL });
    return out;
}

void quantised_free(char *path)
{
    run((char *[]){ "rm", "-rf", path, NULL });
    free(path);
}
