#include "cmd/opt.h"

struct completion_cfg {
    const char *shell;
};

static const struct opt opts[] = {
    OPT(ARG, struct completion_cfg, shell, NULL, "bash|zsh|fish", NULL, "the shell to write for"),
    { .name = NULL },
};

static int run(const void *cfg, struct err *e)
{
    const struct completion_cfg *c = cfg;

    return opt_complete(c->shell, stdout, e);
}

const struct cmd cmd_completion = {
    .name = "completion",
    .summary = "write shell completion for bash, zsh or fish",
    .usage = "bash|zsh|fish",
    .help = "Prints a completion script made from the same table that reads the options.\n"
            "\n"
            "EXAMPLES\n"
            "  eval \"$(puna completion bash)\"\n"
            "  puna completion zsh > ~/.zfunc/_puna\n"
            "  puna completion fish > ~/.config/fish/completions/puna.fish\n",
    .opts = opts,
    .cfg_size = sizeof(struct completion_cfg),
    .run = run,
};
