"""Import paths that the documentation taught: the same objects as under the new names."""

import importlib
import subprocess
import sys

import pytest

from halcyon.former_paths import MOVED


@pytest.mark.parametrize("former", MOVED)
def test_a_former_path_is_the_module_itself(former):
    assert importlib.import_module(former) is importlib.import_module(MOVED[former])


TAUGHT = """
from halcyon.calculator import CliMonitor, MonitoredMace
from halcyon.campaign import Campaign
from halcyon.config import StructureSettings, XtbReference
from halcyon.domain import Domain
from halcyon.openmm_monitor import CliReporter, mace_system, topology
from halcyon.reference import make_reference
from halcyon.systems import atom_classes, bonds, start_structure
import halcyon.calculator
import halcyon.final.monitor.ase

assert halcyon.calculator is halcyon.final.monitor.ase
assert MonitoredMace.__module__ == "halcyon.final.monitor.ase"
"""


def test_what_the_documentation_taught_in_a_new_process():
    subprocess.run([sys.executable, "-c", TAUGHT], check=True)


def test_a_name_that_never_was_is_still_an_error():
    with pytest.raises(ModuleNotFoundError, match="no_such_room"):
        importlib.import_module("halcyon.no_such_room")
