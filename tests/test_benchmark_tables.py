"""From the benchmarks' results to tables, pictures and documents; and the command line that does it."""

import copy
import json
import re
from pathlib import Path

import pytest

from benchmarks import __main__ as command
from benchmarks import growth, tables
from benchmarks.harness import BenchmarkError
from benchmarks.network import Case
from tinymnv1.errors import ConfigError

SMALL = Case(32, 2, 0.25, stem_stride=1, num_classes=7)
MACHINE = {"processor": "Abacus (R)", "cores": 4, "threads": 2, "simd": "avx2", "gflops": 200, "copy_gbs": 20}
MACHINE |= {"versions": {"numba": "0.68", "torch": "2.13", "openvino": None}, "date": "2026-01-31"}
RATIO = {"median": 1.5, "min": 1.25, "max": 2.0}


def result(cases):
    return {"machine": MACHINE, "rounds": 9, "cases": cases}


def contender(median, **more):
    return {"median": median, "gflops": 50.0, "images_per_second": 2 / median, "peak_bytes": 3 << 20} | more


def example_results():
    """Results as small as can be, with something missing in each."""
    slow, missing = contender(0.3, ratio=RATIO), {"missing": "ImportError: none"}
    training = {"tinymnv1": contender(0.1), "PyTorch eager, NCHW": slow, "PyTorch compile, NCHW": missing}
    forward = {"tinymnv1": contender(0.01), "ONNX Runtime": slow, "OpenVINO": missing}
    row = {"kind": "depthwise", "shape": "2x8x8x16 stride 1", "pass": "forward"}
    ours, theirs = {"median": 1e-3, "gflops": 20, "gbs": 10}, {"pytorch": 2e-3, "layout": "NCHW", "ratio": RATIO}
    point = {"madds": 1e6, "training": 0.4, "inference": 0.1}
    axes = [
        {"axis": axis, "middle": growth.MIDDLE.settings(), "rows": [{"value": v} | point for v in values]}
        for axis, values in growth.AXES.items()
    ]
    axes[0]["rows"][0] = {"value": 1, "madds": 1e6, "missing": "MemoryError"}
    speeds = {"images_per_second": 300.0, "pytorch_images_per_second": 200.0, "mode": "eager"}
    threads = [{"threads": 1} | speeds | {"ratio": RATIO}, {"threads": 2}]
    case = {"case": SMALL.settings(), "madds": SMALL.madds}
    return {
        "train_step": result([case | {"contenders": training}]),
        "inference": result([case | {"contenders": forward}]),
        "kernels": result([case | {"missing": {}, "rows": [row | ours | theirs, row]}]),
        "growth": result(axes),
        "scaling": result([case | {"rows": threads}]),
    }


def test_tables_show_times_ratios_and_what_is_missing():
    results = example_results()
    summary = tables.render(results, "summary")
    assert "| 32x32, batch 2, width 0.25 | 20 images/s | 7 images/s (eager, NCHW) | 1.50x (1.25-2.00) |" in summary
    assert "| 10.0 ms | 300 ms, 1.50x (1.25-2.00) | missing | missing |" in summary
    assert summary.count("2 threads of Abacus (R) (AVX2)") == 2
    training = tables.render(results, "train_step")
    assert "| PyTorch compile, NCHW | missing: ImportError: none | - | - | - | - | - |" in training
    assert "| tinymnv1 | 100 ms | 20 | 50 | 25 % | 3 MiB | - |" in training
    ops = tables.render(results, "kernels")
    assert "| 1.00 ms | 2.00 ms (NCHW) | 1.50x (1.25-2.00) | 20 | 10 | 50 % |" in ops, "the larger share: bandwidth's"
    assert "1 of 1 not slower" in ops
    assert "| 1 | 1.0 | missing | missing |" in tables.render(results, "growth")
    threads = tables.render(results, "scaling")
    assert "| 1 | 300 | 200 | eager | 1.50x (1.25-2.00) |" in threads
    assert "| 2 | missing | missing | - | - |" in threads
    assert "Up to 2 threads of Abacus (R)" in threads
    assert "PyTorch" not in tables.render(results, "growth"), "a peer that was not measured there"
    assert tables.render({}, "kernels") == tables.NOT_MEASURED


def test_another_machine_has_a_section_of_its_own(monkeypatch, tmp_path):
    """From its own file; of the single ops only how many are faster."""
    path = tmp_path / "other.json"
    command.save(example_results(), path)
    monkeypatch.setitem(command.OTHERS, "avx2", path)
    text = "".join(f"<!-- benchmark:{name} -->\n<!-- /benchmark:{name} -->\n" for name in ("kernels", "avx2"))
    kernels, avx2 = command.with_tables(text, ("kernels", "avx2"), {}).split("<!-- /benchmark:kernels -->")
    assert tables.NOT_MEASURED in kernels
    assert "| 32x32, batch 2, width 0.25 | 20 images/s |" in avx2
    assert "| 10.0 ms | 300 ms, 1.50x (1.25-2.00) | missing |" in avx2
    assert "Single ops: **32x32, batch 2, width 0.25**: 1 of 1 not slower" in avx2
    assert "depthwise" not in avx2


def test_a_step_in_bfloat16_is_not_measured_by_the_float32_peak():
    results = example_results()
    case = results["train_step"]["cases"][0]
    case["case"] = case["case"] | {"precision": "bfloat16"}
    training = tables.render(results, "train_step")
    assert "**32x32, batch 2, width 0.25, bfloat16**" in training
    assert "| tinymnv1 | 100 ms | 20 | 50 | - | 3 MiB | - |" in training
    assert "float32 where a case does not say otherwise" in training
    assert "otherwise" not in tables.render(results, "inference")


def test_only_what_is_between_the_markers_changes():
    text = "above\n<!-- benchmark:a -->\nold\n\n| x |\n<!-- /benchmark:a -->\nbelow\n"
    once = tables.replace_sections(text, {"a": r"new \1"})
    assert once == "above\n<!-- benchmark:a -->\nnew \\1\n<!-- /benchmark:a -->\nbelow\n"
    assert tables.replace_sections(once, {"a": r"new \1"}) == once
    with pytest.raises(BenchmarkError, match="benchmark:b"):
        tables.replace_sections(text, {"b": "new"})


def test_the_documents_show_the_results_that_are_kept():
    """`python -m benchmarks --tables-only` mends it."""
    results = command.load(command.RESULTS)
    for path, names in tables.DOCUMENTS.items():
        text = path.read_text(encoding="utf-8")
        assert command.with_tables(text, names, results) == text, path.name
    assert command.PICTURE.exists() == ("growth" in results)
    for kept in (results, *map(command.load, command.OTHERS.values())):
        assert kept
        assert not re.search(r"(^|[\s\"'])(/|[A-Z]:\\)\w", json.dumps(kept)), "a path in the results"


def test_the_picture_of_growth():
    cases = example_results()["growth"]["cases"]
    figure = growth.picture(cases, "2 threads of Abacus")
    assert [len(axes.lines) for axes in figure.axes] == [2] * 6
    measured, predicted = figure.axes[0].lines
    assert len(measured.get_xdata()) == len(growth.AXES["batch"]) - 1, "what is missing is left out"
    assert predicted.get_ydata()[0] == 400


def test_one_benchmark_again_keeps_the_others(monkeypatch, tmp_path, capsys):
    results = example_results()
    path = tmp_path / "results.json"
    command.save(results, path)
    assert command.load(path) == results
    again = copy.deepcopy(results["inference"]["cases"])
    again[0]["contenders"]["tinymnv1"]["median"] = 0.02
    monkeypatch.setattr(command, "describe", lambda options: MACHINE | {"threads": options.threads})
    monkeypatch.setattr(command, "with_later_peaks", lambda machine, options: machine | {"gflops": 201})
    monkeypatch.setitem(command.BENCHMARKS, "inference", lambda options: again)
    documents = [path.read_bytes() for path in tables.DOCUMENTS]
    assert command.main(["inference", "--json", str(path), "--rounds", "1", "--threads", "1"]) == 0
    changed = command.load(path)
    assert changed["train_step"] == results["train_step"]
    assert changed["inference"] == {
        "machine": MACHINE | {"threads": 1, "gflops": 201},
        "rounds": 1,
        "cases": again,
    }
    assert "| tinymnv1 | 20.0 ms |" in capsys.readouterr().out
    assert documents == [path.read_bytes() for path in tables.DOCUMENTS], "with --json the documents stay"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["speed"], "no benchmark 'speed'"),
        (["--rounds", "0"], "--rounds"),
        (["--threads", "-1"], "--threads"),
        (["--tables-only", "--json", "mine.json"], "leave out --json"),
        (["--tables-only", "inference"], "leave out BENCHMARK"),
        (["--tables-only", "--quick"], "leave out --quick"),
        (["--tables-only", "--threads", "1"], "leave out --threads"),
        (["--json", "there/is/none.json"], "there is no folder there.is"),
        (["--json", "list.json"], "list.json: holds no results"),
        (["--json", "text.json"], "text.json: cannot be read as results"),
    ],
)
def test_wrong_options(argv, message, tmp_path, monkeypatch):
    """Before anything is measured."""
    monkeypatch.chdir(tmp_path)
    Path("list.json").write_text("[]")
    Path("text.json").write_text("text")
    monkeypatch.setattr(command, "describe", lambda options: pytest.fail("it measures"))
    with pytest.raises(ConfigError, match=message):
        command.main(argv)


def test_a_folder_that_cannot_be_written_to_is_refused_before_measuring(monkeypatch, tmp_path):
    monkeypatch.setattr(command.os, "access", lambda path, mode: False)
    monkeypatch.setattr(command, "describe", lambda options: pytest.fail("it measures"))
    with pytest.raises(ConfigError, match="cannot be written to"):
        command.main(["--json", str(tmp_path / "mine.json")])


def test_the_documents_follow_each_benchmark(monkeypatch, tmp_path):
    """If a later one stops, the tables show what results.json holds."""
    results, document = example_results(), tmp_path / "README.md"
    document.write_text("<!-- benchmark:inference -->\n<!-- /benchmark:inference -->\n")
    monkeypatch.setattr(command, "RESULTS", tmp_path / "results.json")
    monkeypatch.setattr(command, "PICTURE", tmp_path / "growth.png")
    monkeypatch.setattr(tables, "DOCUMENTS", {document: ("inference",)})
    monkeypatch.setattr(command, "describe", lambda options: MACHINE)
    monkeypatch.setattr(command, "with_later_peaks", lambda machine, options: machine)

    def stop(options):
        raise BenchmarkError("computes something else")

    monkeypatch.setitem(command.BENCHMARKS, "inference", lambda options: results["inference"]["cases"])
    monkeypatch.setitem(command.BENCHMARKS, "kernels", stop)
    with pytest.raises(BenchmarkError):
        command.main(["inference", "kernels"])
    assert command.load(tmp_path / "results.json").keys() == {"inference"}
    assert "| tinymnv1 | 10.0 ms |" in document.read_text()


def test_a_document_without_its_markers_leaves_the_others_as_they_were(monkeypatch, tmp_path):
    marked, bare = tmp_path / "marked.md", tmp_path / "bare.md"
    marked.write_text("<!-- benchmark:inference -->\nold\n<!-- /benchmark:inference -->\n")
    bare.write_text("none\n")
    monkeypatch.setattr(tables, "DOCUMENTS", {marked: ("inference",), bare: ("inference",)})
    with pytest.raises(BenchmarkError, match="lacks the markers"):
        command.update_documents(example_results())
    assert "old" in marked.read_text()
