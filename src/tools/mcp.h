/* mcp.h - tools of a server that speaks the Model Context Protocol (revision 2025-06-18): JSON-RPC
 * over the standard streams of a process, or over HTTP. */
#ifndef PUNA_TOOLS_MCP_H
#define PUNA_TOOLS_MCP_H

#include "tools/kit.h"

struct mcp;
/* config as in other clients' "mcpServers": {"command", "args", "env"} or {"url", "headers"}, and
 * "timeout" (seconds). Starts it and shakes hands. */
int mcp_open(struct mcp **out, const json_t *config, struct err *e) MUST_USE;
void mcp_close(struct mcp *m); /* legal on NULL */
/* Adds the server's tools to the kit, which must be closed before the server is. */
int mcp_add(struct kit *k, struct mcp *m, struct err *e) MUST_USE;

#endif
