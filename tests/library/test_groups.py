"""A point group is a table: its matrices form a group, and its tables are that group's tables."""

import copy
import dataclasses
import pickle

import numpy as np
import pytest
import torch

from pdoe import PointGroup

ROTATIONS = ["p1", "p2", "p3", "p4", "p5", "p6", "p8", "p12", "p16"]
MIRRORED = ["p1m", "p2m", "p3m", "p4m", "p6m", "p8m"]
every_group = pytest.mark.parametrize("name", ROTATIONS + MIRRORED)


def tables(name):
    group = PointGroup.named(name)
    return (
        np.asarray(group.matrices),
        np.asarray(group.product),
        np.asarray(group.quotient),
        np.asarray(group.inverse),
    )


@every_group
def test_a_name_makes_the_group_and_the_group_knows_its_name(name):
    n, reflections = int(name[1:].rstrip("m")), name.endswith("m")
    group = PointGroup.named(name)
    assert group == PointGroup(n, reflections)
    assert group.name == name
    assert len(group) == (2 * n if reflections else n)


@every_group
def test_element_m_n_plus_r_is_r_turns_after_m_reflections_of_y(name):
    matrices, *_ = tables(name)
    n, reflections = int(name[1:].rstrip("m")), name.endswith("m")
    for m in range(1 + reflections):
        for r in range(n):
            c, s = np.cos(2 * np.pi * r / n), np.sin(2 * np.pi * r / n)
            expected = np.array([[c, -s], [s, c]]) @ np.diag([1.0, -1.0 if m else 1.0])
            np.testing.assert_allclose(matrices[m * n + r], expected, rtol=0, atol=1e-14)


@every_group
def test_the_tables_have_the_documented_types(name):
    matrices, product, quotient, inverse = tables(name)
    order = len(PointGroup.named(name))
    assert (matrices.dtype, matrices.shape) == (np.float64, (order, 2, 2))
    assert (product.dtype, product.shape) == (np.int64, (order, order))
    assert (quotient.dtype, quotient.shape) == (np.int64, (order, order))
    assert (inverse.dtype, inverse.shape) == (np.int64, (order,))


@every_group
def test_the_matrices_are_distinct_and_orthogonal_and_the_first_is_the_identity(name):
    matrices, *_ = tables(name)
    np.testing.assert_array_equal(matrices[0], np.eye(2))
    squares = matrices @ matrices.swapaxes(1, 2) - np.eye(2)
    np.testing.assert_allclose(squares, 0, rtol=0, atol=1e-14)
    distance = np.abs(matrices[:, None] - matrices).max((2, 3)) + np.eye(len(matrices))
    assert distance.min() > 1e-2 or len(matrices) == 1


@every_group
def test_the_product_table_multiplies_the_matrices(name):
    matrices, product, *_ = tables(name)
    np.testing.assert_allclose(matrices[:, None] @ matrices, matrices[product], rtol=0, atol=1e-12)


@every_group
def test_the_quotient_table_is_the_inverse_of_the_first_times_the_second(name):
    matrices, _, quotient, _ = tables(name)
    expected = np.linalg.inv(matrices)[:, None] @ matrices
    np.testing.assert_allclose(expected, matrices[quotient], rtol=0, atol=1e-12)


@every_group
def test_the_inverse_table_inverts_the_matrices(name):
    matrices, _, _, inverse = tables(name)
    np.testing.assert_allclose(np.linalg.inv(matrices), matrices[inverse], rtol=0, atol=1e-12)


@every_group
def test_the_tables_satisfy_the_group_axioms(name):
    _, product, quotient, inverse = tables(name)
    everything = np.arange(len(product))
    np.testing.assert_array_equal(product[0], everything)
    np.testing.assert_array_equal(product[:, 0], everything)
    np.testing.assert_array_equal(product[everything, inverse], 0)
    np.testing.assert_array_equal(product[inverse, everything], 0)
    np.testing.assert_array_equal(product[product], product[everything[:, None, None], product])
    np.testing.assert_array_equal(
        product[everything[:, None], quotient], everything[None].repeat(len(product), 0)
    )
    for table in (product, quotient):
        np.testing.assert_array_equal(np.sort(table, 0), everything[:, None].repeat(len(table), 1))
        np.testing.assert_array_equal(np.sort(table, 1), everything[None].repeat(len(table), 0))


@pytest.mark.parametrize("name", ["p3m", "p4m", "p6m", "p8m"])
def test_turns_and_reflections_do_not_commute(name):
    _, product, *_ = tables(name)
    assert (product != product.T).any()


def test_tables_are_ordinary_tensors_wherever_they_are_first_asked_for():
    group, elsewhere = PointGroup(5, reflections=True), PointGroup(5, reflections=True)
    for table in ("matrices", "product", "inverse", "quotient"):
        with torch.inference_mode(), torch.device("meta"):
            found = getattr(elsewhere, table)
        assert not found.is_inference() and found.device.type == "cpu"
        assert torch.equal(found, getattr(group, table))


def test_groups_are_values_that_can_be_compared_hashed_copied_and_pickled():
    group = PointGroup(6, reflections=True)
    assert group != PointGroup(6) and group != PointGroup(12)
    assert {group: "found"}[PointGroup.named("p6m")] == "found"
    assert len(group.product) == 12  # a table that has been asked for must not get in the way
    for twin in (copy.copy(group), copy.deepcopy(group), pickle.loads(pickle.dumps(group))):
        assert twin == group and hash(twin) == hash(group)
        np.testing.assert_array_equal(np.asarray(twin.quotient), np.asarray(group.quotient))


def test_groups_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        PointGroup(4).n = 8


@pytest.mark.parametrize("order", [0, -1, 2.5, 4.0, float("nan"), True, "4", None, [4]])
def test_an_order_that_is_no_positive_integer_raises_and_says_so(order):
    with pytest.raises((ValueError, TypeError)) as failure:
        PointGroup(order)
    assert str(order) in str(failure.value)
    assert "positive integer" in str(failure.value)


def test_reflections_is_a_truth_value_and_nothing_else():
    with pytest.raises((ValueError, TypeError), match="no"):
        PointGroup(4, reflections="no")


@pytest.mark.parametrize(("name", "known"), [("C8", "p8"), ("C1", "p1"), ("D4", "p4m")])
def test_the_names_of_escnn_are_known_too(name, known):
    assert PointGroup.named(name) == PointGroup.named(known)
    assert PointGroup.named(name).name == known


def test_a_group_whose_tables_would_be_huge_is_refused_with_the_reason():
    for make in (lambda: PointGroup(100_000), lambda: PointGroup.named("p100000")):
        with pytest.raises(ValueError, match="at most 1000, not 100000: its index tables"):
            make()


@pytest.mark.parametrize(
    "name",
    ["p0", "q8", "C0", "c8", "D4m", "Cm", "p99999999999999999999",
     "p", "p4x", "P4", "", "4", "m", "pm", "p0m", "p-4", "p4.0", "p04", " p4", "p4 ", "p4\n",
     "p4mm", "p4M", "pp4", "p\u0664", "p4m1", "hexagonal"],
)  # fmt: skip
def test_a_wrong_name_raises_and_says_what_is_allowed(name):
    with pytest.raises(ValueError) as failure:
        PointGroup.named(name)
    message = str(failure.value)
    assert name in message or repr(name) in message
    assert "p4" in message.replace(repr(name), "") and "p6m" in message


@pytest.mark.parametrize("name", [4, None, ("p4",), b"p4"])
def test_a_name_that_is_no_string_raises(name):
    with pytest.raises((ValueError, TypeError)) as failure:
        PointGroup.named(name)
    assert repr(name) in str(failure.value)
