# Quantised checkpoints with one thing wrong, and variants that are right: `puna inspect` on each.
exec python3 "$(dirname "$0")/quantised.py" "$PUNA"
