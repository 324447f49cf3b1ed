"""Make `config/forcefields/small-molecules.xml`: GAFF2 templates of common small molecules.

For machines without AmberTools; with it (the package acpype brings it) a campaign makes such
templates by itself, see `halcyon.teacher.gaff2`.

    python scripts/make_forcefield.py --out config/forcefields/small-molecules.xml

Not for: a system of your own, which needs no file (docs/add-a-system.md).
"""

import argparse
from pathlib import Path

from openmm.app import ForceField

from halcyon import files
from halcyon.config import StructureSettings
from halcyon.systems.structures import bonds, molecules, start_structure
from halcyon.teacher.frcmod import forcefield_xml, merged
from halcyon.teacher.gaff2 import find_ambertools, typed_molecule

MOLECULES = {
    "acetaldehyde": "CC=O",
    "acetic-acid": "CC(=O)O",
    "acetone": "CC(C)=O",
    "ammonia": "N",
    "dimethyl-ether": "COC",
    "ethane": "CC",
    "ethanol": "CCO",
    "formaldehyde": "C=O",
    "methane": "C",
    "methanol": "CO",
    "methylamine": "CN",
    "water": "O",
}

REMARK = """
GAFF2 templates of common small molecules, for teaching a model the walls of a potential:
bonds, angles, torsions and close contacts. Not for production, nor for liquids: the charges are
Gasteiger's, and water is typed as an alcohol.

Made by scripts/make_forcefield.py: conformer from RDKit, GAFF2 types and Gasteiger charges from
antechamber, parameters from parmchk2. Source of the parameters:
{gaff2}.

Cite:
  J. Wang, R. M. Wolf, J. W. Caldwell, P. A. Kollman, D. A. Case, J. Comput. Chem. 25, 1157 (2004)
  X. He, V. H. Man, W. Yang, T.-S. Lee, J. Wang, J. Chem. Phys. 153, 114502 (2020)   (GAFF2)

Molecules: {molecules}
"""


def main() -> None:
    """Parse the arguments, write the file, check that OpenMM reads it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="the ForceField XML to write")
    arguments = parser.parse_args()
    tools = find_ambertools()
    typed, parameters = {}, []
    for name, smiles in MOLECULES.items():
        settings = StructureSettings(name=name, smiles=smiles)
        atoms = start_structure(settings)
        (molecule,) = molecules(settings, atoms, bonds(settings, atoms))
        typed[name], its_own = typed_molecule(molecule, name, tools)
        parameters.append(its_own)
    remark = REMARK.format(gaff2=tools.parameters, molecules=", ".join(MOLECULES))
    xml = forcefield_xml(typed, merged(parameters), remark=remark)
    files.write_text(arguments.out, xml)
    ForceField(str(arguments.out))
    print(f"{arguments.out}: {len(MOLECULES)} templates")


if __name__ == "__main__":
    main()
