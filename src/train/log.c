#include "train/log.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "train/events.h"
#include "train/wandb.h"

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

/* A row's values under the names that curves have. */
static json_t *curves(const json_t *row)
{
    json_t *named = json_object(), *v;
    const char *key;

    json_object_foreach((json_t *)(uintptr_t)row, key, v)
    {
        const bool eval = !strncmp(key, "eval_", 5);
        char tag[64];

        if (!strcmp(key, "step"))
            continue;
        snprintf(tag, sizeof(tag), "%s/%s", eval ? "eval" : "train", eval ? key + 5 : key);
        json_object_set(named, tag, v);
    }
    return named;
}

static int64_t step_of(const json_t *row)
{
    return json_integer_value(json_object_get(row, "step"));
}

static int wandb_line(struct log *l, const json_t *row, struct err *e)
{
    json_t *named = curves(row);
    const int rc = wandb_step(l->wandb, step_of(row), named, e);

    json_decref(named);
    return rc;
}

/* Project and entity are those of wandb's own variables. */
static int wandb_start(struct log *l, const char *name, const json_t *config, struct err *e)
{
    const char *project = getenv("WANDB_PROJECT"), *entity = getenv("WANDB_ENTITY");
    const struct wandb_run r = { .dir = l->dir,
                                 .project = project && *project ? project : "puna",
                                 .entity = entity && *entity ? entity : NULL,
                                 .name = name,
                                 .config = config,
                                 .again = json_array_size(l->rows) > 0 };
    json_t *row;
    size_t i;
    int rc = wandb_open(&l->wandb, &r, e);

    json_array_foreach(l->rows, i, row) rc = rc ? rc : wandb_line(l, row, e);
    return rc;
}

int log_open(struct log *l, const char *dir, unsigned reports, const char *name, json_t *config,
             struct err *e)
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
        rc = failed(l, e);
    json_array_foreach(l->rows, i, row) rc = rc ? rc : metrics_line(l, row, e);
    if (rc == 0 && reports & REPORT_TENSORBOARD)
        rc = events_open(&l->events, dir, e);
    if (rc == 0 && reports & REPORT_WANDB)
        rc = wandb_start(l, name, config, e);
    json_decref(config);
    return rc;
}

static int events_line(struct log *l, const json_t *row, struct err *e)
{
    json_t *named = curves(row), *v;
    const char *tag;
    int rc = 0;

    json_object_foreach(named, tag, v) rc =
        rc ? rc : events_scalar(l->events, step_of(row), tag, json_number_value(v), e);
    json_decref(named);
    return rc;
}

int log_row(struct log *l, json_t *row, struct err *e)
{
    json_array_append_new(l->rows, row);
    return metrics_line(l, row, e) || (l->events && events_line(l, row, e)) ||
                   (l->wandb && wandb_line(l, row, e))
               ? -1
               : 0;
}

int log_close(struct log *l, bool done, struct err *e)
{
    int rc = wandb_close(l->wandb, done, e);

    if (l->metrics && fclose(l->metrics) && rc == 0)
        rc = failed(l, e);
    events_close(l->events);
    json_decref(l->rows);
    *l = (struct log){ 0 };
    return rc;
}
