"""Streams written as C, compiled by what compilers there are, and run in one program."""

import importlib.util
import shutil
import subprocess
import sys
from dataclasses import dataclass

import numpy as np
from keras import tree

STRICT = ("-std=c99", "-Wall", "-Wextra", "-Wconversion", "-pedantic", "-Werror")
SANITIZED = ("-O0", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")


def _zig():
    return [sys.executable, "-m", "ziglang", "cc"] if importlib.util.find_spec("ziglang") else None


def compiler(name):
    """The command of a compiler, or None: "clang" may be that of the package ziglang."""
    found = shutil.which(name)
    return [found] if found else _zig() if name == "clang" else None


@dataclass(frozen=True)
class Written:
    """A stream that was written as C.

    Attributes:
        name: Of its file and its functions.
        inputs: Of each input how many numbers, or 0 of an id.
        outputs: Likewise.
        dtype: Of its numbers.
    """

    name: str
    inputs: tuple
    outputs: tuple
    dtype: str

    def driver(self):
        """A C function that reads timesteps of N streams, in turns, and writes what they give."""
        real = {"float32": "float", "float64": "double"}[self.dtype]
        lines, given = [], ["&all[n]"]
        for i, width in enumerate(self.inputs):
            lines.append(f"{real} a{i}[{width}];" if width else f"int32_t a{i};")
            given.append(f"a{i}")
        for i, width in enumerate(self.outputs):
            lines.append(f"{real} b{i}[{width}];")
            given.append(f"b{i}")
        reads = [
            f"get({f'a{i}' if width else f'&a{i}'}, sizeof a{i});"
            for i, width in enumerate(self.inputs)
        ]
        writes = [f"put(b{i}, sizeof b{i});" for i in range(len(self.outputs))]
        return f"""
static void run_{self.name}(int N, int T, int reset_at) {{
  static {self.name}_stream all[8];
  int n, t;
  {" ".join(lines)}
  memset(all, 0xff, sizeof all);
  for (n = 0; n < N; ++n) {self.name}_reset(&all[n]);
  for (t = 0; t < T; ++t)
    for (n = 0; n < N; ++n) {{
      if (n == 1 && t == reset_at) {self.name}_reset(&all[n]);
      {" ".join(reads)}
      if ({self.name}_step({", ".join(given)}) != 0) exit(3);
      {" ".join(writes)}
    }}
}}
"""


def write(stream, folder, name):
    """Writes a stream to NAME.c in a folder."""
    stream.save_c(folder / f"{name}.c")
    inputs, outputs = stream._inputs, stream._outputs
    widths = [tuple(port.shape[0] if port.shape else 0 for port in p) for p in (inputs, outputs)]
    return Written(name, *widths, outputs[0].dtype)


MAIN = """
#include <stdio.h>
#include <stdlib.h>
static void get(void *to, size_t size) { if (fread(to, size, 1, stdin) != 1) exit(2); }
static void put(const void *from, size_t size) { fwrite(from, size, 1, stdout); }
"""


def build(all_written, folder, command, options, language="c"):
    """Compiles all streams of a folder into one program; its path."""
    includes = "".join(f'#include "{each.name}.h"\n' for each in all_written)
    calls = "".join(f"  run_{each.name}(N, T, reset_at);\n" for each in all_written)
    main = f"""{includes}#include <string.h>{MAIN}{"".join(each.driver() for each in all_written)}
int main(int count, char **words) {{
  const int N = count > 1 ? atoi(words[1]) : 1, T = atoi(words[2]), reset_at = atoi(words[3]);
{calls}  return 0;
}}
"""
    (folder / "main.c").write_text(main)
    program = folder / "program"
    sources = [f"{each.name}.c" for each in all_written] + ["main.c"]
    kind = [] if language == "c" else ["-x", language]
    made = subprocess.run(
        [*command, *options, *kind, *sources, "-o", str(program), "-lm"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr[:3000]
    return program


def run(program, all_written, data, reset_at=-1):
    """What the program gives: of each stream a list of outputs (N, T, width).

    Args:
        program: What `build` made.
        all_written: Its streams.
        data: Of each stream its nest of inputs, (N, T, ...).
        reset_at: Before which timestep row 1 begins anew.
    """
    leaves = [tree.flatten(nest) for nest in data]
    N, T = leaves[0][0].shape[:2]  # noqa: N806
    given = b"".join(
        leaf[n, t].tobytes() for each in leaves for t in range(T) for n in range(N) for leaf in each
    )
    ran = subprocess.run(
        [program, str(N), str(T), str(reset_at)], input=given, capture_output=True, check=False
    )
    assert ran.returncode == 0, ran.stderr.decode()[:3000]
    at, found = 0, []
    for each in all_written:
        width = sum(each.outputs)
        count = T * N * width
        rows = np.frombuffer(ran.stdout, each.dtype, count, at).reshape(T, N, width)
        at += rows.nbytes
        edges = np.cumsum(each.outputs)[:-1]
        found.append([part.swapaxes(0, 1) for part in np.split(rows, edges, axis=-1)])
    assert at == len(ran.stdout)
    return found
