"""The golden files: what PyTorch computes for a few calls of each op, stored, so that nobody needs PyTorch to check.

`tests/gradcheck/make_golden.py` writes them. One .npz an op: arrays named "<case>/<group>/<name>", and "calls", JSON
with the label, the order of the inputs and the options of each case. Dropout has none, since its mask is its own.
"""

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from tinymnv1.gradcheck.cases import Case
from tinymnv1.gradcheck.expected import Expected
from tinymnv1.gradcheck.numeric import Difference
from tinymnv1.gradcheck.spec import OpSpec

FOLDER = Path(__file__).parent / "golden"

TOLERANCE = 1e-9
"""Both sides are exact formulas in float64; they differ by rounding, 1e-15 to 1e-13."""


@lru_cache(maxsize=32)
def golden_cases(spec: OpSpec) -> tuple[tuple[Case, Expected], ...]:
    """The stored cases of an op with PyTorch's results; none for dropout."""
    path = FOLDER / f"{spec.name}.npz"
    if not path.exists():
        return ()
    with np.load(path, allow_pickle=False) as archive:
        calls = json.loads(str(archive["calls"]))
        arrays = {name: archive[name] for name in archive.files if name != "calls"}
    found = []
    for k, call in enumerate(calls):

        def group(name: str, k: int = k) -> dict[str, Any]:
            start = f"{k}/{name}/"
            return {key.removeprefix(start): array for key, array in arrays.items() if key.startswith(start)}

        stored = group("input") | call["numbers"]
        case = Case(
            f"PyTorch: {call['label']}",
            {name: stored[name] for name in call["order"]},
            call["options"],
            tolerance=TOLERANCE,
        )
        gradients = {name: Difference(array, 0.0) for name, array in group("gradient").items()}
        found.append((case, Expected(group("output"), arrays.get(f"{k}/dy"), gradients)))
    return tuple(found)
