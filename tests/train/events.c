/* TensorBoard's records: the checksum's known values, and a file read back byte by byte. */
#include <dirent.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"
#include "format/enc/floats.h"
#include "support.h"
#include "train/events.h"
#include "train/wire.h"

/* RFC 3720, appendix B.4 */
static void test_crc(void **state)
{
    uint8_t b[32] = { 0 };

    (void)state;
    assert_int_equal(crc32c(b, 32), 0x8a9136aa);
    memset(b, 0xff, 32);
    assert_int_equal(crc32c(b, 32), 0x62a8ab43);
    for (size_t i = 0; i < 32; i++)
        b[i] = (uint8_t)i;
    assert_int_equal(crc32c(b, 32), 0x46dd794e);
    assert_int_equal(crc32(0, "123456789", 9), 0xcbf43926); /* the check value of CRC-32 */
    assert_int_equal(crc32(crc32(0, "1234", 4), "56789", 5), 0xcbf43926);
}

static uint32_t masked(const void *p, size_t n)
{
    const uint32_t c = crc32c(p, n);

    return (c >> 15 | c << 17) + 0xa282ead8u;
}

static void test_file(void **state)
{
    static const char first[] = "\x1a\x0d"
                                "brain.Event:2";
    static const char tail[] = "\x10\xac\x02\x2a\x13\x0a\x11\x0a\x0a"
                               "train/loss\x15\0\0\x20\x40";
    char dir[] = "/tmp/puna-events-XXXXXX";
    struct events *ev;
    struct err e;
    char *text, *runs, *path = NULL;
    size_t n, at = 0;

    (void)state;
    assert_non_null(mkdtemp(dir));
    OK(events_open(&ev, dir, &e), e);
    OK(events_scalar(ev, 300, "train/loss", 2.5, &e), e);
    events_close(ev);
    runs = path_join(dir, "runs");
    DIR *d = opendir(runs);

    assert_non_null(d);
    for (const struct dirent *f; (f = readdir(d));)
        if (f->d_name[0] != '.') {
            assert_true(!strncmp(f->d_name, "events.out.tfevents.", 20));
            path = path_join(runs, f->d_name);
        }
    closedir(d);
    assert_non_null(path);
    OK(file_read(&text, &n, path, 1 << 16, &e), e);
    for (int i = 0; i < 2; i++) {
        const uint8_t *p = (const uint8_t *)text + at;
        const size_t len = enc_load32(p);
        const char *want = i ? tail : first;
        const size_t m = i ? sizeof(tail) - 1 : sizeof(first) - 1;

        assert_int_equal(enc_load32(p + 4), 0);
        assert_int_equal(enc_load32(p + 8), masked(p, 8));
        assert_int_equal(enc_load32(p + 12 + len), masked(p + 12, len));
        assert_int_equal(p[12], 9); /* the time */
        assert_memory_equal(p + 12 + len - m, want, m);
        at += 16 + len;
    }
    assert_int_equal(at, n);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(rmdir(runs), 0);
    assert_int_equal(rmdir(dir), 0);
    free(text);
    free(path);
    free(runs);
}

TEST_MAIN(cmocka_unit_test(test_crc), cmocka_unit_test(test_file))
