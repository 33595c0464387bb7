#include "hub/datasets.h"

#include <stdlib.h>

#include "base/file.h"
#include "base/mem.h"
#include "hub/models.h"

static bool in_folder(const char *dir, char **path)
{
    static const char *const files[] = { "train.jsonl",      "train.json",      "train.csv",
                                         "data/train.jsonl", "data/train.json", "data/train.csv" };

    for (size_t i = 0; i < ARRAY_LEN(files); i++) {
        char *p = path_join(dir, files[i]);

        if (file_exists(p)) {
            *path = p;
            return true;
        }
        free(p);
    }
    return false;
}

int hub_dataset(const char *name, char **path, struct err *e)
{
    char *cache, *dir;

    if (file_exists(name)) {
        *path = xstrdup(name);
        return 0;
    }
    if (in_folder(name, path))
        return 0;
    if (hub_cache_dir(&cache, e))
        return -1;
    dir = xasprintf("%s/datasets/%s", cache, name);
    const bool found = in_folder(dir, path);

    if (!found)
        err_set(e, ERR_NOT_FOUND,
                "data set %s: no file, and no train.jsonl, train.json or train.csv in %s/ or %s/; "
                "put one there, or give it with --train-file",
                name, name, dir);
    free(dir);
    free(cache);
    return found ? 0 : -1;
}
