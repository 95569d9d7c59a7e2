"""Schedules against PyTorch's, and at the points where their values are known."""

import pytest

from tinymnv1.errors import ConfigError
from tinymnv1.schedules import constant, cosine, one_cycle, step_decay, warmup


def torch_rates(make, steps):
    torch = pytest.importorskip("torch", reason="PyTorch is the judge of this test; install the [test] extra")
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], 0.3)
    scheduler = make(torch.optim.lr_scheduler, optimizer)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize("steps", [7, 40, 391])
def test_against_torch(steps):
    pairs = [
        (cosine(0.3, steps, 0.01), lambda s, o: s.CosineAnnealingLR(o, steps, 0.01)),
        (one_cycle(0.3, steps), lambda s, o: s.OneCycleLR(o, 0.3, total_steps=steps + 1)),
        (step_decay(0.3, [2, 5]), lambda s, o: s.MultiStepLR(o, [2, 5])),
    ]
    pairs[1] = (one_cycle(0.3, steps + 1), pairs[1][1])  # PyTorch's own scheduler may not step past its end
    for ours, theirs in pairs:
        assert [ours(step) for step in range(steps)] == pytest.approx(torch_rates(theirs, steps), rel=1e-9)


def test_known_points():
    assert constant(0.1)(10**6) == 0.1
    half = cosine(1.0, 100)
    assert (half(0), half(50), half(100), half(1000)) == pytest.approx((1, 0.5, 0, 0))
    cycle = one_cycle(1.0, 100, rise=0.3)
    assert cycle(29) == pytest.approx(1)
    assert cycle(0) == pytest.approx(1 / 25)
    assert cycle(99) == pytest.approx(1 / 25e4)
    assert [step_decay(1.0, [2, 3], 0.5)(s) for s in range(5)] == [1, 1, 0.5, 0.25, 0.25]


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_one_cycle_survives_very_short_runs(steps):
    assert all(0 < one_cycle(0.1, steps)(s) <= 0.1 for s in range(steps + 2))


def test_warmup_multiplies_the_first_steps():
    rates = [warmup(constant(2.0), 4)(s) for s in range(6)]
    assert rates == pytest.approx([0.5, 1.0, 1.5, 2.0, 2.0, 2.0])
    assert warmup(constant(2.0), 0)(0) == 2.0


def test_settings_that_cannot_work_are_refused():
    for make in (
        lambda: cosine(1, 0),
        lambda: one_cycle(1, 10, rise=0),
        lambda: step_decay(1, [3, 2]),
        lambda: warmup(constant(1), -1),
    ):
        with pytest.raises(ConfigError):
            make()
