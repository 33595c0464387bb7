"""Runs inside the sandbox: code comes in frames on standard input, each is run in the names that the
ones before left, and a frame of JSON on descriptor 3 says how it went; before the first, a "!" says that all walls stand. A frame is four bytes of length, little-endian, and
its text. What code prints goes to descriptors 1 and 2 as it does."""
import ast
import base64
import io
import json
import os
import resource
import struct
import sys
import traceback

LIMIT = json.loads(sys.argv[1])
VALUE_MAX, IMAGES_MAX, IMAGE_BYTES = 16384, 8, 4 << 20


def confine():
    def limit(what, soft, hard=None):
        resource.setrlimit(what, (soft, hard or soft))

    limit(resource.RLIMIT_CORE, 0)
    limit(resource.RLIMIT_CPU, LIMIT["cpu"])
    limit(resource.RLIMIT_FSIZE, LIMIT["file"])
    limit(resource.RLIMIT_NOFILE, LIMIT["files"])
    limit(resource.RLIMIT_AS, LIMIT["memory"])
    limit(resource.RLIMIT_NPROC, LIMIT["processes"])
    os.nice(10)


def figures():
    """PNGs of what matplotlib has drawn."""
    plot, out = sys.modules.get("matplotlib.pyplot"), []
    for number in plot.get_fignums()[:IMAGES_MAX] if plot else []:
        file = io.BytesIO()
        plot.figure(number).savefig(file, format="png")
        if file.tell() <= IMAGE_BYTES:
            out.append(base64.b64encode(file.getvalue()).decode())
    if plot:
        plot.close("all")
    return out


def trace(error):
    """The traceback from the code on, without our own frames."""
    at = error.__traceback__
    while at and at.tb_frame.f_code.co_filename != "<code>":
        at = at.tb_next
    traceback.print_exception(type(error), error, at)


def run(text, names):
    value = None
    try:
        tree = ast.parse(text, "<code>")
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, "<code>", "exec"), names)
        if last:
            value = eval(compile(ast.Expression(last.value), "<code>", "eval"), names)
            if value is not None:
                names["_"] = value
                value = repr(value)[:VALUE_MAX]
        return {"status": "ok", "value": value, "images": figures()}
    except SystemExit as error:
        return {"status": "ok" if error.code in (None, 0) else "error", "value": None, "images": []}
    except BaseException as error:
        trace(error)
        return {"status": "error", "value": None, "images": []}


def main():
    source, reply = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(3), "wb")
    os.close(3)
    os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
    confine()
    reply.write(b"!")
    reply.flush()
    names = {"__name__": "__main__", "__builtins__": __builtins__}
    while head := source.read(4):
        answer = run(source.read(struct.unpack("<I", head)[0]).decode(), names)
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except Exception:
                pass
        text = json.dumps(answer).encode()
        reply.write(struct.pack("<I", len(text)) + text)
        reply.flush()


main()
