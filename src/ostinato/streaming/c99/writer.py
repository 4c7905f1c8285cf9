"""Writes a program as NAME.c and NAME.h."""

import os
from collections.abc import Sequence
from pathlib import Path

from ostinato.nests import flatten
from ostinato.streaming import checks
from ostinato.streaming.c99.source import Source
from ostinato.streaming.c99.text import Dialect, comment, indented, why_no_prefix
from ostinato.streaming.c99.timestep import Timestep
from ostinato.streaming.program import Port, Program


def write(path: str | os.PathLike[str], program: Program) -> None:
    """Writes a program's source to `path`, and its header beside it.

    Args:
        path: NAME.c; NAME is what all symbols begin with.
        program: What a timestep does.

    Raises:
        ValueError: if the path isn't such a one, or the program can't be written so.
    """
    source = _source_path(path)
    header, text = texts(source.stem, program)
    source.write_text(text, encoding="ascii")
    source.with_suffix(".h").write_text(header, encoding="ascii")


def _source_path(path: str | os.PathLike[str]) -> Path:
    found = checks.path("expected the path of a C file", path)
    if found.suffix != ".c":
        raise ValueError(f"expected the path of a C file, such as 'voice.c', got {str(path)!r}.")
    if reason := why_no_prefix(found.stem):
        raise ValueError(
            f"expected a file whose name without '.c' can begin C's names, got {found.name!r}: "
            f"{reason}."
        )
    return found


def texts(name: str, program: Program) -> tuple[str, str]:
    """The header and the source of a program.

    Raises:
        ValueError: if the program can't be written so.
    """
    dialect = Dialect(name, program.dtype)
    source, inputs = Source(dialect), _names("x", flatten(program.inputs))
    timestep = Timestep(source, program, inputs)
    timestep.write()
    return _header(dialect, source, program), _source(dialect, source, program, timestep)


def _names(letter: str, ports: Sequence[Port]) -> list[str]:
    return [letter] if len(ports) == 1 else [f"{letter}{i}" for i in range(len(ports))]


def _arguments(program: Program) -> list[str]:
    """Those of `step` but for the stream."""
    inputs, outputs = flatten(program.inputs), flatten(program.outputs)
    found = [
        f"{'const REAL *' if port.shape else 'int32_t '}{name}"
        for name, port in zip(_names("x", inputs), inputs, strict=True)
    ]
    return found + [f"REAL *{name}" for name in _names("y", outputs)]


def _signature(program: Program) -> str:
    return f"int @step({', '.join(['@stream *self', *_arguments(program)])})"


def _header(dialect: Dialect, source: Source, program: Program) -> str:
    sizes, about = [], []
    for letter, nest in (("x", program.inputs), ("y", program.outputs)):
        ports = flatten(nest)
        for name, port in zip(_names(letter, ports), ports, strict=True):
            about.append(
                f"   {name}: {comment(port.name)}, {port.shape[0] if port.shape else 'an id'}"
            )
            if port.shape:
                sizes.append(f"@{name}_size = {port.shape[0]}")
    members = source.members or ["char nothing;"]
    template = f"""\
/* {comment(program.name)}, one timestep at a time; written by Ostinato.

   A stream is a `@stream`, wherever it lies: `@reset` begins anew, and has to come
   first; `@step` takes one timestep. Nothing is allocated, and streams share nothing that changes.
{chr(10).join(about)}
*/
#ifndef @ostinato_h
#define @ostinato_h

#include <stdint.h>

#ifdef __cplusplus
extern "C" {{
#endif

/* How many numbers a timestep has. */
enum {{ {", ".join(sizes)} }};

/* States, and room for a timestep; to keep the states is to copy it. */
typedef struct @stream {{
{indented(members)}}} @stream;

/* Begins anew. */
void @reset(@stream *self);

/* Runs a timestep: reads x, writes y, which may be the same memory. Returns 0; or 1, having done
   nothing, where an id isn't that of a row of its table. */
{_signature(program)};

#ifdef __cplusplus
}}
#endif

#endif
"""
    return dialect.spelled(template)


def _source(dialect: Dialect, source: Source, program: Program, timestep: Timestep) -> str:
    template = """\
/* See the header. C99; also C++. For speed have the compiler use the vectors that the machine has:
   -O3 -march=native */
#include "{name}.h"

#include <math.h>
#include <string.h>

#if defined(__STDC_VERSION__) && __STDC_VERSION__ >= 199901L
#define RESTRICT restrict
#else
#define RESTRICT
#endif
"""
    head = dialect.spelled(template).replace("{name}", dialect.prefix)
    bodies = _reset(source) + _step(source, program, timestep)
    return head + source.definitions() + dialect.spelled(bodies)


def _reset(source: Source) -> str:
    lines = ["int i;", "(void)i;", "(void)self;", *source.reset]
    return "\nvoid @reset(@stream *self)\n{\n" + indented(lines) + "}\n"


def _step(source: Source, program: Program, timestep: Timestep) -> str:
    inputs, outputs = flatten(program.inputs), flatten(program.outputs)
    masks = timestep.masks.values()
    lines = ["int i;", *(f"int {mask} = 0;" for mask in masks)]
    # Inputs that nothing reads, masks that no layer obeys: no compiler is to warn of them.
    lines += [f"(void){name};" for name in ("self", *_names("x", inputs), *masks)]
    for name, rows in timestep.rows.items():
        lines.append(f"if ({name} < 0 || {name} >= {rows}) return 1;")
    lines += source.step
    results = zip(program.output_values, _names("y", outputs), outputs, strict=True)
    # Inputs that are outputs come first: what is written then may be where they lie.
    for value, name, port in sorted(results, key=lambda result: result[0]):
        span = f"for (i = 0; i < {port.shape[0]}; ++i)"
        lines.append(f"{span} {name}[i] = {timestep.values[value]}[i];")
    return f"\n{_signature(program)}\n{{\n" + indented([*lines, "return 0;"]) + "}\n"
