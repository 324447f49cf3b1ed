"""The loops of `scalar`, compiled: geometry, layers, readouts, and all the way back.

Not for: calling them with tensors (see `scalar`).

    from halcyon.models.fast import scalar_loops

    scalar_loops.evaluate.py_func.__doc__  # what it takes
"""

import numpy as np

from halcyon.models.fast.kernels import compiled, contract_atom, put


@compiled
def of_systems(positions, places, edges, of_atoms, results):  # type: ignore[no-untyped-def]
    """Energies and forces of molecules or cells, from what `evaluate` gives.

    Args:
        positions: (n, 3), Å.
        places: first atom of each system, and one past the last of all, (S + 1,); place of each
            atom among those sorted by element, (n,).
        edges: the gradient (3, n · J), and senders (n · J,).
        of_atoms: energies (n,) and features (n, layers · C), sorted; factor and shift of energies.
        results: of each system, energy (S,), eV; of each atom, force (n, 3), eV/Å, energy (n,), eV,
            and features (n, layers · C). All are NaN for systems with positions that are not
            finite.
    """
    bounds, place = places
    gradient, sender = edges
    energy, sorted_features, scale, shift = of_atoms
    energies, forces, node_energy, features = results
    n, dtype = len(positions), positions.dtype
    width = len(sender) // n
    pulled = np.zeros((n, 3), dtype)  # sorted, by `scale`
    for atom in range(n):
        for edge in range(atom * width, (atom + 1) * width):
            for axis in range(3):
                pulled[atom, axis] -= gradient[axis, edge]
                pulled[sender[edge], axis] += gradient[axis, edge]
    for system in range(len(energies)):
        begin, end = bounds[system], bounds[system + 1]
        poison = dtype.type(0)  # or NaN
        for atom in range(begin, end):
            for axis in range(3):
                poison += positions[atom, axis] * dtype.type(0)
        energies[system] = poison
        for atom in range(begin, end):
            at = place[atom]
            own = energy[at] * scale + shift + poison
            energies[system] += own
            node_energy[atom] = own
            for axis in range(3):
                forces[atom, axis] = pulled[at, axis] * scale + poison
            for c in range(features.shape[1]):
                features[atom, c] = sorted_features[at, c] + poison


@compiled
def evaluate(  # type: ignore[no-untyped-def]
    edges, table, geometry, layers, readouts, embedding, results
):
    """Energies of atoms and the gradient of their sum by edge vectors.

    Args:
        edges: vectors (3, n · J), Å; senders (n, J); elements (n,); kind of each pair of elements,
            (0, 0) where all are alike.
        table: cubics of each layer, (kinds · intervals, paths, 4, C); intervals per Å; intervals
            of a kind.
        geometry: number of harmonics M, that of degree 0, and the terms of `SolidHarmonics.terms`.
        layers: each with matrices both ways, (C, C), (receivers, M, C, C), (C, C) and (receivers
            or 0, C, C); rows (M, 3) with path, row and harmonic, and their factors (M,); and
            `compiled.arrays` of the polynomial.
        readouts: as `scalar._of_readout` gives them.
        embedding: features that the first layer gets, (n, C).
        results: energies (n,), which are added to; gradient (3, n · J); features (n, layers · C).
    """
    vectors, sender, element, kinds = edges
    cubics, per_A, intervals = table
    energy, gradient, features = results
    n, neighbours = sender.shape
    n_edges, channels, n_layers = n * neighbours, embedding.shape[1], len(layers)
    dtype = vectors.dtype

    length = np.empty(n_edges, dtype)
    unit = np.empty((3, n_edges), dtype)
    place = np.empty(n_edges, dtype)
    interval = np.empty(n_edges, np.int64)
    for edge in range(n_edges):
        x, y, z = vectors[0, edge], vectors[1, edge], vectors[2, edge]
        r = np.sqrt(x * x + y * y + z * z)
        length[edge] = r
        unit[0, edge], unit[1, edge], unit[2, edge] = x / r, y / r, z / r
        at = r * per_A
        if at < intervals:
            below = np.int64(at)
            place[edge] = at - dtype.type(below)
            interval[edge] = below
            if len(kinds) > 0:
                atom = edge // neighbours
                pair = kinds[element[sender[atom, edge % neighbours]], element[atom]]
                interval[edge] += pair * intervals
        else:
            place[edge] = 0
            interval[edge] = -1
    columns = harmonics_of(unit, geometry)
    harmonics = columns.T.copy()

    sent = np.empty((n_layers, n, channels), dtype)
    slopes = np.empty((n_layers, n, layers[0][2].shape[1], channels), dtype)
    by_features = np.zeros((n_layers, n, channels), dtype)
    before = embedding
    for index in range(n_layers):
        after = np.empty((n, channels), dtype)
        forward(
            layers[index],
            cubics[index],
            (sender, interval, place, harmonics, element),
            before,
            (sent[index], slopes[index], after),
        )
        read(readouts[index], after, energy, by_features[index])
        for atom in range(n):
            for c in range(channels):
                features[atom, index * channels + c] = after[atom, c]
        before = after

    along = np.zeros(n_edges, dtype)
    around = np.zeros_like(harmonics)
    for index in range(n_layers - 1, -1, -1):
        backward(
            layers[index],
            (cubics[index], per_A),
            (sender, interval, place, harmonics, element),
            (sent[index], slopes[index], by_features[index]),
            (along, around, by_features[max(index - 1, 0)], index > 0),
        )

    edge_gradient((length, unit), columns, geometry, (along, around), gradient)


@compiled
def harmonics_of(unit, geometry):  # type: ignore[no-untyped-def]
    """Harmonics (M, n) of unit vectors (3, n); `geometry` is as `evaluate` takes it."""
    n_harmonics, lowest, up, up_factors, _, _ = geometry
    columns = np.zeros((n_harmonics, unit.shape[1]), unit.dtype)
    columns[0] = lowest
    for term in range(len(up)):
        harmonic, axis, lower = up[term, 0], up[term, 1], up[term, 2]
        factor = up_factors[term]
        for edge in range(unit.shape[1]):
            columns[harmonic, edge] += factor * unit[axis, edge] * columns[lower, edge]
    return columns


@compiled
def edge_gradient(edges, columns, geometry, gradients, result):  # type: ignore[no-untyped-def]
    """The gradient by edge vectors, from that by their lengths and harmonics.

    Args:
        edges: lengths (n,), Å; unit vectors (3, n).
        columns: their harmonics, (M, n).
        geometry: as `evaluate` takes it.
        gradients: along each edge (n,), and by its harmonics (n, M).
        result: (3, n).
    """
    length, unit = edges
    _, _, _, _, down, down_factors = geometry
    along, around = gradients
    unity = unit.dtype.type(1)
    by_columns = around.T.copy()
    turned = np.zeros_like(unit)
    for term in range(len(down)):
        axis, lower, harmonic = down[term, 0], down[term, 1], down[term, 2]
        factor = down_factors[term]
        for edge in range(len(length)):
            turned[axis, edge] += factor * columns[lower, edge] * by_columns[harmonic, edge]
    for edge in range(len(length)):
        # Turning a unit vector moves the vector's end by its length; there is no way outward.
        outward = along[edge] * length[edge]
        for axis in range(3):
            outward -= turned[axis, edge] * unit[axis, edge]
        share = unity / length[edge]
        for axis in range(3):
            result[axis, edge] = (turned[axis, edge] + unit[axis, edge] * outward) * share


@compiled
def forward(layer, table, edges, before, results):  # type: ignore[no-untyped-def]
    """One layer, from the features (n, C) that come in.

    Args:
        layer: as `evaluate` takes it.
        table: its cubics, as there.
        edges: senders (n, J), and of each edge (n · J,) the interval, -1: beyond the cutoff, and
            where in it, from 0 to 1; harmonics (n · J, M); elements (n,).
        before: (n, C).
        results: what is sent (n, C), the polynomial's slopes (n, M, C), and the features that the
            layer gives (n, C).
    """
    up, _, mix, _, out, _, skip, _, rows, factors, polynomial = layer
    sender, interval, place, harmonics, element = edges
    sent, slopes, after = results
    n, neighbours = sender.shape
    channels, n_paths, n_rows = before.shape[1], table.shape[1], mix.shape[1]
    dtype = before.dtype
    for atom in range(n):
        times(before[atom], up, sent[atom], False)
    message = np.zeros((n_paths, channels), dtype)
    summed = np.zeros((n_rows, channels), dtype)
    a = np.ones((n_rows + 1, channels), dtype)
    g = np.zeros((n_rows + 1, channels), dtype)
    product = np.zeros(channels, dtype)
    slope = np.zeros(channels, dtype)
    value = np.zeros(channels, dtype)
    for atom in range(n):
        summed[:] = 0
        for neighbour in range(neighbours):
            edge = atom * neighbours + neighbour
            i = interval[edge]
            if i < 0:
                continue
            j, t = sender[atom, neighbour], place[edge]
            for path in range(n_paths):
                for c in range(channels):
                    radial = table[i, path, 0, c] + t * (
                        table[i, path, 1, c] + t * (table[i, path, 2, c] + t * table[i, path, 3, c])
                    )
                    message[path, c] = radial * sent[j, c]
            for row in range(len(rows)):
                path, r = rows[row, 0], rows[row, 1]
                w = factors[row] * harmonics[edge, rows[row, 2]]
                for c in range(channels):
                    summed[r, c] += w * message[path, c]
        z = element[atom]
        receiver = z if len(mix) > 1 else 0
        for row in range(n_rows):
            times(summed[row], mix[receiver, row], a[row], False)
        contract_atom(polynomial, z, a, (value, g, product, slope))
        put(g, slopes[atom])
        times(value, out, after[atom], False)
        if len(skip) > 0:
            times(before[atom], skip[z if len(skip) > 1 else 0], after[atom], True)


@compiled
def backward(layer, tables, edges, traces, results):  # type: ignore[no-untyped-def]
    """The way back through a layer, from the gradient by the features that it gave.

    Args:
        layer: as `evaluate` takes it.
        tables: its cubics, as there; intervals per Å.
        edges: as `forward` takes them.
        traces: what was sent, and slopes, as `forward` gave them; the gradient by features (n, C).
        results: gradients along each edge (n · J,), by its harmonics (n · J, M), and by the
            features that came in, (n, C), all added to; and whether the last is wanted.
    """
    _, up_back, _, mix_back, _, out_back, _, skip_back, rows, factors, _ = layer
    table, per_A = tables
    sender, interval, place, harmonics, element = edges
    sent, slopes, by_after = traces
    along, around, by_before, collects = results
    n, neighbours = sender.shape
    channels, n_paths, n_rows = by_after.shape[1], table.shape[1], mix_back.shape[1]
    dtype = by_after.dtype
    nothing, two, three = dtype.type(0), dtype.type(2), dtype.type(3)
    scale = dtype.type(per_A)
    by_sent = np.zeros((n, channels), dtype)
    by_value = np.zeros(channels, dtype)
    by_mixed = np.zeros(channels, dtype)
    by_sum = np.zeros((n_rows, channels), dtype)
    radial = np.zeros((n_paths, channels), dtype)
    steep = np.zeros((n_paths, channels), dtype)
    by_message = np.zeros((n_paths, channels), dtype)
    for atom in range(n):
        z = element[atom]
        receiver = z if len(mix_back) > 1 else 0
        times(by_after[atom], out_back, by_value, False)
        for row in range(n_rows):
            for c in range(channels):
                by_mixed[c] = slopes[atom, row, c] * by_value[c]
            times(by_mixed, mix_back[receiver, row], by_sum[row], False)
        for neighbour in range(neighbours):
            edge = atom * neighbours + neighbour
            i = interval[edge]
            if i < 0:
                continue
            j, t = sender[atom, neighbour], place[edge]
            by_message[:] = 0
            for path in range(n_paths):
                for c in range(channels):
                    b, d, e = table[i, path, 1, c], table[i, path, 2, c], table[i, path, 3, c]
                    radial[path, c] = table[i, path, 0, c] + t * (b + t * (d + t * e))
                    steep[path, c] = scale * (b + t * (two * d + t * three * e))
            for row in range(len(rows)):
                path, r, harmonic = rows[row, 0], rows[row, 1], rows[row, 2]
                w, by_w = factors[row] * harmonics[edge, harmonic], nothing
                for c in range(channels):
                    by_message[path, c] += w * by_sum[r, c]
                    by_w += by_sum[r, c] * radial[path, c] * sent[j, c]
                around[edge, harmonic] += factors[row] * by_w
            step = nothing
            for path in range(n_paths):
                for c in range(channels):
                    step += by_message[path, c] * sent[j, c] * steep[path, c]
                if collects:
                    for c in range(channels):
                        by_sent[j, c] += by_message[path, c] * radial[path, c]
            along[edge] += step
    if collects:
        for atom in range(n):
            times(by_sent[atom], up_back, by_before[atom], True)
            if len(skip_back) > 0:
                z = element[atom] if len(skip_back) > 1 else 0
                times(by_after[atom], skip_back[z], by_before[atom], True)


@compiled
def times(row, matrix, result, adds):  # type: ignore[no-untyped-def]
    """A row (C,) times a matrix (C, D), put into a result (D,), or added to it.

    Four rows of the matrix at a time: the result is then read and written four times less often.
    """
    if not adds:
        result[:] = 0
    fours = len(row) // 4 * 4
    for c in range(0, fours, 4):
        w, x, y, z = row[c], row[c + 1], row[c + 2], row[c + 3]
        for d in range(len(result)):
            result[d] += (
                w * matrix[c, d]
                + x * matrix[c + 1, d]
                + y * matrix[c + 2, d]
                + z * matrix[c + 3, d]
            )
    for c in range(fours, len(row)):
        for d in range(len(result)):
            result[d] += row[c] * matrix[c, d]


@compiled
def read(readout, features, energy, slopes):  # type: ignore[no-untyped-def]
    """Add a readout to the energies (n,), and give its slopes by the features (n, C)."""
    first, second = readout
    hidden = first.shape[1]
    unity = features.dtype.type(1)
    for atom in range(len(features)):
        for h in range(hidden):
            x = features.dtype.type(0)
            for c in range(len(first)):
                x += features[atom, c] * first[c, h]
            steep = unity
            if len(second) > 0:
                share = unity / (unity + np.exp(-x))
                steep = second[h] * share * (unity + x * (unity - share))
                x = second[h] * x * share
            energy[atom] += x
            for c in range(len(first)):
                slopes[atom, c] += steep * first[c, h]
