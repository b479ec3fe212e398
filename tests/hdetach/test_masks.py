"""p is the probability to detach: both ends, the share in between, and the random stream."""

import pytest
import torch

from captioner.errors import OptionError
from captioner.hdetach.masks import sample_keep


def test_p_zero_keeps_all_and_draws_nothing():
    generator = torch.Generator().manual_seed(1)
    before = generator.get_state()
    assert torch.equal(sample_keep(50, 0.0, generator=generator), torch.ones(50))
    assert torch.equal(generator.get_state(), before)


def test_p_one_detaches_all():
    keep = sample_keep(5000, 1.0, generator=torch.Generator().manual_seed(1))
    assert not keep.any()


def test_p_is_the_probability_to_detach():
    keep = sample_keep(20000, 0.25, generator=torch.Generator().manual_seed(1))
    assert abs((keep == 0).float().mean() - 0.25) < 0.01
    assert set(keep.unique().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize("p", [-0.1, 1.5, float("nan")])
def test_a_value_that_is_no_probability_is_named(p):
    with pytest.raises(OptionError, match=f"p is {p}; a probability lies between 0 and 1"):
        sample_keep(3, p, generator=torch.Generator())


def test_rows_draw_for_themselves_when_asked():
    keep = sample_keep(2000, 0.25, batch_size=4, generator=torch.Generator().manual_seed(1))
    assert keep.shape == (2000, 4)
    assert not torch.equal(keep[:, 0], keep[:, 1])
    assert (keep.mean(0) - 0.75).abs().max() < 0.05


def test_without_a_generator_the_draw_follows_torchs_seed():
    draws = []
    for _ in range(2):
        torch.manual_seed(4)
        draws.append(sample_keep(50, 0.5, generator=None))
    assert torch.equal(*draws)
