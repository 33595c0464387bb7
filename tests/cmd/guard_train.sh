#!/bin/sh
# puna guard train: the head of a Prompt Guard learns from labelled texts.
exec python3 tests/cmd/guard_train.py "$PUNA"
