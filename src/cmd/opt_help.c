#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "cmd/opt.h"

enum { WIDTH = 80, HELP_COL = 30 };

/* "  -n, --max-new-tokens N"; the first short alias is shown always, the others in the full page.
 */
static void add_spelling(const struct opt *o, bool full, struct buf *out)
{
    const char *s = o->alias;
    bool any = false;

    buf_adds(out, "  ");
    while (s && *s) {
        const char *end = strchrnul(s, ',');
        const bool is_short = end - s == 2;

        if (full || (is_short && !any)) {
            buf_add(out, s, (size_t)(end - s));
            buf_adds(out, ", ");
            any = true;
        }
        s = *end ? end + 1 : end;
    }
    if (!any)
        buf_adds(out, "    ");
    opt_flag(o, out);
    if (o->type != OPT_BOOL) {
        buf_addc(out, ' ');
        buf_adds(out, o->arg ? o->arg : "VALUE");
    }
}

static bool shows_default(const struct opt *o)
{
    return o->def && *o->def && !opt_positional(o) &&
           !(o->type == OPT_BOOL && !strcmp(o->def, "false"));
}

/* Words of text from column col on, wrapped before WIDTH at indent. */
static void print_wrapped(const char *text, size_t col, size_t indent, FILE *f)
{
    bool first = true;

    while (*text) {
        const size_t n = strcspn(text, " \n");

        if (!first && col + 1 + n > WIDTH) {
            fprintf(f, "\n%*s", (int)indent, "");
            col = indent;
        } else if (!first) {
            fputc(' ', f);
            col++;
        }
        fwrite(text, 1, n, f);
        col += n;
        first = false;
        text += n;
        text += strspn(text, " \n");
    }
    fputc('\n', f);
}

static void print_opt(const struct opt *o, bool full, FILE *f)
{
    struct buf left, right;

    buf_init(&left, 4096);
    buf_init(&right, 4096);
    add_spelling(o, full, &left);
    buf_adds(&right, o->help);
    if (shows_default(o))
        buf_addf(&right, " [%s]", o->def);
    if (full) {
        buf_adds(&right, " (");
        opt_env(o, &right);
        buf_addc(&right, ')');
    }
    fputs(left.p, f);
    if (left.len + 2 > HELP_COL)
        fprintf(f, "\n%*s", HELP_COL, "");
    else
        fprintf(f, "%*s", (int)(HELP_COL - left.len), "");
    print_wrapped(right.p, HELP_COL, HELP_COL, f);
    buf_release(&left);
    buf_release(&right);
}

static bool is_section(const char *line, size_t n)
{
    bool letter = false;

    for (size_t i = 0; i < n; i++) {
        if (line[i] >= 'a' && line[i] <= 'z')
            return false;
        letter |= line[i] >= 'A' && line[i] <= 'Z';
    }
    return letter && line[0] != ' ';
}

/* Paragraphs are filled; lines that start with a blank stay as they are. */
static void print_text(const char *s, FILE *f)
{
    while (*s) {
        const size_t n = strcspn(s, "\n");

        if (n == 0 || s[0] == ' ' || is_section(s, n)) {
            fprintf(f, "%.*s\n", (int)n, s);
            s += n + (s[n] == '\n');
            continue;
        }
        size_t para = n;
        char *copy;

        while (s[para] == '\n' && s[para + 1] && s[para + 1] != '\n' && s[para + 1] != ' ')
            para += 1 + strcspn(s + para + 1, "\n");
        copy = strndup(s, para);
        if (copy)
            print_wrapped(copy, 0, 0, f);
        free(copy);
        s += para + (s[para] == '\n');
    }
}

void opt_help(const struct cmd *cmd, bool full, FILE *f)
{
    const char *examples = cmd->help ? strstr(cmd->help, "EXAMPLES\n") : NULL;
    bool any = false;
    int rare = 0;

    fprintf(f, "puna %s - %s\n\nusage: puna %s%s%s\n", cmd->name, cmd->summary, cmd->name,
            cmd->usage && *cmd->usage ? " " : "", cmd->usage ? cmd->usage : "");
    for (const struct opt *o = cmd->opts; o->name; o++) {
        if (!opt_positional(o))
            continue;
        if (!any)
            fputc('\n', f);
        any = true;
        fprintf(f, "  %-*s", HELP_COL - 2, o->arg ? o->arg : o->name);
        print_wrapped(o->help, HELP_COL, HELP_COL, f);
    }
    if (full && cmd->help) {
        fputc('\n', f);
        print_text(cmd->help, f);
    }
    fputs("\noptions:\n", f);
    for (const struct opt *o = cmd->opts; o->name; o++)
        if (!opt_positional(o) && (full || !o->rare))
            print_opt(o, full, f);
        else
            rare += o->rare;
    fprintf(f, "  -h, --help%*s%s\n", HELP_COL - 12, "", "this help");
    if (full)
        return;
    if (examples)
        examples += strlen("EXAMPLES\n");
    else
        examples = cmd->help;
    if (examples && *examples) {
        const char *end = examples; /* up to the next section */

        while (*end) {
            const size_t n = strcspn(end, "\n");

            if (n && is_section(end, n))
                break;
            end += n + (end[n] == '\n');
        }
        while (end > examples && end[-1] == '\n')
            end--;
        char *copy = strndup(examples, (size_t)(end - examples));

        fputs(examples == cmd->help ? "\n" : "\nexamples:\n", f);
        if (copy)
            print_text(copy, f);
        fputc('\n', f);
        free(copy);
    }
    if (rare)
        fprintf(f, "puna help %s shows the whole page, with %d more options.\n", cmd->name, rare);
    else
        fprintf(f, "puna help %s shows the whole page.\n", cmd->name);
}

static json_t *json_of_opt(const struct opt *o)
{
    static const char *const type[] = {
        [OPT_BOOL] = "bool", [OPT_INT] = "int",      [OPT_NUM] = "number",     [OPT_STR] = "string",
        [OPT_LIST] = "list", [OPT_ARG] = "argument", [OPT_REST] = "arguments",
    };
    json_t *j = json_object(), *alias = json_array();
    struct buf b;

    buf_init(&b, 4096);
    json_object_set_new(j, "name", json_string(o->name));
    json_object_set_new(j, "type", json_string(type[o->type]));
    if (o->arg)
        json_object_set_new(j, "value", json_string(o->arg));
    if (o->def)
        json_object_set_new(j, "default", json_string(o->def));
    if (o->min < o->max) {
        json_object_set_new(j, "min", json_real(o->min));
        json_object_set_new(j, "max", json_real(o->max));
    }
    json_object_set_new(j, "help", json_string(o->help ? o->help : ""));
    if (!opt_positional(o)) {
        opt_flag(o, &b);
        json_object_set_new(j, "flag", json_string(b.p));
        buf_clear(&b);
        opt_env(o, &b);
        json_object_set_new(j, "env", json_string(b.p));
    }
    for (const char *s = o->alias; s && *s;) {
        const char *end = strchrnul(s, ',');

        json_array_append_new(alias, json_stringn(s, (size_t)(end - s)));
        s = *end ? end + 1 : end;
    }
    json_object_set_new(j, "aliases", alias);
    buf_release(&b);
    return j;
}

void opt_json(FILE *f)
{
    json_t *top = json_object(), *list = json_array();
    size_t n;
    const struct cmd *const *cmds = cmd_all(&n);

    for (size_t i = 0; i < n; i++) {
        json_t *j = json_object(), *opts = json_array();

        json_object_set_new(j, "name", json_string(cmds[i]->name));
        json_object_set_new(j, "summary", json_string(cmds[i]->summary));
        json_object_set_new(j, "usage", json_string(cmds[i]->usage ? cmds[i]->usage : ""));
        for (const struct opt *o = cmds[i]->opts; o->name; o++)
            json_array_append_new(opts, json_of_opt(o));
        json_object_set_new(j, "options", opts);
        json_array_append_new(list, j);
    }
    json_object_set_new(top, "version", json_string(PUNA_VERSION));
    json_object_set_new(top, "commands", list);
    json_dumpf(top, f, JSON_INDENT(1));
    fputc('\n', f);
    json_decref(top);
}
