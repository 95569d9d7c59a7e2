"""The learner's side of the wall: imports a learner's file, calls its functions, writes down what they did.

It runs as a script in a process of its own and judges nothing: the right answers never enter this process. For the same
reason it imports nothing of tinymnv1, which is why all of it stands in one file, and lets nobody else here do so. The
grader also calls `run_case` directly, for code that it trusts (the mutants, the project's own ops).

    python worker.py FOLDER      reads FOLDER/request.json and request.npz, writes FOLDER/0.npz, 1.npz, ... one a case
"""

import importlib.machinery
import importlib.util
import json
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

LARGEST = 1_000_000
"""An array with more elements than this is described, not kept: no right answer has more than a few thousand."""


@dataclass
class Call:
    """What one call of a learner's function did.

    values: name -> the array it returned, or a description in words of what it returned instead of an array.
    problem: why there are no values, or None.  kind: "exception", "not attempted", "returned" (the wrong number of
    things) or "".  line: of the learner's file where it happened, or 0.
    mutated: inputs that were written to.  aliases: (output, words for what it shares memory with) pairs.
    """

    values: dict[str, Any] = field(default_factory=dict)
    problem: str | None = None
    kind: str = ""
    line: int = 0
    mutated: list[str] = field(default_factory=list)
    aliases: list[tuple[str, str]] = field(default_factory=list)


@dataclass
class Trace:
    """What happened in one case: the forward, the backward, the backward once more, and the forward on other inputs."""

    forward: Call
    backward: Call | None = None
    again: Call | None = None
    probes: list[Call] = field(default_factory=list)


def _describe(value: Any) -> Any:
    """The value as a plain array if it is one (or a number), else words for it."""
    if isinstance(value, bool | int | float | np.generic):
        value = np.asarray(value)
    elif not isinstance(value, np.ndarray):
        return "None" if value is None else f"a {type(value).__name__}"
    if value.dtype.kind not in "fiub":
        return f"an array of {value.dtype}"
    if value.size > LARGEST:
        return f"an array of shape {value.shape}"
    return np.array(value, copy=True, subok=False)


def _call(
    function: Callable[..., Any],
    args: list[Any],
    options: dict[str, Any],
    names: list[str],
    watched: dict[str, Any],
    file: str,
) -> tuple[Call, dict[str, Any]]:
    """Call a function and note everything about it. Returns the Call, and by name what the function itself returned."""
    before = {name: array.copy() for name, array in watched.items()}
    call = Call()
    try:
        returned = function(*args, **options)
    except NotImplementedError:
        call.problem, call.kind = "not attempted yet", "not attempted"
        return call, {}
    except BaseException as error:  # SystemExit must not end the grading either
        if isinstance(error, KeyboardInterrupt) and not file:
            raise  # in the user's own process: a notebook's stop button
        call.kind = "exception"
        call.line = line_of(error, file or getattr(getattr(function, "__code__", None), "co_filename", ""))
        call.problem = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        return call, {}
    parts = [returned] if len(names) == 1 else returned
    if len(names) > 1 and not (isinstance(parts, tuple | list) and len(parts) == len(names)):
        got = f"{len(parts)} things" if isinstance(parts, tuple | list) else _words(returned)
        call.problem, call.kind = f"it returned {got} where {', '.join(names)} are expected", "returned"
        return call, {}
    raw = dict(zip(names, parts, strict=True))
    call.values = {name: _describe(value) for name, value in raw.items() if name != "cache"}
    call.aliases = [
        (name, f"the input {other}")
        for name in call.values
        for other, array in watched.items()
        if _overlap(raw[name], array)
    ]
    call.mutated = [k for k, array in watched.items() if not np.array_equal(array, before[k], equal_nan=True)]
    return call, raw


def _overlap(a: Any, b: Any) -> bool:
    return isinstance(a, np.ndarray) and isinstance(b, np.ndarray) and np.may_share_memory(a, b)


def _note_reuse(call: Call, returned: dict[str, Any], by_the_next: dict[str, Any]) -> None:
    """Note what a call returned that the next call of the same function wrote over and returned again."""
    reused = [name for name in call.values if _overlap(returned[name], by_the_next.get(name))]
    call.aliases += [(name, "what the next call returns") for name in reused]


def _words(value: Any) -> str:
    described = _describe(value)
    return described if isinstance(described, str) else "one array" if described.ndim else "one number"


def line_of(error: BaseException, file: str) -> int:
    """The line of the learner's file that an exception came from (the deepest one), or 0."""
    if isinstance(error, SyntaxError) and error.filename == file:
        return error.lineno or 0
    steps = traceback.walk_tb(error.__traceback__)  # extract_tb would read source files, which is locked here
    lines = [line for frame, line in steps if frame.f_code.co_filename == file]
    return lines[-1] if lines else 0


def run_case(
    functions: Sequence[Any],
    names: tuple[list[str], list[str]],
    inputs: dict[str, Any],
    options: dict[str, Any],
    dy: Any,
    rng_seed: int | None,
    probes: list[dict[str, Any]],
    file: str = "",
    announce: Callable[[str], object] = lambda stage: None,
) -> Trace:
    """Call a forward/backward pair on one case.

    functions: the forward, and the backward or None.  names: what each of them returns.
    inputs: the positional arguments; arrays are copied.  options: the keyword arguments.  dy: the upstream gradient, or
    None to leave the backward out.  rng_seed: if given, a fresh Generator from it is the last positional argument.
    probes: replacements for some of the inputs ("rng_seed" among them): forward is called once more for each.
    file: the learner's file, to say in which line an exception arose; "" in the user's own process, a notebook's, where
    it is the function's own file or cell.
    announce: told "forward" or "backward" before each call.
    """
    forward, backward = functions
    announce("forward")
    own, watched = _fresh(inputs)
    call, returned = _call(forward, _args(own, rng_seed), options, names[0], watched, file)
    trace = Trace(call)
    if backward is not None and dy is not None and call.kind == "not attempted":
        announce("backward")  # is it a stub, too?
        result, _ = _call(backward, [dy.copy(), None], {}, names[1], {}, file)
        trace.backward = result if result.kind == "not attempted" else None
    if backward is not None and dy is not None and call.problem is None:

        def back() -> tuple[Call, dict[str, Any]]:
            announce("backward")
            upstream = dy.copy()
            args = [upstream, returned.get("cache")]
            return _call(backward, args, {}, names[1], {**watched, "dy": upstream}, file)

        trace.backward, gradients = back()
        if trace.backward.problem is None:  # again, after another forward: what it needs must be in the cache
            announce("forward")
            others, _ = _fresh({k: np.flip(v) if isinstance(v, np.ndarray) else v for k, v in inputs.items()})
            _call(forward, _args(others, rng_seed), options, names[0], {}, file)
            trace.again, later = back()
            _note_reuse(trace.backward, gradients, later)
    if call.problem is None:
        announce("forward")
        for probe in probes:
            own, watched = _fresh({**inputs, **{k: v for k, v in probe.items() if k != "rng_seed"}})
            seed = probe.get("rng_seed", rng_seed)
            result, later = _call(forward, _args(own, seed), options, names[0], watched, file)
            if not trace.probes:  # the first of them repeats the call
                _note_reuse(call, returned, later)
            trace.probes.append(result)
    return trace


def _fresh(inputs: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    own = {name: value.copy() if isinstance(value, np.ndarray) else value for name, value in inputs.items()}
    return own, {name: value for name, value in own.items() if isinstance(value, np.ndarray)}


def _args(inputs: dict[str, Any], rng_seed: int | None) -> list[Any]:
    return [*inputs.values(), *([] if rng_seed is None else [np.random.default_rng(rng_seed)])]


# ---- below: only in the process of its own


def save_trace(trace: Trace, path: Path) -> None:
    """Write a trace as .npz: its arrays, and the rest as JSON. No pickles: the grader must not run a learner's code."""
    arrays: dict[str, Any] = {}
    record: dict[str, Any] = {"forward": None, "backward": None, "again": None, "probes": []}
    calls: list[tuple[str, Call | None]] = [(name, getattr(trace, name)) for name in ("forward", "backward", "again")]
    calls += [(f"probe{k}", probe) for k, probe in enumerate(trace.probes)]
    for place, call in calls:
        if call is None:
            continue
        plain = asdict(Call({}, call.problem, call.kind, call.line, call.mutated, call.aliases))
        for name, value in call.values.items():
            if isinstance(value, str):
                plain["values"][name] = value
            else:
                arrays[f"{place}/{name}"] = value
        if place.startswith("probe"):
            record["probes"].append(plain)
        else:
            record[place] = plain
    partial = path.with_suffix(".part")
    with partial.open("wb") as file:
        np.savez(file, record=np.array(json.dumps(record)), **arrays)
    partial.replace(path)  # the grader sees a whole case or none


def load_trace(path: Path) -> Trace:
    """Read what `save_trace` wrote."""
    with np.load(path, allow_pickle=False) as archive:
        record = json.loads(str(archive["record"]))
        arrays = {name: archive[name] for name in archive.files if name != "record"}

    def call(place: str, plain: dict[str, Any] | None) -> Call | None:
        if plain is None:
            return None
        own = {key.split("/", 1)[1]: array for key, array in arrays.items() if key.startswith(f"{place}/")}
        plain["values"] = {**plain["values"], **own}
        plain["aliases"] = [(a, b) for a, b in plain["aliases"]]
        return Call(**plain)

    forward = call("forward", record["forward"])
    assert forward is not None
    probes = [call(f"probe{k}", plain) for k, plain in enumerate(record["probes"])]
    return Trace(
        forward,
        call("backward", record["backward"]),
        call("again", record["again"]),
        [p for p in probes if p is not None],
    )


class ReferenceUsed(RuntimeError):
    """Raised in the learner's process where the reference is called or read."""


def block_reference(package: Path, flag: Path, known: list[str]) -> None:
    """Keep the reference out of this process; `flag` is created if something tries to use it.

    package: the folder of tinymnv1.  known: the names of the ops' functions.
    `import tinymnv1` gives an empty shell, in which everything that is called raises `ReferenceUsed`: so an import at
    the top of a file costs only the functions that use it. An audit hook, which cannot be taken off again, sees the
    package's files opened by other means.
    """
    root = str(package.resolve()) + os.sep
    own = os.path.realpath(__file__)  # a traceback that the learner prints shows lines of this file

    def refuse(what: str) -> NoReturn:
        os.close(os.open(flag, os.O_WRONLY | os.O_CREAT))
        raise ReferenceUsed(f"{what} is the reference that your own code is compared with")

    class Shell:
        def __init__(self, name: str) -> None:
            self._name = name

        def __call__(self, *args: Any, **options: Any) -> NoReturn:
            refuse(self._name)

        def __getattr__(self, name: str) -> "Shell":
            return Shell(f"{self._name}.{name}")

    class Loader:
        """The finder and the loader of the shell."""

        @staticmethod
        def find_spec(name: str, path: Any = None, target: Any = None) -> Any:
            if name.split(".")[0] == "tinymnv1":
                return importlib.machinery.ModuleSpec(name, Loader, is_package=True)  # type: ignore[arg-type]
            return None

        @staticmethod
        def create_module(spec: Any) -> None:
            return None

        @staticmethod
        def exec_module(module: Any) -> None:
            def attribute(name: str) -> Any:
                if name.startswith("__"):
                    raise AttributeError(name)
                return Shell(f"{module.__name__}.{name}")

            module.__getattr__ = attribute
            module.__all__ = known

    def audit(event: str, args: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(args[0], str | bytes):
            path = os.path.realpath(os.fsdecode(args[0]))
            if path.startswith(root) and path != own:
                refuse(path)

    sys.meta_path.insert(0, Loader)
    sys.addaudithook(audit)


def limit_resources(seconds: float) -> None:
    """Where the system can: 4 GiB of memory, 64 MiB a file, so that a runaway loop takes down only itself.

    seconds: the time limit that the grader keeps. As CPU time it is set here too, a little later: it still holds if the
    grader itself is killed.
    """
    try:
        import resource
    except ImportError:  # Windows
        return
    limits = {
        resource.RLIMIT_AS: 4 << 30,
        resource.RLIMIT_FSIZE: 64 << 20,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_CPU: int(seconds) + 5,
    }
    for kind, size in limits.items():
        try:
            resource.setrlimit(kind, (size, size))
        except (ValueError, OSError):  # macOS refuses some of them
            continue


def load_file(path: Path) -> Any:
    """Import a Python file by its path. Files beside it can be imported from it."""
    sys.path.insert(0, str(path.parent))
    module_spec = importlib.util.spec_from_file_location("my_ops", path)
    assert module_spec is not None
    assert module_spec.loader is not None
    module = importlib.util.module_from_spec(module_spec)
    sys.modules["my_ops"] = module
    module_spec.loader.exec_module(module)
    return module


def main(folder: Path) -> None:
    """Do what FOLDER/request.json asks."""
    request = json.loads((folder / "request.json").read_text(encoding="utf-8"))
    with np.load(folder / "request.npz", allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    limit_resources(request["seconds"])
    block_reference(Path(__file__).parent.parent, folder / "reference", request["known"])
    stage = folder / "stage"  # what is being done now: after a crash or a time-out the grader reads it
    stage.write_text("import", encoding="utf-8")
    file = Path(request["file"])
    try:
        module = load_file(file)
    except BaseException as error:
        told = {"line": line_of(error, str(file)), "problem": f"{type(error).__name__}: {error}"}
        (folder / "import.json").write_text(json.dumps(told), encoding="utf-8")
        return
    names = [name for name in request["known"] if callable(getattr(module, name, None))]
    (folder / "functions.json").write_text(json.dumps(names), encoding="utf-8")
    if not request["cases"]:
        return
    running = dict(zip(("forward", "backward"), request["functions"], strict=True))
    forward, backward = (getattr(module, name, None) if name else None for name in running.values())
    for k, case in enumerate(request["cases"]):
        stage.write_text(str(k), encoding="utf-8")

        def array(value: Any) -> Any:
            return arrays[value["array"]] if isinstance(value, dict) else value

        trace = run_case(
            (forward, backward),
            (request["returns"], request["gradients"]),
            {name: array(value) for name, value in case["inputs"]},
            case["options"],
            array(case["dy"]),
            case["rng_seed"],
            [{name: array(value) for name, value in probe.items()} for probe in case["probes"]],
            str(file),
            lambda which: (folder / "function").write_text(running[which], encoding="utf-8"),
        )
        save_trace(trace, folder / f"{k}.npz")
    stage.write_text("done", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # threads that the learner started would otherwise keep the process alive
