#include "cmd/bench_plot.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/buf.h"
#include "base/file.h"
#include "base/mem.h"

enum { W = 300, H = 180, LEFT = 60, TOP = 40, GAP = 90, PANELS = 3, LINES = 3 };

struct line {
    const char *name, *colour;
    double (*of)(const struct load_result *r);
};

static double output(const struct load_result *r)
{
    return (double)r->output_tokens / r->wall_s;
}

static double all(const struct load_result *r)
{
    return (double)(r->output_tokens + r->prompt_tokens) / r->wall_s;
}

static double good(const struct load_result *r)
{
    return r->requests ? output(r) * (double)r->good / (double)r->requests : 0;
}

static double ttft50(const struct load_result *r)
{
    return 1e3 * r->ttft.p50;
}

static double ttft90(const struct load_result *r)
{
    return 1e3 * r->ttft.p90;
}

static double ttft99(const struct load_result *r)
{
    return 1e3 * r->ttft.p99;
}

static double itl50(const struct load_result *r)
{
    return 1e3 * r->itl.p50;
}

static double itl90(const struct load_result *r)
{
    return 1e3 * r->itl.p90;
}

static double itl99(const struct load_result *r)
{
    return 1e3 * r->itl.p99;
}

static const struct panel {
    const char *title;
    struct line line[LINES];
} panels[PANELS] = {
    { "tokens per second",
      { { "all", "#888888", all }, { "output", "#0b62a4", output }, { "good", "#2a8a3e", good } } },
    { "time to first token, ms",
      { { "p50", "#0b62a4", ttft50 },
        { "p90", "#c77700", ttft90 },
        { "p99", "#b3261e", ttft99 } } },
    { "time between tokens, ms",
      { { "p50", "#0b62a4", itl50 }, { "p90", "#c77700", itl90 }, { "p99", "#b3261e", itl99 } } },
};

static double x_of(const struct load_result *r)
{
    return r->clients > 0 ? r->clients : r->rate;
}

/* 1, 2 or 5 times a power of ten: about four of them make `top`. */
static double tick(double top)
{
    const double raw = top / 4, ten = pow(10, floor(log10(raw)));

    return raw <= 2 * ten ? 2 * ten : raw <= 5 * ten ? 5 * ten : 10 * ten;
}

static void text(struct buf *b, double x, double y, const char *anchor, const char *colour,
                 const char *s)
{
    buf_addf(b, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\" fill=\"%s\">%s</text>\n", x, y,
             anchor, colour, s);
}

static void draw(struct buf *b, const struct panel *p, double x0, const struct load_result *r,
                 size_t n)
{
    const double y0 = TOP + H;
    double right = 0, top = 0;
    char num[32];

    for (size_t i = 0; i < n; i++) {
        right = fmax(right, x_of(&r[i]));
        for (int k = 0; k < LINES; k++)
            top = fmax(top, p->line[k].of(&r[i]));
    }
    top = top > 0 ? top : 1;
    text(b, x0, TOP - 22, "start", "#000", p->title);
    for (double v = 0; v <= top * 1.0001; v += tick(top)) {
        const double y = y0 - H * v / top;

        buf_addf(b, "<path d=\"M%.1f %.1fh%d\" stroke=\"#ddd\"/>\n", x0, y, W);
        snprintf(num, sizeof(num), "%g", v);
        text(b, x0 - 6, y + 4, "end", "#444", num);
    }
    for (size_t i = 0; i < n; i++) {
        snprintf(num, sizeof(num), "%g", x_of(&r[i]));
        text(b, x0 + W * x_of(&r[i]) / right, y0 + 16, "middle", "#444", num);
    }
    text(b, x0 + W / 2.0, y0 + 34, "middle", "#444",
         r[0].clients > 0 ? "clients" : "requests per second");
    for (int k = 0; k < LINES; k++) {
        const struct line *l = &p->line[k];

        text(b, x0 + 50 * k, TOP - 6, "start", l->colour, l->name);
        buf_addf(b, "<path fill=\"none\" stroke=\"%s\" stroke-width=\"2\" d=\"", l->colour);
        for (size_t i = 0; i < n; i++)
            buf_addf(b, "%c%.1f %.1f", i ? 'L' : 'M', x0 + W * x_of(&r[i]) / right,
                     y0 - H * l->of(&r[i]) / top);
        buf_adds(b, "\"/>\n");
        for (size_t i = 0; i < n; i++)
            buf_addf(b, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"3\" fill=\"%s\"/>\n",
                     x0 + W * x_of(&r[i]) / right, y0 - H * l->of(&r[i]) / top, l->colour);
    }
}

int plot_levels(const char *path, const struct load_result *r, size_t n, struct err *e)
{
    const int width = PANELS * (W + GAP), height = TOP + H + 45;
    struct out_file out;
    struct buf b;
    int rc = -1;

    buf_init(&b, 16 << 20);
    buf_addf(&b,
             "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" "
             "viewBox=\"0 0 %d %d\" font-family=\"sans-serif\" font-size=\"12\">\n"
             "<rect width=\"100%%\" height=\"100%%\" fill=\"#fff\"/>\n",
             width, height, width, height);
    for (int k = 0; k < PANELS; k++)
        draw(&b, &panels[k], LEFT + k * (W + GAP), r, n);
    buf_adds(&b, "</svg>\n");
    if (buf_check(&b, "the plot", e) || out_open(&out, path, e))
        goto done;
    if (fwrite(b.p, 1, b.len, out.f) != b.len)
        err_set(e, ERR_FAIL, "%s: %s", path, strerror(errno));
    else
        rc = out_commit(&out, e);
    out_abort(&out);
done:
    buf_release(&b);
    return rc;
}
