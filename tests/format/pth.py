"""Runs `PUNA inspect` on PyTorch files made here: what torch writes is read, and nothing that is broken or
wants to run code gets further than one line that says why."""
import io
import json
import os
import pathlib
import pickle
import struct
import subprocess
import sys
import tempfile
import zipfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import make_pth as m

PUNA = os.path.abspath(sys.argv[1])
F32 = struct.pack("<6f", 1, 2, 3, 4, 5, 6)
failed = 0


def inspect(name, data):
    with open(name, "wb") as f:
        f.write(data)
    p = subprocess.run([PUNA, "inspect", "--json", name], capture_output=True, text=True, timeout=300)
    return p.returncode, json.loads(p.stdout), p.stderr


def check(name, data, want):
    """want: {tensor: shape} when it must be read, else a part of the message."""
    global failed
    status, report, err = inspect(name + ".pth", data)
    if isinstance(want, dict):
        ok = status == 0 and {t["name"]: t["shape"] for t in report["tensors"]} == want
    else:
        ok = status == 2 and want in err and err.count("\n") == 1
    if not ok:
        failed += 1
        print(f"FAIL {name}: status {status}, {err[:300] or report}")


def archive(text, raw, top="archive", how=zipfile.ZIP_STORED, force64=False, extra=()):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", how) as z:
        for name, data in [("data.pkl", text), ("byteorder", b"little"),
                           *((f"data/{k}", v) for k, v in raw.items()), *extra]:
            info = zipfile.ZipInfo(f"{top}/{name}", (1980, 1, 1, 0, 0, 0))
            info.compress_type = how
            with z.open(info, "w", force_zip64=force64) as f:
                f.write(data)
    return out.getvalue()


def tensor(shape=(2, 3), stride=(3, 1), offset=0, values=6, key=0):
    return m.Tensor(m.Storage("F32", key, values), offset, shape, stride)


def zip64(data):
    """The same archive with its end in the words of zip64."""
    at = data.rindex(b"PK\5\6")
    n, size, where = struct.unpack("<HII", data[at + 10:at + 20])
    end = struct.pack("<4sQHHIIQQQQ", b"PK\6\6", 44, 45, 45, 0, 0, n, n, size, where)
    locator = struct.pack("<4sIQI", b"PK\6\7", 0, at, 1)
    old = struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    return data[:at] + end + locator + old


class Runs:
    def __init__(self, call):
        self.call = call

    def __reduce__(self):
        return self.call


def main():
    good = archive(m.dump({"w": tensor()}), {0: F32})
    check("plain", good, {"w": [2, 3]})
    check("other_top", archive(m.dump({"w": tensor()}), {0: F32}, top="consolidated.00"), {"w": [2, 3]})
    check("zip64_sizes", archive(m.dump({"w": tensor()}), {0: F32}, force64=True), {"w": [2, 3]})
    check("zip64_end", zip64(good), {"w": [2, 3]})
    check("zip64_lies", zip64(good).replace(b"PK\6\6" + struct.pack("<Q", 44), b"PK\6\0" + bytes(8)), "zip64")
    shared = m.Storage("F32", 0, 6)
    check("shared", archive(m.dump({"a": m.Tensor(shared, 0, (2, 3), (3, 1)),
                                  "b": m.Tensor(shared, 3, (3,), (1,)),
                                  "t": m.Tensor(shared, 0, (3, 2), (1, 3))}), {0: F32}),
          {"a": [2, 3], "b": [3], "t": [3, 2]})
    check("empty", archive(m.dump({}), {}), {})
    # huge, but only in words
    check("expanded", archive(m.dump({"w": tensor((2**40, 6), (0, 1))}), {0: F32}), "contiguous copy")
    check("product_wraps", archive(m.dump({"w": tensor((2**62, 2**62), (0, 0))}), {0: F32}), "contiguous copy")
    check("reach_wraps", archive(m.dump({"w": tensor((2**62, 5), (2**60, 1))}), {0: F32}), "reaches value")
    check("no_values", archive(m.dump({"w": tensor((0, 3))}), {0: F32}), "without values")
    check("nine_axes", archive(m.dump({"w": tensor((1,) * 9, (1,) * 9)}), {0: F32}), "axes")
    check("one_more", archive(m.dump({"w": tensor(offset=1)}), {0: F32}), "reaches value 6")
    check("missing_storage", archive(m.dump({"w": tensor(key=7)}), {0: F32}), "data/7 is missing")
    check("nested", archive(m.dump({"w": {"x": tensor()}}), {0: F32}), "is a dict")
    check("a_list", archive(m.dump([tensor()]), {0: F32}), "opcode")
    # code
    for name, call in {"system": (os.system, ("touch PWNED",)), "eval": (eval, ("open('PWNED','w')",)),
                       "import": (__import__, ("os",)), "getattr": (getattr, (os, "system")),
                       "open": (open, ("PWNED", "w")), "popen": (subprocess.Popen, (["touch", "PWNED"],))
                       }.items():
        for protocol in range(0, 6):
            try:
                text = pickle.dumps({"w": Runs(call)}, protocol)
            except Exception:  # a module among the arguments
                continue
            check(f"{name}_{protocol}", archive(text, {}), "pickle")
    check("bare_pickle", pickle.dumps(Runs((os.system, ("touch PWNED",))), 2), "bare pickle")
    # the archive
    check("deflated", archive(m.dump({"w": tensor()}), {0: F32}, how=zipfile.ZIP_DEFLATED), "compressed")
    for name in "../../evil", "/abs", "x/../../y", "back\\slash":
        out = io.BytesIO(good)
        with zipfile.ZipFile(out, "a") as z:
            z.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), b"x")
        check("name_" + name.replace("/", "_"), out.getvalue(), "leads out of the archive")
    second = good.index(b"PK\1\2", good.index(b"PK\1\2") + 4)
    aliased = bytearray(good)
    first_at = good.rindex(b"PK\1\2")  # byteorder's or data/0's entry points at another header
    aliased[first_at + 42:first_at + 46] = good[second + 42:second + 46]
    check("aliased", bytes(aliased), "disagree")
    # cut and flipped anywhere: never read as something else without saying so, never a signal
    for at in range(0, len(good), 7):
        status, _, err = inspect("cut.pth", good[:at])
        if status != 2:
            check(f"cut_{at}", good[:at], "not a zip archive")
    for at in range(0, len(good), 5):
        flipped = bytearray(good)
        flipped[at] ^= 1 << at % 8
        status, _, err = inspect("flip.pth", bytes(flipped))
        if status not in (0, 2) or err.count("\n") > 1:
            check(f"flip_{at}", bytes(flipped), "one line")
    if os.path.exists("PWNED"):
        print("FAIL code was run")
        return 1
    print(f"{failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        code = main()
        os.chdir("/")
    sys.exit(code)
