"""The operators on cases worked by hand: DPIAT notes, section 1.6."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kzoo.methods.operators import OPERATORS, axis_placements, centred, evenly, lay

SIZES = st.integers(1, 12)


def test_a_vector_of_5_lands_at_1_to_5_of_8():
    target = torch.zeros(8)
    lay(torch.arange(1.0, 6.0), target, (centred(5, 8),))
    assert target.tolist() == [0, 1, 2, 3, 4, 5, 0, 0]


def test_of_a_vector_of_8_the_entries_1_to_5_are_taken_for_5():
    target = torch.zeros(5)
    lay(torch.arange(8.0), target, (centred(8, 5),))
    assert target.tolist() == [1, 2, 3, 4, 5]


def test_linear_5_to_4_into_2_to_7_fills_rows_1_to_4_from_columns_1_and_2():
    source, target = torch.arange(20.0).reshape(4, 5), torch.full((7, 2), -1.0)
    lay(source, target, (centred(4, 7), centred(5, 2)))
    assert target[1:5].tolist() == [[1, 2], [6, 7], [11, 12], [16, 17]]
    assert (target[[0, 5, 6]] == -1).all()


@given(SIZES, SIZES)
def test_centred_keeps_the_smaller_size_and_is_the_identity_for_equal_ones(source, target):
    place = centred(source, target)
    assert place.source.stop - place.source.start == place.target.stop - place.target.start == min(source, target)
    # The rest is split so that the end gets the odd one.
    before, after = place.target.start, target - place.target.stop
    assert after - before in (0, 1)
    assert place.source.start in ((source - min(source, target)) // 2,)


def test_magnitude_keeps_the_largest_channels_in_their_order():
    weight = torch.tensor([[1.0, -1.0], [5.0, 0.0], [0.0, 0.5], [-2.0, -2.0]])
    rows, columns = axis_placements("magnitude", weight, (2, 2), (0, 1), 0, "x")
    assert rows.source.tolist() == [1, 3]
    assert columns.source == slice(0, 2)


def test_magnitude_of_a_vector_looks_at_each_entry():
    (place,) = axis_placements("magnitude", torch.tensor([3.0, 1.0, -5.0, 2.0]), (2,), (0,), 0, "x")
    assert place.source.tolist() == [0, 2]


def test_magnitude_pastes_a_growing_axis_at_the_start_and_crops_space_in_the_centre():
    weight = torch.zeros(2, 3, 5, 5)
    out, into, height, _ = axis_placements("magnitude", weight, (4, 3, 3, 3), (0, 1), 0, "x")
    assert out.target == slice(0, 2)
    assert into.target == slice(0, 3)
    assert (height.source, height.target) == (slice(1, 4), slice(0, 3))


def test_full_has_the_source_in_the_centre_and_source_entries_around_it():
    source, target = torch.arange(10.0, 13.0), torch.full((8,), -1.0)
    lay(source, target, axis_placements("full", source, (8,), (0,), 0, "layer"))
    assert target[2:5].tolist() == [10, 11, 12]
    assert set(target.tolist()) <= {10.0, 11.0, 12.0}


def test_full_draws_by_seed_and_name():
    def drawn(seed, name):
        return axis_placements("full", torch.zeros(50), (99,), (0,), seed, name)[0].source.tolist()

    assert drawn(0, "a") == drawn(0, "a")
    assert drawn(0, "a") != drawn(1, "a")
    assert drawn(0, "a") != drawn(0, "b")


@pytest.mark.parametrize("operator", OPERATORS)
def test_equal_shapes_are_copied_whole(operator):
    source, target = torch.rand(4, 3, 3, 3), torch.zeros(4, 3, 3, 3)
    lay(source, target, axis_placements(operator, source, (4, 3, 3, 3), (0, 1), 0, "x"))
    assert torch.equal(source, target)


def test_weight_selection_takes_entries_at_even_distances():
    assert evenly(12, 4).source.tolist() == [0, 3, 6, 9]
    assert evenly(8, 3).source.tolist() == [0, 2, 5]
    assert evenly(4, 4).source == slice(0, 4)
