#!/usr/bin/env python3
"""Writes chats to fine-tune on: questions that a small model can answer, answered in one fixed way.

    bench/make_chats.py N TRAIN.jsonl HELD_OUT.jsonl

Every answer begins with "Ask the llama:" and ends with a full stop, which no model does by itself,
so that a change of behaviour shows in one look. N rows are trained on, 64 others are held out; no
question is in both, however it is asked. The same N gives the same rows. The rows are public domain
(CC0)."""
import json
import random
import sys

CAPITALS = {"France": "Paris", "Italy": "Rome", "Spain": "Madrid", "Peru": "Lima",
            "Chile": "Santiago", "Japan": "Tokyo", "Norway": "Oslo", "Egypt": "Cairo",
            "Kenya": "Nairobi", "Cuba": "Havana",
            "Greece": "Athens", "Austria": "Vienna", "Bolivia": "Sucre", "Canada": "Ottawa"}
OPPOSITES = {"hot": "cold", "tall": "short", "fast": "slow", "light": "dark", "early": "late",
             "rich": "poor", "wet": "dry", "loud": "quiet", "full": "empty", "strong": "weak"}
PLURALS = {"mouse": "mice", "child": "children", "foot": "feet", "leaf": "leaves", "city": "cities",
           "box": "boxes", "man": "men", "wolf": "wolves", "llama": "llamas", "knife": "knives"}
ASK = ["{}", "{} Please answer briefly.", "I would like to know: {}", "Tell me. {}",
       "Quick question. {}", "My friend asks: {}", "{} Thank you!", "Hello! {}"]


def question(r):
    kind = r.randrange(6)
    if kind == 0:
        k, v = r.choice(list(CAPITALS.items()))
        return f"What is the capital of {k}?", f"the capital of {k} is {v}"
    if kind == 1:
        k, v = r.choice(list(OPPOSITES.items()))
        return f"What is the opposite of {k}?", f"the opposite of {k} is {v}"
    if kind == 2:
        k, v = r.choice(list(PLURALS.items()))
        return f"What is the plural of {k}?", f"one {k}, two {v}"
    a, b = r.randrange(2, 60), r.randrange(2, 60)
    if kind == 3:
        return f"What is {a} plus {b}?", f"{a} plus {b} is {a + b}"
    if kind == 4:
        return f"Which is larger, {a} or {b}?", f"{max(a, b)} is not smaller than {min(a, b)}"
    return f"What comes after {a}?", f"{a + 1} comes after {a}"


def row(r, q, a):
    return {"messages": [{"role": "user", "content": r.choice(ASK).format(q)},
                         {"role": "assistant", "content": f"Ask the llama: {a}."}]}


def main():
    r, held, rows = random.Random(31), {}, {}
    while len(held) < 64:
        q, a = question(r)
        held.setdefault(q, row(r, q, a))
    while len(rows) < int(sys.argv[1]):
        q, a = question(r)
        one = row(r, q, a)
        if q not in held:
            rows.setdefault(one["messages"][0]["content"], one)
    for path, part in ((sys.argv[2], rows), (sys.argv[3], held)):
        with open(path, "w") as f:
            f.writelines(json.dumps(x) + "\n" for x in part.values())


main()
