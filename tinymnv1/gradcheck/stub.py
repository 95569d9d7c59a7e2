"""`--stub`: the file that a learner starts from, made from the reference's own signatures and docstrings."""

import inspect
import re
import shlex
import textwrap
from collections.abc import Sequence

from tinymnv1 import ops
from tinymnv1.gradcheck.spec import LESSONS, SPECS, OpSpec

HEADER = '''"""My own ops. Check them with:  python -m tinymnv1.gradcheck {name}

Fill in the functions in any order; what still raises NotImplementedError is reported as not attempted yet. Change no
signature. An op is a pair: forward returns its result and a cache, which can be anything that backward will need.

Rules of the house: activations are (N, H, W, C). Keep the dtype that comes in, write to no input, return no array that
shares memory with one, keep no state between calls. tinymnv1 itself cannot be used here; NumPy can.

Padding of a window of K pixels that moves by `stride` over `size` pixels:
    "symmetric"   (K - 1) // 2 zeros on both sides; the output has (size + 2 * pad - K) // stride + 1 pixels
    "tf"          the output has ceil(size / stride) pixels; the zeros that this takes are
                  max((out - 1) * stride + K - size, 0) in all, shared out with the odd one behind
"""

import numpy as np
'''

_CITED = {"see `window.span`": "see the top of this file"}


def docstring(name: str) -> str:
    """The reference's docstring without the solution: neither the derivation nor what it raises."""
    text = inspect.getdoc(getattr(ops, name)) or ""
    text = text.split("\nDerivation")[0]
    text = re.sub(r"\s*Raises ConfigError[^.]*\.", "", text)
    for here, there in _CITED.items():
        text = text.replace(here, there)
    return text.strip()


def signature(name: str) -> str:
    """The parameters with their defaults, without types."""
    parameters = inspect.signature(getattr(ops, name)).parameters.values()
    return ", ".join(str(p.replace(annotation=inspect.Parameter.empty)) for p in parameters).replace("'", '"')


def stub(filename: str, specs: Sequence[OpSpec] = SPECS) -> str:
    """The text of the starting file. filename: what it will be called, for the command at its top.  specs: its ops."""
    parts = [HEADER.format(name=shlex.quote(filename)).rstrip()]
    for lesson in LESSONS:
        own = [spec for spec in specs if spec.lesson == lesson]
        if own:
            parts.append(f"\n\n# Lesson: {lesson}")
        for spec in own:
            for name in spec.functions:
                doc = textwrap.indent(f'"""{docstring(name)}', "    ").strip()
                closing = '\n    """' if "\n" in doc else '"""'
                parts.append(
                    f'\n\ndef {name}({signature(name)}):\n    {doc}{closing}\n    raise NotImplementedError("{name}")'
                )
    return re.sub(r"[ \t]+\n", "\n", "\n".join(parts)) + "\n"
