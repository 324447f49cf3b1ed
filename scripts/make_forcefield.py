"""Make `config/forcefields/small-molecules.xml`: GAFF2 templates of common small molecules.

Needs ParmEd and the antechamber and parmchk2 of AmberTools (conda's `ambertools`, or the
bundle inside the PyPI package acpype):

    python scripts/make_forcefield.py --amberhome $CONDA_PREFIX --out small-molecules.xml

Not for: a system of your own. Add its molecule to `MOLECULES` for a shipped template, or write
any other ForceField XML that OpenMM reads.
"""

import argparse
import os
import subprocess
import tempfile
from pathlib import Path

from openmm.app import ForceField
from rdkit import Chem
from rdkit.Chem import AllChem

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

HEADER = """<!--
GAFF2 templates of common small molecules, for teaching a model the walls of a potential:
bonds, angles, torsions and close contacts. Not for production, nor for liquids: the charges are
Gasteiger's, and water is typed as an alcohol.

Made by scripts/make_forcefield.py: conformer from RDKit, GAFF2 types and Gasteiger charges from
antechamber, parameters from parmchk2, conversion by ParmEd {parmed}. Source of the parameters:
{gaff2}.

Cite:
  J. Wang, R. M. Wolf, J. W. Caldwell, P. A. Kollman, D. A. Case, J. Comput. Chem. 25, 1157 (2004)
  X. He, V. H. Man, W. Yang, T.-S. Lee, J. Wang, J. Chem. Phys. 153, 114502 (2020)   (GAFF2)

Molecules: {molecules}
-->
"""


def main() -> None:
    """Parse the arguments, write the file, check that OpenMM reads it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--amberhome", type=Path, required=True, help="root of AmberTools")
    parser.add_argument("--out", type=Path, required=True, help="the ForceField XML to write")
    arguments = parser.parse_args()

    # Nothing but this program needs ParmEd: it is no dependency of Halcyon.
    import parmed
    from parmed.amber import AmberParameterSet
    from parmed.openmm import OpenMMParameterSet

    with tempfile.TemporaryDirectory() as folder:
        prepared = {
            name: _antechamber(name, smiles, Path(folder), arguments.amberhome.resolve())
            for name, smiles in MOLECULES.items()
        }
        # GAFF2's type names mean the same in every molecule, so one set holds them all.
        parameters = OpenMMParameterSet.from_parameterset(
            AmberParameterSet(*[str(frcmod) for _, frcmod in prepared.values()])
        )
        for name, (mol2, _) in prepared.items():
            template = parmed.load_file(str(mol2))
            template.name = name
            parameters.residues[name] = template
        written = Path(folder) / "parmed.xml"
        parameters.write(str(written), improper_dihedrals_ordering="amber")
        _, _, body = written.read_text(encoding="utf-8").partition("</Info>")

    with (arguments.amberhome / "dat/leap/parm/gaff2.dat").open(encoding="utf-8") as source:
        gaff2 = source.readline().strip()
    header = HEADER.format(parmed=parmed.__version__, gaff2=gaff2, molecules=", ".join(MOLECULES))
    arguments.out.write_text(f"{header}<ForceField>{body}", encoding="utf-8")
    ForceField(str(arguments.out))
    print(f"{arguments.out}: {len(MOLECULES)} templates")


def _antechamber(name: str, smiles: str, folder: Path, amberhome: Path) -> tuple[Path, Path]:
    """GAFF2 types and charges (mol2), and the parameters of those types (frcmod)."""
    molecule = Chem.AddHs(Chem.MolFromSmiles(smiles))
    AllChem.EmbedMolecule(molecule, randomSeed=1)
    AllChem.UFFOptimizeMolecule(molecule)
    Chem.MolToMolFile(molecule, str(folder / f"{name}.mol"))
    environment = os.environ | {
        "AMBERHOME": str(amberhome),
        "LD_LIBRARY_PATH": str(amberhome / "lib"),
        "PATH": f"{amberhome / 'bin'}:{os.environ['PATH']}",
    }
    mol2, frcmod = folder / f"{name}.mol2", folder / f"{name}.frcmod"
    # `-s 2` is GAFF2. The documented synonym `-s gaff2` gives GAFF's parameters in most runs of
    # the parmchk2 that acpype 2023.10.27 bundles, GAFF2's in the others.
    for command in (
        f"antechamber -i {name}.mol -fi mdl -o {mol2.name} -fo mol2 -c gas -at gaff2 -pf y -dr n",
        f"parmchk2 -i {mol2.name} -f mol2 -o {frcmod.name} -s 2 -a Y",
    ):
        subprocess.run(
            command.split(), cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL
        )
    return mol2, frcmod


if __name__ == "__main__":
    main()
