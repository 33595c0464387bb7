# Broken and malicious files: `puna inspect` gives each its expected outcome (tests/data/hostile).
exec python3 "$(dirname "$0")/hostile.py" "$PUNA"
