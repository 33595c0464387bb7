#!/usr/bin/env python3
"""Draws how speed changes with context and with batch, as one SVG file.

    bench/curves.py MODEL.gguf -o curves.svg [--contexts 512,...,32768] [--batches 1,2,...] [--peer]

Three curves of `puna bench`: prefill of a prompt of N tokens, decode of one sequence after N
tokens, and the tokens per second of B sequences together. With --peer (a Python that has
llama-cpp-python) each has llama.cpp's beside it, measured after ours by the same definitions. The
numbers are printed as a table too.
"""
import argparse
import html
import json
import os
import pathlib
import subprocess
import sys

import compare

ROOT = pathlib.Path(__file__).resolve().parent.parent
WIDTH, HEIGHT, LEFT, BOTTOM, GAP = 320, 220, 56, 40, 24
COLOURS = ("#06c", "#c60")


def arguments():
    p = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    p.add_argument("model")
    p.add_argument("-o", "--output", required=True)
    p.add_argument("--contexts", default="512,2048,8192,16384,32768")
    p.add_argument("--batches", default="1,2,4,8,16,32,64")
    p.add_argument("--steps", type=int, default=16, help="decode steps at each point")
    p.add_argument("--reps", type=int, default=3)
    p.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    p.add_argument("--peer", action="store_true", help="llama.cpp's curves too")
    p.add_argument("--puna", default=str(ROOT / "build" / "puna"))
    return p.parse_args()


def numbers(text):
    values = [int(n) for n in text.split(",") if n]
    if not values or min(values) < 1:
        sys.exit(f"'{text}' is no list of positive numbers")
    return values


def ours(args):
    command = [args.puna, "bench", args.model, "--json", "--no-ceilings", "--pp", "0", "--tg", "0",
               "--threads", str(args.threads), "--reps", str(args.reps), "--depths", args.contexts,
               "--batches", args.batches, "--tg-batched", str(args.steps)]
    p = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if p.returncode:
        sys.exit(f"{' '.join(command)}: exit status {p.returncode}")
    return json.loads(p.stdout)


def theirs(args):
    """What ours() gives, of llama.cpp: one sequence that grows, steps at each length."""
    peer, depths = compare.Peer(args.model, args.threads), []
    contexts, seconds, at = numbers(args.contexts), 0, 0
    ctx = peer.context(contexts[-1] + args.steps + 1, 1)
    for n in contexts:
        seconds += peer.prefill(ctx, n - at, at)
        at = n
        peer.steps(ctx, n, 1, 1)
        took = []
        for _ in range(args.reps):
            peer.forget(ctx, n)
            took.append(peer.steps(ctx, n, args.steps, 1))
        peer.forget(ctx, n)
        depths.append({"context": n, "prefill_tok_per_s": n / seconds,
                       "tok_per_s": compare.rates(args.steps, took)})
    peer.api.llama_free(ctx)
    return {"depths": depths,
            "batched": [peer.measure_batched(b, args.reps) for b in numbers(args.batches)]}


def measure(args):
    """{title: (x label, {program: [(x, tokens per second)]})}"""
    runs = {"puna": ours(args)}
    if args.peer:
        runs["llama.cpp"] = theirs(args)

    def curve(list_name, x, y):
        return {who: [(r[x], y(r)) for r in run[list_name]] for who, run in runs.items()}

    return {
        "prefill": ("prompt tokens", curve("depths", "context", lambda r: r["prefill_tok_per_s"])),
        "decode": ("tokens before", curve("depths", "context", lambda r: r["tok_per_s"]["median"])),
        "decode of several": ("sequences", curve("batched", "sequences",
                                                 lambda r: r["tok_per_s"]["median"])),
    }


def panel(index, title, label, lines):
    x0, y0 = index * (WIDTH + GAP), 24
    wide, high = WIDTH - LEFT, HEIGHT - BOTTOM - 24
    points = [p for line in lines.values() for p in line]
    most_x, most_y = max(x for x, _ in points), max(y for _, y in points)
    out = [f'<text x="{x0 + LEFT}" y="14" font-weight="bold">{html.escape(title)}, tokens/s</text>',
           f'<path d="M{x0 + LEFT} {y0}v{high}h{wide}" fill="none" stroke="#888"/>',
           f'<text x="{x0 + LEFT + wide / 2}" y="{y0 + high + 34}" text-anchor="middle">'
           f'{html.escape(label)}</text>']
    for fraction in (0, 0.5, 1):
        out.append(f'<text x="{x0 + LEFT - 6}" y="{y0 + high * (1 - fraction) + 4}" '
                   f'text-anchor="end">{most_y * fraction:.0f}</text>')
    for k, (who, line) in enumerate(lines.items()):
        at = [(x0 + LEFT + wide * x / most_x, y0 + high * (1 - y / most_y)) for x, y in line]
        out.append(f'<polyline fill="none" stroke="{COLOURS[k]}" stroke-width="2" points="'
                   + " ".join(f"{x:.1f},{y:.1f}" for x, y in at) + '"/>')
        out += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{COLOURS[k]}"/>' for x, y in at]
        if len(lines) > 1:
            out.append(f'<text x="{x0 + LEFT + wide - 4}" y="{y0 + 12 + 14 * k}" text-anchor="end" '
                       f'fill="{COLOURS[k]}">{who}</text>')
    last = -100
    for x in sorted({x for x, _ in points}):
        at = x0 + LEFT + wide * x / most_x
        if at - last > 28:
            out.append(f'<text x="{at:.1f}" y="{y0 + high + 16}" text-anchor="middle">{x}</text>')
            last = at
    return "\n".join(out)


def main():
    args = arguments()
    curves = measure(args)
    panels = [panel(i, t, label, lines) for i, (t, (label, lines)) in enumerate(curves.items())]
    width = len(panels) * (WIDTH + GAP)
    with open(args.output, "w") as f:
        f.write(f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {HEIGHT}" '
                f'font-family="sans-serif" font-size="11">\n' + "\n".join(panels) + "\n</svg>\n")
    for title, (label, lines) in curves.items():
        print(f"\n| {label} | " + " | ".join(f"{title}, {who}" for who in lines)
              + " |\n| ---: |" + " ---: |" * len(lines))
        for row in zip(*lines.values()):
            print(f"| {row[0][0]} | " + " | ".join(f"{y:.1f}" for _, y in row) + " |")


if __name__ == "__main__":
    main()
