"""Optimizers: SGD with momentum, Adam and AdamW; and clipping by the gradient's norm.

Each one changes the model's parameters in place from their gradients:

    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    engine.forward_backward(x, labels)
    optimizer.step()

Weight decay skips every parameter whose `decay` is False (batch norm, biases, depthwise filters). A pointwise matrix W
may have an `identity` c, with which it decays towards c I instead of zero: in the formulas below, w is then W - c I.
The formulas are those of PyTorch, and the tests hold the two together. They are in `tinymnv1.ops.optimizer`; a model of
the Numba backend takes them from `tinymnv1.kernels.optimizer`. A step goes over whole runs of parameters that lie side
by side in the model's flat buffer (`tinymnv1.parameters`), not over one parameter at a time.
"""

import math
from collections.abc import Iterable

import numpy as np

from tinymnv1.errors import CheckpointError, ConfigError
from tinymnv1.ops.window import Array
from tinymnv1.parameters import Parameter, Run, add_identity, aligned_zeros, runs_of


def _require(name: str, value: float, low: float, below: float = math.inf) -> None:
    if not (math.isfinite(value) and low <= value < below):
        limit = f"from {low} up to, but not including, {below}" if below < math.inf else f"at least {low} and finite"
        raise ConfigError(f"{name} must be {limit}, got {value}")


class Optimizer:
    """What the three share: named parameters, a learning rate that may change, and slots of state per parameter.

    A slot is an array of the parameter's shape, such as the momentum; `slots` names them. `state` has them by slot and
    name: views into one flat array per run and slot, which is what a step works on.
    """

    slots: tuple[str, ...] = ()

    def __init__(self, parameters: Iterable[tuple[str, Parameter]], lr: float, weight_decay: float) -> None:
        _require("lr", lr, 0)
        _require("weight_decay", weight_decay, 0)
        named = list(parameters)
        self.parameters = dict(named)
        if not self.parameters:
            raise ConfigError("the optimizer got no parameters")
        if len(named) > len(self.parameters):
            raise ConfigError("the optimizer got two parameters of one name: of two models, rename one's or use two")
        self.lr, self.weight_decay, self.steps = lr, weight_decay, 0
        self.runs = runs_of(self.parameters.items())
        self.flat_state = [{slot: aligned_zeros(r.data.size, r.data.dtype) for slot in self.slots} for r in self.runs]
        self.state: dict[str, dict[str, Array]] = {slot: {} for slot in self.slots}
        for run, flat in zip(self.runs, self.flat_state, strict=True):
            for slot, array in flat.items():
                self.state[slot] |= {name: run.part(array, p) for name, p in run.parameters.items()}

    def step(self) -> None:
        """Change every parameter once, from its grad, at the current `lr`.

        Raises ConfigError if a parameter was moved to another buffer (`parameters.pack`) after this optimizer was made:
        the step would change numbers that nobody uses any more.
        """
        for run in self.runs:
            if moved := [name for name, p in run.parameters.items() if p.buffer is not run.buffer]:
                raise ConfigError(f"{moved[0]} was packed anew after this optimizer was made: make another optimizer")
        self.steps += 1
        pulled = [p for p in self.parameters.values() if p.identity and self.weight_decay]
        for p in pulled:
            add_identity(p.data, -p.identity)
        try:
            for run, state in zip(self.runs, self.flat_state, strict=True):
                self._update(run, state, self.weight_decay if run.decay else 0.0)
        finally:  # an interrupt does not leave the matrices without it
            for p in pulled:
                add_identity(p.data, p.identity)

    def _update(self, run: Run, state: dict[str, Array], weight_decay: float) -> None:
        raise NotImplementedError

    def state_dict(self) -> dict[str, Array]:
        """Copies of all state arrays, named "momentum.stem.conv.weight" and so on, and the count "steps"."""
        state = {f"{slot}.{name}": a.copy() for slot, arrays in self.state.items() for name, a in arrays.items()}
        return state | {"steps": np.array(self.steps, np.int64)}

    def load_state_dict(self, state: dict[str, Array]) -> None:
        """Take over what `state_dict` gave.

        Raises CheckpointError, changing nothing, if names or shapes differ, or if an array does not hold numbers.
        """
        own = {f"{slot}.{name}": a for slot, arrays in self.state.items() for name, a in arrays.items()}
        shapes = {key: array.shape for key, array in own.items()} | {"steps": ()}
        numbers = all(np.issubdtype(array.dtype, np.number) for array in state.values())
        if {key: array.shape for key, array in state.items()} != shapes or not numbers:
            raise CheckpointError(f"the saved optimizer state does not fit this model and {type(self).__name__}")
        for key, array in own.items():
            array[...] = state[key]
        self.steps = int(state["steps"])


class SGD(Optimizer):
    """Stochastic gradient descent with momentum (Sutskever et al. 2013, in PyTorch's arrangement).

        g = grad + weight_decay * w
        v = momentum * v + g                    (v = g at the first step)
        w = w - lr * v                          or, with Nesterov,  w - lr * (g + momentum * v)

    lr, weight_decay: at least 0.  momentum: in [0, 1).  nesterov needs a momentum above 0. ConfigError otherwise.
    """

    slots = ("momentum",)

    def __init__(
        self,
        parameters: Iterable[tuple[str, Parameter]],
        lr: float,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
    ) -> None:
        _require("momentum", momentum, 0, 1)
        if nesterov and momentum == 0:
            raise ConfigError("nesterov needs a momentum above 0")
        super().__init__(parameters, lr, weight_decay)
        self.momentum, self.nesterov = momentum, nesterov

    def _update(self, run: Run, state: dict[str, Array], weight_decay: float) -> None:
        step = run.buffer.ops.sgd_step
        step(run.data, run.grad, state["momentum"], self.lr, self.momentum, self.nesterov, weight_decay)


class Adam(Optimizer):
    """Adam (Kingma and Ba 2015, arXiv 1412.6980, algorithm 1), weight decay as part of the gradient.

        g = grad + weight_decay * w
        m = beta1 * m + (1 - beta1) * g         running mean of the gradient
        v = beta2 * v + (1 - beta2) * g^2       running mean of its square
        w = w - lr * (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps)

    The divisions by 1 - beta^t undo the pull towards zero of means that start at zero.
    lr, weight_decay: at least 0.  betas: each in [0, 1).  eps: above 0. Raises ConfigError otherwise.
    """

    slots = ("mean", "square")
    decoupled = False

    def __init__(
        self,
        parameters: Iterable[tuple[str, Parameter]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        _require("beta1", betas[0], 0, 1)
        _require("beta2", betas[1], 0, 1)
        if not eps > 0:
            raise ConfigError(f"eps must be above 0, got {eps}")
        super().__init__(parameters, lr, weight_decay)
        self.betas, self.eps = betas, eps

    def _update(self, run: Run, state: dict[str, Array], weight_decay: float) -> None:
        run.buffer.ops.adam_step(
            run.data,
            run.grad,
            state["mean"],
            state["square"],
            self.steps,
            self.lr,
            *self.betas,
            self.eps,
            weight_decay,
            self.decoupled,
        )


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019, arXiv 1711.05101, algorithm 2, in PyTorch's form).

    The weights shrink by the factor 1 - lr * weight_decay on their own; the decay does not pass through Adam's scaling.
    (The paper multiplies the decay by the schedule of lr, not by lr itself.)
    """

    decoupled = True


def clip_gradient_norm(parameters: Iterable[tuple[str, Parameter]], max_norm: float) -> float:
    """Scale all gradients by one factor so that their joint Euclidean norm is at most max_norm.

    Returns the norm before clipping (Pascanu et al. 2013, arXiv 1211.5063, algorithm 1). As in PyTorch, the factor is
    max_norm / (norm + 1e-6). Raises ConfigError unless max_norm is above 0.
    """
    if not max_norm > 0:
        raise ConfigError(f"max_norm must be above 0, got {max_norm}")
    runs = runs_of(parameters)
    norm = math.sqrt(math.fsum(run.buffer.ops.sum_of_squares(run.grad) for run in runs))
    if norm > max_norm:
        for run in runs:
            run.buffer.ops.scale_in_place(run.grad, max_norm / (norm + 1e-6))
    return norm
