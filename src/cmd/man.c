#include "cmd/opt.h"

struct man_cfg {
    const char *command;
};

static const struct opt opts[] = {
    OPT(ARG, struct man_cfg, command, NULL, "COMMAND", "", "the command; none = puna(1) itself"),
    { .name = NULL },
};

static int run(const void *cfg, struct err *e)
{
    const struct man_cfg *c = cfg;
    const struct cmd *cmd = cmd_find(c->command);

    if (!cmd && *c->command)
        return err_set(e, ERR_USAGE, "no command '%.100s'; puna help lists them", c->command);
    opt_man(cmd, stdout);
    return 0;
}

const struct cmd cmd_man = {
    .name = "man",
    .summary = "write a man page (roff)",
    .usage = "[COMMAND]",
    .help = "Prints the manual page of a command for man(1). make install writes them all.\n"
            "\n"
            "EXAMPLES\n"
            "  puna man run | man -l -\n"
            "  puna man > puna.1\n",
    .opts = opts,
    .cfg_size = sizeof(struct man_cfg),
    .run = run,
};
