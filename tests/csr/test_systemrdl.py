# SPDX-License-Identifier: Apache-2.0
"""The SystemRDL is valid, and says what the register table says."""

from pathlib import Path

from systemrdl import RDLCompiler
from systemrdl.node import AddrmapNode

from serrano.config import preset
from serrano.csr.registers import constants
from serrano.csr.systemrdl import system_rdl
from serrano.csr.table import REGISTERS, Access
from serrano.faults import FaultCode


def compiled(text: str, folder: Path) -> AddrmapNode:
    (folder / "serrano.rdl").write_text(text)
    compiler = RDLCompiler()
    compiler.compile_file(str(folder / "serrano.rdl"))
    return compiler.elaborate().top


def test_registers_and_fields_of_the_table(tmp_path: Path) -> None:
    config = preset("tiny")
    top = compiled(system_rdl(constants(config)), tmp_path)
    found = {register.inst_name: register for register in top.registers()}
    assert list(found) == [entry.name for entry in REGISTERS]
    for entry in REGISTERS:
        register = found[entry.name]
        assert register.address_offset == entry.offset
        assert register.get_property("desc") == entry.doc
        fields = {field.inst_name: (field.low, field.width) for field in register.fields()}
        assert fields == ({name: (low, width) for name, low, width, _ in entry.fields} or {"VALUE": (0, 32)})
        writable = entry.access not in (Access.CONSTANT, Access.READ_ONLY)
        assert all(field.is_sw_writable == writable for field in register.fields())


def test_constants_are_those_of_the_accelerator(tmp_path: Path) -> None:
    config = preset("base")
    top = compiled(system_rdl(constants(config)), tmp_path)
    for name, value in constants(config).items():
        fields = top.get_child_by_name(name).fields()
        assert sum(field.get_property("reset") << field.low for field in fields) == value


def test_fault_codes(tmp_path: Path) -> None:
    codes = compiled(system_rdl(), tmp_path).get_child_by_name("FAULT_CODE").get_child_by_name("VALUE")
    members = {member.name: member.value for member in codes.get_property("encode")}
    assert members == {code.name: code.value for code in FaultCode}
