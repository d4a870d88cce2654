# SPDX-License-Identifier: Apache-2.0
"""The project's conventions, as far as a program can check them.

A rule is a function from sources to complaints. Each is applied to the whole tree, and to snippets that break
it, as a rule that cannot fail would be worth nothing.
"""

import ast
import dataclasses
import functools
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).resolve().parents[1]

FOLDERS = (".ci", "constraints", "docs", "hdl", "host", "models", "sim", "tests")
LEFT_OUT = {"__pycache__", "build"}

SPDX = "SPDX-License-Identifier: Apache-2.0"
HASH_SUFFIXES = {".lpf", ".mk", ".pcf", ".py", ".sby", ".sh", ".tcl", ".toml", ".xdc", ".yaml", ".yml"}
SLASH_SUFFIXES = {".c", ".cc", ".cpp", ".h", ".hpp", ".js", ".sv", ".svh", ".v", ".vlt"}
HASH_NAMES = {".ci/run", ".gitattributes", ".gitignore", "Makefile"}
TEXT_SUFFIXES = HASH_SUFFIXES | SLASH_SUFFIXES | {".md", ".txt"}

ELABORATE_LIMIT = 100


@dataclasses.dataclass(frozen=True)
class Source:
    """A file of the tree by its path from the root, with its text."""

    path: str
    text: str = dataclasses.field(repr=False)

    @functools.cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text, self.path)

    @property
    def suffix(self) -> str:
        return PurePosixPath(self.path).suffix

    @property
    def is_python(self) -> bool:
        return self.suffix == ".py"

    @property
    def is_hardware(self) -> bool:
        return self.is_python and self.path.startswith("hdl/")

    def at(self, node: ast.AST) -> str:
        return f"{self.path}:{node.lineno}"


def read_tree(root: Path) -> list[Source]:
    """Every text file of the project, hidden and generated ones left out."""
    files = [path for path in root.iterdir() if path.is_file()]
    for folder in FOLDERS:
        files += [path for path in (root / folder).rglob("*") if path.is_file()]
    sources = []
    for file in sorted(files):
        path = file.relative_to(root)
        if LEFT_OUT & set(path.parts):
            continue
        if file.suffix in TEXT_SUFFIXES or path.as_posix() in HASH_NAMES:
            sources.append(Source(path.as_posix(), file.read_text(encoding="utf-8")))
    return sources


# ---- each file by itself


def license_line(source: Source) -> Iterator[str]:
    """The SPDX line comes first; only a line that must itself be first may stand before it."""
    if source.suffix in HASH_SUFFIXES or source.path in HASH_NAMES:
        wanted = f"# {SPDX}"
    elif source.suffix in SLASH_SUFFIXES:
        wanted = f"// {SPDX}"
    else:
        return
    lines = source.text.splitlines()
    if lines and lines[0].startswith(("#!", "# amaranth:")):
        lines = lines[1:]
    if not lines or lines[0] != wanted:
        yield f"{source.path}: the first line must be {wanted!r}"


MACHINE_PATH = re.compile(r"(?<![\w./~$)}-])/(?:work|tmp|home|root|Users)/\w")
REGISTRY = re.compile(
    r"\bpypi\.org|\bpythonhosted\.org|\bregistry\.npmjs|\bproxy\.golang|\bcrates\.io"
    r"|--(?:extra-)?index-url|--find-[l]inks"
)


def machine_paths(source: Source) -> Iterator[str]:
    """Nothing names a folder of the machine on which it was written, or where packages come from."""
    for number, line in enumerate(source.text.splitlines(), 1):
        for pattern, what in ((MACHINE_PATH, "a path of one machine"), (REGISTRY, "a package registry")):
            if match := pattern.search(line):
                yield f"{source.path}:{number}: {what}: {match.group()!r}"


LINK = re.compile(r"\]\((?!\w+:|#)([^)\s#]+)(?:#[^)]*)?\)")


def dead_links(source: Source, exists: Callable[[PurePosixPath], bool]) -> Iterator[str]:
    """Relative links in Markdown lead somewhere."""
    if source.suffix != ".md":
        return
    for number, line in enumerate(source.text.splitlines(), 1):
        for target in LINK.findall(line):
            if not exists(PurePosixPath(source.path).parent / target):
                yield f"{source.path}:{number}: no such file: {target!r}"


# ---- Python


def imports(source: Source) -> Iterator[tuple[ast.stmt, str]]:
    """Each imported module by its full name; `from a import b` gives a.b, as b may be a module."""
    package = PurePosixPath(source.path).parent.parts[1:]
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node, alias.name
        elif isinstance(node, ast.ImportFrom):
            up = package[: len(package) - node.level + 1] if node.level else ()
            base = [*up, *([node.module] if node.module else [])]
            for alias in node.names:
                yield node, ".".join(base if alias.name == "*" else [*base, alias.name])


def is_in(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def one_way_dependencies(source: Source) -> Iterator[str]:
    """Golden models, hardware and host know nothing of each other; the rest of the simulation knows all."""
    if not source.is_python:
        return
    golden = source.path.startswith("sim/serrano_sim/golden/")
    ours = ("serrano", "serrano_sim", "serrano_host")
    for node, name in imports(source):
        if golden:
            own = is_in(name, "serrano_sim.golden") or name == "serrano_sim"
            allowed = own or is_in(name, "numpy") or name.split(".")[0] in sys.stdlib_module_names
        elif source.is_hardware:
            allowed = not any(is_in(name, other) for other in ("numpy", *ours[1:]))
        elif source.path.startswith("host/"):
            allowed = not any(is_in(name, other) for other in ("amaranth", *ours[:2]))
        else:
            continue
        if not allowed:
            yield f"{source.at(node)}: must not import {name}"


def called(node: ast.AST) -> str:
    """The last part of the name of what a call calls: `Signal` for `hdl.Signal(...)`."""
    if not isinstance(node, ast.Call):
        return ""
    if isinstance(node.func, ast.Attribute):
        return node.func.attr
    return node.func.id if isinstance(node.func, ast.Name) else ""


def forbidden_imports(source: Source) -> Iterator[str]:
    for node in ast.walk(source.tree):
        if not isinstance(node, ast.ImportFrom):
            continue
        for alias in node.names:
            if alias.name == "*" and node.module != "amaranth":
                yield f"{source.at(node)}: star import from {node.module}"
            elif (node.module or "").startswith("amaranth") and alias.name == "Record":
                yield f"{source.at(node)}: Record; use lib.data and lib.wiring"
            elif node.module in ("amaranth", "amaranth.hdl") and alias.name == "Memory":
                yield f"{source.at(node)}: hdl.Memory; use the memory wrapper"


def generators(source: Source) -> set[str]:
    """The names of functions that yield, apart from what their inner functions do."""
    found = set()

    def own_nodes(function: ast.AST) -> Iterator[ast.AST]:
        for child in ast.iter_child_nodes(function):
            if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                yield child
                yield from own_nodes(child)

    for node in ast.walk(source.tree):
        if isinstance(node, ast.FunctionDef) and any(
            isinstance(inner, ast.Yield | ast.YieldFrom) for inner in own_nodes(node)
        ):
            found.add(node.name)
    return found


def forbidden_idioms(source: Source) -> Iterator[str]:
    """What Amaranth has replaced, and what the house rules leave out."""
    if not source.is_python:
        return
    yield from forbidden_imports(source)
    yielding = generators(source)
    for node in ast.walk(source.tree):
        name = called(node)
        if name == "Record":
            yield f"{source.at(node)}: Record; use lib.data and lib.wiring"
        elif name == "Signal" and any(keyword.arg == "reset" for keyword in node.keywords):
            yield f"{source.at(node)}: Signal(reset=); write init="
        elif name == "add_sync_process":
            yield f"{source.at(node)}: add_sync_process; use add_testbench"
        elif name in ("add_testbench", "add_process"):
            names = {arg.id if isinstance(arg, ast.Name) else called(arg) for arg in node.args}
            if names & yielding:
                yield f"{source.at(node)}: a generator as testbench; write an async function"
        elif isinstance(node, ast.Attribute) and node.attr == "Memory":
            if isinstance(node.value, ast.Name) and node.value.id in ("hdl", "amaranth"):
                yield f"{source.at(node)}: hdl.Memory; use the memory wrapper"
        elif isinstance(node, ast.Global):
            yield f"{source.at(node)}: a global flag; pass it as a parameter"
        elif source.is_hardware and isinstance(node, ast.Assert):
            yield f"{source.at(node)}: assert; raise TypeError or ValueError"


SKIPPING = {"skip", "skipif", "importorskip", "xfail"}


def skipped_tests(source: Source) -> Iterator[str]:
    """A test runs, or it is not there."""
    if not source.is_python or not source.path.startswith("tests/"):
        return
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Attribute) and node.attr in SKIPPING:
            owner = getattr(node.value, "attr", getattr(node.value, "id", ""))
            if owner in ("pytest", "mark"):
                yield f"{source.at(node)}: {owner}.{node.attr}"


def classes(source: Source) -> Iterator[ast.ClassDef]:
    return (node for node in ast.walk(source.tree) if isinstance(node, ast.ClassDef))


def bases(node: ast.ClassDef) -> set[str]:
    return {base.attr if isinstance(base, ast.Attribute) else getattr(base, "id", "") for base in node.bases}


def blocks_are_components(source: Source) -> Iterator[str]:
    """A block is a wiring.Component, so that its ports can be read by people and tools.

    What only prepares a design for emission is no block.
    """
    if source.is_hardware and not source.path.startswith("hdl/serrano/emit/"):
        for node in classes(source):
            if "Elaboratable" in bases(node):
                yield f"{source.at(node)}: {node.name} must be a wiring.Component, not an Elaboratable"


def long_elaborate(source: Source) -> Iterator[str]:
    """An `elaborate` fits on two screens at most."""
    if not source.is_python:
        return
    for node in ast.walk(source.tree):
        if isinstance(node, ast.FunctionDef) and node.name == "elaborate":
            lines = node.end_lineno - node.lineno + 1
            if lines > ELABORATE_LIMIT:
                yield f"{source.at(node)}: elaborate has {lines} lines, at most {ELABORATE_LIMIT} are allowed"


def dict_keys(node: ast.expr, scope: ast.FunctionDef) -> set[str] | None:
    """The keys of a dictionary of ports as far as they stand in the source; None if they are computed."""
    if isinstance(node, ast.Call) and called(node) == "Signature" and node.args:
        return dict_keys(node.args[0], scope)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        left, right = dict_keys(node.left, scope), dict_keys(node.right, scope)
        return None if left is None or right is None else left | right
    if isinstance(node, ast.Name):
        return name_keys(node.id, scope)
    if not isinstance(node, ast.Dict):
        return None
    keys: set[str] = set()
    for key, value in zip(node.keys, node.values, strict=True):
        if key is None:
            more = dict_keys(value, scope)
            if more is None:
                return None
            keys |= more
        elif isinstance(key, ast.Constant) and isinstance(key.value, str):
            keys.add(key.value)
        else:
            return None
    return keys


def name_keys(name: str, scope: ast.FunctionDef) -> set[str] | None:
    """The keys that a local dictionary of `scope` receives, by assignment, item, `|=` or `update`."""
    keys: set[str] = set()
    found = False
    for node in ast.walk(scope):
        values: list[ast.expr] = []
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        for target in targets:
            if isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign) and node.value is not None:
                if isinstance(target, ast.Name) and target.id == name:
                    values.append(node.value)
                elif isinstance(target, ast.Subscript) and getattr(target.value, "id", "") == name:
                    values.append(ast.Dict(keys=[target.slice], values=[node.value]))
        if called(node) == "update" and getattr(getattr(node.func, "value", None), "id", "") == name:
            values += node.args
        for value in values:
            more = dict_keys(value, scope)
            if more is None:
                return None
            keys |= more
            found = True
    return keys if found else None


def signature_ports(node: ast.ClassDef) -> tuple[set[str], bool]:
    """The ports of a component as written in its source, and whether these are all."""
    ports, complete = set(), True
    for item in node.body:
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
            if called(item.annotation) in ("In", "Out"):
                ports.add(item.target.id)
        elif isinstance(item, ast.FunctionDef) and item.name == "__init__":
            for call in ast.walk(item):
                is_super = called(call) == "__init__" and called(getattr(call.func, "value", None)) == "super"
                arguments = [*call.args, *(keyword.value for keyword in call.keywords)] if is_super else []
                for argument in arguments:
                    keys = dict_keys(argument, item)
                    complete &= keys is not None
                    ports |= keys or set()
    return ports, complete


def documented_members(docstring: str) -> set[str] | None:
    """The names in the section Members of a docstring: the unindented lines, up to the next section.

    A line reads ``name``, ``name : shape`` or ``first, second : shape``; what explains it is indented.
    """
    lines = docstring.splitlines()
    titles = [number for number, line in enumerate(lines) if line.strip().rstrip(":") == "Members"]
    if not titles:
        return None
    title, *body = lines[titles[0] :]
    indent = len(title) - len(title.lstrip())
    if body and re.fullmatch(r"\s*-{3,}\s*", body[0]):
        body = body[1:]
    names: set[str] = set()
    for number, line in enumerate(body):
        following = body[number + 1].strip() if number + 1 < len(body) else ""
        if re.fullmatch(r"-{3,}", following) and line.strip():
            break
        if line.strip() and len(line) - len(line.lstrip()) == indent:
            head = re.split(r"\s*:(?:\s|$)", line.strip().lstrip("-* "), maxsplit=1)[0]
            names |= {part.strip(" `*") for part in head.split(",")}
    return names


def members_section(source: Source) -> Iterator[str]:
    """The section Members of a component's docstring names the ports of its signature, all and no others."""
    if not source.is_python or source.path.startswith("tests/"):
        return
    for node in classes(source):
        if "Component" not in bases(node):
            continue
        ports, complete = signature_ports(node)
        if complete and not ports:
            continue
        members = documented_members(ast.get_docstring(node) or "")
        if members is None:
            yield f"{source.at(node)}: the docstring of {node.name} has no section Members"
            continue
        if missing := sorted(ports - members):
            yield f"{source.at(node)}: Members of {node.name} lacks {', '.join(missing)}"
        if complete and (extra := sorted(members - ports)):
            yield f"{source.at(node)}: Members of {node.name} names {', '.join(extra)}, which is no port"


# ---- the tree as a whole


def hardware_has_tests(sources: Sequence[Source]) -> Iterator[str]:
    """hdl/serrano/a/b.py is tested by tests/a/test_b.py, or by several files tests/a/test_b_*.py."""
    paths = [PurePosixPath(source.path) for source in sources]
    tests = [path for path in paths if path.parts[0] == "tests"]
    for path in paths:
        if path.parts[:2] != ("hdl", "serrano") or path.suffix != ".py" or path.name == "__init__.py":
            continue
        folder = PurePosixPath("tests", *path.parent.parts[2:])
        wanted = re.compile(rf"test_{re.escape(path.stem)}(_\w+)?\.py")
        if not any(test.parent == folder and wanted.fullmatch(test.name) for test in tests):
            yield f"{path}: no test {folder}/test_{path.stem}.py"


def module_name(path: PurePosixPath) -> str:
    return ".".join(path.with_suffix("").parts[1:])


def software_has_tests(sources: Sequence[Source]) -> Iterator[str]:
    """A module of sim/ or host/ has a test in the mirrored place, or is imported or started by some test."""
    used: set[str] = set()
    paths = {source.path for source in sources}
    for source in sources:
        if source.is_python and source.path.startswith("tests/"):
            used |= {name for _, name in imports(source)}
            for node in ast.walk(source.tree):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    used |= set(re.findall(r"\bserrano_\w+(?:\.\w+)+", node.value))
    for source in sources:
        path = PurePosixPath(source.path)
        if not source.is_python or path.parts[0] not in ("sim", "host") or path.name == "__init__.py":
            continue
        name = module_name(path)
        mirrored = PurePosixPath("tests", *path.parent.parts[2:], f"test_{path.stem}.py")
        if str(mirrored) not in paths and not any(is_in(other, name) for other in used):
            yield f"{path}: no test {mirrored}, and no test imports {name}"


def packages_are_marked(sources: Sequence[Source]) -> Iterator[str]:
    """Each folder of modules below a source root is a package; the roots themselves are not."""
    paths = {PurePosixPath(source.path) for source in sources}
    for folder in sorted({path.parent for path in paths if path.suffix == ".py"}):
        if folder.parts[0] not in ("hdl", "sim", "host"):
            continue
        marked = folder / "__init__.py" in paths
        if len(folder.parts) == 1 and marked:
            yield f"{folder}: a source root must have no __init__.py"
        elif len(folder.parts) > 1 and not marked:
            yield f"{folder}: no __init__.py"


FILE_RULES: dict[str, Callable[[Source], Iterable[str]]] = {
    rule.__name__: rule
    for rule in (
        license_line,
        machine_paths,
        one_way_dependencies,
        forbidden_idioms,
        skipped_tests,
        blocks_are_components,
        long_elaborate,
        members_section,
    )
}
TREE_RULES: dict[str, Callable[[Sequence[Source]], Iterable[str]]] = {
    rule.__name__: rule for rule in (hardware_has_tests, software_has_tests, packages_are_marked)
}


@pytest.fixture(scope="module")
def tree() -> list[Source]:
    sources = read_tree(ROOT)
    # The walk itself works: it finds this file and the root's own.
    assert {"pyproject.toml", "Makefile", "tests/test_conventions.py"} <= {source.path for source in sources}
    return sources


@pytest.mark.parametrize("rule", FILE_RULES)
def test_each_file(rule, tree):
    complaints = [complaint for source in tree for complaint in FILE_RULES[rule](source)]
    assert not complaints, "\n" + "\n".join(complaints)


@pytest.mark.parametrize("rule", TREE_RULES)
def test_whole_tree(rule, tree):
    complaints = list(TREE_RULES[rule](tree))
    assert not complaints, "\n" + "\n".join(complaints)


def test_links(tree):
    complaints = [line for source in tree for line in dead_links(source, lambda path: (ROOT / path).exists())]
    assert not complaints, "\n" + "\n".join(complaints)


# ---- the rules themselves

HEAD = f"# {SPDX}\n"
UNIX_PATH = "/".join(["", "home", "somebody", "serrano"])

COMPONENT = '''
class Adder(wiring.Component):
    """Adds.

    Members
    -------
    a, b : signed(8)
        Operands.
    o : signed(9)
        The sum: `a + b`.

    Raises
    ------
    ValueError
        Never.
    """
'''

# Per rule: what breaks it, as (path, text, part of the complaint).
VIOLATIONS = {
    "license_line": [
        ("hdl/serrano/x.py", "import os\n", "first line"),
        ("hdl/serrano/x.py", f"\n{HEAD}", "first line"),
        ("hdl/serrano/__init__.py", "", "first line"),
        ("sim/serrano_sim/memory/m.cpp", HEAD, "'// SPDX"),
        ("Makefile", "all:\n", "first line"),
        ("tests/x.py", "#!/usr/bin/env python3\nimport os\n", "first line"),
    ],
    "machine_paths": [
        ("sim/serrano_sim/x.py", f'open("{UNIX_PATH}")\n', "a path of one machine"),
        ("docs/x.md", f"See `{UNIX_PATH}`.\n", "x.md:1: a path of one machine"),
        ("Makefile", "\tpip install --extra-" + "index-url x\n", "a package registry"),
        ("README.md", "https://" + "pypi" + ".org/simple\n", "a package registry"),
    ],
    "one_way_dependencies": [
        ("sim/serrano_sim/golden/x.py", "import amaranth\n", "must not import amaranth"),
        ("sim/serrano_sim/golden/x.py", "from serrano.config import PRESETS\n", "serrano.config.PRESETS"),
        ("sim/serrano_sim/golden/x.py", "from ..runner import run\n", "serrano_sim.runner.run"),
        ("sim/serrano_sim/golden/x.py", "def f():\n    import torch\n", "torch"),
        ("hdl/serrano/x.py", "import numpy as np\n", "numpy"),
        ("hdl/serrano/x.py", "from serrano_sim.golden import matmul\n", "serrano_sim.golden.matmul"),
        ("hdl/serrano/x.py", "import serrano_host.cli\n", "serrano_host.cli"),
        ("host/serrano_host/x.py", "from serrano import config\n", "serrano.config"),
        ("host/serrano_host/x.py", "from amaranth import *\n", "amaranth"),
        ("host/serrano_host/x.py", "import serrano_sim\n", "serrano_sim"),
    ],
    "forbidden_idioms": [
        ("hdl/serrano/x.py", "from amaranth.hdl.rec import Record\n", "Record"),
        ("hdl/serrano/x.py", "r = hdl.Record([])\n", "Record"),
        ("hdl/serrano/x.py", "s = Signal(8, reset=1)\n", "write init="),
        ("hdl/serrano/x.py", "from amaranth.hdl import Memory\n", "hdl.Memory"),
        ("hdl/serrano/x.py", "m = hdl.Memory(width=8, depth=4)\n", "hdl.Memory"),
        ("tests/test_x.py", "sim.add_sync_process(f)\n", "add_sync_process"),
        ("tests/test_x.py", "def f():\n    yield Tick()\nsim.add_testbench(f)\n", "async function"),
        ("tests/test_x.py", "def f(n):\n    yield from g()\nsim.add_process(f(3))\n", "async function"),
        ("hdl/serrano/x.py", "from amaranth.lib.wiring import *\n", "star import"),
        ("host/serrano_host/x.py", "def f():\n    global FLAG\n", "global flag"),
        ("hdl/serrano/x.py", "assert n > 0\n", "raise TypeError or ValueError"),
    ],
    "skipped_tests": [
        ("tests/test_x.py", "@pytest.mark.skip\ndef test_x(): pass\n", "mark.skip"),
        ("tests/test_x.py", "@pytest.mark.skipif(True, reason='')\ndef test_x(): pass\n", "mark.skipif"),
        ("tests/test_x.py", "def test_x():\n    pytest.skip('later')\n", "pytest.skip"),
        ("tests/test_x.py", "torch = pytest.importorskip('torch')\n", "pytest.importorskip"),
    ],
    "blocks_are_components": [
        ("hdl/serrano/x.py", "class X(Elaboratable): pass\n", "must be a wiring.Component"),
        ("hdl/serrano/x.py", "class X(hdl.Elaboratable): pass\n", "must be a wiring.Component"),
    ],
    "long_elaborate": [
        (
            "hdl/serrano/x.py",
            "class X:\n    def elaborate(self, platform):\n" + "        pass\n" * ELABORATE_LIMIT,
            f"elaborate has {ELABORATE_LIMIT + 1} lines",
        ),
    ],
    "members_section": [
        ("hdl/serrano/x.py", "class X(wiring.Component):\n    i: In(8)\n", "has no section Members"),
        (
            "hdl/serrano/x.py",
            "class X(Component):\n    '''Text.'''\n    i: In(8)\n",
            "has no section Members",
        ),
        ("hdl/serrano/x.py", COMPONENT + "    a: In(8)\n    b: In(8)\n", "names o, which is no port"),
        (
            "hdl/serrano/x.py",
            COMPONENT + "    a: In(8)\n    b: In(8)\n    o: Out(9)\n    carry: Out(1)\n",
            "lacks carry",
        ),
        (
            "hdl/serrano/x.py",
            COMPONENT + "    def __init__(self):\n        super().__init__({'a': In(8), 'b': In(8)})\n",
            "names o, which is no port",
        ),
        (
            "hdl/serrano/x.py",
            COMPONENT + "    def __init__(self):\n        ports = {'a': In(8), 'b': In(8)}\n"
            "        ports['o'] = Out(9)\n        ports.update({'flag': Out(1)})\n"
            "        super().__init__(wiring.Signature(ports))\n",
            "lacks flag",
        ),
        (
            "hdl/serrano/x.py",
            COMPONENT + "    def __init__(self, n):\n"
            "        super().__init__({f'x{i}': In(8) for i in range(n)})\n    clear: In(1)\n",
            "lacks clear",
        ),
    ],
}

# What looks similar and is right.
GOOD = {
    "license_line": [
        ("hdl/serrano/x.py", HEAD + "import os\n"),
        ("tests/x.py", "#!/usr/bin/env python3\n" + HEAD),
        ("tests/test_x.py", "# amaranth: UnusedElaboratable=no\n" + HEAD),
        ("sim/serrano_sim/memory/m.cpp", f"// {SPDX}\n#include <cstdint>\n"),
        ("docs/x.md", "# Title\n"),
    ],
    "machine_paths": [
        ("docs/x.md", "`build/reports/sim.json`, and https://example.org/home/page\n"),
        ("Makefile", "\t$(OUT)/root/x build/work/x ~/work/x\n"),
    ],
    "one_way_dependencies": [
        ("sim/serrano_sim/golden/x.py", "import math\nimport numpy as np\nfrom . import fixed\n"),
        ("sim/serrano_sim/golden/x.py", "from serrano_sim.golden.fixed import half_up\n"),
        ("sim/serrano_sim/run.py", "from serrano.config import PRESETS\nimport serrano_host, numpy\n"),
        ("hdl/serrano/x.py", "from serrano.config import Config\nfrom amaranth import *\n"),
        ("hdl/serrano/matmul/x.py", "from ..config import Config\n"),
        ("host/serrano_host/x.py", "import numpy as np\nfrom serrano_host.tape import Tape\n"),
    ],
    "forbidden_idioms": [
        ("hdl/serrano/x.py", "from amaranth import *\nfrom amaranth.lib.memory import Memory\n"),
        ("hdl/serrano/x.py", "s = Signal(8, init=1)\nx = Signal(reset_less=True)\nm = memory.Memory(d)\n"),
        ("tests/test_x.py", "async def f(ctx): await ctx.tick()\nsim.add_testbench(f)\nassert 1\n"),
        ("tests/test_x.py", "def f():\n    def g(): yield 1\nsim.add_testbench(f)\n"),
    ],
    "skipped_tests": [("tests/test_x.py", "@pytest.mark.parametrize('n', [1])\ndef test_x(n): r.skip(n)\n")],
    "blocks_are_components": [
        ("hdl/serrano/x.py", "class X(wiring.Component): pass\n"),
        ("hdl/serrano/emit/x.py", "class X(Elaboratable): pass\n"),
    ],
    "long_elaborate": [
        (
            "hdl/serrano/x.py",
            "class X:\n    def elaborate(self, platform):\n" + "        pass\n" * (ELABORATE_LIMIT - 1),
        )
    ],
    "members_section": [
        (
            "hdl/serrano/x.py",
            COMPONENT + "    a: In(8)\n    b: In(signed(8))\n    o: Out(9)\n    n: int = 3\n",
        ),
        (
            "hdl/serrano/x.py",
            COMPONENT + "    def __init__(self):\n        more = {'b': In(8)}\n"
            "        super().__init__({'a': In(8), **more} | {'o': Out(9)})\n",
        ),
        (
            "hdl/serrano/x.py",
            COMPONENT + "    def __init__(self, names):\n"
            "        super().__init__({name: In(8) for name in names})\n",
        ),
        ("hdl/serrano/x.py", "class X(wiring.Component):\n    '''Wires only.'''\n"),
        ("hdl/serrano/x.py", "class X(data.Struct):\n    i: In(8)\n"),
    ],
}


def flat(table):
    return [
        pytest.param(rule, *case, id=f"{rule}-{i}") for rule in table for i, case in enumerate(table[rule])
    ]


@pytest.mark.parametrize(("rule", "path", "text", "complaint"), flat(VIOLATIONS))
def test_rule_finds(rule, path, text, complaint):
    found = list(FILE_RULES[rule](Source(path, text)))
    assert len(found) == 1
    assert complaint in found[0]


@pytest.mark.parametrize(("rule", "path", "text"), flat(GOOD))
def test_rule_allows(rule, path, text):
    assert list(FILE_RULES[rule](Source(path, text))) == []


def test_every_rule_has_its_snippets():
    assert set(VIOLATIONS) == set(GOOD) == set(FILE_RULES)


@pytest.mark.parametrize(
    ("rule", "files", "complaint"),
    [
        ("hardware_has_tests", {"hdl/serrano/matmul/array.py": ""}, "no test tests/matmul/test_array.py"),
        (
            "hardware_has_tests",
            {
                "hdl/serrano/config.py": "",
                "tests/matmul/test_config.py": "",
                "tests/test_configuration.py": "",
            },
            "no test tests/test_config.py",
        ),
        (
            "software_has_tests",
            {"sim/serrano_sim/golden/norm.py": "", "tests/x.py": "import serrano_sim.golden.normal\n"},
            "no test tests/golden/test_norm.py, and no test imports serrano_sim.golden.norm",
        ),
        (
            "software_has_tests",
            {"host/serrano_host/compile.py": ""},
            "and no test imports serrano_host.compile",
        ),
        ("packages_are_marked", {"hdl/serrano/matmul/array.py": ""}, "hdl/serrano/matmul: no __init__.py"),
        ("packages_are_marked", {"sim/__init__.py": ""}, "sim: a source root must have no __init__.py"),
    ],
)
def test_tree_rule_finds(rule, files, complaint):
    found = list(TREE_RULES[rule]([Source(path, text) for path, text in files.items()]))
    assert len(found) == 1
    assert complaint in found[0]


@pytest.mark.parametrize(
    ("rule", "files"),
    [
        ("hardware_has_tests", {"hdl/serrano/matmul/array.py": "", "tests/matmul/test_array.py": ""}),
        ("hardware_has_tests", {"hdl/serrano/config.py": "", "tests/test_config_presets.py": ""}),
        ("hardware_has_tests", {"hdl/serrano/matmul/__init__.py": "", "sim/serrano_sim/x.py": ""}),
        (
            "software_has_tests",
            {"sim/serrano_sim/golden/norm.py": "", "tests/x.py": "from serrano_sim.golden.norm import f\n"},
        ),
        (
            "software_has_tests",
            {"sim/serrano_sim/golden/norm.py": "", "tests/x.py": "from serrano_sim.golden import norm\n"},
        ),
        (
            "software_has_tests",
            {"sim/serrano_sim/demo.py": "", "tests/x.py": "run('-m', 'serrano_sim.demo')\n"},
        ),
        ("software_has_tests", {"sim/serrano_sim/golden/norm.py": "", "tests/golden/test_norm.py": ""}),
        ("packages_are_marked", {"hdl/serrano/__init__.py": "", "hdl/serrano/x.py": "", "tests/x.py": ""}),
    ],
)
def test_tree_rule_allows(rule, files):
    assert list(TREE_RULES[rule]([Source(path, text) for path, text in files.items()])) == []


def test_dead_links_are_found():
    text = "[a](tape.md) [b](../README.md#top) [c](https://example.org/x.md) [d](#here) [e](gone.md#x)\n"
    there = {PurePosixPath("docs/tape.md"), PurePosixPath("docs/../README.md")}
    found = list(dead_links(Source("docs/x.md", text), there.__contains__))
    assert found == ["docs/x.md:1: no such file: 'gone.md'"]
