/* datasets.h - data sets on this machine, by name. */
#ifndef PUNA_HUB_DATASETS_H
#define PUNA_HUB_DATASETS_H

#include "base/err.h"

/* The rows that a data set's name stands for, free() it: a file; or of a folder, NAME itself or
 * $XDG_CACHE_HOME/puna/datasets/NAME, the file train.jsonl, .json or .csv, there or in its folder
 * data/. ERR_NOT_FOUND says where was looked. */
int hub_dataset(const char *name, char **path, struct err *e) MUST_USE;

#endif
