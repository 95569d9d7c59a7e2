"""The lab's side of the wall: runs a learner's checks on one set of ops, in a process of its own.

    python -m tinymnv1.gradcheck.lab_worker FOLDER      reads FOLDER/request.json, writes FOLDER/outcomes.json

Here tinymnv1 may be imported: a check is free to use `tinymnv1.gradcheck.check_gradient`.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from tinymnv1.gradcheck.mutants import MUTANTS, right_functions
from tinymnv1.gradcheck.worker import limit_resources, line_of, load_file


def outcome(check: Callable[[Any], Any], ops: Any, file: str) -> dict[str, Any]:
    """What a check says of ops: {"objects": did it object, "message": its words, "line": of the learner's file}."""
    try:
        said = check(ops)
        objects = isinstance(said, bool | np.bool_) and not said  # a comparison of arrays gives NumPy's own False
    except BaseException as error:  # a wrong shape makes other exceptions than AssertionError, and sys.exit is one too
        words = " ".join(f"{type(error).__name__}: {error}".split()).rstrip(":")
        return {"objects": True, "message": words, "line": line_of(error, file)}
    return {"objects": objects, "message": "returned False" if objects else "", "line": 0}


def main(folder: Path) -> None:
    """Run the checks that the request names on the mutant that it names, or on the right ops, `times` times."""
    request = json.loads((folder / "request.json").read_text(encoding="utf-8"))
    limit_resources(request["seconds"])
    file = request["file"]
    try:
        module = load_file(Path(file))
    except BaseException as error:
        told = {"line": line_of(error, file), "problem": f"{type(error).__name__}: {error}"}
        (folder / "import.json").write_text(json.dumps(told), encoding="utf-8")
        return
    checks = {name: value for name, value in vars(module).items() if name.startswith("check_") and callable(value)}
    own = {name: check for name, check in checks.items() if getattr(check, "__module__", None) == module.__name__}
    wanted = request["checks"] if request["checks"] is not None else list(own)
    mutants = {mutant.name: mutant for mutant in MUTANTS}
    outcomes: dict[str, list[dict[str, Any]]] = {name: [] for name in wanted}
    for _ in range(request["times"]):
        # Right and broken ops arrive in the same wrapping, so that a check has only their results to go by.
        ops = mutants[request["mutant"]].ops() if request["mutant"] else SimpleNamespace(**right_functions())
        for name in wanted:
            outcomes[name].append(outcome(own[name], ops, file))
    (folder / "outcomes.json").write_text(json.dumps(outcomes), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
