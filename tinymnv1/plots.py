"""The figures of training runs: each function takes data and returns a matplotlib Figure.

Colours are Okabe and Ito's, which people with any kind of colour vision can tell apart; what colour says is also said
by a line style, a marker or a word.
"""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from cycler import cycler
from matplotlib import rcParams
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from tinymnv1.errors import ConfigError
from tinymnv1.files import write_atomically
from tinymnv1.ops.window import Array

BLUE, ORANGE, GREEN, VERMILLION = "#0072B2", "#E69F00", "#009E73", "#D55E00"
SKY, PURPLE, YELLOW = "#56B4E9", "#CC79A7", "#F0E442"


def notebook_style() -> None:
    """Give every figure of a notebook the course's look: size, grid, and these colours in this order."""
    rcParams.update(
        {
            "figure.dpi": 100,
            "figure.constrained_layout.use": True,
            "axes.grid": True,
            "axes.axisbelow": True,
            "grid.alpha": 0.3,
            "image.cmap": "viridis",
            "axes.prop_cycle": cycler(color=[BLUE, VERMILLION, GREEN, ORANGE, PURPLE, SKY, "black"]),
        }
    )


def plain(text: str) -> str:
    """A name or a title as matplotlib shows it as it is: no `$` begins a formula, and each character can be encoded."""
    return text.encode(errors="backslashreplace").decode().replace("$", r"\$")


def _short(text: str, most: int) -> str:
    """A name as `plain` shows it, cut where it would lie over its neighbour: so many characters at most."""
    return plain(text if len(text) <= most else text[: most - 1] + "…")


def check_picture(path: Path) -> None:
    """Raise ConfigError if a picture cannot go to `path`; called before the work, not after it."""
    if path.suffix.lower() != ".png":
        raise ConfigError(f"{path}: the picture could not be written: only .png is")
    if not path.parent.is_dir():
        raise ConfigError(f"{path}: the picture could not be written: there is no folder {path.parent}")


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, whole or not at all. Raises ConfigError if the place cannot be written."""
    check_picture(path)
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=130)
    try:
        write_atomically(path, png.getvalue())
    except OSError as error:
        raise ConfigError(f"{path}: the picture could not be written ({error.strerror})") from error


def best_row(history: Sequence[dict[str, float]]) -> dict[str, float]:
    """The epoch with the best test accuracy; the latest of equals."""
    return max(history, key=lambda row: (row["test_accuracy"], row["epoch"]))


def _marked(points: int, about: int) -> list[int]:
    """Which points of a line have a marker, the last always: one at every epoch of a long run would hide its line."""
    return sorted(range(points - 1, -1, -max(points // about, 1)))


def curves(history: Sequence[dict[str, float]], title: str, held_out: str = "test") -> Figure:
    """Loss, accuracy and learning rate against the epoch. history: the rows of metrics.csv.

    held_out: what the images are that the run was evaluated on, "test" or "validation".
    """
    figure = Figure(figsize=(11, 4), layout="constrained")
    figure.suptitle(plain(title))
    loss, accuracy, rate = figure.subplots(1, 3)
    epochs, marks = [row["epoch"] for row in history], {"markersize": 4, "markevery": _marked(len(history), about=25)}
    for axes, key, scale in ((loss, "loss", 1), (accuracy, "accuracy", 100)):
        train, test = ([scale * row[f"{part}_{key}"] for row in history] for part in ("train", "test"))
        axes.plot(epochs, train, "o--", color=BLUE, label="training (during the epoch)", **marks)
        axes.plot(epochs, test, "s-", color=VERMILLION, label=held_out, **marks)
    loss.set_ylabel("cross-entropy (nats)")
    loss.set_ylim(0, 1.08 * max(max(row["train_loss"], row["test_loss"]) for row in history))
    figure.legend(*loss.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    accuracy.set_ylabel("accuracy (%)")
    accuracy.set_ylim(0, 102)
    best = best_row(history)
    told = f"best on {held_out}: {100 * best['test_accuracy']:.2f} % (epoch {best['epoch']:g})"
    accuracy.set_title(told, fontsize=10)
    rate.plot(epochs, [row["lr"] for row in history], "^-", color=GREEN, **marks)
    rate.set_ylabel("learning rate at the epoch's end")
    rate.set_ylim(0, 1.08 * max(row["lr"] for row in history) or 1)
    for axes in (loss, accuracy, rate):
        axes.set_xlabel("epoch")
        axes.set_xlim(epochs[0] - 0.5, epochs[-1] + 0.5)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))
        axes.grid(alpha=0.3)
    return figure


def confusion_matrix(labels: Array, predictions: Array, classes: int) -> Array:
    """Counts, (classes, classes): row = true class, column = predicted class."""
    return np.bincount(np.int64(classes) * labels + predictions, minlength=classes * classes).reshape(classes, classes)


def confusion(matrix: Array, classes: Sequence[str], title: str) -> Figure:
    """The confusion matrix as shares of each true class, with the counts written in, and each class's accuracy.

    matrix: (classes, classes) counts, row = true class. With more than 30 classes the numbers are left out.
    Long names are cut.
    """
    count = len(classes)
    side = min(max(4.5, 0.55 * count + 2.2), 16)
    figure = Figure(figsize=(side + 0.8, side), layout="constrained")
    axes = figure.subplots()
    share = 100 * matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=100)
    figure.colorbar(image, ax=axes, label="share of the true class (%)", shrink=0.8)
    names, size = [_short(name, 18) for name in classes], min(10.0, 40 * side / count)  # of a letter, in points
    upright = count > 30
    axes.set_xticks(
        range(count), names, rotation=90 if upright else 45, rotation_mode="anchor", fontsize=size,
        ha="right", va="center" if upright else "top",
    )  # fmt: skip
    right = [f", {share[k, k]:.0f} %" if matrix[k].any() else "" for k in range(count)]
    axes.set_yticks(range(count), [name + told for name, told in zip(names, right, strict=True)], fontsize=size)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class, and the share of it that is right")
    axes.grid(visible=False)
    figure.suptitle(plain(title), fontsize=min(12.0, 110 * side / len(title or " ")))
    if count <= 30:
        for row in range(count):
            for column in range(count):
                if matrix[row, column]:
                    colour = "white" if share[row, column] > 55 else "black"
                    axes.text(column, row, f"{matrix[row, column]}", ha="center", va="center", fontsize=8, color=colour)
    return figure


def _tile(axes: object, image: Array, title: str, correct: bool | None) -> None:
    colour = "black" if correct is None else BLUE if correct else VERMILLION
    axes.imshow(image, interpolation="nearest")  # type: ignore[attr-defined]
    axes.set_title(title, fontsize=8, color=colour)  # type: ignore[attr-defined]
    axes.set_axis_off()  # type: ignore[attr-defined]


def predictions(
    images: Array,
    labels: Array,
    probabilities: Array,
    classes: Sequence[str],
    title: str,
    held_out: str = "test",
) -> Figure:
    """Test images with what the model says: two rows picked at random, two rows of its most confident mistakes.

    images: (N, H, W, 3) uint8.  labels: (N,).  probabilities: (N, classes).  held_out: "test" or "validation".
    """
    columns = 8
    predicted = probabilities.argmax(axis=1)
    confidence = probabilities.max(axis=1)
    sample = np.random.default_rng(0).permutation(len(labels))[: 2 * columns]
    wrong = np.flatnonzero(predicted != labels)
    mistakes = wrong[np.argsort(-confidence[wrong], kind="stable")][: 2 * columns]
    figure = Figure(figsize=(11, 7.4), layout="constrained")
    figure.suptitle(plain(title))
    parts = np.asarray(figure.subfigures(2, 1))
    count = f"{len(wrong):,} of {len(labels):,} {held_out} images"
    names = ("Picked at random", f"Mistakes: {count}, the most confident first")
    for part, name, chosen in zip(parts, names, (sample, mistakes), strict=True):
        part.suptitle(name, fontsize=10)
        grid = part.subplots(2, columns).ravel()
        for axes in grid[len(chosen) :]:
            axes.set_axis_off()
        for axes, i in zip(grid, chosen, strict=False):
            correct = bool(predicted[i] == labels[i])
            given, true = _short(classes[predicted[i]], 14), _short(classes[labels[i]], 17)
            told = f"{given} {100 * confidence[i]:.0f} %"
            _tile(axes, images[i], told if correct else f"{told}\nis {true}", correct)
    return figure


def top_classes(images: Array, names: Sequence[str], probabilities: Array, classes: Sequence[str]) -> Figure:
    """Each image beside a bar chart of its most probable classes (five at most).

    images: (N, H, W, 3) uint8.  names: a title for each.  probabilities: (N, classes).
    """
    count, top = len(images), min(5, len(classes))
    figure = Figure(figsize=(7.5, 2.1 * count + 0.4), layout="constrained")
    rows = figure.subplots(count, 2, squeeze=False, width_ratios=(1, 2))
    for (picture, bars), image, name, p in zip(rows, images, names, probabilities, strict=True):
        _tile(picture, image, _short(name, 32), None)
        order = np.argsort(-p, kind="stable")[:top]
        bars.barh(range(top), 100 * p[order], color=[BLUE] + [ORANGE] * (top - 1))
        bars.set_yticks(range(top), [_short(classes[k], 24) for k in order])
        bars.invert_yaxis()
        bars.set_xlim(0, 118)
        bars.set_xticks(range(0, 101, 25))
        for place, k in enumerate(order):
            bars.text(100 * p[k] + 1.5, place, f"{100 * p[k]:.1f} %", va="center", fontsize=8)
        bars.spines[["top", "right"]].set_visible(False)
    rows[-1][1].set_xlabel("probability (%)")
    return figure


def learning_rates(
    rates: Sequence[float],
    losses: Sequence[float],
    smoothed: Sequence[float],
    guess: float,
    suggestion: float | None,
    title: str,
) -> Figure:
    """The loss against the learning rate, as `tinymnv1.lr_finder.sweep` found it.

    losses, smoothed: in nats, one of each rate.  guess: the loss of a network that only guesses.
    """
    figure = Figure(figsize=(7.5, 4.6), layout="constrained")
    axes = figure.subplots()
    axes.plot(rates, losses, ".", color=SKY, markersize=5, label="each batch")
    axes.plot(rates, smoothed, "-", color=BLUE, linewidth=2, label="running mean")
    axes.axhline(guess, color="black", linestyle=":", linewidth=1, label="guessing, ln(classes)")
    if suggestion is not None:
        axes.axvline(suggestion, color=VERMILLION, linestyle="--", label=f"suggestion: --lr {suggestion:g}")
    axes.set_xscale("log")
    low = min([guess, *losses])
    axes.set_ylim(max(low - 0.1 * guess, 0), 1.25 * guess or 1)  # what lies above has diverged
    axes.set_xlabel("learning rate")
    axes.set_ylabel("training loss (nats)")
    axes.set_title(plain(title))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="upper left")
    return figure


def run_styles(count: int) -> list[dict[str, str]]:
    """Line styles of `count` runs in one picture: seven colours, and a marker for each run that says the same.

    After seven runs the colours come again, with another kind of line.
    """
    colours = (BLUE, VERMILLION, GREEN, ORANGE, PURPLE, SKY, "black")
    markers, lines = "os^DvPX*<>hd8", ("-", "--", ":", "-.")
    return [
        {
            "color": colours[k % len(colours)],
            "marker": markers[k % len(markers)],
            "linestyle": lines[k // len(colours) % len(lines)],
        }
        for k in range(count)
    ]


def overlay(names: Sequence[str], histories: Sequence[Sequence[dict[str, float]]], held_out: str) -> Figure:
    """The curves of several runs over each other: losses and accuracy against the epoch, accuracy against time.

    names: for the legend.  histories: of each run, the rows of its metrics.csv.  held_out: see `curves`.
    """
    longest = max(map(len, names))
    columns = min(4 if longest <= 20 else 2 if longest <= 50 else 1, len(names))
    figure = Figure(figsize=(11, 7.5 + 0.22 * -(-len(names) // columns)), layout="constrained")
    (train, test), (accuracy, clock) = figure.subplots(2, 2)
    for name, rows, style in zip(names, histories, run_styles(len(names)), strict=True):
        epochs = [row["epoch"] for row in rows]
        percent = [100 * row["test_accuracy"] for row in rows]
        minutes = np.cumsum([row["seconds"] for row in rows]) / 60
        label = plain(f" {name}" if name.startswith("_") else name)  # a legend leaves out names that begin with "_"
        for axes, x, y in (
            (train, epochs, [row["train_loss"] for row in rows]),
            (test, epochs, [row["test_loss"] for row in rows]),
            (accuracy, epochs, percent),
            (clock, minutes, percent),
        ):
            shown = _marked(len(rows), about=12)
            axes.plot(x, y, label=label, markersize=5, linewidth=1.5, markevery=shown, alpha=0.9, **style)
    for axes, label in (
        (train, "training loss (nats)"),
        (test, f"{held_out} loss (nats)"),
        (accuracy, f"{held_out} accuracy (%)"),
        (clock, f"{held_out} accuracy (%)"),
    ):
        axes.set_ylabel(label)
        axes.set_xlabel("minutes" if axes is clock else "epoch")
        axes.grid(alpha=0.3)
        if axes is not clock:
            axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))
    for axes in (train, test):
        axes.set_ylim(bottom=0)
    clock.set_xlim(left=0)
    figure.legend(*train.get_legend_handles_labels(), loc="outside lower center", ncols=columns)
    return figure
