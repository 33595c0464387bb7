#include "format/sha256sums.h"

#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/file.h"

enum { SUMS_MAX = 1 << 20, HEX = 64 };

int sha256_hex(char out[65], const void *p, size_t n, struct err *e)
{
    unsigned char md[EVP_MAX_MD_SIZE];
    unsigned len = 0;

    if (!EVP_Digest(p, n, md, &len, EVP_sha256(), NULL) || len != HEX / 2)
        return err_set(e, ERR_FAIL, "libcrypto cannot compute SHA-256");
    for (unsigned i = 0; i < len; i++)
        snprintf(out + 2 * i, 3, "%02x", md[i]);
    return 0;
}

static int check_file(const char *dir, const char *name, const char *want, struct err *e)
{
    char *path = path_join(dir, name);
    struct map m = { 0 };
    char have[HEX + 1];
    int rc = -1;

    if (!file_exists(path)) {
        rc = 0;
        goto done;
    }
    if (map_open(&m, path, e) || sha256_hex(have, m.p ? (const void *)m.p : "", m.len, e))
        goto done;
    if (strcasecmp(have, want)) {
        err_set(e, ERR_FORMAT, "%s: SHA-256 is %s, SHA256SUMS says %s: the file is damaged", path,
                have, want);
        goto done;
    }
    rc = 0;
done:
    map_close(&m);
    free(path);
    return rc;
}

/* "<64 digits>  name" or "<64 digits> *name"; cuts the line in two. */
static int check_line(const char *dir, char *line, const char *sums, struct err *e)
{
    char *name = line + HEX;

    if (*line == '\0' || *line == '#')
        return 0;
    if (strspn(line, "0123456789abcdefABCDEF") != HEX || *name != ' ')
        return err_set(e, ERR_FORMAT, "%s: a line is not what sha256sum writes", sums);
    *name++ = '\0';
    if (*name == ' ' || *name == '*')
        name++;
    if (!strncmp(name, "./", 2))
        name += 2;
    if (*name == '\0' || strchr(name, '/'))
        return 0;
    return check_file(dir, name, line, e);
}

int sha256sums_check(const char *dir, struct err *e)
{
    char *path = path_join(dir, "SHA256SUMS"), *text = NULL, *save = NULL;
    size_t n;
    int rc = 0;

    if (!file_exists(path))
        goto done;
    rc = file_read(&text, &n, path, SUMS_MAX, e);
    if (!rc && strlen(text) != n) /* a NUL would hide the lines behind it */
        rc = err_set(e, ERR_FORMAT, "%s: not a text file", path);
    for (char *line = rc ? NULL : strtok_r(text, "\r\n", &save); line && !rc;
         line = strtok_r(NULL, "\r\n", &save))
        rc = check_line(dir, line, path, e);
done:
    free(text);
    free(path);
    return rc;
}
