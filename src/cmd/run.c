/* run.c - `puna run`: an answer, a chat, or JSON lines. */
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/utf8.h"
#include "cmd/common.h"
#include "cmd/run_int.h"
#include "hub/models.h"

enum { STDIN_MAX = 64 << 20, STATUS_GUARDED = 3, STATUS_INTERRUPTED = 128 + SIGINT };

static const struct opt opts[] = {
    OPT(REST, struct run_cfg, args, NULL, "[MODEL] [PROMPT]", NULL,
        "a model (folder, GGUF file or name; default " HUB_DEFAULT ") and what to ask it"),
    OPT(STR, struct run_cfg, model, "-m,--model-id", "MODEL", NULL,
        "the model; all arguments are then the prompt"),
    OPT(STR, struct run_cfg, adapter, "--lora", "DIR", NULL, "LoRA adapter as PEFT saves it"),
    OPT(STR, struct run_cfg, prompt, "-p", "TEXT", NULL,
        "the prompt; the argument is then the model"),
    OPT(STR, struct run_cfg, system, "-s,--system-prompt,--sys", "TEXT", NULL, "system message"),
    OPT(STR, struct run_cfg, template, "--chat-template", "NAME", NULL,
        "chat format, in place of the model's own template"),
    OPT(STR, struct run_cfg, date, "--date-string", "DATE", "today",
        "date line of a Llama 3.1 prompt, such as \"26 Jul 2024\"; none = no line"),
    OPT(STR, struct run_cfg, grammar, "--grammar-file", "FILE", NULL,
        "rules (GBNF) that answers follow: a file, or the rules themselves"),
    OPT(STR, struct run_cfg, json_schema, "-j,--json-schema-file", "FILE", NULL,
        "answers are JSON of this schema: a file, or the schema itself"),
    OPT(STR, struct run_cfg, tools, NULL, "LIST", NULL,
        "what the model may call: built-in tools and files of tools, comma separated"),
    OPT(STR, struct run_cfg, approve, NULL, "ask|auto|never", "ask",
        "calls: ask the terminal before each, run them, or refuse them"),
    OPT(STR, struct run_cfg, tool_choice, NULL, "CHOICE", "auto",
        "auto, required (an answer begins with a call), or the name of the tool to begin with"),
    OPT_RANGE(INT, struct run_cfg, tool_steps, NULL, "N", "8", 1, 1000,
              "turns of one answer that may call tools"),
    OPT_RANGE(NUM, struct run_cfg, tool_time, NULL, "S", "600", 0.1, 1e6,
              "seconds of one answer with its calls"),
    OPT_RANGE(INT, struct run_cfg, tool_tokens, NULL, "N", "16384", 1, 1e9,
              "tokens of one answer over all its turns", .rare = true),
    OPT(STR, struct run_cfg, image_dir, NULL, "DIR", ".",
        "where plots of the code interpreter are saved, as plot-N.png"),
    DRAFTING_OPTS(struct run_cfg, " by --draft-model"),
    GUARDING_OPTS(struct run_cfg),
    OPT(BOOL, struct run_cfg, raw, NULL, NULL, "false",
        "continue the prompt as it is, without a chat template"),
    OPT(BOOL, struct run_cfg, json, NULL, NULL, "false",
        "JSON lines: requests on stdin, answers on stdout"),
    OPT_RANGE(INT, struct run_cfg, max_new_tokens,
              "-n,--n-predict,--max-tokens,--predict,--num-predict", "N", NULL, -1, 1e9,
              "longest answer in tokens; 0 or -1 = up to the context"),
    OPT(BOOL, struct run_cfg, greedy, NULL, NULL, "false",
        "always the most likely token; same as --temperature 0"),
    OPT_RANGE(NUM, struct run_cfg, temperature, "--temp", "X", NULL, 0, 100,
              "sample at this temperature; 0 = greedy"),
    OPT_RANGE(NUM, struct run_cfg, top_p, NULL, "P", NULL, 1e-6, 1,
              "keep the likeliest tokens that sum to P; 1 = off"),
    OPT_RANGE(INT, struct run_cfg, top_k, NULL, "K", NULL, 0, 1e9,
              "keep the K likeliest tokens; 0 = off"),
    OPT_RANGE(NUM, struct run_cfg, min_p, NULL, "P", NULL, 0, 1,
              "drop tokens less likely than P times the likeliest; 0 = off"),
    OPT_RANGE(NUM, struct run_cfg, repetition_penalty, "--repeat-penalty", "X", NULL, 0.01, 100,
              "divide the logits of tokens seen before; 1 = off"),
    OPT_RANGE(NUM, struct run_cfg, frequency_penalty, NULL, "X", "0", -2, 2,
              "take X off per use in the answer"),
    OPT_RANGE(NUM, struct run_cfg, presence_penalty, NULL, "X", "0", -2, 2,
              "take X off once used in the answer"),
    OPT(LIST, struct run_cfg, logit_bias, NULL, "ID=BIAS", NULL,
        "add BIAS (-100..100) to a token; repeatable"),
    OPT_RANGE(INT, struct run_cfg, seed, NULL, "N", NULL, -1, 9.2e18,
              "repeat the same draws; -1 (default) = a fresh seed for every answer"),
    OPT(LIST, struct run_cfg, stop, "-r,--reverse-prompt", "TEXT", NULL,
        "end the answer before TEXT; repeatable"),
    OPT(BOOL, struct run_cfg, logprobs, NULL, NULL, "false", "log probability of every token"),
    OPT_RANGE(INT, struct run_cfg, top_logprobs, NULL, "N", "0", 0, 20,
              "and of the N likeliest in its place"),
    OPT_RANGE(INT, struct run_cfg, ctx, "-c,--ctx-size,--max-model-len,--num-ctx", "N", NULL, 1,
              2147483647, "context in tokens; default: the model's up to 8192, or what fits"),
    OPT_RANGE(INT, struct run_cfg, threads, "-t", "N", NULL, 1, 1024,
              "threads; default: all cores"),
    OPT(STR, struct run_cfg, pin, NULL, PIN_HOW, "auto",
        "threads on the CPU: kept on their NUMA node where there are several, or on a core each",
        .rare = true),
    OPT_RANGE(INT, struct run_cfg, batch_size, "-b,-ub,--ubatch-size", "N", "512", 1, 65536,
              "prompt tokens per pass; answers are the same at any"),
    OPT(STR, struct run_cfg, dtype, NULL, "auto|f32|bf16", "auto",
        "arithmetic of the matrix products"),
    OPT(STR, struct run_cfg, kv_dtype, NULL, KV_TYPES, "auto", "type of the key-value cache"),
    OPT(STR, struct run_cfg, weights, NULL, WEIGHTS_HOW, "auto",
        "quantised weights on the CPU: copied as its kernels take them, or mapped", .rare = true),
    OPT(STR, struct run_cfg, device, NULL, "cpu|cuda|auto", "auto",
        "where to compute; auto: the GPU when there is one that holds the model"),
    OPT(BOOL, struct run_cfg, offload, NULL, NULL, "false",
        "layers that the GPU has no room for wait in host memory", .rare = true),
    OPT(STR, struct run_cfg, isa, NULL, "NAME", NULL,
        "highest instruction set to use: generic, avx2, avx512, avx512_bf16, amx", .rare = true),
    OPT(BOOL, struct run_cfg, verbose, "-v", NULL, "false",
        "tokens, speed and seed on stderr after each answer"),
    { .name = NULL },
};

static bool has_blank(const char *s)
{
    return s[strcspn(s, " \t\n")] != 0;
}

/* Which arguments are the model and which the prompt. *ref NULL = default model; *text "" = no
 * prompt. */
static int split_args(const struct run_cfg *c, const char **ref, struct buf *text, struct err *e)
{
    const bool by_option =
        c->model && c->model != getenv("PUNA_MODEL"); /* an argument beats the environment */
    size_t from = 0;

    *ref = c->model;
    if (!by_option && c->args.n &&
        (c->prompt || !has_blank(c->args.p[0]) || hub_known(c->args.p[0])))
        *ref = c->args.p[from++];
    if (c->prompt && c->args.n > from)
        return err_set(e, ERR_USAGE, "'%.100s' is one argument too many beside --prompt",
                       c->args.p[from]);
    if (c->prompt)
        buf_adds(text, c->prompt);
    for (size_t i = from; i < c->args.n; i++) {
        if (i > from)
            buf_addc(text, ' ');
        buf_adds(text, c->args.p[i]);
    }
    return buf_check(text, "prompt", e);
}

/* A word that is no model was perhaps meant to be a prompt. */
static int check_ref(const struct run_cfg *c, const char *ref, struct err *e)
{
    if (!ref || c->prompt || c->args.n == 0 || ref != c->args.p[0] || hub_known(ref))
        return 0;
    if (c->args.n > 1)
        return err_set(e, ERR_NOT_FOUND,
                       "no model '%.200s' (puna list shows what is there); a prompt stands in "
                       "quotation marks: puna run '%.200s ...'",
                       ref, ref);
    return err_set(e, ERR_NOT_FOUND,
                   "no model '%.200s' (puna list shows what is there); a prompt of one word is "
                   "written -p '%.200s'",
                   ref, ref);
}

/* All of standard input, made valid UTF-8, without one newline at its end. */
static int read_stdin(struct buf *out, struct err *e)
{
    struct buf raw;
    int rc;

    buf_init(&raw, STDIN_MAX);
    rc = stdin_read(&raw, "the prompt", e);
    if (rc == 0) {
        if (raw.len && raw.p[raw.len - 1] == '\n')
            buf_cut(&raw, raw.len - 1);
        utf8_sanitize(out, raw.p, raw.len);
        rc = buf_check(out, "standard input", e);
    }
    buf_release(&raw);
    return rc;
}

/* Piped input follows the prompt after a blank line, as in `cat f | puna run 'summarise'`. */
static int add_stdin(struct buf *text, struct err *e)
{
    struct buf in;
    int rc;

    buf_init(&in, STDIN_MAX);
    rc = read_stdin(&in, e);
    if (rc == 0 && in.len) {
        if (text->len)
            buf_adds(text, "\n\n");
        buf_add(text, in.p, in.len);
        rc = buf_check(text, "prompt", e);
    }
    buf_release(&in);
    return rc;
}

static volatile sig_atomic_t stop_answer; /* Ctrl-C, or standard output is gone */
static volatile sig_atomic_t interrupted;

static void on_sigint(int sig)
{
    (void)sig;
    interrupted = stop_answer = 1;
}

/* Ctrl-C ends the answer cleanly, a second one the program at once. */
static int one_shot(struct talk *t, const struct buf *text, struct err *e)
{
    const struct sigaction act = { .sa_handler = on_sigint, .sa_flags = (int)SA_RESETHAND };
    struct shower show = { .newline = false, .cancel = &stop_answer };
    struct gen_result r;

    t->cancel = &stop_answer;
    sigaction(SIGINT, &act, NULL);
    const int rc = talk_ask(t, text->p, text->len, show_text, show_progress, &show, &r, e);

    progress_end();
    if (rc)
        return -1;
    const bool cut = r.finish == FINISH_FILTER;

    if (!show.newline && !(cut && r.text.len == 0))
        putchar('\n');
    if (fflush(stdout) == 0)
        show_notes(t, &r);
    gen_result_release(&r);
    return interrupted ? STATUS_INTERRUPTED : cut ? STATUS_GUARDED : 0;
}

static int run(const void *cfg, struct err *e)
{
    struct run_cfg *c = (void *)(uintptr_t)cfg; /* main's memory; /set changes options */
    const bool asked = c->prompt != NULL;
    const char *ref;
    struct talk t = { 0 };
    struct buf text;
    int rc = -1;

    buf_init(&text, (size_t)2 * STDIN_MAX);
    if (split_args(c, &ref, &text, e) || check_ref(c, ref, e))
        goto done;
    const bool chat = !c->json && !asked && text.len == 0 && isatty(0) && isatty(1);

    if (c->json && text.len) {
        err_set(e, ERR_USAGE, "--json reads requests from standard input; it takes no prompt");
        goto done;
    }
    if (!c->json && !chat && !(isatty(0) && text.len) && add_stdin(&text, e))
        goto done;
    if (!c->json && !chat && text.len == 0) {
        err_set(e, ERR_USAGE, "the prompt is empty");
        goto done;
    }
    if (talk_open(&t, c, ref, e))
        goto done;
    rc = c->json ? run_json(&t, e) : chat ? repl(&t, e) : one_shot(&t, &text, e);
done:
    talk_close(&t);
    buf_release(&text);
    return rc;
}

const struct cmd cmd_run = {
    .name = "run",
    .summary = "ask a model, or chat with it in the terminal",
    .usage = "[MODEL] [PROMPT] [OPTIONS]",
    .help =
        "With a prompt, or with text on standard input, prints the answer and ends. With neither, "
        "on a "
        "terminal, starts a chat. Text on standard input follows the prompt after a blank line; "
        "one "
        "newline at its end is dropped.\n"
        "\n"
        "MODEL is a GGUF file, a model folder or a name that puna list shows; without it the "
        "default model "
        "answers. A first argument that contains a blank and names no model is the prompt.\n"
        "\n"
        "SAMPLING\n"
        "Answers are greedy (always the likeliest token) unless the model's generation_config.json "
        "says do_sample true, or one of --temperature, --top-p, --top-k and --min-p is given. What "
        "they do not set comes from generation_config.json, the temperature else being 1. A GGUF "
        "file carries no such settings. The steps are, in order: logit bias, repetition, frequency "
        "and presence penalty, temperature, top-k, top-p, min-p. Equal seeds give equal answers, "
        "at any number of threads.\n"
        "\n"
        "CHAT\n"
        "/? lists the commands. Ctrl-C stops the answer; at the prompt it drops the line, and "
        "twice ends the "
        "chat, as Ctrl-D does. \"\"\" starts and ends a text of several lines. Lines are kept in "
        "$XDG_STATE_HOME/puna/history.\n"
        "\n"
        "JSON\n"
        "With --json every line on standard input is a request: \"messages\" (and \"tools\") as in "
        "OpenAI's API, or "
        "\"prompt\", a text or a list of ids, continued as it is; and max_tokens, temperature, "
        "top_p, top_k, min_p, "
        "repetition_penalty, frequency_penalty, presence_penalty, logit_bias, seed, stop, "
        "logprobs, top_logprobs, "
        "skip_special_tokens, response_format, grammar, json_schema, guided_*. Every answer is a "
        "line {\"text\", \"ids\", \"prompt_ids\", "
        "\"finish_reason\", "
        "\"usage\", \"seed\"} or {\"error\"}; after an error the rest is still answered, and the "
        "exit status is 1.\n"
        "\n"
        "EXAMPLES\n"
        "  puna run\n"
        "  puna run 'What is the capital of France?'\n"
        "  puna run ./Llama-3.1-8B-Instruct 'Hello' --temperature 0\n"
        "  cat notes.txt | puna run 'Summarise this:' -n 200\n"
        "  puna run --raw model.gguf -p 'Once upon a time'\n",
    .opts = opts,
    .cfg_size = sizeof(struct run_cfg),
    .run = run,
};
