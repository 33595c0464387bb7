#!/bin/sh
# puna sft: reports, event files, rows that are named, early ends, kill -9 at random points.
exec python3 tests/cmd/train_watch.py "$PUNA"
