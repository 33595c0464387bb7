/* bench_plot.h - levels of load as a picture. */
#ifndef PUNA_CMD_BENCH_PLOT_H
#define PUNA_CMD_BENCH_PLOT_H

#include "cmd/bench_load.h"

/* Three panels over clients or rate: throughput, time to first token, time between tokens. SVG. */
int plot_levels(const char *path, const struct load_result *r, size_t n, struct err *e) MUST_USE;

#endif
