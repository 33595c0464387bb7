#include "cmd/help.h"

#include <string.h>

#include "cmd/opt.h"

struct help_cfg {
    const char *command;
    bool json;
};

static const struct opt opts[] = {
    OPT(ARG, struct help_cfg, command, NULL, "COMMAND", "", "the command; none = a list of all"),
    OPT(BOOL, struct help_cfg, json, NULL, NULL, "false",
        "every command and option as one JSON object"),
    { .name = NULL },
};

int help_unknown(const char *name, struct err *e)
{
    const char *names[64], *near;
    size_t n;
    const struct cmd *const *cmds = cmd_all(&n);

    BUG_ON(n > ARRAY_LEN(names));
    for (size_t i = 0; i < n; i++)
        names[i] = cmds[i]->name;
    near = opt_nearest(name, names, n);
    if (near)
        return err_set(e, ERR_USAGE, "no command '%.100s'; did you mean puna %s?", name, near);
    return err_set(e, ERR_USAGE, "no command '%.100s'; puna help lists them", name);
}

void help_commands(FILE *f)
{
    size_t n;
    const struct cmd *const *cmds = cmd_all(&n);

    fputs("puna - Llama 3.1 in one program\n\nusage: puna COMMAND [ARGUMENTS] [OPTIONS]\n\n", f);
    for (size_t i = 0; i < n; i++)
        fprintf(f, "  %-12s%s\n", cmds[i]->name, cmds[i]->summary);
    fputs("\nexamples:\n"
          "  puna run                       chat with the default model\n"
          "  puna run 'Why is the sky blue?'\n"
          "  puna COMMAND --help            one screen; puna help COMMAND for all of it\n",
          f);
}

static int run(const void *cfg, struct err *e)
{
    const struct help_cfg *c = cfg;
    const struct cmd *cmd;

    if (c->json) {
        opt_json(stdout);
        return 0;
    }
    if (!*c->command) {
        help_commands(stdout);
        return 0;
    }
    cmd = cmd_find(c->command);
    if (!cmd)
        return help_unknown(c->command, e);
    opt_help(cmd, true, stdout);
    return 0;
}

const struct cmd cmd_help = {
    .name = "help",
    .summary = "show the commands, or the whole page of one",
    .usage = "[COMMAND]",
    .help =
        "EXIT STATUS\n"
        "Every command ends with one of these:\n"
        "\n"
        "  0  ok                        6  does not fit in memory or on disk\n"
        "  1  failure                   7  hardware unsupported\n"
        "  2  usage                     8  corrupt or invalid model or data\n"
        "  3  not found                 9  cancelled by a limit\n"
        "  4  authentication          130  interrupted (Ctrl-C)\n"
        "  5  network                 143  terminated\n"
        "\n"
        "ENVIRONMENT\n"
        "Every option can be given as PUNA_NAME, in capitals with _ for -. The command line wins.\n"
        "\n"
        "EXAMPLES\n"
        "  puna help run\n"
        "  puna help --json | jq '.commands[].name'\n",
    .opts = opts,
    .cfg_size = sizeof(struct help_cfg),
    .run = run,
};
