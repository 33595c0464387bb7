/* request.h - the sampling fields of an OpenAI-style JSON request, and what a model itself says
 * about sampling and ends. Whatever takes such requests reads them here. */
#ifndef PUNA_ENGINE_REQUEST_H
#define PUNA_ENGINE_REQUEST_H

#include <jansson.h>

#include "engine/session.h"
#include "text/chat.h"

enum { REQUEST_STOPS = 16, REQUEST_STOP_BYTES = 256, REQUEST_BIASES = 1024, REQUEST_TOP = 20 };

/* What a gen_request borrows while it is read and submitted. */
struct request_mem {
    const char *stop[REQUEST_STOPS]; /* borrowed from the JSON */
    struct logit_bias bias[REQUEST_BIASES];
};

/* Sampling as the model's generation config has it; where that is silent, `temperature` (0 =
 * greedy, as transformers does; 1 = as OpenAI's API does) and everything else off. */
void request_defaults(struct gen_request *r, const struct checkpoint *ck, double temperature);
/* Overwrites r's fields by those of j that are there: temperature, top_p, top_k, min_p,
 * repetition_penalty, frequency_penalty, presence_penalty, seed, max_tokens or
 * max_completion_tokens or max_new_tokens (0 = only the prompt), stop (a string or a list),
 * logit_bias (an object or a list of [id, bias]), skip_special_tokens, ignore_eos. Not logprobs:
 * the APIs differ. */
int request_read(struct gen_request *r, struct request_mem *mem, const json_t *j,
                 const struct engine *g, struct err *e) MUST_USE;
/* The grammar that j asks for, a reference, or NULL: response_format (OpenAI's and TGI's), guided_*
 * and structured_outputs (vLLM's), grammar and json_schema (llama.cpp's; TGI's grammar), regex and
 * ebnf (SGLang's). Refused: two of them, and what does not compile. */
int request_grammar(struct grammar **out, const json_t *j, const struct engine *g,
                    struct err *e) MUST_USE;
/* The schema of j's response_format, borrowed; NULL: none, or it is no JSON schema's. */
const json_t *request_schema(const json_t *j);
/* The ids that end an answer: the config's, the tokenizer's, and the chat format's (may be NULL).
 */
void request_eos(struct ids *out, const struct engine *g, const struct chat_format *format);

/* {"token", "logprob", "bytes"}: token is the text as far as it is text. */
json_t *request_token(const struct tok *t, int32_t id, float logprob);

#endif
