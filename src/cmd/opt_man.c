#include <string.h>

#include "cmd/opt.h"

/* Roff text: a backslash and a hyphen are escaped, and a line may not start with a control
 * character. */
static void put(const char *s, size_t n, FILE *f)
{
    if (n && (s[0] == '.' || s[0] == '\''))
        fputs("\\&", f);
    for (size_t i = 0; i < n; i++) {
        if (s[i] == '\\')
            fputs("\\e", f);
        else if (s[i] == '-')
            fputs("\\-", f);
        else
            fputc(s[i], f);
        if (s[i] == '\n' && i + 1 < n && (s[i + 1] == '.' || s[i + 1] == '\''))
            fputs("\\&", f);
    }
}

static void puts_roff(const char *s, FILE *f)
{
    put(s, strlen(s), f);
}

/* Paragraphs, verbatim lines and sections, as struct cmd describes them. */
static void put_help(const char *s, FILE *f)
{
    bool verbatim = false;

    while (*s) {
        const size_t n = strcspn(s, "\n");
        const bool indented = s[0] == ' ';
        bool capitals = n > 0 && !indented;

        for (size_t i = 0; i < n; i++)
            capitals &= !(s[i] >= 'a' && s[i] <= 'z');
        if (verbatim && !indented) {
            fputs(".fi\n.RE\n", f);
            verbatim = false;
        }
        if (n == 0) {
            fputs(".PP\n", f);
        } else if (capitals) {
            fprintf(f, ".SH %.*s\n", (int)n, s);
        } else {
            if (indented && !verbatim) {
                fputs(".RS 2\n.nf\n", f);
                verbatim = true;
            }
            put(indented ? s + strspn(s, " ") : s, n - (indented ? strspn(s, " ") : 0), f);
            fputc('\n', f);
        }
        s += n + (s[n] == '\n');
    }
    if (verbatim)
        fputs(".fi\n.RE\n", f);
}

static void put_opt(const struct opt *o, FILE *f)
{
    struct buf b;

    buf_init(&b, 4096);
    fputs(".TP\n.B ", f);
    for (const char *s = o->alias; s && *s;) {
        const char *end = strchrnul(s, ',');

        buf_add(&b, s, (size_t)(end - s));
        buf_adds(&b, ", ");
        s = *end ? end + 1 : end;
    }
    opt_flag(o, &b);
    puts_roff(b.p, f);
    if (o->type != OPT_BOOL) {
        fputs(" \\fI", f);
        puts_roff(o->arg ? o->arg : "VALUE", f);
        fputs("\\fR", f);
    }
    fputc('\n', f);
    puts_roff(o->help, f);
    fputc('.', f);
    if (o->def && *o->def) {
        fputs(" Default: ", f);
        puts_roff(o->def, f);
        fputc('.', f);
    }
    if (o->min < o->max)
        fprintf(f, " Range: %g to %g.", o->min, o->max);
    buf_clear(&b);
    opt_env(o, &b);
    fprintf(f, " Environment: %s.\n", b.p);
    buf_release(&b);
}

static void put_exit_status(FILE *f)
{
    fputs(".SH EXIT STATUS\n0 ok; 1 failure; 2 usage; 3 not found; 4 authentication; 5 network; 6 "
          "does not fit in "
          "memory or on disk; 7 hardware unsupported; 8 corrupt or invalid model or data; 9 "
          "cancelled by a limit; "
          "130 and 143 ended by a signal.\n",
          f);
}

static void man_program(FILE *f)
{
    size_t n;
    const struct cmd *const *cmds = cmd_all(&n);

    fprintf(f,
            ".TH PUNA 1 \"\" \"puna %s\" \"puna\"\n.SH NAME\npuna \\- Llama 3.1 in one program\n"
            ".SH SYNOPSIS\n.B puna\n.I COMMAND\n[\\fIARGUMENTS\\fR] [\\fIOPTIONS\\fR]\n"
            ".SH DESCRIPTION\nRuns language models of the Llama family on this machine. Every "
            "command has "
            "its own page, puna\\-COMMAND(1).\nIn option names \\- and _ are equal. Every option "
            "can also be given as "
            "an environment variable PUNA_NAME; the command line wins.\n.SH COMMANDS\n",
            PUNA_VERSION);
    for (size_t i = 0; i < n; i++) {
        fprintf(f, ".TP\n.BR puna\\-%s (1)\n", cmds[i]->name);
        puts_roff(cmds[i]->summary, f);
        fputc('\n', f);
    }
    put_exit_status(f);
}

void opt_man(const struct cmd *cmd, FILE *f)
{
    if (!cmd) {
        man_program(f);
        return;
    }
    fputs(".TH PUNA\\-", f);
    for (const char *s = cmd->name; *s; s++)
        fputc(*s >= 'a' && *s <= 'z' ? *s - 'a' + 'A' : *s, f);
    fprintf(f, " 1 \"\" \"puna %s\" \"puna\"\n.SH NAME\npuna\\-%s \\- ", PUNA_VERSION, cmd->name);
    puts_roff(cmd->summary, f);
    fprintf(f, "\n.SH SYNOPSIS\n.B puna %s\n", cmd->name);
    if (cmd->usage)
        puts_roff(cmd->usage, f);
    fputs("\n.SH DESCRIPTION\n", f);
    for (const struct opt *o = cmd->opts; o->name; o++)
        if (opt_positional(o)) {
            fputs(".TP\n.I ", f);
            puts_roff(o->arg ? o->arg : o->name, f);
            fputc('\n', f);
            puts_roff(o->help, f);
            fputc('\n', f);
        }
    fputs(".PP\n", f);
    if (cmd->help)
        put_help(cmd->help, f);
    fputs(".SH OPTIONS\n", f);
    for (const struct opt *o = cmd->opts; o->name; o++)
        if (!opt_positional(o))
            put_opt(o, f);
    fputs(".TP\n.B \\-h, \\-\\-help\nShort help.\n", f);
    put_exit_status(f);
    fputs(".SH SEE ALSO\n.BR puna (1)\n", f);
}
