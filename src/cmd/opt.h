/* opt.h - one option table feeds the parser, --help, man pages, shell completion and environment
 * names.
 *
 * A command is one file: its table and a run function; register it in cmds.def and write
 * docs/<id>.md. On the command line `-` and `_` are equal in names; values come as "--name value"
 * or "--name=value". Order of precedence: option, then environment PUNA_<NAME>, then default. */
#ifndef PUNA_CMD_OPT_H
#define PUNA_CMD_OPT_H

#include <stdio.h>

#include "base/buf.h"
#include "base/err.h"

enum opt_type {
    OPT_BOOL, /* bool field: --name, --no-name, --name=true|false */
    OPT_INT,  /* int64_t field, within [min, max] */
    OPT_NUM,  /* double field, finite, within [min, max] */
    OPT_STR,  /* const char * field; valid UTF-8 */
    OPT_LIST, /* struct opt_list field: may be given several times; one item from the environment */
    OPT_WORDS, /* struct opt_list field: takes every word up to the next option */
    OPT_ARG,   /* const char * field: positional, in table order; optional when default is "" */
    OPT_REST,  /* struct opt_list field: all further positionals */
};

struct opt_list {
    const char **p; /* owned by the parser until opt_release(cfg) */
    size_t n;
};

struct opt {
    enum opt_type type;
    const char *name; /* "max_new_tokens": shown as --max-new-tokens */
    const char
        *alias; /* other names kept on purpose, comma separated: "-n,--n-predict"; NULL = none */
    size_t offset;
    const char *arg;  /* name of the value in help: "N", "PATH", "auto|f32|bf16"; choices with '|'
                         are checked */
    const char *def;  /* default as text; NULL = none (0, NULL) */
    double min, max;  /* numbers only; both 0 = any */
    const char *help; /* one line */
    bool rare;        /* the full page alone shows it */
};

/* OPT(INT, struct run_cfg, threads, "-t", "N", "0", "threads (0 = all cores)"); further fields may
 * follow, as .rare = true. */
#define OPT(kind, strukt, field, alias_, arg_, def_, help_, ...)                                   \
    {                                                                                              \
        .type = OPT_##kind, .name = #field, .alias = (alias_), .offset = offsetof(strukt, field),  \
        .arg = (arg_), .def = (def_), .help = (help_), __VA_ARGS__                                 \
    }
#define OPT_RANGE(kind, strukt, field, alias_, arg_, def_, min_, max_, help_, ...)                 \
    {                                                                                              \
        .type = OPT_##kind, .name = #field, .alias = (alias_), .offset = offsetof(strukt, field),  \
        .arg = (arg_), .def = (def_), .min = (min_), .max = (max_), .help = (help_), __VA_ARGS__   \
    }

struct cmd {
    const char *name;
    const char *summary; /* one line */
    const char *usage;   /* "[MODEL] [PROMPT]" */
    const char *help; /* paragraphs apart by blank lines; a line that starts with two blanks is kept
                         as it is; a line of capitals starts a section. --help shows only the
                         section EXAMPLES where there is one, help and man show all */
    const struct opt *opts; /* ends with { .name = NULL } */
    size_t cfg_size;
    int (*run)(const void *cfg,
               struct err *e); /* 0, -1 + err, or > 0 = exit status already reported */
};

#define CMD(id) extern const struct cmd cmd_##id;
#include "cmd/cmds.def"
#undef CMD

/* Parses argv[0..argc) (after the command's name) into cfg (zeroed, cfg_size bytes).
 * 1 = --help was asked and printed. Unknown options name the nearest. Strings are borrowed from
 * argv and the environment. */
int opt_parse(void *cfg, const struct cmd *cmd, int argc, char **argv, struct err *e) MUST_USE;
/* True when the user gave this option on the command line or in the environment. */
bool opt_given(const void *cfg, const char *name);
/* Sets one option by any of its names, without dashes ("top_p"), in a parsed cfg; it then counts as
 * given. */
int opt_set(void *cfg, const char *name, const char *value, struct err *e) MUST_USE;
/* The table's name of an option that was typed without dashes by any of its names, or NULL. */
const char *opt_canonical(const struct cmd *cmd, const char *name);
/* Forgets what was parsed into cfg, lists included. */
void opt_release(const void *cfg);

/* All commands, sorted, and one by name (NULL = none). */
const struct cmd *const *cmd_all(size_t *n);
const struct cmd *cmd_find(const char *name);

/* Renderings of the tables. */
void opt_help(const struct cmd *cmd, bool full,
              FILE *f); /* full: every alias, environment name, all paragraphs */
void opt_man(const struct cmd *cmd, FILE *f); /* roff; cmd NULL = puna(1) itself */
int opt_complete(const char *shell, FILE *f, struct err *e) MUST_USE;
void opt_json(FILE *f); /* every command and option */

/* Pieces they share. */
bool opt_positional(const struct opt *o);
void opt_flag(const struct opt *o, struct buf *out); /* appends "--max-new-tokens" */
void opt_env(const struct opt *o, struct buf *out);  /* appends "PUNA_MAX_NEW_TOKENS" */
/* The candidate nearest to word by edit distance, or NULL when none is near. */
const char *opt_nearest(const char *word, const char *const *cand, size_t n);

#endif
