/* openai.h - what the files of the OpenAI API share. */
#ifndef PUNA_SERVER_OPENAI_H
#define PUNA_SERVER_OPENAI_H

#include "engine/request.h"
#include "server/gen.h"
#include "text/toolcall.h"

enum { OPENAI_MAX_N = 16, OPENAI_MAX_TEMPERATURE = 2 };

enum tools_choice { TOOLS_AUTO, TOOLS_NONE, TOOLS_REQUIRED, TOOLS_NAMED };

/* One request: what its answers need to know. Owned by the call. */
struct oai {
    bool chat, stream, include_usage, logprobs, echo;
    bool score;      /* prompt_logprobs: in the answer */
    bool continuous; /* usage in every chunk */
    size_t cut;      /* truncate_prompt_tokens; 0 = no */
    int32_t eos[64]; /* ids that end an answer: the model's and the request's */
    size_t n, top;
    uint64_t salt;              /* of the prefix cache */
    const struct lora *adapter; /* the one that `model` names; NULL = the model itself */
    char *model;                /* as asked for; echoed */
    int64_t created;
    size_t n_prompts;                 /* of /v1/completions; 1 for chat */
    size_t n_prompt_tokens, n_cached; /* summed over prompts; cached ones as events tell */
    size_t n_done, n_answer_tokens;
    bool failed;
    json_t *tools, *builtin; /* declared; NULL = none; owned */
    enum tools_choice choice;
    char *tool;              /* the one that must be called; owned */
    bool parallel;           /* more than one call in an answer */
    bool exact;              /* calls come in the form of o->grammar alone: a tool is strict */
    struct grammar *grammar; /* NULL = any text; a reference */
    struct sched_request r;  /* chats: of every turn, but for its prompt */
    struct request_mem mem;  /* what r borrows */
    struct agent *agent;     /* NULL = the client runs all tools; owned */
};

/* A call's choice: text and logprobs not sent yet. */
struct choice {
    struct buf pending;
    json_t *tokens;          /* logprobs of pending text, the API's form; owned */
    bool opened;             /* the first chunk, with the role, was sent */
    size_t offset;           /* characters of the text so far, for completions' text_offset */
    json_t *prompt_logprobs; /* vLLM's form; NULL = not asked for; owned */
    struct gen *gen;
    struct tool_parser *parser; /* NULL = the answer is text; owned */
    struct tool_answer answer;  /* what it read, when the answer is sent whole */
    size_t sent, cancelled;     /* calls begun in a stream, and those that were none after all */
};

/* Reads what both APIs have: n, stream, stream_options, model, sampling. *r is ready but for its
 * prompt; mem keeps what it borrows. */
int oai_read(struct call *c, struct oai *o, struct gen_request *r, struct request_mem *mem,
             struct err *e) MUST_USE;
/* vLLM's further fields; after what sets r->eos. */
int oai_read_more(struct call *c, struct oai *o, struct gen_request *r, struct err *e) MUST_USE;
/* chat_template_kwargs become fields of the body where it has no such ones: variables that have a
 * field of their own here, and with `all` also names that no field has. Others, which would change
 * the request, do not count. */
int oai_template_kwargs(struct call *c, bool all, struct err *e) MUST_USE;
/* truncate_prompt_tokens. */
void oai_cut(const struct oai *o, struct ids *ids);
/* The text of a last message that the answer is to continue, taken out of c->body; NULL = none. */
int oai_take_final(struct call *c, json_t **content, struct err *e) MUST_USE;
/* POST /tokenize of a prompt or messages. */
void vllm_tokenize(struct call *c);
void oai_free(void *o);
/* The field `model`: o->model and o->adapter. */
int oai_read_model(struct call *c, struct oai *o, struct err *e) MUST_USE;
/* cache_salt: only requests of one salt share what was computed for their prompts. */
int oai_read_salt(const json_t *j, uint64_t *salt, struct err *e) MUST_USE;
/* The field `name` as a list of prompts, each a text or a list of ids; a new reference. */
int oai_inputs(const struct call *c, const char *name, size_t max, json_t **list,
               struct err *e) MUST_USE;
/* The ids of one of them; BOS goes before a text where the tokenizer says so. */
int oai_input_ids(const struct call *c, const json_t *input, struct ids *out,
                  struct err *e) MUST_USE;
/* vLLM's prompt_logprobs: asks r for scores of the n tokens. */
int oai_read_scores(struct call *c, struct oai *o, struct sched_request *r, size_t n,
                    struct err *e) MUST_USE;
/* [null, {"ID": {"logprob", "rank", "decoded_token"}}, ...] out of a SCHED_PROMPT event. */
json_t *oai_scores(const struct gen *g, const struct sched_event *ev);
/* The tools of a chat; with tool_choice "none" they are taken out of the body. */
int oai_read_tools(struct call *c, struct oai *o, struct err *e) MUST_USE;
/* The prompt of c->body: tools, messages and template. */
int oai_render(struct call *c, struct prompt *p, struct err *e) MUST_USE;
/* Rewrites what the model's chat format does not know: developer messages, tools. */
int oai_adapt_messages(struct call *c, struct err *e) MUST_USE;
void choice_free(void *p);

/* ---- openai_chat.c, for chats of more turns than one (agent.c) ---- */

/* Renders c->body and starts its answers: n of them, or one turn. */
int chat_begin(struct call *c, struct oai *o, struct err *e) MUST_USE;
/* A chunk of a stream; delta and logprobs are taken. */
json_t *chat_chunk(const struct call *c, const struct gen *g, json_t *delta, json_t *logprobs,
                   const char *finish);
/* The chunk with the role, once. */
void chat_open_choice(struct call *c, struct gen *g);
void chat_send_text(struct call *c, struct gen *g, const char *text, size_t n);
/* Feeds the choice's parser. */
void chat_parse(struct gen *g, const struct sched_event *ev);
json_t *chat_calls(const struct oai *o, const struct tool_answer *a);
/* The usage, if asked for, and [DONE]. */
void chat_end_stream(struct call *c);

struct choice *choice_of(struct gen *g);

const char *oai_finish(const struct gen *g);
json_t *oai_usage(const struct oai *o);
/* {"id", "object", "created", "model", "system_fingerprint", "choices": [choice]}; choice is taken,
 * NULL = none. */
json_t *oai_envelope(const struct call *c, const char *object, json_t *choice);
/* A generation has ended: after the last one, the end of a stream. For the rest see the callers. */
bool oai_all_ended(const struct call *c);

/* A generation has failed: the call ends with its error, a reply or the stream's last event. */
void oai_failed(struct gen *g);

#endif
