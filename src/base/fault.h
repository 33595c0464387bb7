/* fault.h - makes the N-th fallible call fail, so that tests can walk every
 * error path. Off (and one predictable branch) unless armed. */
#ifndef PUNA_BASE_FAULT_H
#define PUNA_BASE_FAULT_H

#include <stdbool.h>

/* The n-th call of fault_hit() from now (n >= 1) returns true; 0 disarms. */
void fault_arm(long n);
/* True when this call is the one to fail. Thread-safe. */
bool fault_hit(void);
/* Calls of fault_hit() since fault_arm(). */
long fault_seen(void);

#endif
