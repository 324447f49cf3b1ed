"""Tables about labels that a campaign started from, and that others had computed.

Not for: sorting them out (`labels.imported`), or comparing them (`labels.agreement`).
"""

from halcyon.labels.agreement import Agreement
from halcyon.labels.imported import ImportedLabels


def frame_rows(imported: ImportedLabels) -> list[list[str]]:
    """What became of the frames of the files."""
    rows = [["Frames of the files", "Number"], ["read", str(imported.frames)]]
    rows += [[f"used, of {name}", str(number)] for name, number in imported.used.items()]
    if imported.stored_before:
        rows.append(["of these, in the label store before", str(imported.stored_before)])
    rows += [[f"left out: {why}", str(n)] for why, n in sorted(imported.left_out.items())]
    return rows


def agreement_rows(agreement: Agreement) -> list[list[str]]:
    """How labels that the reference computed again compare."""
    return [
        ["Files minus reference", "Largest difference", "Tolerated", "Typical difference"],
        [
            "Force components, meV/Å",
            f"{agreement.force_max_meV_per_A:.3g}",
            f"{agreement.force_allowed_meV_per_A:g}",
            f"{agreement.force_rms_meV_per_A:.3g} (root mean square)",
        ],
        [
            "Energies, meV/atom",
            f"{agreement.energy_max_meV_per_atom:.3g}",
            f"{agreement.energy_allowed_meV_per_atom:g}",
            f"{agreement.energy_mean_meV_per_atom:+.3g} (mean)",
        ],
    ]
