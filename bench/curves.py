#!/usr/bin/env python3
"""Draws how speed changes with context and with batch, as one SVG file.

    bench/curves.py MODEL.gguf -o curves.svg [--contexts 128,512,2048] [--batches 1,2,4,8,16,32]

Three curves of `puna bench`: prefill of a prompt of N tokens, decode of one sequence after N
tokens, and the tokens per second of B sequences together. The numbers are printed as a table too.
"""
import argparse
import html
import json
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
WIDTH, HEIGHT, LEFT, BOTTOM, GAP = 320, 220, 56, 40, 24


def arguments():
    p = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    p.add_argument("model")
    p.add_argument("-o", "--output", required=True)
    p.add_argument("--contexts", default="128,512,1024,2048")
    p.add_argument("--batches", default="1,2,4,8,16,32")
    p.add_argument("--steps", type=int, default=16, help="decode steps at each point")
    p.add_argument("--reps", type=int, default=3)
    p.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    p.add_argument("--puna", default=str(ROOT / "build" / "puna"))
    return p.parse_args()


def numbers(text):
    values = [int(n) for n in text.split(",") if n]
    if not values or min(values) < 1:
        sys.exit(f"'{text}' is no list of positive numbers")
    return values


def bench(args, **options):
    command = [args.puna, "bench", args.model, "--json", "--no-ceilings", "--tg", "0",
               "--threads", str(args.threads), "--reps", str(args.reps)]
    for name, value in {"pp": 0, "batches": "", **options}.items():
        command += ["--" + name.replace("_", "-"), str(value)]
    p = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if p.returncode:
        sys.exit(f"{' '.join(command)}: exit status {p.returncode}")
    return json.loads(p.stdout)


def measure(args):
    """{title: (x label, [(x, tokens per second)])}"""
    contexts, batches = numbers(args.contexts), numbers(args.batches)
    prefill = [(n, bench(args, pp=n)["prefill"]["tok_per_s"]["median"]) for n in contexts]
    decode = [(n, bench(args, batches="1", pp_batched=n, tg_batched=args.steps)["batched"][0]
               ["tok_per_s"]["median"]) for n in contexts]
    together = bench(args, batches=args.batches, tg_batched=args.steps)["batched"]
    return {
        "prefill": ("prompt tokens", prefill),
        "decode": ("tokens before", decode),
        "decode of several": ("sequences", [(b, r["tok_per_s"]["median"])
                                            for b, r in zip(batches, together)]),
    }


def panel(index, title, label, points):
    x0, y0 = index * (WIDTH + GAP), 24
    wide, high = WIDTH - LEFT, HEIGHT - BOTTOM - 24
    most_x, most_y = max(x for x, _ in points), max(y for _, y in points)
    at = [(x0 + LEFT + wide * x / most_x, y0 + high * (1 - y / most_y)) for x, y in points]
    out = [f'<text x="{x0 + LEFT}" y="14" font-weight="bold">{html.escape(title)}, tokens/s</text>',
           f'<path d="M{x0 + LEFT} {y0}v{high}h{wide}" fill="none" stroke="#888"/>',
           f'<text x="{x0 + LEFT + wide / 2}" y="{y0 + high + 34}" text-anchor="middle">'
           f'{html.escape(label)}</text>',
           '<polyline fill="none" stroke="#06c" stroke-width="2" points="'
           + " ".join(f"{x:.1f},{y:.1f}" for x, y in at) + '"/>']
    for fraction in (0, 0.5, 1):
        out.append(f'<text x="{x0 + LEFT - 6}" y="{y0 + high * (1 - fraction) + 4}" '
                   f'text-anchor="end">{most_y * fraction:.0f}</text>')
    for (x, y), (value, _) in zip(at, points):
        out.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="#06c"/>'
                   f'<text x="{x:.1f}" y="{y0 + high + 16}" text-anchor="middle">{value}</text>')
    return "\n".join(out)


def main():
    args = arguments()
    curves = measure(args)
    panels = [panel(i, t, label, points) for i, (t, (label, points)) in enumerate(curves.items())]
    width = len(panels) * (WIDTH + GAP)
    with open(args.output, "w") as f:
        f.write(f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {HEIGHT}" '
                f'font-family="sans-serif" font-size="11">\n' + "\n".join(panels) + "\n</svg>\n")
    for title, (label, points) in curves.items():
        print(f"\n| {label} | {title}, tok/s |\n| ---: | ---: |")
        for x, y in points:
            print(f"| {x} | {y:.1f} |")


if __name__ == "__main__":
    main()
