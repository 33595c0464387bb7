#!/usr/bin/env python3
"""Draws how speed changes with context and with batch, as one SVG file.

    bench/curves.py MODEL.gguf -o curves.svg [--contexts 512,...,32768] [--batches 1,2,...] [--peer]
                    [--collect FILE]

Three curves of `puna bench`: prefill of a prompt of N tokens, decode of one sequence after N
tokens, beside what the read bandwidth that was measured with that point allows, and the tokens per
second of B sequences together. With --peer (a Python that has llama-cpp-python) each has
llama.cpp's beside it, by the same definitions and by turns at each point. The numbers are printed
as a table too. --collect keeps points in a file as they are measured: stopped and started again, it
goes on with those that lack.
"""
import argparse
import functools
import html
import json
import os
import pathlib
import subprocess
import sys

import compare

ROOT = pathlib.Path(__file__).resolve().parent.parent
WIDTH, HEIGHT, LEFT, BOTTOM, GAP = 320, 220, 56, 40, 24
COLOURS = {"puna": "#06c", "llama.cpp": "#c60", "read bandwidth": "#888"}


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
    p.add_argument("--collect", metavar="FILE",
                   help="points, one by one: what is there is not measured again")
    p.add_argument("--puna", default=str(ROOT / "build" / "puna"))
    return p.parse_args()


def numbers(text):
    values = [int(n) for n in text.split(",") if n]
    if not values or min(values) < 1:
        sys.exit(f"'{text}' is no list of positive numbers")
    return values


def ours(args, depth=None, batch=None):
    """One point: what `puna bench` says of it, and with a depth the ceiling of decode there."""
    command = [args.puna, "bench", args.model, "--json", "--pp", "0", "--tg", "0",
               "--threads", str(args.threads), "--reps", str(args.reps),
               "--batches", str(batch or ""), "--tg-batched", str(args.steps)]
    command += ["--depths", str(depth)] if depth else ["--no-ceilings"]
    p = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if p.returncode:
        sys.exit(f"{' '.join(command)}: exit status {p.returncode}")
    result = json.loads(p.stdout)
    if batch:
        return result["batched"][0]
    read = max(v for k, v in result["ceilings"].items() if k.startswith("read_"))
    return {**result["depths"][0], "ceiling_tok_per_s": read / result["depths"][0]["read_bytes"]}


@functools.lru_cache(maxsize=1)
def peer_of(model, threads):
    return compare.Peer(model, threads)


def theirs(args, depth=None, batch=None):
    """The same of llama.cpp."""
    peer = peer_of(args.model, args.threads)
    if batch:
        return peer.measure_batched(batch, args.reps)
    ctx, took = peer.context(depth + args.steps + 1, 1), []
    seconds = peer.prefill(ctx, depth)
    peer.steps(ctx, depth, 1, 1)
    for _ in range(args.reps):
        peer.forget(ctx, depth)
        took.append(peer.steps(ctx, depth, args.steps, 1))
    peer.api.llama_free(ctx)
    return {"context": depth, "prefill_tok_per_s": depth / seconds,
            "tok_per_s": compare.rates(args.steps, took)}


def points(args):
    """{program: {"depths": [...], "batched": [...]}}, programs by turns at each point."""
    programs = {"puna": ours, **({"llama.cpp": theirs} if args.peer else {})}
    runs = {who: {"depths": [], "batched": []} for who in programs}
    known = {}
    if args.collect and os.path.exists(args.collect):
        with open(args.collect) as f:
            known = json.load(f)
    for what, name, values in (("depths", "depth", args.contexts),
                               ("batched", "batch", args.batches)):
        for n in numbers(values):
            for who, program in programs.items():
                key = f"{os.path.basename(args.model)}, {args.threads} threads: {who}, {name} {n}"
                if key not in known:
                    known[key] = {**program(args, **{name: n}), "load": os.getloadavg()[0]}
                    if args.collect:
                        with open(args.collect, "w") as f:
                            json.dump(known, f, indent=1)
                runs[who][what].append(known[key])
    return runs


def measure(args):
    """{title: (x label, {program: [(x, tokens per second)]})}"""
    runs = points(args)

    def curve(list_name, x, y):
        return {who: [(r[x], y(r)) for r in run[list_name]] for who, run in runs.items()}

    decode = curve("depths", "context", lambda r: r["tok_per_s"]["median"])
    decode["read bandwidth"] = [(r["context"], r["ceiling_tok_per_s"])
                                for r in runs["puna"]["depths"]]
    return {
        "prefill": ("prompt tokens", curve("depths", "context", lambda r: r["prefill_tok_per_s"])),
        "decode": ("tokens before", decode),
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
        out.append(f'<polyline fill="none" stroke="{COLOURS[who]}" stroke-width="2" points="'
                   + " ".join(f"{x:.1f},{y:.1f}" for x, y in at) + '"/>')
        out += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{COLOURS[who]}"/>' for x, y in at]
        if len(lines) > 1:
            out.append(f'<text x="{x0 + LEFT + wide - 4}" y="{y0 + 12 + 14 * k}" text-anchor="end" '
                       f'fill="{COLOURS[who]}">{who}</text>')
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
