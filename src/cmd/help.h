/* help.h - what main and the help command share. */
#ifndef PUNA_CMD_HELP_H
#define PUNA_CMD_HELP_H

#include <stdio.h>

#include "base/err.h"

void help_commands(FILE *f); /* the list of commands */
/* -1 with the nearest command's name. */
int help_unknown(const char *name, struct err *e);

#endif
