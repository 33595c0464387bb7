#include "train/wire.h"

#include <string.h>

void wire_little(struct buf *b, uint64_t v, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        buf_addc(b, (char)(v >> 8 * i));
}

void wire_varint(struct buf *b, uint64_t v)
{
    for (; v > 127; v >>= 7)
        buf_addc(b, (char)(v | 128));
    buf_addc(b, (char)v);
}

void wire_bytes(struct buf *b, unsigned number, const void *p, size_t n)
{
    wire_varint(b, number << 3 | 2);
    wire_varint(b, n);
    buf_add(b, p, n);
}

void wire_text(struct buf *b, unsigned number, const char *s)
{
    wire_bytes(b, number, s, strlen(s));
}

void wire_number(struct buf *b, unsigned number, uint64_t v)
{
    wire_varint(b, number << 3);
    wire_varint(b, v);
}

/* The polynomial with its bits turned round; a checksum goes on from what it was. */
static uint32_t crc(uint32_t polynomial, uint32_t c, const uint8_t *s, size_t n)
{
    c = ~c;
    for (size_t i = 0; i < n; i++) {
        c ^= s[i];
        for (int k = 0; k < 8; k++)
            c = c >> 1 ^ (c & 1 ? polynomial : 0);
    }
    return ~c;
}

uint32_t crc32c(const void *p, size_t n)
{
    return crc(0x82f63b78u, 0, p, n);
}

uint32_t crc32(uint32_t before, const void *p, size_t n)
{
    return crc(0xedb88320u, before, p, n);
}
