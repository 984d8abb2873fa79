"""The house rules that no linter knows."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("_fastpath", "gateway", "controllers", "simulator", "penstock")
COMPILED = sorted((ROOT / "_fastpath").glob("*.pyx"))
CONTRACTS = sorted((ROOT / "_fastpath").glob("*.pxd"))
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
LONGEST_FILE = 450
ALLOWED_IN_COMPILED = {"libc", "cpython", "cython", "_fastpath", "mmap", "os", "secrets", "json"}
FORBIDDEN_CALLS = {"eval", "exec"}
FORBIDDEN_MODULES = {"pickle", "marshal", "shelve"}
FORBIDDEN_ATTRIBUTES = {"recv_pyobj", "send_pyobj"}

_IMPORT = re.compile(r"^\s*(?:from\s+([\w.]+)\s+c?import|c?import\s+([\w.]+))", re.MULTILINE)
_FUNCTION = re.compile(
    r"^\s*cp?def\s+(?:inline\s+)?(?!class|enum|struct|extern|packed)([^=\n(]*?)(\w+)\(([^)]*)\)([^:\n]*):?$",
    re.MULTILINE,
)
_OBJECTS = ("object", "str", "bytes", "tuple", "dict", "list")


def named(paths):
    return {"argvalues": paths, "ids": [str(path.relative_to(ROOT)) for path in paths]}


@pytest.mark.parametrize("path", **named(COMPILED + CONTRACTS))
def test_compiled_modules_import_nothing_of_ours(path):
    imported = {(one or other).partition(".")[0] for one, other in _IMPORT.findall(path.read_text())}
    time_itself = (
        {"time"} if path.stem == "clock" else set()
    )  # to know it when it is passed in; elsewhere it is an argument
    assert imported <= ALLOWED_IN_COMPILED | time_itself


@pytest.mark.parametrize("path", **named(COMPILED))
def test_a_compiled_module_is_three_files(path):
    assert path.with_suffix(".pxd").exists()
    assert path.with_suffix(".pyi").exists()


def silent_functions(text):
    """cdef functions that return no object and do not say what becomes of an exception."""
    return [
        name
        for kind, name, _, after in _FUNCTION.findall(text)
        if not kind.strip().startswith(_OBJECTS) and "noexcept" not in after and "except" not in after
    ]


@pytest.mark.parametrize("path", **named(COMPILED + CONTRACTS))
def test_every_cdef_function_says_how_it_fails(path):
    assert silent_functions(path.read_text()) == []


@pytest.mark.parametrize("path", **named(COMPILED + CONTRACTS))
def test_no_cdef_function_escapes_that_test(path):
    text = path.read_text()
    begun = re.findall(r"^\s*cp?def\s+(?!class|enum|struct|extern|packed)[^=(\n]*?\b(\w+)\(", text, re.MULTILINE)
    assert begun == [name for _, name, _, _ in _FUNCTION.findall(text)]


@pytest.mark.parametrize(
    "text",
    [
        "cdef int f(int a):",
        "    cdef inline double f(self) nogil",
        "cdef Pool* f(int a,\n            int b):",
        "cdef void f():",
        "cpdef int f(self)",
    ],
)
def test_a_cdef_function_that_is_silent_is_seen(text):
    assert silent_functions(text) == ["f"]


@pytest.mark.parametrize(
    "text",
    ["cdef int f(int a) except -1:", "cdef void f() noexcept nogil", "cdef object f():", "cdef class F:", "cdef int f"],
)
def test_one_that_is_not_is_let_through(text):
    assert silent_functions(text) == []


@pytest.mark.parametrize("path", **named(COMPILED + CONTRACTS))
def test_compiled_modules_run_nothing_that_came_from_outside(path):
    assert not re.search(r"\b(pickle|marshal|eval|exec|recv_pyobj|send_pyobj)\b", path.read_text())


@pytest.mark.parametrize("path", **named(COMPILED))
def test_every_compiled_module_has_a_twin_a_property_test_and_a_benchmark(path):
    for place in (
        f"tests/reference/{path.stem}.py",
        f"tests/property/test_{path.stem}.py",
        f"bench/micro/test_{path.stem}.py",
    ):
        assert (ROOT / place).exists(), place


@pytest.mark.parametrize("package", PACKAGES)
def test_every_folder_of_python_is_a_package(package):
    folders = {path.parent for path in (ROOT / package).rglob("*.py*") if path.suffix in (".py", ".pyx", ".pyi")}
    assert folders
    assert [str(folder) for folder in folders if not (folder / "__init__.py").exists()] == []


@pytest.mark.parametrize("path", **named([path for path in SOURCES if path.name == "__init__.py"]))
def test_every_package_says_what_belongs_there(path):
    assert ast.get_docstring(ast.parse(path.read_text()))


@pytest.mark.parametrize("path", **named(SOURCES))
def test_files_stay_short(path):
    assert len(path.read_text().splitlines()) <= LONGEST_FILE


@pytest.mark.parametrize("path", **named(SOURCES))
def test_nothing_runs_what_came_from_outside(path):
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = {alias.name for alias in node.names} | {getattr(node, "module", None)}
            assert not names & FORBIDDEN_MODULES
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in FORBIDDEN_CALLS
        if isinstance(node, ast.Attribute):
            assert node.attr not in FORBIDDEN_ATTRIBUTES
            assert not (node.attr == "load" and getattr(node.value, "id", "") == "yaml")


@pytest.mark.parametrize("path", **named(SOURCES))
def test_what_is_public_is_documented(path):
    tree = ast.parse(path.read_text())
    missing = [
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        and not node.name.startswith("_")
        and not ast.get_docstring(node)
    ]
    for owner in tree.body:
        if isinstance(owner, ast.ClassDef) and not owner.name.startswith("_") and not is_protocol(owner):
            missing += [
                f"{owner.name}.{node.name}"
                for node in owner.body
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
                and not node.name.startswith("_")
                and not ast.get_docstring(node)
            ]
    assert missing == []


def is_protocol(owner):
    """What a protocol's methods mean is said once, by the protocol."""
    return any(ast.unparse(base).partition("[")[0] in ("Protocol", "typing.Protocol") for base in owner.bases)


def test_each_contract_beside_a_module_of_the_request_path_belongs_to_one_that_is_compiled():
    listed = re.search(r"REQUEST_PATH = \((.*?)\n\)", (ROOT / "setup.py").read_text(), re.DOTALL)[1]
    modules = re.findall(r'"([^"]+\.py)"', listed)
    assert modules == sorted(modules)
    assert [module for module in modules if not (ROOT / module).exists()] == []
    contracts = [str(path.relative_to(ROOT).with_suffix(".py")) for path in ROOT.glob("gateway/**/*.pxd")]
    assert sorted(set(contracts) - set(modules)) == []
