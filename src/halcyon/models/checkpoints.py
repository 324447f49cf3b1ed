"""Checkpoints of a training: one file, taken only by the very training that wrote it.

    from pathlib import Path
    from halcyon.models.checkpoints import Checkpoint, identity_of

    checkpoint = Checkpoint(Path("checkpoint.pt"), identity_of([train], ["float32"], None))
    checkpoint.write({"epoch": 3})
    checkpoint.read()["epoch"]  # 3

Not for: what a training must keep (see `training` and `learner`).
"""

import contextlib
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms

from halcyon import files

VERSION = 1


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint's file.

    Attributes:
        path: the file.
        identity: hash of all that the training depends on, see `identity_of`.
    """

    path: Path
    identity: str

    def write(self, content: dict[str, Any]) -> None:
        """Write tensors and plain values, atomically."""
        with files.replacing(self.path) as temporary:
            torch.save({"version": VERSION, "identity": self.identity} | content, temporary)

    def read(self, warn: Callable[[str], None] = lambda _: None) -> dict[str, Any] | None:
        """What `write` wrote; None: there is none of this training, and any other is removed.

        Args:
            warn: called with a message for people where the file is damaged.
        """
        try:
            content: dict[str, Any] = torch.load(self.path, weights_only=True)
            if (content["version"], content["identity"]) == (VERSION, self.identity):
                return content
        except FileNotFoundError:
            return None
        except Exception as error:  # noqa: BLE001 - whatever is wrong, it cannot be used
            warn(
                f"{self.path}: a damaged checkpoint ({type(error).__name__}): it is removed, and "
                "the training begins anew; nothing else is lost"
            )
        self.path.unlink()
        return None


def identity_of(
    frames: Sequence[Sequence[Atoms]],
    settings: Sequence[Any],
    start: Path | None,
    columns: Sequence[str] = (),
) -> str:
    """Hash of all that a training depends on, the number of threads included.

    Args:
        frames: sets of labelled frames.
        settings: plain JSON values.
        start: model file that is fine-tuned, if any.
        columns: further `arrays` of frames that are learned.
    """
    digest = hashlib.sha256(json.dumps([*settings, torch.get_num_threads()]).encode())
    for group in frames:
        digest.update(b"group")
        for atoms in group:
            for part in (atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc):
                digest.update(np.ascontiguousarray(part).tobytes())
            digest.update(np.float64(atoms.info["energy"]).tobytes())
            digest.update(np.asarray(atoms.arrays["forces"], dtype=float).tobytes())
            digest.update(np.asarray(atoms.info.get("stress", ()), dtype=float).tobytes())
            for name in columns:
                digest.update(np.asarray(atoms.arrays.get(name, ()), dtype=float).tobytes())
    if start is not None:
        with contextlib.suppress(FileNotFoundError):  # reading the model will report it
            digest.update(start.read_bytes())
    return digest.hexdigest()
