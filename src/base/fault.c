#include "base/fault.h"

#include <stdatomic.h>

static atomic_long armed; /* 0 = off */
static atomic_long seen;

void fault_arm(long n)
{
    atomic_store(&seen, 0);
    atomic_store(&armed, n);
}

bool fault_hit(void)
{
    const long n = atomic_load_explicit(&armed, memory_order_relaxed);

    if (n == 0)
        return false;
    return atomic_fetch_add(&seen, 1) + 1 == n;
}

long fault_seen(void)
{
    return atomic_load(&seen);
}
