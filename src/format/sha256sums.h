/* sha256sums.h - checks a folder against the SHA256SUMS file in it, as `sha256sum FILE...` writes
 * it. The one place that knows libcrypto's digests. */
#ifndef PUNA_FORMAT_SHA256SUMS_H
#define PUNA_FORMAT_SHA256SUMS_H

#include "base/err.h"

/* Checks every listed file that is there. A folder without SHA256SUMS passes; so do names with a
 * separator, which are no files of this folder. Each listed byte is read once, by one core (about
 * 1.5 GB/s with the CPU's SHA instructions, 0.4 without): 10 s for 8B in bf16, minutes for 405B.
 * Whoever finds that too dear leaves SHA256SUMS out. */
int sha256sums_check(const char *dir, struct err *e) MUST_USE;

/* The digest of n bytes in lower-case hexadecimal. */
int sha256_hex(char out[65], const void *p, size_t n, struct err *e) MUST_USE;

#endif
