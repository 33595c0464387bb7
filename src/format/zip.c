/* APPNOTE.TXT 6.3.10 (pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT), sections 4.3 and 4.5.3.
 */
#include "format/zip.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

enum {
    END_SIZE = 22,
    END64_SIZE = 56,
    LOCATOR_SIZE = 20,
    CENTRAL_SIZE = 46,
    LOCAL_SIZE = 30,
    COMMENT_MAX = 65535,
};

static uint64_t get(const uint8_t *p, int bytes)
{
    uint64_t v = 0;

    for (int i = 0; i < bytes; i++)
        v |= (uint64_t)p[i] << 8 * i;
    return v;
}

struct bytes {
    const uint8_t *p;
    size_t n;
    const char *what;
};

/* The place of n bytes at `at`, or NULL when the archive ends before. */
static const uint8_t *view(const struct bytes *b, uint64_t at, uint64_t n)
{
    return at <= b->n && n <= b->n - at ? b->p + at : NULL;
}

/* The list of members, as the end of the archive describes it. */
struct central {
    uint64_t at, size, n;
};

static int find_end(const struct bytes *b, uint64_t *at, struct err *e)
{
    for (size_t back = END_SIZE; back <= b->n && back <= END_SIZE + COMMENT_MAX; back++) {
        const uint8_t *p = b->p + b->n - back;

        if (!memcmp(p, "PK\5\6", 4) && get(p + 20, 2) == back - END_SIZE) {
            *at = b->n - back;
            return 0;
        }
    }
    return err_set(e, ERR_FORMAT, "%s: not a zip archive, or cut: its end is missing", b->what);
}

static int read_end(const struct bytes *b, struct central *c, struct err *e)
{
    const uint8_t *p, *q;
    uint64_t end = 0;

    if (find_end(b, &end, e))
        return -1;
    p = b->p + end;
    *c = (struct central){ .at = get(p + 16, 4), .size = get(p + 12, 4), .n = get(p + 10, 2) };
    uint64_t disks = get(p + 4, 2) | get(p + 6, 2);

    q = end >= LOCATOR_SIZE ? p - LOCATOR_SIZE : NULL;
    if (q && !memcmp(q, "PK\6\7", 4)) {
        q = view(b, get(q + 8, 8), END64_SIZE);
        if (!q || memcmp(q, "PK\6\6", 4))
            return err_set(e, ERR_FORMAT, "%s: its zip64 end is missing", b->what);
        *c = (struct central){ .at = get(q + 48, 8), .size = get(q + 40, 8), .n = get(q + 32, 8) };
        disks = get(q + 16, 4) | get(q + 20, 4);
    }
    if (disks)
        return err_set(e, ERR_FORMAT, "%s: an archive of several disks", b->what);
    if (!view(b, c->at, c->size) || c->at + c->size > end)
        return err_set(e, ERR_FORMAT,
                       "%s: its list of members (%llu bytes at %llu) is outside the %zu bytes "
                       "of the file",
                       b->what, (unsigned long long)c->size, (unsigned long long)c->at, b->n);
    if (c->n > c->size / CENTRAL_SIZE)
        return err_set(e, ERR_FORMAT, "%s: %llu members in a list of %llu bytes", b->what,
                       (unsigned long long)c->n, (unsigned long long)c->size);
    return 0;
}

/* A field of 0xFFFFFFFF stands in the zip64 extra block, in this order. */
static int read_zip64(const uint8_t *extra, size_t n, uint64_t *field[3])
{
    bool needed = false;

    for (int i = 0; i < 3; i++)
        needed |= *field[i] == UINT32_MAX;
    while (needed && n >= 4) {
        const size_t id = get(extra, 2), size = get(extra + 2, 2);
        const uint8_t *p = extra + 4;
        size_t left = size;

        if (size > n - 4)
            return -1;
        for (int i = 0; id == 1 && i < 3; i++) {
            if (*field[i] != UINT32_MAX)
                continue;
            if (left < 8)
                return -1;
            *field[i] = get(p, 8);
            p += 8;
            left -= 8;
        }
        if (id == 1)
            return 0;
        extra += 4 + size;
        n -= 4 + size;
    }
    return needed ? -1 : 0;
}

/* Relative, with no part that leads up. */
static bool name_ok(const char *p, size_t n)
{
    if (n == 0 || p[0] == '/' || memchr(p, 0, n) || memchr(p, '\\', n))
        return false;
    for (size_t i = 0; i + 1 < n; i++)
        if (p[i] == '.' && p[i + 1] == '.' && (i == 0 || p[i - 1] == '/') &&
            (i + 2 == n || p[i + 2] == '/'))
            return false;
    return true;
}

static uint32_t crc32_of(const uint8_t *p, size_t n)
{
    uint32_t table[256], crc = UINT32_MAX;

    for (uint32_t i = 0; i < 256; i++) {
        table[i] = i;
        for (int k = 0; k < 8; k++)
            table[i] = table[i] >> 1 ^ (table[i] & 1 ? 0xEDB88320u : 0);
    }
    for (size_t i = 0; i < n; i++)
        crc = crc >> 8 ^ table[(crc ^ p[i]) & 255];
    return ~crc;
}

/* One entry of the list, *at its place in it; and the header in front of the member's bytes. */
static int read_member(const struct bytes *b, const struct central *c, uint64_t *at,
                       struct zip_member *m, struct err *e)
{
    const uint8_t *p = view(b, c->at + *at, CENTRAL_SIZE), *local;

    if (*at > c->size || c->size - *at < CENTRAL_SIZE || memcmp(p, "PK\1\2", 4))
        return err_set(e, ERR_FORMAT, "%s: its list of members is damaged", b->what);
    const size_t name = get(p + 28, 2), extra = get(p + 30, 2), comment = get(p + 32, 2);
    const uint64_t flags = get(p + 8, 2), method = get(p + 10, 2);
    uint64_t packed = get(p + 20, 4), size = get(p + 24, 4), offset = get(p + 42, 4);

    if (c->size - *at - CENTRAL_SIZE < name + extra + comment)
        return err_set(e, ERR_FORMAT, "%s: its list of members is cut", b->what);
    m->name = (const char *)p + CENTRAL_SIZE;
    m->name_len = name;
    m->crc = (uint32_t)get(p + 16, 4);
    *at += CENTRAL_SIZE + name + extra + comment;
    const int shown = name < 200 ? (int)name : 200;

    if (!name_ok(m->name, name))
        return err_set(e, ERR_FORMAT, "%s: member name \"%.*s\" leads out of the archive", b->what,
                       shown, m->name);
    if (flags & (1 | 1 << 6 | 1 << 13))
        return err_set(e, ERR_FORMAT, "%s: member %.*s is encrypted", b->what, shown, m->name);
    if (read_zip64(p + CENTRAL_SIZE + name, extra, (uint64_t *[]){ &size, &packed, &offset }))
        return err_set(e, ERR_FORMAT, "%s: member %.*s: damaged zip64 sizes", b->what, shown,
                       m->name);
    if (method != 0 || packed != size)
        return err_set(
            e, ERR_FORMAT,
            "%s: member %.*s is compressed (method %llu, %llu of %llu bytes): torch.save "
            "stores its members",
            b->what, shown, m->name, (unsigned long long)method, (unsigned long long)packed,
            (unsigned long long)size);
    local = view(b, offset, LOCAL_SIZE);
    if (!local || memcmp(local, "PK\3\4", 4))
        return err_set(e, ERR_FORMAT, "%s: member %.*s: no header at byte %llu of %zu", b->what,
                       shown, m->name, (unsigned long long)offset, b->n);
    const uint64_t skip = LOCAL_SIZE + get(local + 26, 2) + get(local + 28, 2);

    if (get(local + 26, 2) != name || !view(b, offset, skip) ||
        memcmp(local + LOCAL_SIZE, m->name, name) || get(local + 8, 2) != method)
        return err_set(e, ERR_FORMAT, "%s: member %.*s: its two headers disagree", b->what, shown,
                       m->name);
    m->data = view(b, offset + skip, size);
    if (!m->data || offset + skip + size > c->at)
        return err_set(e, ERR_FORMAT,
                       "%s: member %.*s: %llu bytes at %llu reach beyond the members' %llu",
                       b->what, shown, m->name, (unsigned long long)size,
                       (unsigned long long)(offset + skip), (unsigned long long)c->at);
    m->n = size;
    return 0;
}

static int name_cmp(const char *a, size_t na, const char *b, size_t nb)
{
    const int c = memcmp(a, b, na < nb ? na : nb);

    return c ? c : na < nb ? -1 : na > nb;
}

static int by_name(const void *a, const void *b)
{
    const struct zip_member *x = a, *y = b;

    return name_cmp(x->name, x->name_len, y->name, y->name_len);
}

static int by_place(const void *a, const void *b)
{
    const struct zip_member *x = a, *y = b;

    return x->data < y->data ? -1 : x->data > y->data;
}

static int check_members(const struct zip *z, size_t crc_max, const char *what, struct err *e)
{
    for (size_t i = 0; i < z->n; i++) {
        const struct zip_member *m = &z->member[i];
        const int shown = m->name_len < 200 ? (int)m->name_len : 200;

        if (i + 1 < z->n && m->data + m->n > m[1].data)
            return err_set(e, ERR_FORMAT, "%s: members %.*s and %.*s overlap", what, shown, m->name,
                           m[1].name_len < 200 ? (int)m[1].name_len : 200, m[1].name);
        if (m->n > crc_max)
            continue;
        const uint32_t crc = crc32_of(m->data, m->n);

        if (crc != m->crc)
            return err_set(e, ERR_FORMAT,
                           "%s: member %.*s: checksum %08x, the archive says %08x: the file is "
                           "damaged",
                           what, shown, m->name, (unsigned)crc, (unsigned)m->crc);
    }
    return 0;
}

int zip_open(struct zip *out, const void *p, size_t n, size_t crc_max, const char *what,
             struct err *e)
{
    const struct bytes b = { p, n, what };
    struct zip z = { 0 };
    struct central c;
    uint64_t at = 0;
    void *list;

    if (read_end(&b, &c, e) || mem_new(&list, c.n + 1, sizeof(*z.member), what, e))
        return -1;
    z.member = list;
    for (; z.n < c.n; z.n++)
        if (read_member(&b, &c, &at, &z.member[z.n], e))
            goto bad;
    qsort(z.member, z.n, sizeof(*z.member), by_place);
    if (check_members(&z, crc_max, what, e))
        goto bad;
    qsort(z.member, z.n, sizeof(*z.member), by_name);
    for (size_t i = 1; i < z.n; i++) {
        if (!by_name(&z.member[i - 1], &z.member[i])) {
            err_set(e, ERR_FORMAT, "%s: member %.*s is there twice", what,
                    z.member[i].name_len < 200 ? (int)z.member[i].name_len : 200, z.member[i].name);
            goto bad;
        }
    }
    *out = z;
    return 0;
bad:
    zip_close(&z);
    return -1;
}

void zip_close(struct zip *z)
{
    free(z->member);
    *z = (struct zip){ 0 };
}

const struct zip_member *zip_find(const struct zip *z, const char *name, size_t len)
{
    const struct zip_member key = { .name = name, .name_len = len };

    return z->n ? bsearch(&key, z->member, z->n, sizeof(key), by_name) : NULL;
}
