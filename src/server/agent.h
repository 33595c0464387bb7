/* agent.h - a chat whose tools the server runs (--enable-tools): turn after turn, until the model
 * answers or calls a function that is the client's. */
#ifndef PUNA_SERVER_AGENT_H
#define PUNA_SERVER_AGENT_H

#include "server/openai.h"

struct agent;
/* Before the request's tools are read: makes one in o->agent when builtin_tools names tools of the
 * server's, and declares in c->body those that the template does not spell. Else it stays NULL. */
int agent_open(struct call *c, struct oai *o, struct err *e) MUST_USE;
/* Instead of chat_begin. */
int agent_start(struct call *c, struct oai *o, struct err *e) MUST_USE;
void agent_free(struct agent *a); /* legal on NULL */
/* An event of the turn that runs. */
void agent_event(struct agent *a, struct gen *g, const struct sched_event *ev);

#endif
