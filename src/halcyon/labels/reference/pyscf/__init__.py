"""Labels from PySCF: `backend` computes them, `level` says how."""
