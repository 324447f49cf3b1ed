"""The loops of `training_pass`, compiled: how the gradient of a sum of energies and forces is had.

A training wants the gradient, by a model's weights, of

    L = Σ_n e_n E_n + Σ_e d_e · ∂E/∂v_e + Σ_n f_n · h_n

over atoms' energies E_n, the gradient by edge vectors v_e (that is forces, and virials), and
features h_n; e, d and f are what the loss asks for. The middle is how fast the energy changes while
every edge moves along its d_e. So each number x of the evaluation is carried with its change x' on
the way, by the rules of products; on the way back, each has with its gradient that by its change,
and these two follow the same rules: where z = x · y,

    by x' += by z' · y        by x += by z · y + by z' · y'

In arrays, the axis of length 2 holds x and x' on the way, and by x' and by x on the way back.

    from halcyon.models.fast import training_loops

    training_loops.backward.py_func.__doc__  # what it takes

Not for: tensors (see `training_pass`), or energies and forces themselves (see `scalar_loops`).
"""

import numpy as np

from halcyon.models.fast.kernels import compiled, put
from halcyon.models.fast.scalar_loops import times


@compiled
def moving(edges, direction, columns, geometry):  # type: ignore[no-untyped-def]
    """How edges change that move along a direction.

    Args:
        edges: lengths (n,), Å; unit vectors (3, n).
        direction: (3, n).
        columns: their harmonics, (M, n).
        geometry: as `scalar_loops.evaluate` takes it.

    Returns:
        How fast lengths grow (n,); harmonics and how fast they change, (n, 2, M).
    """
    length, unit = edges
    _, _, up, up_factors, _, _ = geometry
    dtype = unit.dtype
    speed = np.zeros_like(length)
    turning = np.empty_like(unit)
    for edge in range(len(length)):
        for axis in range(3):
            speed[edge] += unit[axis, edge] * direction[axis, edge]
        for axis in range(3):
            along = unit[axis, edge] * speed[edge]
            turning[axis, edge] = (direction[axis, edge] - along) / length[edge]
    changes = np.zeros_like(columns)
    for term in range(len(up)):
        harmonic, axis, lower = up[term, 0], up[term, 1], up[term, 2]
        factor = up_factors[term]
        for edge in range(len(length)):
            changes[harmonic, edge] += factor * (
                turning[axis, edge] * columns[lower, edge] + unit[axis, edge] * changes[lower, edge]
            )
    harmonics = np.empty((len(length), 2, len(columns)), dtype)
    for edge in range(len(length)):
        for harmonic in range(len(columns)):
            harmonics[edge, 0, harmonic] = columns[harmonic, edge]
            harmonics[edge, 1, harmonic] = changes[harmonic, edge]
    return speed, harmonics


@compiled
def forward(layer, table, edges, before, traces, after):  # type: ignore[no-untyped-def]
    """One layer, from the features that come in.

    Args:
        layer: as `scalar_loops.evaluate` takes it.
        table: its radial functions and their slopes, (lengths, degrees, 4, C); the rest is not
            read.
        edges: senders (n, J), the number of each edge's length (n · J,), -1: beyond the cutoff,
            harmonics (n · J, 2, M), how fast the edges grow (n · J,), and elements (n,).
        before: (n, 2, C).
        traces: gets what is sent (n, 2, C), sums, sums mixed and the polynomial's slopes (n, 2, M,
            C), and its values (n, 2, C).
        after: gets the features that the layer gives (n, 2, C).
    """
    up, _, mix, _, out, _, skip, _, rows, factors, polynomial = layer
    sender, which, harmonics, speed, element = edges
    sent, summed, mixed, slopes, values = traces
    n, neighbours = sender.shape
    channels, n_paths, n_rows = before.shape[2], table.shape[1], mix.shape[1]
    dtype = before.dtype
    for atom in range(n):
        for part in range(2):
            times(before[atom, part], up, sent[atom, part], False)
    message = np.zeros((2, n_paths, channels), dtype)
    a = np.zeros((2, n_rows + 1, channels), dtype)
    a[0, n_rows] = 1
    g = np.zeros((2, n_rows + 1, channels), dtype)
    room = np.zeros((4, channels), dtype)
    for atom in range(n):
        summed[atom] = 0
        for neighbour in range(neighbours):
            edge = atom * neighbours + neighbour
            at = which[edge]
            if at < 0:
                continue
            j, faster = sender[atom, neighbour], speed[edge]
            for path in range(n_paths):
                for c in range(channels):
                    radial, change = table[at, path, 0, c], table[at, path, 1, c] * faster
                    message[0, path, c] = radial * sent[j, 0, c]
                    message[1, path, c] = change * sent[j, 0, c] + radial * sent[j, 1, c]
            for row in range(len(rows)):
                path, r, harmonic = rows[row, 0], rows[row, 1], rows[row, 2]
                w = factors[row] * harmonics[edge, 0, harmonic]
                v = factors[row] * harmonics[edge, 1, harmonic]
                for c in range(channels):
                    summed[atom, 0, r, c] += w * message[0, path, c]
                    summed[atom, 1, r, c] += v * message[0, path, c] + w * message[1, path, c]
        z = element[atom]
        receiver = z if len(mix) > 1 else 0
        for part in range(2):
            for row in range(n_rows):
                times(summed[atom, part, row], mix[receiver, row], a[part, row], False)
        _contract(polynomial, z, a, (values[atom], g, room))
        for part in range(2):
            put(a[part], mixed[atom, part])
            put(g[part], slopes[atom, part])
            times(values[atom, part], out, after[atom, part], False)
            if len(skip) > 0:
                own = skip[z if len(skip) > 1 else 0]
                times(before[atom, part], own, after[atom, part], True)


@compiled
def backward(layer, table, edges, inputs, by_before, results):  # type: ignore[no-untyped-def]
    """The way back through a layer.

    Args:
        layer: as `scalar_loops.evaluate` takes it.
        table: as `forward` takes it.
        edges: as there.
        inputs: features that came in (n, 2, C); what `forward` gave as traces; the gradient by the
            features that it gave (n, 2, C).
        by_before: gradient by those that came in (n, 2, C), added to.
        results: gradients, added to: by matrices to send (C, C), to mix (receivers, M, C, C),
            after the polynomial (C, C), and to skip (receivers or 0, C, C); by coefficients
            (elements, T, C); and by the radial functions and their slopes, (lengths, degrees, 2,
            C).
    """
    _, up_back, _, mix_back, _, out_back, _, skip_back, rows, factors, polynomial = layer
    sender, which, harmonics, speed, element = edges
    before, traces, by_after = inputs
    sent, summed, mixed, slopes, values = traces
    by_up, by_mix, by_out, by_skip, by_coefficients, by_table = results
    n, neighbours = sender.shape
    channels, n_paths, n_rows = by_after.shape[2], table.shape[1], mix_back.shape[1]
    dtype = by_after.dtype
    by_sent = np.zeros((n, 2, channels), dtype)
    by_value = np.zeros((2, channels), dtype)
    by_mixed = np.zeros((2, channels), dtype)
    by_sum = np.zeros((2, n_rows, channels), dtype)
    by_message = np.zeros((2, n_paths, channels), dtype)
    a = np.zeros((2, n_rows + 1, channels), dtype)
    a[0, n_rows] = 1
    product = np.zeros((2, channels), dtype)
    for atom in range(n):
        z = element[atom]
        receiver = z if len(mix_back) > 1 else 0
        for part in range(2):
            times(by_after[atom, part], out_back, by_value[part], False)
        _outer(values[atom], by_after[atom], by_out)
        for part in range(2):
            put(mixed[atom, part], a[part])
        _weigh(polynomial, a, by_value, product, by_coefficients[z])
        for row in range(n_rows):
            for c in range(channels):
                g, change = slopes[atom, 0, row, c], slopes[atom, 1, row, c]
                by_mixed[0, c] = by_value[0, c] * g
                by_mixed[1, c] = by_value[1, c] * g + by_value[0, c] * change
            for part in range(2):
                times(by_mixed[part], mix_back[receiver, row], by_sum[part, row], False)
            _outer(summed[atom, :, row], by_mixed, by_mix[receiver, row])
        for neighbour in range(neighbours):
            edge = atom * neighbours + neighbour
            at = which[edge]
            if at < 0:
                continue
            j, faster = sender[atom, neighbour], speed[edge]
            by_message[:] = 0
            for row in range(len(rows)):
                path, r, harmonic = rows[row, 0], rows[row, 1], rows[row, 2]
                w = factors[row] * harmonics[edge, 0, harmonic]
                v = factors[row] * harmonics[edge, 1, harmonic]
                for c in range(channels):
                    by_message[0, path, c] += w * by_sum[0, r, c]
                    by_message[1, path, c] += w * by_sum[1, r, c] + v * by_sum[0, r, c]
            for path in range(n_paths):
                for c in range(channels):
                    radial, change = table[at, path, 0, c], table[at, path, 1, c] * faster
                    by_change, by_radial = by_message[0, path, c], by_message[1, path, c]
                    by_table[at, path, 0, c] += (
                        by_radial * sent[j, 0, c] + by_change * sent[j, 1, c]
                    )
                    by_table[at, path, 1, c] += by_change * sent[j, 0, c] * faster
                    by_sent[j, 0, c] += by_change * radial
                    by_sent[j, 1, c] += by_radial * radial + by_change * change
    for atom in range(n):
        for part in range(2):
            times(by_sent[atom, part], up_back, by_before[atom, part], True)
        _outer(before[atom], by_sent[atom], by_up)
        if len(skip_back) > 0:
            z = element[atom] if len(skip_back) > 1 else 0
            for part in range(2):
                times(by_after[atom, part], skip_back[z], by_before[atom, part], True)
            _outer(before[atom], by_after[atom], by_skip[z])


@compiled
def _contract(polynomial, z, a, results):  # type: ignore[no-untyped-def]
    """As `kernels.contract_atom`, with changes: of variables (2, M + 1, C)."""
    pairs, terms, coefficients = polynomial
    value, g, room = results
    product, change, slope, turn = room[0], room[1], room[2], room[3]
    channels = value.shape[1]
    g[:] = 0
    value[:] = 0
    term = 0
    for pair in range(len(pairs)):
        i, j = pairs[pair, 0], pairs[pair, 1]
        for c in range(channels):
            product[c] = a[0, i, c] * a[0, j, c]
            change[c] = a[1, i, c] * a[0, j, c] + a[0, i, c] * a[1, j, c]
            slope[c] = 0
            turn[c] = 0
        while term < pairs[pair, 2]:
            k = terms[term, 0]
            for c in range(channels):
                w = coefficients[z, term, c]
                slope[c] += w * a[0, k, c]
                turn[c] += w * a[1, k, c]
                g[0, k, c] += w * product[c]
                g[1, k, c] += w * change[c]
            term += 1
        for c in range(channels):
            value[0, c] += product[c] * slope[c]
            value[1, c] += change[c] * slope[c] + product[c] * turn[c]
            g[0, i, c] += slope[c] * a[0, j, c]
            g[1, i, c] += turn[c] * a[0, j, c] + slope[c] * a[1, j, c]
        for c in range(channels):
            g[0, j, c] += slope[c] * a[0, i, c]
            g[1, j, c] += turn[c] * a[0, i, c] + slope[c] * a[1, i, c]


@compiled
def _weigh(polynomial, a, by_value, room, by_coefficients):  # type: ignore[no-untyped-def]
    """Add to the gradient by an element's coefficients (T, C) what an atom of it gives."""
    pairs, terms, _ = polynomial
    product, change = room[0], room[1]
    channels = by_value.shape[1]
    term = 0
    for pair in range(len(pairs)):
        i, j = pairs[pair, 0], pairs[pair, 1]
        for c in range(channels):
            whole = a[0, i, c] * a[0, j, c]
            part = a[1, i, c] * a[0, j, c] + a[0, i, c] * a[1, j, c]
            product[c] = by_value[0, c] * whole
            change[c] = by_value[1, c] * whole + by_value[0, c] * part
        while term < pairs[pair, 2]:
            k = terms[term, 0]
            for c in range(channels):
                by_coefficients[term, c] += change[c] * a[0, k, c] + product[c] * a[1, k, c]
            term += 1


@compiled
def _outer(row, by_result, by_matrix):  # type: ignore[no-untyped-def]
    """Add to the gradient by a matrix (C, D) that a row (2, C) was multiplied by."""
    for c in range(row.shape[1]):
        x, change = row[0, c], row[1, c]
        for d in range(by_result.shape[1]):
            by_matrix[c, d] += x * by_result[1, d] + change * by_result[0, d]


@compiled
def read_back(readout, features, by_energy, by_features, results):  # type: ignore[no-untyped-def]
    """The way back through a readout.

    Args:
        readout: as `scalar_loops.evaluate` takes it.
        features: (n, 2, C).
        by_energy: the gradient of L by atoms' energies, (n,).
        by_features: gradient, added to (n, 2, C).
        results: gradients by the readout's matrix and vector, added to.
    """
    first, second = readout
    by_first, by_second = results
    hidden = first.shape[1]
    dtype = features.dtype
    unity, two = dtype.type(1), dtype.type(2)
    for atom in range(len(features)):
        for h in range(hidden):
            by_change, by_x = unity, by_energy[atom]
            if len(second) > 0:
                x, change = dtype.type(0), dtype.type(0)
                for c in range(len(first)):
                    x += features[atom, 0, c] * first[c, h]
                    change += features[atom, 1, c] * first[c, h]
                share = unity / (unity + np.exp(-x))
                rest = unity - share
                steep = share * (unity + x * rest)
                curved = share * rest * (two + x * (rest - share))
                by_second[h] += by_energy[atom] * x * share + steep * change
                by_change = second[h] * steep
                by_x = by_energy[atom] * second[h] * steep + second[h] * curved * change
            for c in range(len(first)):
                by_features[atom, 0, c] += by_change * first[c, h]
                by_features[atom, 1, c] += by_x * first[c, h]
                by_first[c, h] += by_x * features[atom, 0, c] + by_change * features[atom, 1, c]
