/* clock.h - time that only goes forward, whatever is done to the machine's date. */
#ifndef PUNA_BASE_CLOCK_H
#define PUNA_BASE_CLOCK_H

#include <stdint.h>

/* Since a moment that does not change while the machine is up. */
double clock_seconds(void);
int64_t clock_ns(void);

#endif
