/* samples.h - what commands that measure share. */
#ifndef PUNA_CMD_SAMPLES_H
#define PUNA_CMD_SAMPLES_H

#include <stddef.h>

/* The least first. */
void samples_sort(double *v, size_t n);

#endif
