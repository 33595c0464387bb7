/* turn.h - a lock that is given out in the order in which it was asked for, so that nobody who
 * takes it again and again keeps others out. */
#ifndef PUNA_BASE_TURN_H
#define PUNA_BASE_TURN_H

#include <pthread.h>
#include <stdint.h>

struct turn {
    pthread_mutex_t lock;
    pthread_cond_t next;
    uint64_t asked, served;
};

void turn_init(struct turn *t);
void turn_release(struct turn *t);
/* Waits until all who asked before have given it back. */
void turn_take(struct turn *t);
void turn_give(struct turn *t);

#endif
