#!/bin/sh
# puna sft --load-in-4bit and bases that are quantised already; the release's command line.
exec python3 tests/cmd/train_qlora.py "$PUNA"
