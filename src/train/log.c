#include "train/log.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "train/events.h"

static int failed(const struct log *l, struct err *e)
{
    return err_set(e, ERR_FAIL, "%s/metrics.jsonl: %s", l->dir, strerror(errno));
}

static int metrics_line(struct log *l, const json_t *row, struct err *e)
{
    char *text = json_dumps(row, JSON_COMPACT);
    const int bad = !text || fprintf(l->metrics, "%s\n", text) < 0 || fflush(l->metrics);

    free(text);
    return bad ? failed(l, e) : 0;
}

int log_open(struct log *l, const char *dir, bool events, struct err *e)
{
    char *path = path_join(dir, "metrics.jsonl");
    json_t *row;
    size_t i;
    int rc = 0;

    l->dir = dir;
    l->rows = l->rows ? l->rows : json_array();
    l->metrics = fopen(path, "we");
    free(path);
    if (!l->metrics)
        return failed(l, e);
    json_array_foreach(l->rows, i, row) rc = rc ? rc : metrics_line(l, row, e);
    return rc == 0 && events ? events_open(&l->events, dir, e) : rc;
}

int log_row(struct log *l, json_t *row, struct err *e)
{
    const int64_t step = json_integer_value(json_object_get(row, "step"));
    const char *key;
    json_t *v;

    json_array_append_new(l->rows, row);
    if (metrics_line(l, row, e))
        return -1;
    json_object_foreach(row, key, v)
    {
        char tag[64];

        if (!l->events || !strcmp(key, "step"))
            continue;
        snprintf(tag, sizeof(tag), "%s/%s", strncmp(key, "eval_", 5) ? "train" : "eval",
                 strncmp(key, "eval_", 5) ? key : key + 5);
        if (events_scalar(l->events, step, tag, json_number_value(v), e))
            return -1;
    }
    return 0;
}

int log_close(struct log *l, struct err *e)
{
    const int rc = l->metrics && fclose(l->metrics) ? failed(l, e) : 0;

    events_close(l->events);
    json_decref(l->rows);
    *l = (struct log){ 0 };
    return rc;
}
