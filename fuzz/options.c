/* Any bytes as the arguments of a command, apart by NUL or newline: numbers stay in their ranges,
 * choices among their own. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cmd/opt.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct fuzz_cfg {
    bool flag;
    int64_t count;
    double ratio;
    const char *text, *choice, *first;
    struct opt_list items, rest;
};

static const struct opt opts[] = {
    OPT(ARG, struct fuzz_cfg, first, NULL, "FIRST", NULL, "first"),
    OPT(BOOL, struct fuzz_cfg, flag, "-f", NULL, "false", "a switch"),
    OPT_RANGE(INT, struct fuzz_cfg, count, "-n,--number", "N", "3", -5, 100, "a number"),
    OPT_RANGE(NUM, struct fuzz_cfg, ratio, "--temp", "X", "0.5", 0, 1, "a ratio"),
    OPT(STR, struct fuzz_cfg, text, "-t", "TEXT", NULL, "a text"),
    OPT(STR, struct fuzz_cfg, choice, NULL, "red|green", "red", "a choice"),
    OPT(LIST, struct fuzz_cfg, items, "-i", "ITEM", NULL, "items"),
    OPT(REST, struct fuzz_cfg, rest, NULL, "REST", NULL, "the rest"),
    { .name = NULL },
};

static const struct cmd cmd = {
    .name = "fuzz", .summary = "s", .usage = "FIRST", .help = "h\n", .opts = opts
};

/* The table of real commands is not linked in. */
const struct cmd *const *cmd_all(size_t *n)
{
    static const struct cmd *const one[] = { &cmd };

    *n = 1;
    return one;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    enum { MAX_ARGS = 32 };
    char *text = malloc(size + 1), *argv[MAX_ARGS];
    struct fuzz_cfg c = { 0 };
    struct err e = { 0 };
    int argc = 0;

    memcpy(text, data, size);
    text[size] = 0;
    for (char *p = text; p <= text + size && argc < MAX_ARGS; p += strlen(p) + 1) {
        char *end = strchr(p, '\n');

        if (end)
            *end = 0;
        if (strcmp(p, "--help") && strcmp(p, "-h")) /* would print */
            argv[argc++] = p;
    }
    if (opt_parse(&c, &cmd, argc, argv, &e) == 0) {
        if (c.count < -5 || c.count > 100 || !(c.ratio >= 0 && c.ratio <= 1) || !c.first ||
            (strcmp(c.choice, "red") && strcmp(c.choice, "green")) || c.rest.n > MAX_ARGS)
            __builtin_trap();
    } else if (!e.msg[0] || strchr(e.msg, '\n')) {
        __builtin_trap();
    }
    opt_release(&c);
    free(text);
    return 0;
}
