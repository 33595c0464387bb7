/* arena.h - addresses that are handed out one after the other, with memory behind those alone that
 * are in use: a device's own allocations each end with what is left of a page of 2 MiB. Memory
 * comes and goes in chunks; where, and what a chunk is, its owner knows. */
#ifndef PUNA_BASE_ARENA_H
#define PUNA_BASE_ARENA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct arena {
    size_t chunk, n_chunks; /* bytes of one, a multiple of ARENA_ALIGN; how many there are */
    uint32_t *live;         /* [n_chunks] spans that touch it; owned */
    struct arena_span {
        size_t at, n;
    } * span; /* [n] in use, by address; owned */
    size_t n;
    /* Memory for chunks first .. first + count, false: there is none; and no more of it. */
    bool (*map)(void *arg, size_t first, size_t count);
    void (*unmap)(void *arg, size_t first, size_t count);
    void *arg;
};

enum { ARENA_ALIGN = 256 };
/* What is set: chunk, n_chunks, map, unmap, arg. */
void arena_init(struct arena *a);
/* Unmaps what is mapped. */
void arena_release(struct arena *a);
/* n bytes from *at on, at a multiple of ARENA_ALIGN, the lowest that are free; false: no place or
 * no memory. */
bool arena_take(struct arena *a, size_t *at, size_t n);
/* What was taken at `at`. */
void arena_give(struct arena *a, size_t at);

#endif
