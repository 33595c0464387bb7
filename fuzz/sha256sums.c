/* Any bytes as the SHA256SUMS of a folder that holds one file, `a`. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "format/sha256sums.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char dir[] = "/tmp/puna-fuzz-XXXXXX";

static void put(const char *name, const void *p, size_t n)
{
    char *path = path_join(dir, name);
    FILE *f = fopen(path, "wb");

    if (!f || fwrite(p, 1, n, f) != n || fclose(f))
        abort();
    free(path);
}

static void remove_all(void)
{
    static const char *const names[] = { "a", "SHA256SUMS" };

    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        char *path = path_join(dir, names[i]);

        unlink(path);
        free(path);
    }
    rmdir(dir);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static bool made;
    struct err e = { 0 };

    if (!made) {
        if (!mkdtemp(dir))
            abort();
        put("a", "x\n", 2);
        atexit(remove_all);
        made = true;
    }
    put("SHA256SUMS", data, size);
    if (sha256sums_check(dir, &e) && (!e.msg[0] || strchr(e.msg, '\n')))
        __builtin_trap();
    return 0;
}
