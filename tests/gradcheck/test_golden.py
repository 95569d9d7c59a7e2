"""The golden files: they are small, they cover the ops, the reference agrees, and PyTorch still says the same."""

import numpy as np
import pytest

from tinymnv1 import ops
from tinymnv1.gradcheck.findings import PASSED
from tinymnv1.gradcheck.golden import FOLDER, golden_cases
from tinymnv1.gradcheck.grade import grade_functions
from tinymnv1.gradcheck.spec import SPECS


def test_they_are_small_and_cover_every_op_but_dropout():
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 1_000_000
    assert {path.stem for path in FOLDER.glob("*.npz")} == {spec.name for spec in SPECS} - {"dropout"}


@pytest.mark.parametrize("spec", [s for s in SPECS if s.name != "dropout"], ids=lambda s: s.name)
def test_a_golden_case_can_fail_and_the_reference_does_not(spec):
    stored = golden_cases(spec)
    assert stored
    for result in grade_functions(spec, vars(ops), golden=True):
        assert result.status == PASSED
        compared = {f.argument for f in result.findings if f.case in [case for case, _ in stored]}
        wanted = spec.outputs if result.function == spec.forward else spec.gradients
        assert compared == set(wanted)
    # A forward that is off by one part in a million is seen.
    wrong = {**vars(ops), spec.forward: lambda *a, **o: _scaled(getattr(ops, spec.forward)(*a, **o))}
    result = grade_functions(spec, wrong, golden=True)[0]
    assert any(f.case.label.startswith("PyTorch") for f in result.failures)


def _scaled(returned):
    first, *rest = returned if isinstance(returned, tuple) else (returned,)
    first = first * (1 + 1e-6)
    return (first, *rest) if rest else first


def test_pytorch_still_gives_the_same(tmp_path):
    pytest.importorskip("torch")
    from gradcheck.make_golden import main

    main(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in FOLDER.glob("*.npz")}
    for path in FOLDER.glob("*.npz"):
        with np.load(path) as old, np.load(tmp_path / path.name) as new:
            assert set(old.files) == set(new.files), path.name
            assert str(old["calls"]) == str(new["calls"]), f"{path.name}: run tests/gradcheck/make_golden.py again"
            for name in old.files:
                if name != "calls":
                    np.testing.assert_allclose(
                        new[name], old[name], rtol=1e-12, atol=1e-12, err_msg=f"{path.name} {name}"
                    )
