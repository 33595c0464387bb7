/* events.h - TensorBoard's event files: records of a length, the data and their checksums, each an
 * Event message of protocol buffers (tensorflow/core/util/event.proto, summary.proto). */
#ifndef PUNA_TRAIN_EVENTS_H
#define PUNA_TRAIN_EVENTS_H

#include "base/err.h"

struct events;
/* A new file DIR/runs/events.out.tfevents.TIME.HOST.PID.0. */
int events_open(struct events **out, const char *dir, struct err *e) MUST_USE;
/* One value of a curve; it is in the file when this returns. */
int events_scalar(struct events *ev, int64_t step, const char *tag, double value,
                  struct err *e) MUST_USE;
void events_close(struct events *ev);

#endif
