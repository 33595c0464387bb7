#include "engine/ahead.h"

#include <pthread.h>
#include <stdlib.h>

#include "base/mem.h"
#include "base/thread.h"

struct ahead {
    pthread_t thread;
    bool started, quit;
    pthread_mutex_t lock; /* over what follows */
    pthread_cond_t wake, idle;
    struct guide **list; /* [most]; done up to `done` */
    size_t most, n, done;
};

struct ahead *ahead_new(size_t most)
{
    struct ahead *a = xcalloc(1, sizeof(*a));

    a->list = xcalloc(most, sizeof(*a->list));
    a->most = most;
    pthread_mutex_init(&a->lock, NULL);
    pthread_cond_init(&a->wake, NULL);
    pthread_cond_init(&a->idle, NULL);
    return a;
}

static void *loop(void *arg)
{
    struct ahead *a = arg;

    pthread_mutex_lock(&a->lock);
    while (!a->quit) {
        if (a->done == a->n) {
            pthread_cond_broadcast(&a->idle);
            pthread_cond_wait(&a->wake, &a->lock);
            continue;
        }
        struct guide *p = a->list[a->done];

        pthread_mutex_unlock(&a->lock);
        guide_prepare(p);
        pthread_mutex_lock(&a->lock);
        a->done++;
    }
    pthread_mutex_unlock(&a->lock);
    return NULL;
}

void ahead_add(struct ahead *a, struct guide *p)
{
    if (guide_ready(p))
        return;
    if (!a->started && thread_start(&a->thread, loop, a) != 0)
        return; /* the mask is made when it is asked for */
    a->started = true;
    pthread_mutex_lock(&a->lock);
    if (a->n < a->most)
        a->list[a->n++] = p;
    pthread_cond_signal(&a->wake);
    pthread_mutex_unlock(&a->lock);
}

void ahead_wait(struct ahead *a)
{
    if (!a->started)
        return;
    pthread_mutex_lock(&a->lock);
    while (a->done < a->n)
        pthread_cond_wait(&a->idle, &a->lock);
    a->n = a->done = 0;
    pthread_mutex_unlock(&a->lock);
}

void ahead_free(struct ahead *a)
{
    if (!a)
        return;
    if (a->started) {
        pthread_mutex_lock(&a->lock);
        a->quit = true;
        pthread_cond_signal(&a->wake);
        pthread_mutex_unlock(&a->lock);
        pthread_join(a->thread, NULL);
    }
    pthread_mutex_destroy(&a->lock);
    pthread_cond_destroy(&a->wake);
    pthread_cond_destroy(&a->idle);
    free(a->list);
    free(a);
}
