"""Filter banks: stencils that differentiate, operators that turn, kernels that turn with them."""

import functools
from fractions import Fraction
from math import factorial, pi

import numpy as np
import pytest
import sympy

from pdoe import PointGroup, filter_bank
from pdoe.banks import BANKS, JET, OPERATORS, operators, rotate_operator, stencil

NINE = [(0, 0), (1, 0), (0, 1), (2, 0), (1, 1), (0, 2), (2, 1), (1, 2), (2, 2)]
FIFTEEN = [
    *[(0, 0), (1, 0), (0, 1), (2, 0), (1, 1), (0, 2), (3, 0), (2, 1), (1, 2), (0, 3)],
    *[(4, 0), (3, 1), (2, 2), (1, 3), (0, 4)],
]
ON_THE_GRID = ["p1", "p2", "p4", "p1m", "p2m", "p4m"]
OFF_THE_GRID = ["p3", "p5", "p6", "p8", "p12", "p16", "p3m", "p6m", "p8m"]
X, Y = np.meshgrid(range(-2, 3), range(2, -3, -1))  # x points right, y points up


def frame(angle, mirrored=False):
    """R(angle) F^m: u and v are its columns."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s], [s, c]]) @ np.diag([1.0, -1.0 if mirrored else 1.0])


def names(pairs):
    return ["u" * i + "v" * j or "1" for i, j in pairs]


# --- stencils ------------------------------------------------------------------------------------


def test_the_operators_and_the_jet_come_in_the_documented_order():
    assert [tuple(pair) for pair in OPERATORS] == NINE
    assert [tuple(pair) for pair in JET] == FIFTEEN


@functools.cache
def central(order):
    """sympy's central difference on the fewest points that give second order, inside five."""
    reach = (order + 1) // 2
    points = list(range(-reach, reach + 1))
    weights = sympy.finite_diff_weights(order, points, 0)[order][-1]
    return (
        [Fraction(0)] * (2 - reach)
        + [Fraction(w.p, w.q) for w in weights]
        + [Fraction(0)] * (2 - reach)
    )


@pytest.mark.parametrize("i, j", FIFTEEN, ids=names(FIFTEEN))
def test_a_stencil_is_sympys_central_difference_along_each_axis(i, j):
    expected = [[down * right for right in central(i)] for down in reversed(central(j))]
    assert [[Fraction(tap) for tap in row] for row in stencil(i, j).tolist()] == expected


def on_monomial(taps, a, b):
    """The stencil on x^a y^b, in exact rational arithmetic."""
    terms = zip(taps.ravel().tolist(), X.ravel().tolist(), Y.ravel().tolist(), strict=True)
    return sum(Fraction(tap) * Fraction(x) ** a * Fraction(y) ** b for tap, x, y in terms)


@pytest.mark.parametrize("i, j", FIFTEEN, ids=names(FIFTEEN))
def test_a_stencil_differentiates_monomials_exactly_up_to_one_degree_more_than_its_order(i, j):
    for a in range(i + j + 2):
        for b in range(i + j + 2 - a):
            derivative = factorial(i) * factorial(j) if (a, b) == (i, j) else 0
            assert on_monomial(stencil(i, j), a, b) == derivative


@pytest.mark.parametrize("i, j", FIFTEEN[1:], ids=names(FIFTEEN[1:]))
def test_a_stencil_is_of_second_order_and_no_better(i, j):
    degree = i + j + 2
    assert any(on_monomial(stencil(i, j), a, degree - a) != 0 for a in range(degree + 1))


@pytest.mark.parametrize("i, j", FIFTEEN, ids=names(FIFTEEN))
def test_a_finer_grid_divides_by_the_spacing_once_per_derivative(i, j):
    np.testing.assert_array_equal(stencil(i, j, 0.25), stencil(i, j) * 4.0 ** (i + j))


# --- turned operators ----------------------------------------------------------------------------


@functools.cache
def expansion(i, j, mirrored):
    """The jet coefficients of the operator as functions of c and s, by symbolic expansion."""
    c, s, dx, dy = sympy.symbols("c s dx dy")
    dv = s * dx - c * dy if mirrored else -s * dx + c * dy
    polynomial = sympy.Poly(sympy.expand((c * dx + s * dy) ** i * dv**j), dx, dy)
    return sympy.lambdify((c, s), [polynomial.coeff_monomial(dx**p * dy**q) for p, q in FIFTEEN])


@pytest.mark.parametrize("mirrored", [False, True], ids=["turned", "mirrored"])
@pytest.mark.parametrize("i, j", NINE, ids=names(NINE))
def test_a_turned_operator_is_its_symbolic_expansion(i, j, mirrored):
    for c, s in [(1, 0), (0, 1), (3 / 5, 4 / 5), (-5 / 13, 12 / 13), (-8 / 17, -15 / 17)]:
        axes = np.array([[c, s if mirrored else -s], [s, -c if mirrored else c]])
        expected = np.array(expansion(i, j, mirrored)(c, s), dtype=float)
        np.testing.assert_allclose(rotate_operator(i, j, axes), expected, rtol=0, atol=1e-14)


@functools.cache
def derivative_along_axes(i, j, a, b):
    """d_u^i d_v^j of x^a y^b at the origin, a function of the axes, by symbolic calculus."""
    x, y, ux, uy, vx, vy = sympy.symbols("x y ux uy vx vy")
    f = x**a * y**b
    for dx, dy in [(ux, uy)] * i + [(vx, vy)] * j:
        f = sympy.expand(dx * sympy.diff(f, x) + dy * sympy.diff(f, y))
    return sympy.lambdify((ux, uy, vx, vy), f.subs({x: 0, y: 0}))


@pytest.mark.parametrize("mirrored", [False, True], ids=["turned", "mirrored"])
@pytest.mark.parametrize("spacing", [1.0, 0.5])
def test_operators_differentiate_polynomials_along_the_columns_of_the_frame(mirrored, spacing):
    frames = np.stack([frame(angle, mirrored) for angle in (0.0, 0.3, 1.9, -2.4)])
    bank = operators(frames, spacing)
    assert bank.shape == (4, 9, 5, 5) and bank.dtype == np.float64
    for k, (i, j) in enumerate(NINE):
        for a in range(i + j + 2):
            for b in range(i + j + 2 - a):
                monomial = (spacing * X) ** a * (spacing * Y) ** b
                found = (bank[:, k] * monomial).sum((1, 2))
                u, v = frames[:, :, 0], frames[:, :, 1]
                expected = derivative_along_axes(i, j, a, b)(u[:, 0], u[:, 1], v[:, 0], v[:, 1])
                np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("angle", [0.0, pi / 8, 0.3, 2.5, -1.0])
def test_a_quarter_turn_of_any_frame_turns_every_operator_exactly(angle):
    still, quarter = operators(np.stack([frame(angle), frame(angle + pi / 2)]))
    np.testing.assert_allclose(quarter, np.rot90(still, 1, (1, 2)), rtol=0, atol=1e-12)


@pytest.mark.parametrize("angle", [0.0, pi / 8, 0.3, 2.5, -1.0])
def test_a_mirrored_frame_mirrors_every_operator_exactly(angle):
    still, mirrored = operators(np.stack([frame(angle), frame(-angle, mirrored=True)]))
    np.testing.assert_allclose(mirrored, still[:, ::-1], rtol=0, atol=1e-12)


# --- the bank of operators -----------------------------------------------------------------------


def kernels(bank, weight):
    return np.einsum("gkyx,k->gyx", bank, weight)


def in_five(bank):
    ring = (5 - bank.shape[-1]) // 2
    return np.pad(bank, [(0, 0)] * (bank.ndim - 2) + [(ring, ring)] * 2)


@pytest.mark.parametrize("name", ON_THE_GRID + OFF_THE_GRID)
def test_in_the_identity_frame_the_kernel_is_the_weight_inside_a_ring_of_zeros(name):
    bank = filter_bank(PointGroup.named(name))
    expected = np.pad(np.eye(9).reshape(9, 3, 3), [(0, 0), (1, 1), (1, 1)])
    np.testing.assert_allclose(in_five(bank[0]), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("offset", [0.0, pi / 8, -0.7])
@pytest.mark.parametrize("name", ["p3", "p4", "p8", "p12", "p1m", "p4m", "p6m"])
def test_the_kernel_of_g_is_the_operator_of_the_weight_in_the_frame_of_g(name, offset):
    group = PointGroup.named(name)
    weight = np.random.default_rng(0).normal(size=9)
    at_identity = operators(np.eye(2)[None])[0, :, 1:4, 1:4].reshape(9, 9)
    coefficients = np.linalg.solve(at_identity.T, weight)  # weight = sum of coefficient x operator
    frames = np.asarray(group.matrices) @ frame(offset)
    expected = np.einsum("k,gkyx->gyx", coefficients, operators(frames))
    found = in_five(kernels(filter_bank(group, offset=offset), weight))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("quarters", [0, 1, 2, 3, -1, 5])
@pytest.mark.parametrize("name", ON_THE_GRID)
def test_groups_of_the_grid_need_three_by_three_pixels(name, quarters):
    group = PointGroup.named(name)
    assert filter_bank(group, offset=quarters * pi / 2).shape == (len(group), 9, 3, 3)


@pytest.mark.parametrize(
    "name, offset",
    [(name, offset) for name in ON_THE_GRID for offset in (pi / 8, pi / 4, 0.01)]
    + [(name, offset) for name in OFF_THE_GRID for offset in (0.0, pi / 8)],
)
def test_every_other_frame_needs_five_by_five_pixels(name, offset):
    group = PointGroup.named(name)
    assert filter_bank(group, offset=offset).shape == (len(group), 9, 5, 5)


def test_no_operator_reaches_the_corners_of_five_by_five():
    bank = filter_bank(PointGroup(8, reflections=True), offset=pi / 8)
    np.testing.assert_allclose(bank[..., ::4, ::4], 0, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ON_THE_GRID)
def test_for_groups_of_the_grid_operators_are_the_turned_pixels(name):
    group = PointGroup.named(name)
    np.testing.assert_allclose(
        filter_bank(group, "operators"), filter_bank(group, "pixels"), rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("offset", [0.0, pi / 8])
@pytest.mark.parametrize("name", ["p4", "p8", "p12", "p16", "p4m", "p8m"])
def test_an_element_a_quarter_turn_further_has_the_kernel_a_quarter_turn_further(name, offset):
    group = PointGroup.named(name)
    bank = filter_bank(group, offset=offset)[: group.n]
    expected = np.rot90(bank, 1, (2, 3))
    found = np.roll(bank, -(group.n // 4), 0)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("offset", [0.0, pi / 8])
@pytest.mark.parametrize("name", ["p1m", "p2m", "p3m", "p4m", "p6m", "p8m"])
def test_the_reflection_of_a_turn_has_its_kernel_upside_down(name, offset):
    group = PointGroup.named(name)
    bank = filter_bank(group, offset=offset)
    for r in range(group.n):  # R(-t) F = F R(t)
        found = bank[group.n + (-r) % group.n]
        np.testing.assert_allclose(found, bank[r][:, ::-1], rtol=0, atol=1e-12)


@pytest.mark.parametrize("offset", [0.0, pi / 8])
@pytest.mark.parametrize("name", ["p2", "p4", "p6", "p8", "p12", "p2m", "p4m", "p6m", "p8m"])
def test_elements_that_keep_the_grid_move_the_kernels_of_all_others(name, offset, by_matrices):
    group = PointGroup.named(name)
    bank, product = filter_bank(group, offset=offset), np.asarray(group.product)
    for g in by_matrices.keepers(group):
        expected = by_matrices.moved(group, g, bank)
        np.testing.assert_allclose(bank[product[g]], expected, rtol=0, atol=1e-12)


# --- every bank ----------------------------------------------------------------------------------


@pytest.mark.parametrize("bank", BANKS)
def test_the_filters_of_every_bank_move_with_the_elements_that_keep_the_grid(bank, by_matrices):
    # On a hexagonal lattice reflections are no flips of the array: p6 has the rotation by 180.
    group = PointGroup.named({"pixels": "p4m", "hexagon": "p6"}.get(bank, "p8m"))
    filters, product = filter_bank(group, bank), np.asarray(group.product)
    for g in by_matrices.keepers(group):
        expected = by_matrices.moved(group, g, filters)
        np.testing.assert_allclose(filters[product[g]], expected, rtol=0, atol=1e-12)


# --- the other banks -----------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 7])
@pytest.mark.parametrize("name", ON_THE_GRID)
def test_pixels_of_any_size_are_moved_as_the_matrices_say(name, size, by_matrices):
    group = PointGroup.named(name)
    bank = filter_bank(group, "pixels", size=size)
    assert bank.shape == (len(group), size * size, size, size) and bank.dtype == np.float64
    reference = np.eye(size * size).reshape(1, -1, size, size)
    for g in range(len(group)):
        np.testing.assert_array_equal(bank[g], by_matrices.moved(group, g, reference)[0])


@pytest.mark.parametrize("name", ["p3", "p6", "p8", "p12", "p6m", "p8m"])
def test_pixels_cannot_be_turned_off_the_grid(name):
    with pytest.raises(ValueError, match=rf"\b{name}\b"):
        filter_bank(PointGroup.named(name), "pixels")


def test_pixels_cannot_have_an_offset():
    with pytest.raises(ValueError, match="offset"):
        filter_bank(PointGroup(4), "pixels", offset=pi / 8)


@pytest.mark.parametrize("name", ["p1", "p6", "p8m"])
def test_a_point_is_a_point_in_every_frame(name):
    group = PointGroup.named(name)
    np.testing.assert_array_equal(filter_bank(group, "point"), np.ones((len(group), 1, 1, 1)))
    with pytest.raises(ValueError, match="3"):
        filter_bank(group, "point", size=3)


@pytest.mark.parametrize("kind", ["operator", "Pixels", "", None, 3])
def test_an_unknown_bank_raises_and_names_those_there_are(kind):
    with pytest.raises((ValueError, TypeError)) as failure:
        filter_bank(PointGroup(4), kind)
    message = str(failure.value)
    assert repr(kind) in message
    assert all(known in message for known in ("operators", "pixels", "point"))


@pytest.mark.parametrize("offset", [float("nan"), float("inf"), "pi/8", None])
def test_an_offset_that_is_no_angle_raises(offset):
    with pytest.raises((ValueError, TypeError)) as failure:
        filter_bank(PointGroup(8), offset=offset)
    assert str(offset) in str(failure.value) and "offset" in str(failure.value)


@pytest.mark.parametrize("kind", ["operators", "pixels"])
@pytest.mark.parametrize("size", [0, -3, 2.5, "3", True])
def test_a_size_that_is_no_positive_integer_raises(kind, size):
    with pytest.raises((ValueError, TypeError)) as failure:
        filter_bank(PointGroup(4), kind, size=size)
    assert str(size) in str(failure.value) and "size" in str(failure.value)


@pytest.mark.parametrize("name, size", [("p8", 3), ("p8", 4), ("p4", 2), ("p4", 1)])
def test_operators_do_not_fit_into_too_few_pixels(name, size):
    with pytest.raises(ValueError, match=str(size)):
        filter_bank(PointGroup.named(name), "operators", size=size)


@pytest.mark.parametrize("group", ["p8", 8, None])
def test_a_bank_is_made_for_a_group_and_not_for_its_name(group):
    with pytest.raises(TypeError, match=str(group)):
        filter_bank(group)


@pytest.mark.parametrize("kind", ["operators", "pixels", "point"])
def test_writing_into_a_bank_leaves_the_next_one_alone(kind):
    first = filter_bank(PointGroup(4), kind)
    expected = first.copy()
    first[:] = 7
    np.testing.assert_array_equal(filter_bank(PointGroup(4), kind), expected)
