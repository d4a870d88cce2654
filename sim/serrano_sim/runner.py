# SPDX-License-Identifier: Apache-2.0
"""Builds Verilog with Verilator and runs cocotb tests on it.

A build is kept under ``build/sim/<name>-<key>``; the key covers everything that went into it: the text of all
sources, the flags and the versions of the tools. Processes that want the same build at the same time make it
once. A run that ends without results, without a single test, or with a bus violation in a memory model is a
failure.
"""

import contextlib
import fcntl
import functools
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import IO

import cocotb_tools.config
from cocotb_tools.runner import Verilator, VerilatorControlFile

from .memory.handle import violations_in

__all__ = [
    "Results",
    "SimulationError",
    "TestResult",
    "build",
    "build_root",
    "run",
    "verilator_environment",
    "verilator_root",
]

_SOURCE_SUFFIXES = (".v", ".sv")
_COPIED_SUFFIXES = (".cpp", ".cc", ".c")
_TAIL_LINES = 60
# Speed of the model against speed of the build: only the code that runs each cycle is optimized.
_MAKE_VARIABLES = {
    "PYTHON3": "python3",
    "CXX": "g++",
    "LINK": "g++",
    "AR": "ar",
    "CFG_CXXFLAGS_PCH_I": "-include",
    "CFG_CXXFLAGS_STD": "-std=gnu++20",
    "CFG_CXXFLAGS_STD_NEWEST": "-std=gnu++20",
    "CFG_CXXFLAGS_COROUTINES": "-fcoroutines",
    "OPT_GLOBAL": "-O2",
}
_FLAGS = ("-O3", "--no-assert", "--timing", "-Wno-fatal", "-Wno-lint", "-Wno-style")
_FAST_FLAGS = ("--x-assign", "fast", "--x-initial", "fast")
_RANDOM_FLAGS = ("--x-assign", "unique", "--x-initial", "unique")


class SimulationError(RuntimeError):
    """A build or a run that failed; the message names the failed tests and ends with the log's last lines."""


@dataclass(frozen=True)
class TestResult:
    """One cocotb test: its name, whether it passed, its message if not, and the times it took."""

    __test__ = False

    name: str
    passed: bool
    message: str
    wall_seconds: float
    sim_ns: float


@dataclass(frozen=True)
class Results:
    """A run in which every test passed. ``run_dir`` holds what it wrote, where it is kept."""

    tests: tuple[TestResult, ...]
    build_dir: Path
    run_dir: Path
    cached: bool
    wall_seconds: float


@dataclass(frozen=True)
class Build:
    """An executable, the name of its top module, and whether it was there already."""

    directory: Path
    top: str
    cached: bool
    random_reset: bool
    waves: bool


class _Runner(Verilator):
    """cocotb's runner without what makes large designs slow: only named signals are visible to cocotb."""

    def __init__(self, timeout: float | None = None, stream: bool = False, optimize: str = "-O2"):
        super().__init__()
        self.log.disabled = True
        self._timeout = timeout
        self._stream = stream
        self._make_variables = {**_MAKE_VARIABLES, "OPT_FAST": optimize}

    def _simulator_in_path_build_only(self) -> None:
        self.executable = str(verilator_root() / "bin" / "verilator")

    def _set_env_build(self) -> None:
        super()._set_env_build()
        self.env["VERILATOR_ROOT"] = str(verilator_root())
        self.env["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), self.env["PATH"]])
        self.env["MAKEFLAGS"] = " ".join(f"{name}={value}" for name, value in self._make_variables.items())

    def _build_command(self) -> list[list[str]]:
        verilate, make = super()._build_command()
        verilate.remove("--public-flat-rw")
        return [verilate, make]

    def _provide_runtime(self, make: Sequence[str], cwd: Path, stdout: IO[str] | None) -> None:
        """Puts the objects of Verilator's library in place, which depend on its features only."""
        listed = (self.build_dir / "Vtop_classes.mk").read_text()
        features = re.findall(r"^VM_\w+ = \d+$", listed, re.MULTILINE)
        parts = (*features, *map(str, _MAKE_VARIABLES.items()), *_tool_versions())
        key = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
        kept = self.build_dir.parent / f".runtime-{key}"
        with _locked(kept.parent / ".locks" / kept.name):
            if not kept.exists():
                groups = re.findall(r"^VM_GLOBAL_(?:FAST|SLOW) \+= \\\n((?: .*\\\n)*)", listed, re.MULTILINE)
                objects = [f"{name}.o" for group in groups for name in re.findall(r"\w+", group)]
                self._execute_one([*make, *objects], cwd, stdout)
                folder = Path(tempfile.mkdtemp(prefix=f"{kept.name}-", dir=kept.parent))
                for name in objects:
                    shutil.copyfile(self.build_dir / name, folder / name)
                folder.rename(kept)
        for item in kept.glob("*.o"):
            shutil.copyfile(item, self.build_dir / item.name)

    def _execute_cmds(self, cmds: Sequence[Sequence[str]], cwd: Path, stdout: IO[str] | None = None) -> None:
        for command in cmds:
            if command[0] == "make":
                self._provide_runtime(command, cwd, stdout)
            self._execute_one(command, cwd, stdout)

    def _execute_one(self, command: Sequence[str], cwd: Path, stdout: IO[str] | None) -> None:
        with subprocess.Popen(
            command,
            cwd=cwd,
            env=self.env,
            stdout=None if self._stream else stdout,
            stderr=None if self._stream else subprocess.STDOUT,
        ) as process:
            try:
                code = process.wait(self._timeout)
            except subprocess.TimeoutExpired:
                process.kill()
                raise SimulationError(f"no end after {self._timeout:g} s") from None
            except BaseException:
                process.kill()
                raise
        if code:
            raise subprocess.CalledProcessError(code, command)


def verilator_environment() -> tuple[Path, dict[str, str]]:
    """Where Verilator is, and the environment for a build by itself, without cocotb."""
    variables = {**_MAKE_VARIABLES, "OPT_FAST": "-O2"}
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    inherited = {
        name: value
        for name, value in os.environ.items()
        if name not in ("MFLAGS", "MAKELEVEL", "MAKEOVERRIDES")
    }
    own = {
        "VERILATOR_ROOT": str(verilator_root()),
        "PATH": path,
        "MAKEFLAGS": " ".join(f"{name}={value}" for name, value in variables.items()),
    }
    return verilator_root(), inherited | own


@functools.cache
def verilator_root() -> Path:
    """Folder of the Verilator package, in which ``bin/verilator`` is."""
    return Path(str(metadata.distribution("verilator").locate_file("verilator")))


@functools.cache
def _tool_versions() -> tuple[str, ...]:
    compiler = subprocess.run(["g++", "--version"], capture_output=True, text=True, check=True).stdout
    return (
        metadata.version("verilator"),
        metadata.version("cocotb"),
        str(cocotb_tools.config.libs_dir),
        compiler.partition("\n")[0],
    )


def build_root() -> Path:
    """Folder for builds and runs: ``$SERRANO_BUILD_DIR``, or ``build`` in the project."""
    if configured := os.environ.get("SERRANO_BUILD_DIR"):
        return Path(configured).resolve()
    project = Path(__file__).resolve().parents[2]
    if not (project / "pyproject.toml").exists():
        project = Path.cwd()
    return project / "build"


@contextlib.contextmanager
def _environment(**values: str | None) -> Iterator[None]:
    """Sets or removes variables for a while: cocotb's runner lets some of them overrule its arguments."""
    before = {name: os.environ.pop(name, None) for name in values}
    os.environ.update({name: value for name, value in values.items() if value is not None})
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _tail(log: Path) -> str:
    if not log.exists():
        return "(no log)"
    return "\n".join(log.read_text(errors="replace").splitlines()[-_TAIL_LINES:])


def _control_file(top: str, public: Sequence[str]) -> str:
    lines = ["`verilator_config"]
    for signal in public:
        module, _, name = signal.rpartition(".")
        lines.append(f'public_flat_rw -module "{module or top}" -var "{name}"')
    return "\n".join(lines) + "\n"


def _ports_of(top: str, files: Sequence[Path]) -> list[str]:
    """Names of the ports of a module with an ANSI or a classic header, for signals that cocotb is to see."""
    for file in files:
        text = re.sub(r"//[^\n]*|/\*.*?\*/", "", file.read_text(), flags=re.DOTALL)
        found = re.search(rf"\bmodule\s+{re.escape(top)}\b(.*?)\bendmodule\b", text, re.DOTALL)
        if found:
            declared = re.findall(
                r"\b(?:input|output|inout)\b\s*(?:(?:wire|reg|logic|bit|var|signed)\b\s*)*"
                r"(?:\[[^\]]*\]\s*)*(\w+)",
                found[1],
            )
            return list(dict.fromkeys(declared))
    raise ValueError(f"No source defines module {top!r}")


def build(
    verilog_files: Sequence[Path | str],
    top: str,
    *,
    name: str,
    sources: Sequence[Path | str] = (),
    public: Sequence[str] = (),
    waves: bool = False,
    random_reset: bool = False,
    flags: Sequence[str] = (),
    optimize: str = "-O2",
) -> Build:
    """Builds a simulation, or finds the one that was built from the same before.

    Parameters
    ----------
    verilog_files : sequence of paths
        The design and its bench, Verilog or SystemVerilog.
    top : :class:`str`
        Name of the top module. Its ports are visible to cocotb.
    name : :class:`str`
        Start of the folder's name.
    sources : sequence of paths
        C++ files to compile and link with it.
    public : sequence of :class:`str`
        Further signals that cocotb sees: ``signal`` of the top module, or ``module.signal``.
    waves : :class:`bool`
        Whether runs can write waveforms.
    random_reset : :class:`bool`
        Whether registers and memories start with random contents, from the run's seed, instead of zeros.
    flags : sequence of :class:`str`
        Further options of Verilator.
    optimize : :class:`str`
        The compiler's option for the code that runs in each cycle. Whether ``"-O3"`` is faster depends on the
        design; it takes longer to build.

    Raises
    ------
    SimulationError
        If the build fails.
    """
    files = [Path(file).resolve() for file in verilog_files]
    extra = [Path(file).resolve() for file in sources]
    for file in (*files, *extra):
        if not file.is_file():
            raise SimulationError(f"build of {name}: there is no file {file}")
    control = _control_file(top, [*_ports_of(top, files), *public])
    options = [*_FLAGS, *(_RANDOM_FLAGS if random_reset else _FAST_FLAGS), *flags]
    digest = hashlib.sha256()
    folders = sorted({file.parent for file in extra})
    headers = [
        header for folder in folders for header in sorted((*folder.glob("*.h"), *folder.glob("*.def")))
    ]
    for part in (
        top,
        str(waves),
        control,
        optimize,
        *options,
        *map(str, _MAKE_VARIABLES.items()),
        *_tool_versions(),
    ):
        digest.update(f"{part}\0".encode())
    for file in (*files, *extra, *headers):
        digest.update(f"{file.name}\0".encode() + hashlib.sha256(file.read_bytes()).digest())
    root = build_root() / "sim"
    target = root / f"{name}-{digest.hexdigest()[:16]}"
    found = Build(target, top, True, random_reset, waves)
    if (target / top).exists():
        return found
    if re.search(r"\s", str(root)):
        raise SimulationError(f"Verilator cannot build below a folder with blanks in its name: {root}")
    with _locked(root / ".locks" / target.name):
        if (target / top).exists():
            return found
        _compile(target, [*files], extra, control, top, options, waves, optimize)
    return Build(target, top, False, random_reset, waves)


def _compile(
    target: Path,
    files: list[Path],
    extra: list[Path],
    control: str,
    top: str,
    options: list[str],
    waves: bool,
    optimize: str,
) -> None:
    work = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    log = work / "build.log"
    vlt = work / "public.vlt"
    vlt.write_text(control)
    runner = _Runner(optimize=optimize)
    try:
        with _environment(WAVES=str(int(waves)), MAKEFLAGS=None, MFLAGS=None, PYTEST_CURRENT_TEST=None):
            runner.build(
                sources=[VerilatorControlFile(vlt), *files],
                build_args=[*options, *map(str, extra)],
                hdl_toplevel=top,
                build_dir=work,
                timescale=("1ns", "1ps"),
                waves=waves,
                log_file=log,
            )
    except (RuntimeError, subprocess.CalledProcessError) as error:
        failed = target.with_name(f"{target.name}.failed.log")
        if log.exists():
            shutil.copyfile(log, failed)
        tail = _tail(log)
        shutil.rmtree(work, ignore_errors=True)
        raise SimulationError(f"build of {target.name} failed, log in {failed}:\n{tail}") from error
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise
    for item in work.iterdir():
        if item.name not in (top, log.name, vlt.name):
            item.unlink() if item.is_file() else shutil.rmtree(item)
    shutil.rmtree(target, ignore_errors=True)
    work.rename(target)


def run(
    verilog_files: Sequence[Path | str],
    top: str,
    test_module: str | Path,
    *,
    name: str,
    sources: Sequence[Path | str] = (),
    env: Mapping[str, str] | None = None,
    public: Sequence[str] = (),
    waves: bool | None = None,
    random_reset: bool = False,
    seed: int = 1,
    testcase: str | Sequence[str] | None = None,
    flags: Sequence[str] = (),
    optimize: str = "-O2",
    build_only: bool = False,
    run_dir: Path | str | None = None,
    timeout: float | None = 900.0,
    stream: bool = False,
) -> Results:
    """Builds a simulation where needed and runs the cocotb tests of a module on it.

    Parameters
    ----------
    verilog_files, top, name, sources, public, random_reset, flags, optimize
        As for :func:`build`.
    test_module : :class:`str` or path
        Module with the cocotb tests: a name that can be imported, or a Python file.
    env : mapping of :class:`str` to :class:`str`
        Environment variables for the tests.
    waves : :class:`bool` or ``None``
        Whether to write ``dump.vcd`` into the run's folder. ``None``: as the variable ``WAVES`` says.
    seed : :class:`int`
        Seed of cocotb's random numbers and of random initial contents.
    testcase : :class:`str` or sequence of :class:`str`
        Only these tests of the module.
    build_only : :class:`bool`
        Whether to stop after the build.
    run_dir : path
        Folder to run in and to keep. Without it, a new folder under ``build/sim/runs``, removed after a good
        run without waves.
    timeout : :class:`float` or ``None``
        Longest time for the run, in seconds.
    stream : :class:`bool`
        Whether the simulation writes to this process's output instead of ``sim.log`` in the run's folder.

    Raises
    ------
    SimulationError
        If the build fails, the run ends without results or without tests, a test fails, or a memory model has
        seen a violation of the bus protocol.
    """
    if waves is None:
        waves = os.environ.get("WAVES", "0") not in ("", "0")
    built = build(
        verilog_files,
        top,
        name=name,
        sources=sources,
        public=public,
        waves=waves,
        random_reset=random_reset,
        flags=flags,
        optimize=optimize,
    )
    keep = run_dir is not None or waves
    if run_dir is None:
        runs = build_root() / "sim" / "runs"
        runs.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=runs))
    else:
        folder = Path(run_dir).resolve()
        folder.mkdir(parents=True, exist_ok=True)
    if build_only:
        return Results((), built.directory, folder, built.cached, 0.0)
    start = time.monotonic()
    tests = _simulate(built, folder, test_module, dict(env or {}), seed, testcase, timeout, stream)
    seconds = time.monotonic() - start
    if not keep:
        shutil.rmtree(folder, ignore_errors=True)
    return Results(tests, built.directory, folder, built.cached, seconds)


def _simulate(
    built: Build,
    folder: Path,
    test_module: str | Path,
    env: dict[str, str],
    seed: int,
    testcase: str | Sequence[str] | None,
    timeout: float | None,
    stream: bool,
) -> tuple[TestResult, ...]:
    path = [entry for entry in sys.path if entry]
    if isinstance(test_module, Path):
        path.insert(0, str(test_module.resolve().parent))
        test_module = test_module.stem
    log = folder / "sim.log"
    results = folder / "results.xml"
    arguments = []
    if built.random_reset:
        arguments = ["+verilator+rand+reset+2", f"+verilator+seed+{seed % (2**31 - 1) + 1}"]
    failure = ""
    runner = _Runner(timeout, stream)
    runner_environment = {"PYTEST_CURRENT_TEST": None, "WAVES": str(int(built.waves)), "GUI": "0"}
    with _environment(**runner_environment), _search_path(path):
        try:
            runner.test(
                test_module=test_module,
                hdl_toplevel=built.top,
                hdl_toplevel_lang="verilog",
                testcase=testcase,
                seed=seed,
                plusargs=arguments,
                extra_env=env,
                build_dir=built.directory,
                test_dir=folder,
                results_xml=str(results),
                waves=built.waves,
                log_file=log,
            )
        except SystemExit as error:
            failure = f"the simulator ended with status {error.code}"
        except SimulationError as error:
            failure = str(error)
    where = f"run of {test_module} on {built.directory.name}"
    tests = _read_results(results)
    bad = [test for test in tests if not test.passed]
    if bad:
        failure = "; ".join(f"{test.name} failed: {test.message}" for test in bad)
    elif not failure and not results.exists():
        failure = "it left no results"
    elif not failure and not tests:
        failure = "no test ran"
    elif not failure:
        failure = "; ".join(violations_in(folder))
    if failure:
        raise SimulationError(f"{where}: {failure}; files in {folder}\n{_tail(log)}")
    return tests


@contextlib.contextmanager
def _search_path(path: list[str]) -> Iterator[None]:
    """cocotb's runner hands this process's import path to the simulation."""
    before = sys.path[:]
    sys.path[:] = path
    try:
        yield
    finally:
        sys.path[:] = before


def _read_results(file: Path) -> tuple[TestResult, ...]:
    if not file.exists():
        return ()
    try:
        cases = list(ElementTree.parse(file).getroot().iter("testcase"))
    except ElementTree.ParseError:
        return ()
    tests = []
    for case in cases:
        if case.find("skipped") is not None:
            continue
        problem = next((item for item in case if item.tag in ("failure", "error")), None)
        message = (
            ""
            if problem is None
            else problem.get("message") or problem.get("error_msg") or problem.text or "?"
        )
        tests.append(
            TestResult(
                name=f"{case.get('classname')}.{case.get('name')}",
                passed=problem is None,
                message=message.strip(),
                wall_seconds=float(case.get("time") or 0),
                sim_ns=float(case.get("sim_time_ns") or 0),
            )
        )
    return tuple(tests)
