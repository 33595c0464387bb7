#!/bin/sh
# puna sft: DoRA, dropout, NEFTune, modules saved whole, 8-bit AdamW, Adafactor, rounding at random.
exec python3 tests/cmd/train_parts.py "$PUNA"
