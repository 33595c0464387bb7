#include "train/report.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"

enum { WIDTH = 640, HEIGHT = 220, LEFT = 56, BOTTOM = 24, TOP = 24 };

/* What is drawn together: names in log_history, the second may be absent. */
static const struct {
    const char *title, *key[2], *label[2];
} plots[] = {
    { "Loss", { "loss", "eval_loss" }, { "training", "evaluation" } },
    { "Gradient norm", { "grad_norm", NULL }, { "before clipping", NULL } },
    { "Learning rate", { "learning_rate", NULL }, { "of the step", NULL } },
    { "Tokens per second", { "tokens_per_s", NULL }, { "of the step", NULL } },
    { "Rewards",
      { "rewards/chosen", "rewards/rejected" },
      { "of the better answers", "of the worse ones" } },
};
static const char *const colour[] = { "#2563a8", "#c2410c" };

struct range {
    double x0, x1, y0, y1;
    size_t n;
};

static bool point(const json_t *row, const char *key, double *x, double *y)
{
    const json_t *v = key ? json_object_get(row, key) : NULL;

    if (!json_is_number(v) || !isfinite(json_number_value(v)))
        return false;
    *x = json_number_value(json_object_get(row, "step"));
    *y = json_number_value(v);
    return true;
}

static void widen(struct range *r, double x, double y)
{
    *r = r->n ? (struct range){ fmin(r->x0, x), fmax(r->x1, x), fmin(r->y0, y), fmax(r->y1, y),
                                r->n + 1 }
              : (struct range){ x, x, y, y, 1 };
}

static void curve(FILE *f, const json_t *log, const char *key, const char *stroke,
                  const struct range *r)
{
    const double w = r->x1 > r->x0 ? r->x1 - r->x0 : 1, h = r->y1 > r->y0 ? r->y1 - r->y0 : 1;
    const json_t *row;
    double x, y;
    size_t i;

    fprintf(f, "<polyline fill=\"none\" stroke=\"%s\" stroke-width=\"1.5\" points=\"", stroke);
    json_array_foreach(log, i, row)
    {
        if (point(row, key, &x, &y))
            fprintf(f, "%.1f,%.1f ", LEFT + (x - r->x0) / w * (WIDTH - LEFT - 8),
                    TOP + (r->y1 - y) / h * (HEIGHT - TOP - BOTTOM));
    }
    fputs("\"/>\n", f);
}

static void plot(FILE *f, const json_t *log, size_t p)
{
    struct range r = { 0 };
    const json_t *row;
    double x, y;
    size_t i;

    json_array_foreach(log, i, row)
    {
        for (size_t k = 0; k < 2; k++)
            if (point(row, plots[p].key[k], &x, &y))
                widen(&r, x, y);
    }
    if (r.n < 2)
        return;
    fprintf(f, "<h2>%s</h2>\n<svg viewBox=\"0 0 %d %d\" role=\"img\" aria-label=\"%s\">\n",
            plots[p].title, WIDTH, HEIGHT, plots[p].title);
    fprintf(f, "<path d=\"M%d %d V%d H%d\" fill=\"none\" stroke=\"#888\"/>\n", LEFT, TOP,
            HEIGHT - BOTTOM, WIDTH - 8);
    fprintf(f, "<text x=\"%d\" y=\"%d\" text-anchor=\"end\">%.3g</text>\n", LEFT - 6, TOP + 4,
            r.y1);
    fprintf(f, "<text x=\"%d\" y=\"%d\" text-anchor=\"end\">%.3g</text>\n", LEFT - 6,
            HEIGHT - BOTTOM, r.y0);
    fprintf(f, "<text x=\"%d\" y=\"%d\">step %.0f</text>\n", LEFT, HEIGHT - 6, r.x0);
    fprintf(f, "<text x=\"%d\" y=\"%d\" text-anchor=\"end\">%.0f</text>\n", WIDTH - 8, HEIGHT - 6,
            r.x1);
    for (size_t k = 0; k < 2 && plots[p].key[k]; k++) {
        curve(f, log, plots[p].key[k], colour[k], &r);
        fprintf(f, "<text x=\"%d\" y=\"14\" fill=\"%s\">%s</text>\n", LEFT + (int)k * 160,
                colour[k], plots[p].label[k]);
    }
    fputs("</svg>\n", f);
}

static void escaped(FILE *f, const char *s)
{
    for (; *s; s++) {
        if (*s == '<')
            fputs("&lt;", f);
        else if (*s == '&')
            fputs("&amp;", f);
        else
            fputc(*s, f);
    }
}

static void table(FILE *f, const json_t *config)
{
    const char *key;
    json_t *v;

    fputs("<h2>Run</h2>\n<table>\n", f);
    json_object_foreach((json_t *)(uintptr_t)config, key, v)
    {
        char *text = json_dumps(v, JSON_ENCODE_ANY | JSON_REAL_PRECISION(6));

        fprintf(f, "<tr><td>%s</td><td>", key);
        escaped(f, text ? text : "");
        fputs("</td></tr>\n", f);
        free(text);
    }
    fputs("</table>\n", f);
}

int report_write(const char *dir, const json_t *state, struct err *e)
{
    const json_t *log = json_object_get(state, "log_history");
    char *path = path_join(dir, "report.html");
    struct out_file o;
    int rc = out_open(&o, path, e);

    if (rc == 0) {
        fputs("<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><title>puna: a "
              "run</title>\n"
              "<style>body{font:15px sans-serif;max-width:700px;margin:2em auto}svg{width:100%}"
              "text{font-size:12px}td{padding:0 1em 0 0}</style>\n<h1>A run of puna</h1>\n",
              o.f);
        fprintf(o.f, "<p>Step %lld of %lld.</p>\n",
                (long long)json_integer_value(json_object_get(state, "global_step")),
                (long long)json_integer_value(json_object_get(state, "max_steps")));
        for (size_t p = 0; p < ARRAY_LEN(plots); p++)
            plot(o.f, log, p);
        table(o.f, json_object_get(state, "puna"));
        fputs("</html>\n", o.f);
        if (ferror(o.f)) {
            rc = err_set(e, ERR_FAIL, "%s: %s", path, strerror(errno));
            out_abort(&o);
        } else {
            rc = out_commit(&o, e);
        }
    }
    free(path);
    return rc;
}
