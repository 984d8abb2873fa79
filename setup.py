"""Builds the compiled hot path: every ``_fastpath/*.pyx`` is one extension, and so is each module of the request path.

Modules of the request path are Python, and run as Python when they are not compiled; a ``.pxd`` beside one says which of its classes have
fixed attributes, which is what compiling them gains from.

Environment switches:
  PENSTOCK_SANITIZE=1   address and undefined-behaviour sanitizers (run with LD_PRELOAD=$(gcc -print-file-name=libasan.so))
  PENSTOCK_SKIP_EXTENSIONS=1  metadata alone, for an editable install whose modules are built in place afterwards
  PENSTOCK_TRACE=1      line tracing, for coverage of the ``.pyx`` files
"""

import contextlib
import io
import os
import sys
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

SANITIZE = os.environ.get("PENSTOCK_SANITIZE") == "1"
SKIP = os.environ.get("PENSTOCK_SKIP_EXTENSIONS") == "1"
TRACE = os.environ.get("PENSTOCK_TRACE") == "1"

compile_arguments = [
    "-O3",
    "-g0",
    "-std=gnu11",
    "-fno-strict-aliasing",
    "-fstack-protector-strong",
    "-Wno-unused-function",
]
link_arguments = ["-Wl,-z,relro,-z,now"]
macros: list[tuple[str, str | None]] = []
directives = {
    "language_level": 3,
    "boundscheck": False,
    "wraparound": False,
    "cdivision": True,
    "initializedcheck": False,
    "embedsignature": False,
    "show_performance_hints": True,
}
if SANITIZE:
    compile_arguments = [
        "-O1",
        "-g",
        "-std=gnu11",
        "-fno-omit-frame-pointer",
        "-fsanitize=address,undefined",
        "-fno-sanitize-recover=undefined",
        "-fno-strict-aliasing",
    ]
    link_arguments = ["-fsanitize=address,undefined"]
if TRACE:
    directives["linetrace"] = True
    macros += [("CYTHON_TRACE", "1"), ("CYTHON_TRACE_NOGIL", "1"), ("CYTHON_USE_SYS_MONITORING", "0")]


REQUEST_PATH = (
    "gateway/admission/limits.py",
    "gateway/admission/output_estimates.py",
    "gateway/app.py",
    "gateway/connectors/direct.py",
    "gateway/deadlines.py",
    "gateway/dispatch.py",
    "gateway/downstream/coalescer.py",
    "gateway/downstream/entrance.py",
    "gateway/downstream/stream.py",
    "gateway/downstream/usage_event.py",
    "gateway/exchange.py",
    "gateway/identity/gate.py",
    "gateway/intake.py",
    "gateway/observability/access_log.py",
    "gateway/observability/metrics.py",
    "gateway/pipeline.py",
    "gateway/reply.py",
    "gateway/routing/kinds.py",
    "gateway/routing/match.py",
    "gateway/routing/split.py",
    "gateway/scheduling/corrections.py",
    "gateway/scheduling/fair_queue.py",
    "gateway/scheduling/health.py",
    "gateway/scheduling/place.py",
    "gateway/scheduling/pool.py",
    "gateway/scheduling/waiting_room.py",
    "gateway/upstream/client.py",
    "gateway/upstream/connection.py",
    "gateway/upstream/pool.py",
    "gateway/upstream/retry.py",
    "gateway/waiting.py",
    "gateway/watch.py",
)
BUILD_FOLDER = "build/sanitize" if SANITIZE else "build/trace" if TRACE else "build/c"


def extension(path: Path, arguments: list[str]) -> Extension:
    return Extension(
        ".".join(path.with_suffix("").parts),
        [str(path)],
        extra_compile_args=arguments,
        extra_link_args=link_arguments,
        define_macros=macros,
    )


def compiled(modules: list[Extension], directives: dict[str, object]) -> list[Extension]:
    return cythonize(modules, compiler_directives=directives, force=SANITIZE or TRACE, build_dir=BUILD_FOLDER)


def cythonize_strictly() -> list[Extension]:
    """Cythonize, and treat each of Cython's performance hints as an error."""
    printed = io.StringIO()
    fast = [extension(path, compile_arguments) for path in sorted(Path("_fastpath").glob("*.pyx"))]
    arguments = [*compile_arguments, "-Wno-array-bounds", *([] if SANITIZE else ["-O2"])]
    request_path = [extension(Path(path), arguments) for path in REQUEST_PATH]
    try:
        with contextlib.redirect_stderr(printed):
            modules = compiled(fast, directives)
            modules += compiled(request_path, {"language_level": 3, "linetrace": TRACE})
    finally:
        sys.stderr.write(printed.getvalue())
    if "performance hint" in printed.getvalue():
        for path in Path("build").rglob("*.c"):
            path.unlink()  # so that the next build compiles, and hints, again
        sys.exit("error: Cython's performance hints above are errors here")
    return modules


setup(ext_modules=[] if SKIP else cythonize_strictly())
