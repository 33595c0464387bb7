/* zip.h - the members of a zip archive in memory, as torch.save writes it: stored, not compressed.
 * Private to pth.c and its tests. */
#ifndef PUNA_FORMAT_ZIP_H
#define PUNA_FORMAT_ZIP_H

#include "base/err.h"

struct zip_member {
    const char *name; /* borrowed from the archive, not NUL-terminated */
    size_t name_len;
    const uint8_t *data; /* borrowed */
    size_t n;
    uint32_t crc;
};

struct zip {
    struct zip_member *member; /* owned; sorted by name */
    size_t n;
};

/* zip and zip64. Refuses compressed and encrypted members, names that lead out of a folder, two
 * members of one name, members that overlap, and headers that disagree. Checksums are verified for
 * members of at most crc_max bytes. `what` names the archive in messages. */
int zip_open(struct zip *out, const void *p, size_t n, size_t crc_max, const char *what,
             struct err *e) MUST_USE;
void zip_close(struct zip *z); /* legal on a zeroed struct */
/* NULL = absent. */
const struct zip_member *zip_find(const struct zip *z, const char *name, size_t len);

#endif
