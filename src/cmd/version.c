#include "cmd/opt.h"

static const struct opt opts[] = { { .name = NULL } };

static int run(const void *cfg, struct err *e)
{
    (void)cfg;
    (void)e;
    puts("puna " PUNA_VERSION);
    return 0;
}

const struct cmd cmd_version = {
    .name = "version",
    .summary = "print the version",
    .usage = "",
    .help = "puna --version does the same.\n",
    .opts = opts,
    .cfg_size = 1,
    .run = run,
};
