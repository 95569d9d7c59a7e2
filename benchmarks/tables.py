"""From results to the tables in the documents. Nothing is measured here: the same results give the same text."""

import math
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from benchmarks.harness import ROOT, BenchmarkError
from benchmarks.network import Case
from benchmarks.scaling import SPEEDS
from benchmarks.train_step import OURS

DOCUMENTS = {
    ROOT / "README.md": ("summary",),
    ROOT / "benchmarks" / "README.md": ("train_step", "inference", "kernels", "growth", "scaling", "avx2", "intel"),
}
"""Which document shows which sections."""

NOT_MEASURED = "*Not measured yet.*"
NAMES = {"torch": "PyTorch", "onnxruntime": "ONNX Runtime", "openvino": "OpenVINO", "numba": "Numba"}
PACKAGES = {
    "train_step": ("numba", "torch"),
    "inference": ("numba", "torch", "onnxruntime", "openvino"),
    "kernels": ("numba", "torch"),
    "growth": ("numba",),
    "scaling": ("numba", "torch"),
}
"""What the contenders of each benchmark run on."""
LANES = {"avx512": "AVX-512", "avx2": "AVX2", "neon": "4-lane vectors"}


def replace_sections(text: str, sections: dict[str, str]) -> str:
    """The text with new content between the markers of each section. Raises BenchmarkError if a marker is missing."""
    for name, content in sections.items():
        start, end = f"<!-- benchmark:{name} -->", f"<!-- /benchmark:{name} -->"
        found = re.search(f"{re.escape(start)}.*?{re.escape(end)}", text, re.DOTALL)
        if found is None:
            raise BenchmarkError(f"a document lacks the markers {start} and {end}, between which its table belongs")
        text = f"{text[: found.start()]}{start}\n{content}\n{end}{text[found.end() :]}"
    return text


def render(results: dict[str, Any], name: str) -> str:
    """A section's markdown, from the content of results.json."""
    summaries = {"train_step": summary_of_training, "inference": summary_of_inference}
    if name == "summary":
        return "\n\n".join(_part(results, key, table) for key, table in summaries.items())
    if name in ("avx2", "intel"):  # of another machine: what was measured there, and no table of the single ops
        shown = summaries | {"kernels": scores}
        return "\n\n".join(_part(results, key, table) for key, table in shown.items() if key in results) or NOT_MEASURED
    tables = {"train_step": training, "inference": inference, "kernels": kernels, "growth": growth, "scaling": scaling}
    return _part(results, name, tables[name])


def _part(results: dict[str, Any], name: str, table: Callable[[dict[str, Any]], str]) -> str:
    return f"{table(results[name])}\n\n{caption(results[name], PACKAGES[name])}" if name in results else NOT_MEASURED


def caption(result: dict[str, Any], packages: Sequence[str]) -> str:
    """Where and how it was measured. packages: the keys of those whose versions matter."""
    m = result["machine"]
    versions = [f"{NAMES[key]} {m['versions'][key]}" for key in packages if m["versions"].get(key)]
    mixed = any(case.get("case", {}).get("precision", "float32") != "float32" for case in result["cases"])
    precision = "float32 where a case does not say otherwise" if mixed else "float32"
    several = any("threads" in row for case in result["cases"] for row in case.get("rows", []))
    at = f", commit {m['commit']}" if m.get("commit") else ""
    return (
        f"{'Up to ' if several else ''}{threads(m)} of {m['processor']} ({LANES[m['simd']]}), {precision}, median of"
        f" {result['rounds']} rounds, {m['date']}{at}; {', '.join(versions)}. Measured peak: {m['gflops']:g} GFLOP/s,"
        f" copying {m['copy_gbs']:g} GB/s."
    )


def threads(machine: dict[str, Any]) -> str:
    """ "1 thread", "2 threads"."""
    return f"{machine['threads']} thread{'s' if machine['threads'] > 1 else ''}"


def grid(header: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> str:
    """A markdown table; all columns but the first `left` ones are aligned to the right."""
    line = "| {} |".format
    return "\n".join(
        [
            line(" | ".join(header)),
            f"|{'---|' * left}{'---:|' * (len(header) - left)}",
            *(line(" | ".join(row)) for row in rows),
        ]
    )


def milliseconds(seconds: float) -> str:
    """Three digits."""
    ms = 1e3 * seconds
    return f"{ms:,.0f} ms" if ms >= 100 else f"{ms:.{2 - math.floor(math.log10(ms))}f} ms"


def ratio(figures: dict[str, Any]) -> str:
    """The paired ratio with its extremes, or "-"."""
    r = figures.get("ratio")
    return f"{r['median']:.2f}x ({r['min']:.2f}-{r['max']:.2f})" if r else "-"


def percent(share: float) -> str:
    """A share of the peak."""
    return f"{100 * share:.0f} %"


def fastest(contenders: dict[str, Any], prefix: str) -> str | None:
    """The contender with the smallest median among those whose name begins so; None if all are missing."""
    names = [n for n, figures in contenders.items() if n.startswith(prefix) and "median" in figures]
    return min(names, key=lambda n: contenders[n]["median"]) if names else None


def summary_of_training(result: dict[str, Any]) -> str:
    """A row a case: ours, and the best of PyTorch's four."""
    rows = []
    for case in result["cases"]:
        contenders, ours = case["contenders"], case["contenders"][OURS]
        row = [Case(**case["case"]).title, speed(ours)]
        if name := fastest(contenders, "PyTorch"):
            mode = name.removeprefix("PyTorch ")
            row += [f"{speed(contenders[name])} ({mode})", ratio(contenders[name])]
            row.append(f"{memory(ours)} / {memory(contenders[name])}")
        else:
            row += ["missing", "-", memory(ours)]
        rows.append(row)
    header = ["training step", "tinymnv1", "PyTorch, its best mode", "PyTorch's time / ours", "peak memory"]
    return grid(header, rows)


def speed(figures: dict[str, Any]) -> str:
    """Images per second, or "missing"."""
    return f"{figures['images_per_second']:,.0f} images/s" if "images_per_second" in figures else "missing"


def memory(figures: dict[str, Any]) -> str:
    """A process's peak."""
    return f"{figures['peak_bytes'] / 2**20:,.0f} MiB" if "peak_bytes" in figures else "-"


def summary_of_inference(result: dict[str, Any]) -> str:
    """A row a case: our time, and each peer's with the ratio."""
    rows = []
    for case in result["cases"]:
        contenders = case["contenders"]
        row = [Case(**case["case"]).title, time_of(contenders[OURS])]
        for peer in ("ONNX Runtime", "OpenVINO", "PyTorch"):
            figures = contenders.get(fastest(contenders, peer) or "", {})
            row.append(f"{time_of(figures)}, {ratio(figures)}" if figures else "missing")
        rows.append(row)
    return grid(["inference", "tinymnv1", "ONNX Runtime", "OpenVINO", "PyTorch, its best mode"], rows)


def time_of(figures: dict[str, Any]) -> str:
    """The median, or "missing"."""
    return milliseconds(figures["median"]) if "median" in figures else "missing"


def training(result: dict[str, Any]) -> str:
    """A table a case, a row a contender."""
    header = ["training step", "time", "images/s", "GFLOP/s", "share of peak", "peak memory", "time / ours (min-max)"]
    return _by_case(result, header, lambda f: [f"{f['images_per_second']:,.0f}"], lambda f: [memory(f)])


def inference(result: dict[str, Any]) -> str:
    """A table a case, a row a contender."""
    header = ["inference", "time", "GFLOP/s", "share of peak", "time / ours (min-max)"]
    return _by_case(result, header, lambda f: [], lambda f: [])


def _by_case(
    result: dict[str, Any],
    header: list[str],
    before: Callable[[dict[str, Any]], list[str]],
    after: Callable[[dict[str, Any]], list[str]],
) -> str:
    """before, after: the cells around GFLOP/s and its share of the peak."""
    tables, peak = [], result["machine"]["gflops"]
    for case in result["cases"]:
        rows = []
        for name, figures in case["contenders"].items():
            if "missing" in figures:
                rows.append([name, f"missing: {figures['missing']}", *["-"] * (len(header) - 2)])
                continue
            gflops = figures["gflops"]
            in_float32 = Case(**case["case"]).precision == "float32"  # as the peak is
            cells = [f"{gflops:.0f}", percent(gflops / peak) if in_float32 else "-"]
            rows.append([name, time_of(figures), *before(figures), *cells, *after(figures), ratio(figures)])
        title = f"**{Case(**case['case']).title}**, {case['madds'] / 1e6:.1f} M multiply-adds an image"
        tables.append(f"{title}\n\n{grid(header, rows)}")
    return "\n\n".join(tables)


def kernels(result: dict[str, Any]) -> str:
    """A table a case, a row a pass of a convolution; above it, how many are faster than PyTorch's."""
    header = ["op", "input", "pass", "tinymnv1", "PyTorch", "PyTorch's time / ours", "GFLOP/s", "GB/s", "share of peak"]
    machine, tables = result["machine"], []
    for case in result["cases"]:
        rows = []
        for row in case["rows"]:
            cells = [row["kind"], row["shape"], row["pass"], time_of(row)]
            cells.append(f"{milliseconds(row['pytorch'])} ({row['layout']})" if "pytorch" in row else "missing")
            cells.append(ratio(row))
            if "median" in row:
                share = max(row["gflops"] / machine["gflops"], row["gbs"] / machine["copy_gbs"])
                cells += [f"{row['gflops']:.0f}", f"{row['gbs']:.0f}", percent(share)]
            else:
                cells += ["-"] * 3
            rows.append(cells)
        lines = [_title_with_score(case)]
        lines += [f"{name} is missing: {why}" for name, why in case["missing"].items()]
        tables.append("\n\n".join([*lines, grid(header, rows, left=3)]))
    return "\n\n".join(tables)


def scores(result: dict[str, Any]) -> str:
    """A line a case: how many single ops are faster than PyTorch's."""
    return "Single ops: " + "; ".join(map(_title_with_score, result["cases"])) + "."


def _title_with_score(case: dict[str, Any]) -> str:
    return f"**{Case(**case['case']).title}**{_score(case['rows'])}"


def _score(rows: Sequence[dict[str, Any]]) -> str:
    ratios = [row["ratio"]["median"] for row in rows if "ratio" in row]
    if not ratios:
        return ""
    mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
    not_slower = sum(r >= 1 for r in ratios)
    return f": {not_slower} of {len(ratios)} not slower than PyTorch's; geometric mean of the ratios {mean:.2f}x"


def growth(result: dict[str, Any]) -> str:
    """The picture, and a table an axis."""
    tables = ["![Time of a batch against batch, resolution and width, beside the multiply-adds](growth.png)"]
    for case in result["cases"]:
        rows = []
        for row in case["rows"]:
            times = [milliseconds(row[kind]) if kind in row else "missing" for kind in ("training", "inference")]
            rows.append([f"{row['value']:g}", f"{row['madds'] / 1e6:,.1f}", *times])
        tables.append(grid([case["axis"], "M multiply-adds a batch", "training step", "inference"], rows))
    return "\n\n".join(tables)


def scaling(result: dict[str, Any]) -> str:
    """A row a number of threads."""
    tables = []
    for case in result["cases"]:
        rows = []
        for row in case["rows"]:
            speeds = [f"{row[key]:,.0f}" if key in row else "missing" for key in SPEEDS]
            rows.append([str(row["threads"]), *speeds, row.get("mode", "-"), ratio(row)])
        header = [
            "threads",
            "tinymnv1, images/s",
            "PyTorch, channels_last, images/s",
            "its mode",
            "PyTorch's time / ours",
        ]
        tables.append(f"**{Case(**case['case']).title}**\n\n{grid(header, rows)}")
    return "\n\n".join(tables)
