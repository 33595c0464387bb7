#include <string.h>

#include "cmd/opt.h"

/* Every spelling of an option, blank separated, each once. */
static void put_spellings(const struct opt *o, struct buf *out)
{
    for (const char *s = o->alias; s && *s;) {
        const char *end = strchrnul(s, ',');

        buf_add(out, s, (size_t)(end - s));
        buf_addc(out, ' ');
        s = *end ? end + 1 : end;
    }
    opt_flag(o, out);
}

/* Cuts the next word off; NULL at the end. */
static char *next_word(char **rest)
{
    char *s;

    while ((s = strsep(rest, " ")) && !*s)
        ;
    return s;
}

static void put_names(FILE *f)
{
    size_t n;
    const struct cmd *const *cmds = cmd_all(&n);

    for (size_t i = 0; i < n; i++)
        fprintf(f, "%s%s", i ? " " : "", cmds[i]->name);
}

/* Text inside '...' of a shell, and of zsh's [...] and fish's -d. */
static void put_quoted(const char *s, FILE *f)
{
    for (; *s; s++) {
        if (*s == '\'')
            fputs("'\\''", f);
        else if (strchr("[]:", *s))
            fprintf(f, "\\%c", *s);
        else
            fputc(*s, f);
    }
}

static void put_plain_quoted(const char *s, FILE *f)
{
    for (; *s; s++) {
        if (*s == '\'')
            fputs("\\'", f);
        else
            fputc(*s, f);
    }
}

static void bash(FILE *f)
{
    size_t n;
    const struct cmd *const *cmds = cmd_all(&n);
    struct buf b;

    buf_init(&b, 1 << 16);
    fputs("# bash completion for puna; written by `puna completion bash`\n_puna()\n{\n"
          "    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} words=\n"
          "    if [ \"$COMP_CWORD\" -eq 1 ]; then\n        COMPREPLY=($(compgen -W '",
          f);
    put_names(f);
    fputs(
        " --help --version' -- \"$cur\"))\n        return\n    fi\n    case ${COMP_WORDS[1]} in\n",
        f);
    for (size_t i = 0; i < n; i++) {
        fprintf(f, "    %s)\n        case $prev in\n", cmds[i]->name);
        buf_clear(&b);
        for (const struct opt *o = cmds[i]->opts; o->name; o++) {
            if (opt_positional(o))
                continue;
            buf_addc(&b, ' ');
            put_spellings(o, &b);
            if (o->arg && strchr(o->arg, '|')) {
                struct buf one;

                buf_init(&one, 4096);
                put_spellings(o, &one);
                fputs("        ", f);
                for (const char *s = one.p; *s; s++)
                    fputc(*s == ' ' ? '|' : *s, f);
                fputs(") words='", f);
                for (const char *s = o->arg; *s; s++)
                    fputc(*s == '|' ? ' ' : *s, f);
                fputs("' ;;\n", f);
                buf_release(&one);
            }
        }
        fputs("        esac\n", f);
        fprintf(
            f,
            "        [ -n \"$words\" ] || case $cur in -*) words='%s --help' ;; esac\n        ;;\n",
            b.p + (b.len > 0));
    }
    fputs("    esac\n    if [ -n \"$words\" ]; then\n        COMPREPLY=($(compgen -W \"$words\" -- "
          "\"$cur\"))\n"
          "    else\n        COMPREPLY=($(compgen -f -- \"$cur\"))\n    fi\n}\n"
          "complete -o filenames -F _puna puna\n",
          f);
    buf_release(&b);
}

static void zsh(FILE *f)
{
    size_t n;
    const struct cmd *const *cmds = cmd_all(&n);
    struct buf b;

    buf_init(&b, 4096);
    fputs("#compdef puna\n# zsh completion for puna; written by `puna completion zsh`\n_puna() {\n"
          "    local -a commands\n    if (( CURRENT == 2 )); then\n        commands=(\n",
          f);
    for (size_t i = 0; i < n; i++) {
        fprintf(f, "            '%s:", cmds[i]->name);
        put_quoted(cmds[i]->summary, f);
        fputs("'\n", f);
    }
    fputs("        )\n        _describe command commands\n        return\n    fi\n"
          "    local cmd=${words[2]}\n    shift words\n    (( CURRENT-- ))\n    case $cmd in\n",
          f);
    for (size_t i = 0; i < n; i++) {
        fprintf(f, "    %s)\n        _arguments", cmds[i]->name);
        for (const struct opt *o = cmds[i]->opts; o->name; o++) {
            if (opt_positional(o))
                continue;
            buf_clear(&b);
            put_spellings(o, &b);
            for (char *s, *rest = b.p; (s = next_word(&rest));) {
                const bool again = o->type == OPT_LIST || o->type == OPT_WORDS;

                fprintf(f, " \\\n            '%s%s[", again ? "*" : "", s);
                put_quoted(o->help, f);
                fputs("]", f);
                if (o->type != OPT_BOOL && o->arg && strchr(o->arg, '|')) {
                    fputs(":value:(", f);
                    for (const char *a = o->arg; *a; a++)
                        fputc(*a == '|' ? ' ' : *a, f);
                    fputc(')', f);
                } else if (o->type != OPT_BOOL) {
                    fputs(":value:_files", f);
                }
                fputc('\'', f);
            }
        }
        fputs(" \\\n            '*:file:_files'\n        ;;\n", f);
    }
    fputs("    esac\n}\n_puna \"$@\"\n", f);
    buf_release(&b);
}

static void fish(FILE *f)
{
    size_t n;
    const struct cmd *const *cmds = cmd_all(&n);
    struct buf b;

    buf_init(&b, 4096);
    fputs("# fish completion for puna; written by `puna completion fish`\n", f);
    for (size_t i = 0; i < n; i++) {
        fprintf(f, "complete -c puna -n __fish_use_subcommand -f -a %s -d '", cmds[i]->name);
        put_plain_quoted(cmds[i]->summary, f);
        fputs("'\n", f);
    }
    for (size_t i = 0; i < n; i++)
        for (const struct opt *o = cmds[i]->opts; o->name; o++) {
            if (opt_positional(o))
                continue;
            fprintf(f, "complete -c puna -n '__fish_seen_subcommand_from %s'", cmds[i]->name);
            buf_clear(&b);
            put_spellings(o, &b);
            for (char *s, *rest = b.p; (s = next_word(&rest));)
                fprintf(f, " %s %s",
                        s[1] == '-'      ? "-l"
                        : strlen(s) == 2 ? "-s"
                                         : "-o",
                        s + (s[1] == '-' ? 2 : 1));
            if (o->type != OPT_BOOL)
                fputs(" -r", f);
            if (o->arg && strchr(o->arg, '|')) {
                fputs(" -f -a '", f);
                for (const char *a = o->arg; *a; a++)
                    fputc(*a == '|' ? ' ' : *a, f);
                fputc('\'', f);
            }
            fputs(" -d '", f);
            put_plain_quoted(o->help, f);
            fputs("'\n", f);
        }
    buf_release(&b);
}

int opt_complete(const char *shell, FILE *f, struct err *e)
{
    if (!strcmp(shell, "bash"))
        bash(f);
    else if (!strcmp(shell, "zsh"))
        zsh(f);
    else if (!strcmp(shell, "fish"))
        fish(f);
    else
        return err_set(e, ERR_USAGE,
                       "no completion for shell '%.100s'; there is bash, zsh and fish", shell);
    return 0;
}
