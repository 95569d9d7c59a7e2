"""Learning-rate schedules: each is a function of the step (0, 1, 2, ...) and nothing else.

    schedule = warmup(cosine(0.1, total_steps=1000), steps=50)
    optimizer.lr = schedule(step)

Because a schedule has no state, resuming a run at step k needs only k.
"""

import math
from collections.abc import Callable, Sequence

from tinymnv1.errors import ConfigError

Schedule = Callable[[int], float]


def constant(lr: float) -> Schedule:
    """The same rate at every step."""
    return lambda step: lr


def step_decay(lr: float, milestones: Sequence[int], gamma: float = 0.1) -> Schedule:
    """lr, multiplied by gamma at each of the milestones (steps) once it is reached.

    Raises ConfigError unless the milestones increase.
    """
    if list(milestones) != sorted(set(milestones)):
        raise ConfigError(f"milestones must increase, got {list(milestones)}")
    return lambda step: lr * gamma ** sum(step >= m for m in milestones)


def cosine(lr: float, total_steps: int, final_lr: float = 0.0) -> Schedule:
    """From lr down to final_lr along half a cosine (Loshchilov and Hutter 2017, arXiv 1608.03983, equation 5).

    lr(t) = final_lr + (lr - final_lr) (1 + cos(pi t / total_steps)) / 2, and final_lr from total_steps on.
    Raises ConfigError if total_steps is below 1.
    """
    _require_steps(total_steps)

    def schedule(step: int) -> float:
        t = min(step / total_steps, 1.0)
        return final_lr + (lr - final_lr) * (1 + math.cos(math.pi * t)) / 2

    return schedule


def one_cycle(
    lr: float, total_steps: int, rise: float = 0.3, start_factor: float = 25.0, final_factor: float = 1e4
) -> Schedule:
    """Up to lr and down again, both along half a cosine (Smith and Topin 2018, arXiv 1708.07120).

    It starts at lr / start_factor, reaches lr after the fraction `rise` of the steps, and ends, at step
    total_steps - 1, at lr / (start_factor * final_factor). These are PyTorch's OneCycleLR and its defaults.
    Raises ConfigError if total_steps is below 1 or rise is not between 0 and 1.
    """
    _require_steps(total_steps)
    if not 0 < rise < 1:
        raise ConfigError(f"rise must be between 0 and 1, got {rise}")
    start, final = lr / start_factor, lr / (start_factor * final_factor)
    peak, last = rise * total_steps - 1, total_steps - 1

    def between(a: float, b: float, t: float) -> float:
        return b + (a - b) * (1 + math.cos(math.pi * min(max(t, 0.0), 1.0))) / 2

    def schedule(step: int) -> float:
        if step <= peak:
            return between(start, lr, step / peak if peak > 0 else 1.0)
        return between(lr, final, (step - peak) / (last - peak)) if last > peak else final

    return schedule


def warmup(schedule: Schedule, steps: int) -> Schedule:
    """Multiply the first `steps` rates by 1/steps, 2/steps, ..., 1 (Goyal et al. 2017, arXiv 1706.02677).

    Raises ConfigError if steps is below 0.
    """
    if steps < 0:
        raise ConfigError(f"warm-up steps must be at least 0, got {steps}")
    return lambda step: schedule(step) * min((step + 1) / steps, 1.0) if steps else schedule(step)


def _require_steps(total_steps: int) -> None:
    if total_steps < 1:
        raise ConfigError(f"total_steps must be at least 1, got {total_steps}")
