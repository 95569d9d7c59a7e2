"""Figures: what they show is what they were given. How they look is for eyes to judge."""

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from tinymnv1 import plots
from tinymnv1.errors import ConfigError


def history(epochs=3):
    keys = ("train_loss", "test_loss", "train_accuracy", "test_accuracy", "lr")
    return [{"epoch": e + 1} | {k: (e + 1) / (10 + i) for i, k in enumerate(keys)} for e in range(epochs)]


@pytest.mark.parametrize("epochs", [1, 5])
def test_curves_hold_the_history(epochs):
    rows = history(epochs)
    loss, accuracy, rate = plots.curves(rows, "title").axes
    np.testing.assert_allclose(loss.lines[0].get_ydata(), [r["train_loss"] for r in rows])
    np.testing.assert_allclose(loss.lines[1].get_ydata(), [r["test_loss"] for r in rows])
    np.testing.assert_allclose(accuracy.lines[1].get_ydata(), [100 * r["test_accuracy"] for r in rows])
    np.testing.assert_allclose(rate.lines[0].get_ydata(), [r["lr"] for r in rows])
    assert all(axes.get_xlabel() == "epoch" and axes.get_ylabel() for axes in (loss, accuracy, rate))


def test_the_confusion_matrix_counts_rows_as_true_classes():
    matrix = plots.confusion_matrix(np.array([0, 0, 2]), np.array([0, 1, 2]), 3)
    assert matrix.tolist() == [[1, 1, 0], [0, 0, 0], [0, 0, 1]]
    axes = plots.confusion(matrix, ["a", "b", "c"], "title").axes[0]
    assert sorted(text.get_text() for text in axes.texts) == ["1", "1", "1"]
    assert (axes.get_xlabel(), axes.get_ylabel()[:10]) == ("predicted class", "true class")
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a, 50 %", "b", "c, 100 %"]


def test_the_confusion_matrix_of_labels_in_bytes():
    """16 * 17 + 3 is no uint8."""
    matrix = plots.confusion_matrix(np.array([16], np.uint8), np.array([3]), 17)
    assert matrix[16, 3] == matrix.sum() == 1


def test_many_classes_leave_the_numbers_out():
    figure = plots.confusion(np.eye(100, dtype=int), [str(i) for i in range(100)], "title")
    assert not figure.axes[0].texts


def test_a_long_run_has_few_markers():
    """One at every epoch of hundreds would be a band that hides which line is dashed."""
    rows = [history()[0] | {"epoch": epoch} for epoch in range(1, 501)]
    for axes in plots.curves(rows, "title").axes:
        for line in axes.lines:
            shown = line.get_markevery()
            assert 20 <= len(shown) <= 30
            assert shown[-1] == 499


def test_names_with_dollar_signs_are_no_formulas(tmp_path):
    """Price ranges, say; between two of them matplotlib expects a formula, and $$ is none."""
    names, matrix = ["$", "$$", "$5_$"], np.eye(3, dtype=int)
    images, labels = np.zeros((4, 8, 8, 3), np.uint8), np.array([0, 1, 2, 2])
    probabilities = np.eye(3)[[1, 1, 2, 0]]
    figures = {
        "confusion": plots.confusion(matrix, names, "runs/$$"),
        "predictions": plots.predictions(images, labels, probabilities, names, "$$"),
        "top": plots.top_classes(images[:1], ["$$.png"], probabilities[:1], names),
        "curves": plots.curves(history(), "$$"),
        "overlay": plots.overlay(["$$", "$5_$"], [[r | {"seconds": 1} for r in history()]] * 2, "test"),
    }
    for name, figure in figures.items():
        plots.save_figure(figure, tmp_path / f"{name}.png")  # raised ValueError
        assert (tmp_path / f"{name}.png").exists()


@pytest.mark.parametrize("count", [3, 40, 100])
def test_long_names_stay_in_the_picture(count):
    names, title = [f"{k} three-toed sloth, sleeping on a tree" for k in range(count)], "t" * 60
    images, labels = np.zeros((count, 8, 8, 3), np.uint8), np.arange(count)
    sure = np.eye(count)[(labels + labels % 2) % count]
    runs = [f"{name} for a long, long time" for name in names[:12]]
    figures = [
        plots.confusion(np.eye(count, dtype=int), names, title),
        plots.predictions(images, labels, sure, names, title),
        plots.top_classes(images[:3], [f"{name}.png" for name in names[:3]], sure[:3], names),
        plots.overlay(runs, [[row | {"seconds": 1} for row in history()]] * len(runs), "test"),
    ]
    for figure in figures:
        FigureCanvasAgg(figure).draw()
        drawn, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
        assert min(drawn.x0, drawn.y0) > -0.01
        assert drawn.x1 < width + 0.01
        assert drawn.y1 < height + 0.01


def test_predictions_show_the_most_confident_mistakes_first():
    probabilities = np.full((20, 2), [0.9, 0.1])
    probabilities[3], probabilities[7] = [0.2, 0.8], [0.05, 0.95]  # two mistakes, the second is surer of itself
    figure = plots.predictions(np.zeros((20, 8, 8, 3), np.uint8), np.zeros(20, int), probabilities, ["no", "yes"], "t")
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert [t for t in titles if "is no" in t][-2:] == ["yes 95 %\nis no", "yes 80 %\nis no"]


def test_a_perfect_model_has_no_mistakes_to_show(tmp_path):
    probabilities = np.full((3, 2), [0.9, 0.1])
    figure = plots.predictions(np.zeros((3, 8, 8, 3), np.uint8), np.zeros(3, int), probabilities, ["no", "yes"], "t")
    plots.save_figure(figure, tmp_path / "p.png")
    with Image.open(tmp_path / "p.png") as picture:
        assert picture.size[0] > 1000


def test_a_picture_that_cannot_be_written_is_a_clear_error(tmp_path):
    with pytest.raises(ConfigError, match="could not be written"):
        plots.save_figure(plots.curves(history(), "t"), tmp_path / "no" / "x.png")
