/* samples.h - what commands that measure share. */
#ifndef PUNA_CMD_SAMPLES_H
#define PUNA_CMD_SAMPLES_H

#include <stddef.h>

/* Seconds of a clock that only goes forward. */
double seconds_now(void);
/* The least first. */
void samples_sort(double *v, size_t n);

#endif
