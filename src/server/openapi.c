/* openapi.c - GET /openapi.json, out of route.def and field.def; GET /docs, a page that shows it.
 */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "server/field.h"
#include "server/http_int.h"

static json_t *types_json(const char *types)
{
    json_t *list = json_array();

    for (const char *p = types + (*types == '!'); *p;) {
        const size_t n = strcspn(p, " ");

        json_array_append_new(list, json_stringn(p, n));
        p += n + (p[n] == ' ');
    }
    if (json_array_size(list) == 1) {
        json_t *one = json_incref(json_array_get(list, 0));

        json_decref(list);
        return one;
    }
    return list;
}

/* The schema of a body with these fields. A route that takes several bodies needs none of their
 * fields in particular. */
static json_t *schema(unsigned where)
{
    json_t *properties = json_object(), *required = json_array(), *j;
    const bool one = (where & (where - 1)) == 0;

    for (const struct field *f = server_fields; f->name; f++) {
        json_t *p;

        if (!(f->where & where))
            continue;
        p = json_pack("{s:o}", "type", types_json(f->types));
        if (strstr(f->types, "array"))
            json_object_set_new(p, "items", json_object());
        if (*f->help || f->where & IGNORED)
            json_object_set_new(p, "description",
                                json_string(f->where & IGNORED ? "accepted, not used" : f->help));
        if (where & IN_TGI && strcmp(f->name, "parameters") == 0) {
            json_t *inner = schema(IN_PARAMETERS);

            json_object_update_missing(inner, p);
            json_decref(p);
            p = inner;
        }
        json_object_set_new(properties, f->name, p);
        if (one && *f->types == '!')
            json_array_append_new(required, json_string(f->name));
    }
    j = json_pack("{s:s, s:o}", "type", "object", "properties", properties);
    if (json_array_size(required))
        json_object_set(j, "required", required);
    json_decref(required);
    return j;
}

static json_t *operation(const struct route *r, bool keys)
{
    json_t *j = json_pack("{s:s, s:[s], s:{s:{s:s}, s:{s:s}}}", "summary", r->help, "tags",
                          r->dialect == TGI ? "TGI and operation" : "OpenAI", "responses", "200",
                          "description", "OK", "default", "description",
                          r->dialect == TGI ? "{error, error_type}"
                                            : "{error: {message, type, param, code}, error_type}");

    if (r->fields)
        json_object_set_new(j, "requestBody",
                            json_pack("{s:b, s:{s:{s:o}}}", "required", 1, "content",
                                      "application/json", "schema", schema(r->fields)));
    if (keys && !r->open)
        json_object_set_new(j, "security", json_pack("[{s:[]}]", "key"));
    if (strchr(r->name, '*'))
        json_object_set_new(j, "parameters",
                            json_pack("[{s:s, s:s, s:b, s:{s:s}}]", "name", "name", "in", "path",
                                      "required", 1, "schema", "type", "string"));
    return j;
}

void openapi(struct call *c)
{
    json_t *paths = json_object();
    size_t n;
    const struct route *routes = route_table(&n);

    for (size_t i = 0; i < n; i++) {
        const char *path = strchr(routes[i].name, ' ') + 1;
        struct buf b;
        json_t *of_path;

        buf_init(&b, 256);
        buf_add(&b, path, strcspn(path, "*"));
        if (strchr(path, '*'))
            buf_adds(&b, "{name}");
        of_path = json_object_get(paths, b.p);
        if (!of_path)
            json_object_set_new(paths, b.p, of_path = json_object());
        json_object_set_new(of_path, *routes[i].name == 'G' ? "get" : "post",
                            operation(&routes[i], c->s->o.n_keys > 0));
        buf_release(&b);
    }
    reply_json(c, 200,
               json_pack("{s:s, s:{s:s, s:s}, s:o, s:{s:{s:{s:s, s:s}}}}", "openapi", "3.1.0",
                         "info", "title", "puna", "version", PUNA_VERSION, "paths", paths,
                         "components", "securitySchemes", "key", "type", "http", "scheme",
                         "bearer"));
}

static const char page[] =
    "<!doctype html><html lang=en><meta charset=utf-8><title>puna: API</title>\n"
    "<meta name=viewport content='width=device-width'>\n"
    "<style>body{font:15px/1.5 system-ui,sans-serif;max-width:60em;margin:2em auto;padding:0 1em}"
    "summary{cursor:pointer;padding:.2em 0}code{font-weight:600}textarea{width:100%;height:9em}"
    "textarea,pre,input{font:13px monospace}td{vertical-align:top;padding-right:1em}"
    "pre{background:#8882;padding:.6em;white-space:pre-wrap;overflow-wrap:anywhere}"
    ":root{color-scheme:light dark}</style>\n"
    "<h1>puna</h1><p>Every route of this server, from <a href=openapi.json>openapi.json</a>.\n"
    "<p><label>API key <input id=key type=password size=40 autocomplete=off></label>\n"
    "<main></main><script>\n"
    "const make = (tag, text, to) => {\n"
    "  const e = document.createElement(tag);\n"
    "  e.textContent = text ?? '';\n"
    "  to.append(e);\n"
    "  return e;\n"
    "};\n"
    "const first = {model: 'puna', messages: [{role: 'user', content: 'Hello'}], max_tokens: 32,\n"
    "  prompt: 'Once upon', inputs: 'Once upon', input: 'Once upon', instances: [{inputs: 'x'}]};\n"
    "function show(path, method, op) {\n"
    "  const d = make('details', '', document.querySelector('main'));\n"
    "  const s = make('summary', '', d);\n"
    "  make('code', method.toUpperCase() + ' ' + path, s);\n"
    "  s.append(' ' + op.summary);\n"
    "  const schema = op.requestBody?.content['application/json'].schema;\n"
    "  const table = make('table', '', d), body = {};\n"
    "  for (const [name, p] of Object.entries(schema?.properties ?? {})) {\n"
    "    const row = make('tr', '', table);\n"
    "    make('td', name, row);\n"
    "    make('td', [p.type].flat().join(' or '), row);\n"
    "    make('td', p.description, row);\n"
    "    if ((schema.required ?? ['messages']).includes(name) || name == 'max_tokens')\n"
    "      body[name] = first[name];\n"
    "  }\n"
    "  const at = path.includes('{') ? make('input', '', make('p', 'name: ', d)) : null;\n"
    "  const text = schema ? make('textarea', '', d) : null;\n"
    "  if (text) text.value = JSON.stringify(body, null, 1);\n"
    "  const go = make('button', 'Send', d), out = make('pre', '', d);\n"
    "  go.onclick = async () => {\n"
    "    const headers = {}, key = document.querySelector('#key').value;\n"
    "    if (text) headers['Content-Type'] = 'application/json';\n"
    "    if (key) headers.Authorization = 'Bearer ' + key;\n"
    "    out.textContent = '';\n"
    "    const r = await fetch(path.replace('{name}', at?.value), {method, headers, body: "
    "text?.value});\n"
    "    out.textContent = r.status + '\\n';\n"
    "    const reader = r.body.pipeThrough(new TextDecoderStream()).getReader();\n"
    "    for (let x; !(x = await reader.read()).done;) out.append(x.value);\n"
    "  };\n"
    "}\n"
    "fetch('openapi.json').then(r => r.json()).then(api => {\n"
    "  for (const [path, ops] of Object.entries(api.paths))\n"
    "    for (const [method, op] of Object.entries(ops)) show(path, method, op);\n"
    "});\n"
    "</script>\n";

void docs(struct call *c)
{
    call_header(c, "Content-Security-Policy",
                "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
                "connect-src 'self'; frame-ancestors 'none'; base-uri 'none'");
    reply_text(c, 200, "text/html; charset=utf-8", page, sizeof(page) - 1);
}

/* As vLLM answers it. */
void version(struct call *c)
{
    reply_json(c, 200, json_pack("{s:s}", "version", PUNA_VERSION));
}
