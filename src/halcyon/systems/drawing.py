"""Molecules drawn: as SVG with numbered atoms, and in characters for a terminal.

The numbers are the atoms' indices in the frames, as in `exploration.bias.variables.atoms`.

Not for: drawings in three dimensions, or a campaign's page (see `report.page`).
"""

from collections.abc import Mapping

from rdkit import Chem
from rdkit.Chem import rdDepictor
from rdkit.Chem.Draw import rdMolDraw2D

PANEL = (360, 300)
"""Width and height of one molecule in an SVG."""
COLUMNS_PER_A, ROWS_PER_A = 3.4, 1.7
"""Scale of a drawing in characters; a character is twice as high as wide."""
BOND_MARKS = {1.0: "·", 1.5: "~", 2.0: "=", 3.0: "#"}
INDEX = "index in the frames"


def svg(molecules: Mapping[str, Chem.Mol]) -> str:
    """Draw molecules side by side, every atom with its number, hydrogens too.

    Args:
        molecules: molecules with all hydrogens by name; the name is written below the drawing.

    Returns:
        A whole SVG document.
    """
    drawn = []
    for molecule in molecules.values():
        flat = _flat(molecule, hydrogens=True)
        for atom in flat.GetAtoms():
            atom.SetProp("atomNote", str(atom.GetIdx()))
        drawn.append(flat)
    width, height = PANEL
    canvas = rdMolDraw2D.MolDraw2DSVG(width * len(drawn), height, width, height)
    canvas.DrawMolecules(drawn, legends=list(molecules))
    canvas.FinishDrawing()
    return str(canvas.GetDrawingText())


def text(molecule: Chem.Mol) -> str:
    """Draw the atoms that are no hydrogens, with their numbers, and the bonds between them.

    Bonds are `·` (single), `~` (aromatic), `=` and `#`.
    """
    flat = _flat(molecule, hydrogens=False)
    spots = flat.GetConformer().GetPositions()[:, :2]
    columns = ((spots[:, 0] - spots[:, 0].min()) * COLUMNS_PER_A).round().astype(int)
    rows = ((spots[:, 1].max() - spots[:, 1]) * ROWS_PER_A).round().astype(int)
    labels = [f"{atom.GetSymbol()}{atom.GetIntProp(INDEX)}" for atom in flat.GetAtoms()]
    canvas = [[" "] * (int(columns.max()) + 8) for _ in range(int(rows.max()) + 1)]
    for bond in flat.GetBonds():
        i, j = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
        mark = BOND_MARKS.get(bond.GetBondTypeAsDouble(), "·")
        steps = int(max(abs(columns[i] - columns[j]), abs(rows[i] - rows[j]), 1))
        for step in range(steps + 1):
            part = step / steps
            row = round(rows[i] + part * (rows[j] - rows[i]))
            column = round(columns[i] + part * (columns[j] - columns[i]))
            canvas[row][column] = mark
    for label, row, column in zip(labels, rows, columns, strict=True):
        canvas[row][column : column + len(label)] = label
    return "\n".join("".join(line).rstrip() for line in canvas)


def _flat(molecule: Chem.Mol, *, hydrogens: bool) -> Chem.Mol:
    """A copy with drawing coordinates; each atom has its index in the frames as a property."""
    copy = Chem.Mol(molecule)
    copy.RemoveAllConformers()
    for atom in copy.GetAtoms():
        atom.SetIntProp(INDEX, atom.GetIdx())
    flat = copy if hydrogens else Chem.RemoveHs(copy, sanitize=False)
    rdDepictor.Compute2DCoords(flat)
    return flat
