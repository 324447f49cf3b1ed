"""The two loops that take a fast evaluation's time, compiled: messages, and the polynomial.

Written with tensor operations, each step would go through memory once. Here an atom's sums stay in
the processor's first cache, and the innermost loop goes over channels, which lie side by side.

    A[n, ρ, c] = Σ_j R_πc(|r_nj|) · Σ_k W_ρk(r̂_nj) · h_jkc          W_ρk = Σ_m g_ρkm Y_m(r̂_nj)

Row ρ belongs to path π; g are the model's coupling coefficients, from `layers`. `pull_back`
goes the same way back. The polynomial is that of `polynomial`.

    from halcyon.models.fast import kernels

    kernels.contract(0, len(mixed), 0, (mixed, element), (pairs, terms, coefficients), (values,))

Not for: tensors (see `compiled`), or devices other than a CPU (see `tensor_steps`).
"""

from collections.abc import Callable
from typing import Any

import numba
import numpy as np

# As a C compiler's -ffast-math, but for infinities and NaN, which models that blow up do give.
FAST = {"reassoc", "contract", "arcp", "nsz"}


def compiled(loops: Callable[..., Any]) -> Callable[..., Any]:
    """Compile at the first call, and keep the result for later processes where a folder allows."""
    options: Any = {"nogil": True, "fastmath": FAST, "error_model": "numpy"}
    try:
        return numba.njit(cache=True, **options)(loops)
    except RuntimeError:  # neither the package's folder nor the user's can be written
        return numba.njit(**options)(loops)


@compiled
def put(values, result):  # type: ignore[no-untyped-def]
    """Copy a matrix's rows into another's, as many as fit.

    Assigned slices take numba seconds to compile: they bring the text of an error on shapes.
    """
    for row in range(min(len(values), len(result))):
        for c in range(result.shape[1]):
            result[row, c] = values[row, c]


@compiled
def _weights(edge, harmonics, terms, factors, weights):  # type: ignore[no-untyped-def]
    """W of an edge: (rows, K)."""
    weights[:] = 0
    for term in range(len(factors)):
        weights[terms[term, 0], terms[term, 1]] += factors[term] * harmonics[edge, terms[term, 2]]


@compiled
def sum_messages(  # type: ignore[no-untyped-def]
    begin, end, part, edges, inputs, coupling, results
):
    """Messages of neighbours, summed for the atoms from `begin` to `end`.

    Args:
        begin: first atom.
        end: one past the last.
        part: not used.
        edges: (n, J) each: sender; interval in the table, -1 beyond the cutoff; place in it, 0 to
            1.
        inputs: table (intervals, paths, 4, C) of cubics; harmonics (n · J, M); what atoms send,
            (n, K, C).
        coupling: `arrays` of the layer's `Convolution`.
        results: the sums, (n, rows, C).
    """
    sender, interval, place = edges
    table, harmonics, features = inputs
    paths, rows, terms, factors = coupling
    (summed,) = results
    n_rows, channels = summed.shape[1], summed.shape[2]
    width = paths[:, 1].max()
    weights = np.zeros((n_rows, width), summed.dtype)
    radial = np.zeros(channels, summed.dtype)
    sent = np.zeros((width, channels), summed.dtype)
    neighbours = sender.shape[1]
    for atom in range(begin, end):
        summed[atom] = 0
        for neighbour in range(neighbours):
            i = interval[atom, neighbour]
            if i < 0:
                continue
            _weights(atom * neighbours + neighbour, harmonics, terms, factors, weights)
            j, t = sender[atom, neighbour], place[atom, neighbour]
            for path in range(len(paths)):
                first, parts = paths[path, 0], paths[path, 1]
                for c in range(channels):
                    radial[c] = table[i, path, 0, c] + t * (
                        table[i, path, 1, c] + t * (table[i, path, 2, c] + t * table[i, path, 3, c])
                    )
                for k in range(parts):
                    for c in range(channels):
                        sent[k, c] = radial[c] * features[j, first + k, c]
                if parts == 1:
                    for row in range(paths[path, 2], paths[path, 3]):
                        w, r = weights[row, 0], rows[row]
                        for c in range(channels):
                            summed[atom, r, c] += w * sent[0, c]
                elif parts == 3:
                    for row in range(paths[path, 2], paths[path, 3]):
                        w, v, u = weights[row, 0], weights[row, 1], weights[row, 2]
                        r = rows[row]
                        for c in range(channels):
                            summed[atom, r, c] += w * sent[0, c] + v * sent[1, c] + u * sent[2, c]
                else:
                    for row in range(paths[path, 2], paths[path, 3]):
                        for k in range(parts):
                            w, r = weights[row, k], rows[row]
                            for c in range(channels):
                                summed[atom, r, c] += w * sent[k, c]


@compiled
def pull_back(begin, end, part, edges, inputs, coupling, results):  # type: ignore[no-untyped-def]
    """The way back through `sum_messages`.

    Args:
        begin: first receiving atom.
        end: one past the last.
        part: of the gradient by what atoms send, the one that this thread adds to.
        edges: as in `sum_messages`, and intervals per Å.
        inputs: as there.
        coupling: as there.
        results: gradient by sums, (n, rows, C), which is read; and those that are added to: by
            distances (n, J), per Å; by harmonics (n · J, M); by what atoms send, (parts, n, K, C),
            which is not asked for where there are no parts.
    """
    sender, interval, place, scale = edges
    per_A = scale.item()
    table, harmonics, features = inputs
    paths, rows, terms, factors = coupling
    by_sum, along, around, by_features = results
    n_rows, channels = by_sum.shape[1], by_sum.shape[2]
    width = paths[:, 1].max()
    weights = np.zeros((n_rows, width), by_sum.dtype)
    by_weights = np.zeros((n_rows, width), by_sum.dtype)
    radial = np.zeros(channels, by_sum.dtype)
    slope = np.zeros(channels, by_sum.dtype)
    sent = np.zeros((width, channels), by_sum.dtype)
    by_sent = np.zeros((width, channels), by_sum.dtype)
    nothing = by_sum.dtype.type(0)
    two, three = by_sum.dtype.type(2), by_sum.dtype.type(3)
    neighbours = sender.shape[1]
    collects = len(by_features) > 0
    for atom in range(begin, end):
        for neighbour in range(neighbours):
            i = interval[atom, neighbour]
            if i < 0:
                continue
            edge = atom * neighbours + neighbour
            _weights(edge, harmonics, terms, factors, weights)
            j, t = sender[atom, neighbour], place[atom, neighbour]
            outward = nothing
            for path in range(len(paths)):
                first, parts = paths[path, 0], paths[path, 1]
                for c in range(channels):
                    b, d, e = table[i, path, 1, c], table[i, path, 2, c], table[i, path, 3, c]
                    radial[c] = table[i, path, 0, c] + t * (b + t * (d + t * e))
                    slope[c] = per_A * (b + t * (two * d + t * three * e))
                for k in range(parts):
                    for c in range(channels):
                        sent[k, c] = radial[c] * features[j, first + k, c]
                        by_sent[k, c] = 0
                if parts == 1:
                    for row in range(paths[path, 2], paths[path, 3]):
                        w, r, by_w = weights[row, 0], rows[row], nothing
                        for c in range(channels):
                            g = by_sum[atom, r, c]
                            by_sent[0, c] += w * g
                            by_w += g * sent[0, c]
                        by_weights[row, 0] = by_w
                elif parts == 3:
                    for row in range(paths[path, 2], paths[path, 3]):
                        w, v, u = weights[row, 0], weights[row, 1], weights[row, 2]
                        r, by_w, by_v, by_u = rows[row], nothing, nothing, nothing
                        for c in range(channels):
                            g = by_sum[atom, r, c]
                            by_sent[0, c] += w * g
                            by_sent[1, c] += v * g
                            by_sent[2, c] += u * g
                            by_w += g * sent[0, c]
                            by_v += g * sent[1, c]
                            by_u += g * sent[2, c]
                        by_weights[row, 0] = by_w
                        by_weights[row, 1] = by_v
                        by_weights[row, 2] = by_u
                else:
                    for row in range(paths[path, 2], paths[path, 3]):
                        for k in range(parts):
                            w, r, by_w = weights[row, k], rows[row], nothing
                            for c in range(channels):
                                g = by_sum[atom, r, c]
                                by_sent[k, c] += w * g
                                by_w += g * sent[k, c]
                            by_weights[row, k] = by_w
                for k in range(parts):
                    step = nothing
                    for c in range(channels):
                        step += by_sent[k, c] * features[j, first + k, c] * slope[c]
                    outward += step
                    if collects:
                        for c in range(channels):
                            by_features[part, j, first + k, c] += by_sent[k, c] * radial[c]
            along[atom, neighbour] += outward
            for term in range(len(factors)):
                around[edge, terms[term, 2]] += (
                    factors[term] * by_weights[terms[term, 0], terms[term, 1]]
                )


@compiled
def contract_atom(polynomial, z, a, results):  # type: ignore[no-untyped-def]
    """A polynomial with one component, and its gradient, of one atom.

    Args:
        polynomial: `pairs`, `terms` and `coefficients` of a `Polynomial`.
        z: the atom's element.
        a: variables (M + 1, C), the last of which is 1.
        results: value (C,) and gradient (M + 1, C); and room for (C,) twice.
    """
    pairs, terms, coefficients = polynomial
    value, g, product, slope = results
    channels = len(value)
    g[:] = 0
    value[:] = 0
    term = 0
    for pair in range(len(pairs)):
        i, j = pairs[pair, 0], pairs[pair, 1]
        for c in range(channels):
            product[c] = a[i, c] * a[j, c]
            slope[c] = 0
        while term < pairs[pair, 2]:
            k = terms[term, 0]
            for c in range(channels):
                slope[c] += coefficients[z, term, c] * a[k, c]
                g[k, c] += coefficients[z, term, c] * product[c]
            term += 1
        for c in range(channels):
            value[c] += product[c] * slope[c]
            g[i, c] += slope[c] * a[j, c]
        for c in range(channels):
            g[j, c] += slope[c] * a[i, c]


@compiled
def contract_with_slope(  # type: ignore[no-untyped-def]
    begin, end, part, inputs, polynomial, results
):
    """A polynomial with one component, and its gradient.

    Args:
        begin: first atom.
        end: one past the last.
        part: not used.
        inputs: variables (n, M, C), after which variable M is 1; element of each atom (n,).
        polynomial: `pairs`, `terms` and `coefficients` of a `Polynomial`.
        results: values (n, 1, C), and their gradient (n, M, C).
    """
    mixed, element = inputs
    values, gradient = results
    n_variables, channels = mixed.shape[1], mixed.shape[2]
    a = np.ones((n_variables + 1, channels), mixed.dtype)
    g = np.zeros((n_variables + 1, channels), mixed.dtype)
    product = np.zeros(channels, mixed.dtype)
    slope = np.zeros(channels, mixed.dtype)
    value = np.zeros(channels, mixed.dtype)
    for atom in range(begin, end):
        put(mixed[atom], a)
        contract_atom(polynomial, element[atom], a, (value, g, product, slope))
        for c in range(channels):
            values[atom, 0, c] = value[c]
        put(g, gradient[atom])


@compiled
def contract(begin, end, part, inputs, polynomial, results):  # type: ignore[no-untyped-def]
    """A polynomial's components, (n, K, C). See `contract_with_slope`."""
    mixed, element = inputs
    pairs, terms, coefficients = polynomial
    (values,) = results
    n_variables, channels = mixed.shape[1], mixed.shape[2]
    a = np.ones((n_variables + 1, channels), mixed.dtype)
    value = np.zeros((values.shape[1], channels), mixed.dtype)
    product = np.zeros(channels, mixed.dtype)
    for atom in range(begin, end):
        put(mixed[atom], a)
        value[:] = 0
        z = element[atom]
        term = 0
        for pair in range(len(pairs)):
            i, j = pairs[pair, 0], pairs[pair, 1]
            for c in range(channels):
                product[c] = a[i, c] * a[j, c]
            while term < pairs[pair, 2]:
                k, o = terms[term, 0], terms[term, 1]
                for c in range(channels):
                    value[o, c] += coefficients[z, term, c] * a[k, c] * product[c]
                term += 1
        put(value, values[atom])


@compiled
def contract_back(begin, end, part, inputs, polynomial, results):  # type: ignore[no-untyped-def]
    """The way back through `contract`: `results` are gradients (n, K, C), read, and (n, M, C)."""
    mixed, element = inputs
    pairs, terms, coefficients = polynomial
    by_values, gradient = results
    n_variables, channels = mixed.shape[1], mixed.shape[2]
    a = np.ones((n_variables + 1, channels), mixed.dtype)
    g = np.zeros((n_variables + 1, channels), mixed.dtype)
    product = np.zeros(channels, mixed.dtype)
    slope = np.zeros(channels, mixed.dtype)
    for atom in range(begin, end):
        put(mixed[atom], a)
        g[:] = 0
        z = element[atom]
        term = 0
        for pair in range(len(pairs)):
            i, j = pairs[pair, 0], pairs[pair, 1]
            for c in range(channels):
                product[c] = a[i, c] * a[j, c]
                slope[c] = 0
            while term < pairs[pair, 2]:
                k, o = terms[term, 0], terms[term, 1]
                for c in range(channels):
                    w = coefficients[z, term, c] * by_values[atom, o, c]
                    slope[c] += w * a[k, c]
                    g[k, c] += w * product[c]
                term += 1
            for c in range(channels):
                g[i, c] += slope[c] * a[j, c]
            for c in range(channels):
                g[j, c] += slope[c] * a[i, c]
        put(g, gradient[atom])


@compiled
def pull_weights(begin, end, part, inputs, polynomial, results):  # type: ignore[no-untyped-def]
    """Gradient of `contract` by coefficients.

    Args:
        begin: first atom.
        end: one past the last.
        part: the one that this thread adds to.
        inputs: as in `contract_with_slope`.
        polynomial: as there.
        results: gradient by components (n, K, C), read; and by coefficients, (parts, elements, T,
            C), added to.
    """
    mixed, element = inputs
    pairs, terms, _ = polynomial
    by_values, by_coefficients = results
    n_variables, channels = mixed.shape[1], mixed.shape[2]
    a = np.ones((n_variables + 1, channels), mixed.dtype)
    product = np.zeros(channels, mixed.dtype)
    for atom in range(begin, end):
        put(mixed[atom], a)
        z = element[atom]
        term = 0
        for pair in range(len(pairs)):
            i, j = pairs[pair, 0], pairs[pair, 1]
            for c in range(channels):
                product[c] = a[i, c] * a[j, c]
            while term < pairs[pair, 2]:
                k, o = terms[term, 0], terms[term, 1]
                for c in range(channels):
                    by_coefficients[part, z, term, c] += by_values[atom, o, c] * (
                        product[c] * a[k, c]
                    )
                term += 1


@compiled
def contract_twice(begin, end, part, inputs, polynomial, results):  # type: ignore[no-untyped-def]
    """The way back through `contract_back`: of its result, weighted with V and summed.

    With D = V_i a_j a_k + a_i V_j a_k + a_i a_j V_k of each term, that sum is Σ w · g · D.

    Args:
        begin: first atom.
        end: one past the last.
        part: the one that this thread adds to.
        inputs: variables a (n, M, C); elements (n,); g (n, K, C); V (n, M, C).
        polynomial: as in `contract_with_slope`.
        results: gradients by a (n, M, C) and by g (n, K, C), and by coefficients, (parts,
            elements, T, C), added to.
    """
    mixed, element, by_values, direction = inputs
    pairs, terms, coefficients = polynomial
    by_mixed, by_gradient, by_coefficients = results
    n_variables, channels = mixed.shape[1], mixed.shape[2]
    a = np.ones((n_variables + 1, channels), mixed.dtype)
    v = np.zeros((n_variables + 1, channels), mixed.dtype)
    h = np.zeros((n_variables + 1, channels), mixed.dtype)
    product = np.zeros(channels, mixed.dtype)
    change = np.zeros(channels, mixed.dtype)
    slope = np.zeros(channels, mixed.dtype)
    turn = np.zeros(channels, mixed.dtype)
    for atom in range(begin, end):
        put(mixed[atom], a)
        put(direction[atom], v)
        h[:] = 0
        by_gradient[atom] = 0
        z = element[atom]
        term = 0
        for pair in range(len(pairs)):
            i, j = pairs[pair, 0], pairs[pair, 1]
            for c in range(channels):
                product[c] = a[i, c] * a[j, c]
                change[c] = v[i, c] * a[j, c] + a[i, c] * v[j, c]
                slope[c] = 0
                turn[c] = 0
            while term < pairs[pair, 2]:
                k, o = terms[term, 0], terms[term, 1]
                for c in range(channels):
                    d = change[c] * a[k, c] + product[c] * v[k, c]
                    by_gradient[atom, o, c] += coefficients[z, term, c] * d
                    by_coefficients[part, z, term, c] += by_values[atom, o, c] * d
                for c in range(channels):
                    w = coefficients[z, term, c] * by_values[atom, o, c]
                    slope[c] += w * a[k, c]
                    turn[c] += w * v[k, c]
                    h[k, c] += w * change[c]
                term += 1
            for c in range(channels):
                h[i, c] += slope[c] * v[j, c] + turn[c] * a[j, c]
            for c in range(channels):
                h[j, c] += slope[c] * v[i, c] + turn[c] * a[i, c]
        put(h, by_mixed[atom])
