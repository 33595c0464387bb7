/* wire.h - protocol buffers by hand (protobuf.dev/programming-guides/encoding), and the checksums
 * that files of such messages carry. Everything is appended. */
#ifndef PUNA_TRAIN_WIRE_H
#define PUNA_TRAIN_WIRE_H

#include "base/buf.h"

void wire_little(struct buf *b, uint64_t v, size_t bytes); /* little-endian */
void wire_varint(struct buf *b, uint64_t v);
/* Fields by their number. A message is a field of its bytes. */
void wire_bytes(struct buf *b, unsigned number, const void *p, size_t n);
void wire_text(struct buf *b, unsigned number, const char *s);
void wire_number(struct buf *b, unsigned number, uint64_t v);

/* CRC-32C (Castagnoli). */
uint32_t crc32c(const void *p, size_t n);
/* zlib's CRC-32 of what has the checksum `before` (0 = nothing), and p after it. */
uint32_t crc32(uint32_t before, const void *p, size_t n);

#endif
