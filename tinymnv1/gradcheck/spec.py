"""What is graded: the table of ops, their functions, what these return, and the lesson that each belongs to.

To add an op, add a row here and its cases in cases.py; the README's "Adding an op" walks through one.
"""

from dataclasses import dataclass

from tinymnv1.errors import ConfigError


@dataclass(frozen=True)
class OpSpec:
    """One op.

    name: as in `tinymnv1.ops`.  lesson: the pytest marker.  forward, backward: names of the functions (no backward
    where the forward returns the gradient itself, or where there is none).
    returns: what forward returns, in order; "cache" is handed to backward unseen.
    gradients: what backward returns, in order, each "d" + the name of the input that it belongs to.
    """

    name: str
    lesson: str
    forward: str
    returns: tuple[str, ...]
    backward: str | None = None
    gradients: tuple[str, ...] = ()

    @property
    def functions(self) -> tuple[str, ...]:
        """The names that a learner's file should define."""
        return (self.forward,) if self.backward is None else (self.forward, self.backward)

    @property
    def outputs(self) -> tuple[str, ...]:
        """What forward returns that can be compared: all but the cache."""
        return tuple(name for name in self.returns if name != "cache")


def _pair(name: str, lesson: str, *gradients: str, extra: tuple[str, ...] = ()) -> OpSpec:
    return OpSpec(name, lesson, f"{name}_forward", ("y", "cache", *extra), f"{name}_backward", gradients)


SPECS = (
    _pair("conv2d", "conv2d", "dx", "dw"),
    _pair("depthwise", "depthwise", "dx", "dw"),
    _pair("pointwise", "pointwise", "dx", "dw"),
    _pair("batchnorm", "batchnorm", "dx", "dgamma", "dbeta", extra=("mean", "var")),
    OpSpec("batchnorm_inference", "batchnorm", "batchnorm_inference", ("y",)),
    _pair("relu", "relu6", "dx"),
    _pair("relu6", "relu6", "dx"),
    _pair("avgpool", "pooling", "dx"),
    _pair("maxpool", "pooling", "dx"),
    _pair("global_avgpool", "pooling", "dx"),
    _pair("linear", "linear", "dx", "dw", "db"),
    _pair("dropout", "dropout", "dx"),
    OpSpec("softmax", "loss", "softmax", ("p",)),
    OpSpec("softmax_cross_entropy", "loss", "softmax_cross_entropy", ("loss", "dlogits"), None, ("dlogits",)),
)

LESSONS = tuple(dict.fromkeys(spec.lesson for spec in SPECS))
"""The lessons, in the order of the table. Each is self-contained: none of its checks needs another's functions."""

FUNCTIONS = {name: spec for spec in SPECS for name in spec.functions}
"""Function name -> its row."""


def select(names: str | None) -> tuple[OpSpec, ...]:
    """The rows for `--only a,b`: names of ops, functions or lessons; None means all. Raises ConfigError on others."""
    if names is None:
        return SPECS
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    if not wanted:
        raise ConfigError("--only needs at least one name, such as depthwise")
    for name in wanted:
        if not any(name in (spec.name, spec.lesson, *spec.functions) for spec in SPECS):
            known = ", ".join(dict.fromkeys([*(spec.name for spec in SPECS), *LESSONS]))
            raise ConfigError(f"--only: there is no op or lesson {name!r}; choose from {known}")
    return tuple(spec for spec in SPECS if any(name in (spec.name, spec.lesson, *spec.functions) for name in wanted))
