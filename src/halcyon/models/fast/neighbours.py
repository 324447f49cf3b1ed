"""Neighbours of atoms in molecules and cells, each pair looked at, compiled: on a CPU.

Of some hundred atoms this takes a tenth of the time of a cell list, and of sorting what it found.
In a cell, every image within the cutoff counts, however thin or skewed the cell is: with a pair's
vector d = Σ f_k a_k folded so that |f_k| ≤ ½, images n can be within r_max only where
|n_k| ≤ r_max / h_k + ½, h_k being the cell's height along its k-th vector.

    import numpy as np
    from halcyon.models.fast.neighbours import neighbours

    whole, order = np.array([0, len(positions)]), np.arange(len(positions))
    vectors, sender = neighbours(positions, np.zeros((1, 3, 3)), (whole, order), 5.0)

Not for: thousands of atoms (`halcyon.models.batched` knows up to how many), atoms that come near
each other within a block of steps (see `halcyon.domain.contacts`), or training, which keeps its
neighbours (see `halcyon.models.graphs`).
"""

import numpy as np

from halcyon.models.fast.kernels import compiled

MOST_IMAGES = 4
"""Along each vector of a cell. Thinner ones have too many to look at each."""


@compiled
def few_images(cells, r_max):  # type: ignore[no-untyped-def]
    """Whether `neighbours` can search in cells: all are finite, not flat, and not too thin.

    Args:
        cells: vectors in rows, (S, 3, 3), Å.
        r_max: cutoff, Å.
    """
    reciprocal, reach = np.empty((3, 3)), np.empty(3)
    for system in range(len(cells)):
        volume = _turn(cells[system], r_max, reciprocal, reach)
        for k in range(3):
            if not (volume != 0 and reach[k] <= MOST_IMAGES):  # nor is it where it is NaN
                return False
    return True


@compiled
def neighbours(positions, cells, atoms, r_max):  # type: ignore[no-untyped-def]
    """Vectors from all atoms within a cutoff, in the same number of places J for each atom.

    Args:
        positions: (n, 3), Å. Systems with values that are not finite get no neighbours.
        cells: of each system, vectors in rows, (S, 3, 3), Å; zeros: it is not periodic.
        atoms: first atom of each system, and one past the last of all, (S + 1,); where each atom
            stands among the receivers, (n,).
        r_max: cutoff, Å.

    Returns:
        Vectors from sender to receiver, (3, n · J), Å, in the precision of the positions, and
        2 r_max in places without a neighbour; senders, (n · J,), counted as receivers are, and in
        places without a neighbour the receiver itself. J is at least 1.
    """
    bounds, place = atoms
    edges, senders, ends = _edges(positions, cells, bounds, r_max)
    width = 1
    for atom in range(len(positions)):
        width = max(width, ends[atom + 1] - ends[atom])
    vectors = np.empty((3, len(positions) * width), positions.dtype)
    sender = np.empty(len(positions) * width, np.int64)
    vectors[:] = 2 * r_max
    for atom in range(len(positions)):
        at = place[atom] * width
        for empty in range(at, at + width):
            sender[empty] = place[atom]
        for edge in range(ends[atom], ends[atom + 1]):
            sender[at] = place[senders[edge]]
            for axis in range(3):
                vectors[axis, at] = edges[edge, axis]
            at += 1
    return vectors, sender


@compiled
def _edges(positions, cells, bounds, r_max):  # type: ignore[no-untyped-def]
    """Vectors (E, 3), Å, and senders (E,) of all edges; where those of each atom end, (n + 1,)."""
    n, number = len(positions), 0
    ends = np.zeros(n + 1, np.int64)
    edges, senders = np.empty((32 * n, 3)), np.empty(32 * n, np.int64)
    for system in range(len(cells)):
        begin, end = bounds[system], bounds[system + 1]
        own, finite = np.empty((3, end - begin)), True
        for atom in range(begin, end):
            for axis in range(3):
                own[axis, atom - begin] = positions[atom, axis]
                finite = finite and np.isfinite(positions[atom, axis])
        lattice = _lattice(cells[system], r_max)
        apart, squared = np.empty_like(own), np.empty(end - begin)
        for atom in range(begin, end):
            if finite:
                most = number + len(squared) * len(lattice[2])
                if most > len(senders):
                    edges, senders = _longer(edges, senders, 2 * most)
                room = edges[number:], senders[number:], apart, squared
                number += _of_atom(atom - begin, begin, own, lattice, r_max, room)
            ends[atom + 1] = number
    return edges, senders, ends


@compiled
def _longer(edges, senders, length):  # type: ignore[no-untyped-def]
    """The same, with room for more."""
    more_edges, more_senders = np.empty((length, 3)), np.empty(length, np.int64)
    for edge in range(len(senders)):
        more_senders[edge] = senders[edge]
        for axis in range(3):
            more_edges[edge, axis] = edges[edge, axis]
    return more_edges, more_senders


@compiled
def _turn(cell, r_max, reciprocal, reach):  # type: ignore[no-untyped-def]
    """Put a cell's reciprocal vectors, 1/Å, and how many cells are in reach; return its volume.

    All are 0 for a cell of zeros.
    """
    volume = 0.0
    for k in range(3):
        i, j = (k + 1) % 3, (k + 2) % 3
        for axis in range(3):
            y, z = (axis + 1) % 3, (axis + 2) % 3
            reciprocal[k, axis] = np.float64(cell[i, y]) * np.float64(cell[j, z]) - np.float64(
                cell[i, z]
            ) * np.float64(cell[j, y])
    for axis in range(3):
        volume += cell[0, axis] * reciprocal[0, axis]
    for k in range(3):
        square = 0.0
        for axis in range(3):
            if volume != 0:
                reciprocal[k, axis] /= volume
            square += reciprocal[k, axis] ** 2
        reach[k] = np.floor(r_max * np.sqrt(square) + 0.5)
    return volume


@compiled
def _lattice(cell, r_max):  # type: ignore[no-untyped-def]
    """A cell, its reciprocal vectors, and vectors (K, 3), Å, to images in reach; first is none."""
    reciprocal, reach = np.empty((3, 3)), np.empty(3)
    _turn(cell, r_max, reciprocal, reach)
    a, b, c = int(reach[0]), int(reach[1]), int(reach[2])
    images = np.zeros(((2 * a + 1) * (2 * b + 1) * (2 * c + 1), 3))
    place = 1
    for i in range(-a, a + 1):
        for j in range(-b, b + 1):
            for k in range(-c, c + 1):
                if i != 0 or j != 0 or k != 0:
                    for axis in range(3):
                        images[place, axis] = i * cell[0, axis] + j * cell[1, axis]
                        images[place, axis] += k * cell[2, axis]
                    place += 1
    return cell, reciprocal, images


@compiled
def _of_atom(first, begin, own, lattice, r_max, room):  # type: ignore[no-untyped-def]
    """Put vectors and senders of one atom of a system into `room`, and return how many."""
    cell, reciprocal, images = lattice
    vectors, senders, apart, squared = room
    n = own.shape[1]
    # Without branches, so that several atoms are looked at at a time.
    for other in range(n):
        x = own[0, first] - own[0, other]
        y = own[1, first] - own[1, other]
        z = own[2, first] - own[2, other]
        a = np.rint(reciprocal[0, 0] * x + reciprocal[0, 1] * y + reciprocal[0, 2] * z)
        b = np.rint(reciprocal[1, 0] * x + reciprocal[1, 1] * y + reciprocal[1, 2] * z)
        c = np.rint(reciprocal[2, 0] * x + reciprocal[2, 1] * y + reciprocal[2, 2] * z)
        apart[0, other] = x - (a * cell[0, 0] + b * cell[1, 0] + c * cell[2, 0])
        apart[1, other] = y - (a * cell[0, 1] + b * cell[1, 1] + c * cell[2, 1])
        apart[2, other] = z - (a * cell[0, 2] + b * cell[1, 2] + c * cell[2, 2])
    number = 0
    for image in range(len(images)):
        a, b, c = images[image, 0], images[image, 1], images[image, 2]
        for other in range(n):
            x, y, z = apart[0, other] + a, apart[1, other] + b, apart[2, other] + c
            squared[other] = x * x + y * y + z * z
        if image == 0:
            squared[first] = np.inf  # an atom is no neighbour of itself, but its images are
        for other in range(n):
            if squared[other] < r_max * r_max:
                vectors[number, 0] = apart[0, other] + a
                vectors[number, 1] = apart[1, other] + b
                vectors[number, 2] = apart[2, other] + c
                senders[number] = begin + other
                number += 1
    return number
