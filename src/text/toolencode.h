/* toolencode.h - writes a tool call as Meta's prompts spell it (llama-models 0.3.0,
 * tool_utils.py): what an assistant turn that called a tool looks like when it is replayed. */
#ifndef PUNA_TEXT_TOOLENCODE_H
#define PUNA_TEXT_TOOLENCODE_H

#include <jansson.h>

#include "base/buf.h"

enum tool_format {
    TOOL_FORMAT_JSON,         /* {"type": "function", "name": "f", "parameters": {...}} */
    TOOL_FORMAT_FUNCTION_TAG, /* <function=f>{...}</function> */
    TOOL_FORMAT_PYTHON_LIST,  /* [f(a=1, b="x")] */
};

/* brave_search, wolfram_alpha and photogen: one string argument, `query`. */
bool tool_is_builtin(const char *name);

/* Appends the call; arguments is an object. In every format the built-in tools are written
 * `name.call(query="...")` and code_interpreter as its bare code. As in the reference, strings
 * in these and in the Python list are not escaped, so not every call can be read back. */
void tool_call_write(struct buf *out, enum tool_format format, const char *name,
                     const json_t *arguments);

#endif
