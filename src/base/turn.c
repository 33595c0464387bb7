#include "base/turn.h"

void turn_init(struct turn *t)
{
    pthread_mutex_init(&t->lock, NULL);
    pthread_cond_init(&t->next, NULL);
    t->asked = t->served = 0;
}

void turn_release(struct turn *t)
{
    pthread_mutex_destroy(&t->lock);
    pthread_cond_destroy(&t->next);
}

void turn_take(struct turn *t)
{
    pthread_mutex_lock(&t->lock);
    for (const uint64_t mine = t->asked++; t->served != mine;)
        pthread_cond_wait(&t->next, &t->lock);
    pthread_mutex_unlock(&t->lock);
}

void turn_give(struct turn *t)
{
    pthread_mutex_lock(&t->lock);
    t->served++;
    pthread_cond_broadcast(&t->next);
    pthread_mutex_unlock(&t->lock);
}
