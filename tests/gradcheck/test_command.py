"""The command line: what it prints, writes and answers, and one line for every mistake."""

import json
import subprocess
import sys

import pytest
from gradcheck.implementations import CORRECT

from tinymnv1.gradcheck import grade, own
from tinymnv1.gradcheck.__main__ import main
from tinymnv1.gradcheck.spec import FUNCTIONS, SPECS, select
from tinymnv1.gradcheck.stub import stub

GOOD = """
import numpy as np
def linear_forward(x, w, b):
    return x @ w + b, (x, w)
def linear_backward(dy, cache):
    x, w = cache
    return dy @ w.T, x.T @ dy, dy.sum(axis=0)
"""


def command(*arguments, cwd):
    full = [sys.executable, "-m", "tinymnv1.gradcheck", *map(str, arguments)]
    return subprocess.run(full, cwd=cwd, capture_output=True, text=True, check=False)


@pytest.fixture
def good(tmp_path):
    path = tmp_path / "my ops.py"  # a space in the name
    path.write_text(GOOD, encoding="utf-8")
    return path


def test_a_right_file_gives_status_0_and_a_broken_one_status_1_with_a_hint(good, tmp_path, capsys):
    assert main([str(good)]) == 0
    assert "2 passed, 0 failed" in capsys.readouterr().out
    good.write_text(GOOD.replace("dy.sum", "dy.mean"), encoding="utf-8")
    assert main([str(good), "--only", "linear"]) == 1
    out = capsys.readouterr().out
    assert "hint: divided by the batch. db is too small" in out
    assert "should be" in out


def test_only_what_is_named_must_be_there(good, capsys):
    assert main([str(good), "--only", "linear,relu"]) == 1
    assert "not in the file" in capsys.readouterr().out
    good.write_text(GOOD.split("def linear_backward")[0], encoding="utf-8")
    assert main([str(good)]) == 1, "half an op is not a whole one"


def test_gradescope_json(good, tmp_path, capsys):
    target = tmp_path / "results.json"
    good.write_text(GOOD.replace("x.T @ dy", "2 * x.T @ dy"), encoding="utf-8")
    assert main([str(good), "--json", str(target)]) == 1
    content = json.loads(target.read_text(encoding="utf-8"))
    assert content["score"] == 1.0
    tests = {test["name"]: test for test in content["tests"]}
    assert set(tests) == set(FUNCTIONS)
    assert tests["linear_forward"]["score"] == tests["linear_forward"]["max_score"] == 1.0
    assert tests["linear_forward"]["status"] == "passed"
    assert (tests["linear_backward"]["score"], tests["linear_backward"]["max_score"]) == (0.0, 2.0)
    assert "hint: doubled" in tests["linear_backward"]["output"]
    assert tests["softmax"]["score"] == 0.0, "what is missing gives no points"
    assert {test["visibility"] for test in content["tests"]} == {"visible"}


def test_gradescope_json_for_a_file_that_cannot_be_graded(tmp_path):
    bad, target = tmp_path / "bad.py", tmp_path / "results.json"
    bad.write_text("def linear_forward(x\n", encoding="utf-8")
    result = command(bad, "--json", target, cwd=tmp_path)
    assert result.returncode == 2
    content = json.loads(target.read_text(encoding="utf-8"))
    assert content["score"] == 0.0
    assert "SyntaxError" in content["output"]


def test_gradescope_json_of_an_earlier_file_does_not_outlive_one_that_is_missing(tmp_path):
    target = tmp_path / "results.json"
    target.write_text('{"score": 40.0}', encoding="utf-8")
    result = command("absent.py", "--json", target, cwd=tmp_path)
    assert result.returncode == 2
    content = json.loads(target.read_text(encoding="utf-8"))
    assert content["score"] == 0.0
    assert "absent.py" in content["output"]


def test_the_stub_has_every_function_and_none_of_the_solutions(tmp_path, capsys):
    path = tmp_path / "my_ops.py"
    assert main(["--stub", str(path)]) == 0
    text = path.read_text(encoding="utf-8")
    for name in FUNCTIONS:
        assert f"def {name}(" in text
    for solution in ("Derivation", "ConfigError", "window.span"):
        assert solution not in text
    assert main([str(path)]) == 1
    out = capsys.readouterr().out
    assert f"0 passed, 0 failed, {len(FUNCTIONS)} not attempted yet" in out
    text = text.replace("stride=1", "stride=2")
    path.write_text(text, encoding="utf-8")
    result = command("--stub", path, cwd=tmp_path)
    assert result.returncode == 2
    assert "exists already" in result.stderr
    assert path.read_text(encoding="utf-8") == text, "what is there stays as it is"


def test_a_stub_for_one_lesson(tmp_path, capsys):
    path = tmp_path / "pooling.py"
    assert main(["--stub", str(path), "--only", "pooling"]) == 0
    text = path.read_text(encoding="utf-8")
    assert "def maxpool_forward(x, size, stride=None):" in text
    assert "conv2d" not in text


def test_a_stub_with_a_space_in_its_name_says_what_can_be_typed(tmp_path, capsys):
    path = tmp_path / "my ops.py"
    assert main(["--stub", str(path)]) == 0
    assert f"python -m tinymnv1.gradcheck '{path}'" in capsys.readouterr().out
    assert "python -m tinymnv1.gradcheck 'my ops.py'\n" in path.read_text(encoding="utf-8")


def test_the_stub_is_clean_python():
    compile(stub("my_ops.py"), "my_ops.py", "exec")
    assert max(map(len, stub("my_ops.py").splitlines())) <= 120


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["absent.py"], "there is no such file"),
        (["good.py", "--only", "depthwize"], "no op or lesson 'depthwize'"),
        (["good.py", "--only", ","], "at least one name"),
        (["good.py", "--json", "no/such/folder/r.json"], "cannot be written"),
        (["good.py", "--json", "."], "cannot be written"),
        (["good.py", "--json", "./good.py"], "is the file that is to be graded"),
        (["--json", "r.json"], "belongs to the grading of a file"),
        (["good.py", "--timeout", "0"], "--timeout"),
        (["good.py", "--seed", "-1"], "--seed"),
        (["--stub", "a.py", "--seed", "7"], "--seed changes nothing with --stub"),
        (["--ones", "--timeout", "3"], "--timeout is for functions of your own"),
        (["good.py", "--seed", "x"], "invalid int value"),
        (["good.py", "--plot", "p.png"], "takes no file to grade"),
        (["--plot", "no/such/folder/p.png"], "could not be written"),
        (["--stub", "no/such/folder/my_ops.py"], "cannot be written"),
        (["--stub", "ops.txt"], "its name must end in .py"),
        (["--stub", "a.py", "--ones"], "not allowed with"),
        (["--ones", "--only", "relu6"], "--only relu6: no broken op that --ones compares"),
        (["--plot", "--only", "relu"], "--only has nothing to choose from"),
        (["--mutants", "absent.py"], "there is no such file"),
        (["--mutants", "picture.png"], "its name must end in .py"),
        (["--mutants", "good.py"], "defines no check"),
        (["--bogus"], "unrecognized arguments"),
    ],
)
def test_a_mistake_in_the_call_is_one_line_and_status_2(arguments, told, tmp_path):
    (tmp_path / "good.py").write_text(GOOD, encoding="utf-8")
    before = sorted(tmp_path.rglob("*"))
    result = command(*arguments, cwd=tmp_path)
    assert result.returncode == 2
    assert told in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert sorted(tmp_path.rglob("*")) == before, "nothing half-written"
    assert (tmp_path / "good.py").read_text(encoding="utf-8") == GOOD


def test_the_project_checks_itself(capsys):
    assert main(["--only", "depthwise,relu6"]) == 0
    out = capsys.readouterr().out
    assert "depthwise_backward_naive" in out
    assert "Numba" in out
    assert "WRONG" not in out


def test_layers_and_model_are_checked_and_can_fail(monkeypatch):
    rows = [*own.all_layers(0), *own.whole_model(0)]
    assert all(row.passed for row in rows)
    assert {row.name for row in rows} >= {"Depthwise", "BatchNorm", "MobileNetV1 symmetric", "MobileNetV1 tf"}
    right = own.ops.relu6_backward
    monkeypatch.setattr(own.ops, "relu6_backward", lambda dy, cache: right(dy, cache) * 1.01)
    rows = [*own.all_layers(0), *own.whole_model(0)]
    assert {row.name for row in rows if not row.passed} >= {"Activation", "MobileNetV1 symmetric"}
    assert "WRONG" in own.table(rows)


def test_a_wrong_kernel_is_found(monkeypatch):
    from tinymnv1 import kernels

    right = kernels.avgpool_backward
    monkeypatch.setattr(kernels, "avgpool_backward", lambda dy, cache: right(dy, cache) * 1.001)
    rows = list(own.numba_ops(0, select("avgpool")))
    assert [row.name for row in rows if not row.passed] == ["avgpool_backward"]


def test_the_grader_loads_neither_numba_nor_torch_nor_matplotlib(good, tmp_path):
    code = (
        "import sys; from tinymnv1.gradcheck.__main__ import main; main([sys.argv[1]]);"
        "print([m for m in ('numba', 'torch', 'matplotlib') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code, str(good)], capture_output=True, text=True, check=True)
    assert result.stdout.strip().endswith("[]")


def test_plot(tmp_path, capsys):
    path = tmp_path / "explorer.png"
    assert main(["--plot", str(path)]) == 0
    assert path.read_bytes().startswith(b"\x89PNG")


def test_the_explorers_numbers_show_both_slopes_and_the_kinks():
    import numpy as np

    from tinymnv1.gradcheck.plots import error_against_step, relu6_near_the_kinks

    steps, errors = error_against_step()
    for dtype, truncating, rounding in (("float64", (1e-3, 1e-1), (1e-11, 1e-7)), ("float32", (5e-2, 1), (1e-6, 1e-3))):
        for (low, high), slope in ((truncating, 2), (rounding, -1)):
            part = (steps >= low) & (steps <= high)
            fitted = np.polyfit(np.log(steps[part]), np.log(errors[dtype][part]), 1)[0]
            assert fitted == pytest.approx(slope, abs=0.3), f"{dtype} {slope}"
    _, error, crosses = relu6_near_the_kinks(0.2)
    assert crosses.any()
    assert error[~crosses].max() < 1e-10
    assert error[crosses].max() > 0.1


def test_the_seed_and_the_time_limit_are_taken(good, monkeypatch):
    given = []

    def watched(path, specs, seed, seconds, **options):
        given.append((seed, seconds))
        return []

    monkeypatch.setattr(grade, "grade_file", watched)
    main([str(good)])
    main([str(good), "--seed", "5", "--timeout", "7.5"])
    assert given == [(0, grade.SECONDS), (5, 7.5)]


def test_ops_are_found_by_their_names():
    """`select` finds an op by its own name, its lesson and its functions."""
    assert [s.name for s in select("pooling")] == ["avgpool", "maxpool", "global_avgpool"]
    assert [s.name for s in select("relu6_backward, linear")] == ["relu6", "linear"]
    assert select(None) == SPECS
    assert set(CORRECT) <= {spec.name for spec in SPECS}
