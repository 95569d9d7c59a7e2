"""Train a MobileNetV1: `python -m tinymnv1.train`. A thin command line over `tinymnv1.trainer`."""

import argparse
import contextlib
import signal
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

from tqdm import tqdm

from tinymnv1.cli import CommandParser, path_argument, run_command
from tinymnv1.data import Dataset, load_dataset
from tinymnv1.errors import ConfigError
from tinymnv1.lr_finder import STEPS, WARM_UP, sweep
from tinymnv1.recipes import CHOICES, FIELDS, RECIPES, TrainConfig, make_config, recipe_table
from tinymnv1.runs import (
    alone,
    check_run_folder,
    check_same_settings,
    claim_next_folder,
    load_run,
    new_run_folder,
    next_run_folder,
    resume_command,
)
from tinymnv1.trainer import Evaluation, Interrupted, Row, Trainer

ENOUGH_STEPS = 100
"""Each step moves the running statistics by a tenth; they must also outlive the first, wild part of training."""

HELP = {
    "data": "shapes: drawn on the spot; cifar10: from disk or downloaded; folder: your own images, one sub-folder per"
    " class, of which every fifth is kept for testing, or folders train and test with such sub-folders",
    "data_dir": "where the data lies: required for folder, optional for cifar10 (a folder or the .tar.gz)",
    "resolution": "pixels; images of another size are scaled. 0: the data's own (32; 64 for a folder)",
    "early_resolution": "pixels in the first half of the epochs, to make them faster. 0: the same throughout",
    "limit": "use at most N training images and N test images. 0: all",
    "validation": "hold N training images out and evaluate on them instead of on the test images, so that settings can"
    " be chosen without looking at those. 0: none",
    "normalise": "subtract the training pixels' mean and divide by their standard deviation",
    "augment": "random changes to training images: mirror, or shift by up to an eighth and mirror; what a shift brings"
    " in is black, or reflected",
    "cutout": "side in pixels of a square, at a random place of each training image, that is set to the mean colour (to"
    " black with --no-normalise). 0: none",
    "alternate_flip": "mirror each training image in every second epoch instead of at random",
    "jitter": "change contrast and saturation of each training image by up to this share, and brightness by up to so"
    " many standard deviations; such as 0.2",
    "width": "width multiplier: scales the channels of every layer",
    "stem_stride": "stride of the first convolution. 0: 1 up to 64 pixels (the CIFAR form), 2 above",
    "padding": "symmetric as in PyTorch, or tf: TensorFlow's SAME",
    "activation": "after every batch norm",
    "init": "initial weights of the convolutions: slim, normal with 0.09, cut off at 0.18, or fan-in, PyTorch's:"
    " uniform within 1/sqrt(fan_in)",
    "identity": "add X times the identity to the initial weights of every block; weight decay then pulls the 1x1"
    " convolutions towards X times the identity instead of zero",
    "dropout": "before the classifier, in [0, 1)",
    "backend": "numba: compiled, float32; numpy: slow, but every line can be stepped through",
    "engine": "fused: the whole network on a few kernels; layers: one op after the other (always, with numpy)",
    "precision": "of the factors in the fused engine's 1x1 convolutions; bfloat16 trains faster on a processor that"
    " multiplies it (AVX-512 BF16), and slower on others; auto: the faster one. Evaluation is float32 in any case",
    "epochs": "passes over the training images",
    "batch_size": "images per optimizer step; those that do not fill the last one of an epoch are left out of it",
    "optimizer": "which optimizer",
    "lr": "peak learning rate",
    "momentum": "of sgd",
    "nesterov": "Nesterov's form of the momentum, for sgd",
    "weight_decay": "not applied to batch norm, biases and depthwise filters",
    "schedule": "of the learning rate; step divides it by 10 at half and at three quarters of the run",
    "warmup": "epochs over which the rate first rises from zero",
    "label_smoothing": "share of the target spread over all classes, in [0, 1)",
    "clip_norm": "limit of the gradient's norm. 0: none",
    "ema_decay": "evaluate and save an exponential moving average of the weights in their place; the share of it that"
    " each step keeps, such as 0.999. 0: none",
    "evaluate_every": "epochs from one evaluation, and row of metrics.csv, to the next; the last epoch always has one",
    "seed": "of the initial weights, the images' order, the augmentation, dropout, and which images --limit takes",
}
GROUPS = {
    "data": (
        "data",
        "data_dir",
        "resolution",
        "early_resolution",
        "limit",
        "validation",
        "normalise",
        "augment",
        "cutout",
        "alternate_flip",
        "jitter",
    ),
    "model": ("width", "stem_stride", "padding", "activation", "dropout", "init", "identity", "backend"),
    "training": (
        "engine",
        "precision",
        "epochs",
        "batch_size",
        "optimizer",
        "lr",
        "momentum",
        "nesterov",
        "weight_decay",
        "schedule",
        "warmup",
        "label_smoothing",
        "clip_norm",
        "ema_decay",
        "evaluate_every",
        "seed",
    ),
}


def make_parser() -> argparse.ArgumentParser:
    """The options: one for each field of TrainConfig, and those about the run itself."""
    recipes = "\n".join(
        textwrap.fill(f"{name:<14}  {what}", 100, initial_indent="  ", subsequent_indent=" " * 18)
        for name, (what, _) in RECIPES.items()
    )
    parser = CommandParser(
        prog="python -m tinymnv1.train",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Train a MobileNetV1 on images and leave a folder with checkpoints, metrics and pictures.",
        epilog=f"recipes (any option overrides a recipe's setting):\n{recipes}\n\n"
        f"{textwrap.indent(recipe_table(), '  ')}\n\n"
        "examples:\n"
        "  python -m tinymnv1.train\n"
        "  python -m tinymnv1.train --data cifar10 --width 0.25 --epochs 3\n"
        "  python -m tinymnv1.train --recipe cifar10-fast --validation 5000 --lr 0.1\n"
        "  python -m tinymnv1.train --data folder --data-dir pets --out runs/pets\n"
        "  python -m tinymnv1.train --resume runs/pets\n"
        "  python -m tinymnv1.train --optimizer sgd --find-lr\n\n"
        "Ctrl-C saves the run after the current step. Where other programs keep the cores busy, set"
        " OMP_WAIT_POLICY=passive.\nSee also tinymnv1.evaluate, tinymnv1.compare, tinymnv1.predict,"
        " tinymnv1.summary.",
    )
    run = parser.add_argument_group("run")
    run.add_argument("--recipe", choices=tuple(RECIPES), help="a named set of settings, see below (default: quick)")
    run.add_argument("--out", type=path_argument, metavar="DIR", help="folder of the run (default: runs/DATA-NUMBER)")
    run.add_argument(
        "--resume",
        type=path_argument,
        metavar="RUN",
        help="continue an interrupted run with its own settings; --data-dir, if its data has moved",
    )
    run.add_argument(
        "--checkpoint-minutes",
        type=float,
        default=5.0,
        metavar="X",
        help="minutes between saves, in addition to the save after every epoch. 0: after every step (default: 5)",
    )
    run.add_argument(
        "--find-lr",
        action="store_true",
        help="do not train: try out rising learning rates, suggest one for --lr, and draw find-lr.png (in DIR or runs)",
    )
    run.add_argument("--threads", type=int, metavar="N", help="threads of the compiled kernels (default: all cores)")
    for title, names in GROUPS.items():
        group = parser.add_argument_group(title)
        for name in names:
            _add_option(group, name)
    return parser


def _add_option(group: Any, name: str) -> None:
    """The option of one TrainConfig field; unless it is given, nothing is set, so that a recipe can decide."""
    default: Any = FIELDS[name].default
    flag = f"--{name.replace('_', '-')}"
    options: dict[str, Any] = {"default": argparse.SUPPRESS}
    shown = "yes" if default is True else default
    options["help"] = HELP[name] + (f" (default: {shown})" if shown not in ("", 0) else "")
    if isinstance(default, bool):
        options["action"] = argparse.BooleanOptionalAction
    elif name in CHOICES:
        options["choices"] = CHOICES[name]
    elif name == "data_dir":
        options |= {"type": lambda text: str(path_argument(text)), "metavar": "PATH"}  # a setting is text
    else:
        options |= {"type": type(default), "metavar": {int: "N", float: "X"}[type(default)]}
    group.add_argument(flag, **options)


class Progress:
    """A tqdm bar over the whole run's steps, and a line for each finished epoch."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self.bar = tqdm(
            total=trainer.total_steps,
            initial=trainer.position.step,
            unit="step",
            disable=None,  # no bar where nobody sees it: in a log file
            leave=False,
            desc=self._epoch(),
            bar_format="{desc} {percentage:3.0f}%|{bar}| {remaining} left{postfix}",  # fits into 80 columns
        )
        trainer.on_step, trainer.on_epoch = self.step, self.epoch

    def _epoch(self) -> str:
        """Which epoch of how many: of a complete run the last."""
        last = self.trainer.config.epochs
        return f"epoch {min(self.trainer.position.epoch + 1, last)}/{last}"

    def step(self, trainer: Trainer, loss: float) -> None:
        """Move on by one step."""
        at = trainer.position
        self.bar.set_description_str(self._epoch(), refresh=False)
        self.bar.set_postfix_str(
            f"loss {at.loss_sum / at.images:.3f}, accuracy {100 * at.correct / at.images:.1f} %,"
            f" {at.images / at.seconds:,.0f} images/s",
            refresh=False,
        )
        self.bar.update()

    def epoch(self, row: Row) -> None:
        """Print a finished epoch's line. If nobody reads any more (`| head -3`), the run goes on without a word."""
        line = (
            f"Epoch [{row['epoch']}/{self.trainer.config.epochs}], Loss: {row['train_loss']:.4f},"
            f" training accuracy {100 * row['train_accuracy']:.2f} %,"
            f" {self.trainer.dataset.held_out} accuracy {100 * row['test_accuracy']:.2f} %,"
            f" {row['images_per_second']:,.0f} images/s"
        )
        with contextlib.suppress(BrokenPipeError):
            self.bar.write(line)
            sys.stdout.flush()


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    args = vars(make_parser().parse_args(argv))
    with contextlib.ExitStack() as held:
        return _train(args, held)


def _train(args: dict[str, Any], held: contextlib.ExitStack) -> int:
    """Train as the options say. held: gets the run's folder, which is this process's own until the end."""
    recipe, out, resume, threads = (args.pop(name) for name in ("recipe", "out", "resume", "threads"))
    find_lr = args.pop("find_lr")
    if not (minutes := args.pop("checkpoint_minutes")) >= 0:  # NaN is not, either
        raise ConfigError(f"--checkpoint-minutes must be at least 0, got {minutes}")
    saved = None
    if resume is not None:
        if find_lr:
            raise ConfigError("--find-lr is for a run that has not begun: leave out --resume")
        if recipe or out:
            raise ConfigError("--resume goes on with the run's own settings and folder: leave out --recipe and --out")
        if resume.is_dir():
            held.enter_context(alone(resume))
        saved = load_run(resume)
        config, folder = replace(saved.config, **args), resume
        check_same_settings(folder, saved.config, config)  # before its data is looked for, and perhaps downloaded
    else:
        config = make_config(recipe or "quick", **args)
        folder = out or (Path("runs") if find_lr else next_run_folder(Path("runs"), config.data))
        check_run_folder(folder)
    if config.data_dir:  # absolute, so that the run can be resumed from anywhere
        config = replace(config, data_dir=str(Path(config.data_dir).resolve()))
    if threads is not None:
        if config.backend != "numba":
            raise ConfigError(f"--threads is for --backend numba: leave it out with --backend {config.backend}")
        _set_threads(threads)
    _begin_to_compile(config, evaluate=not find_lr)
    data_dir = Path(config.data_dir) if config.data_dir else None
    dataset = config.part_of(load_dataset(config.data, data_dir, config.resolution or None))
    if find_lr:
        _find_lr(config, dataset, folder)
        return 0
    trainer = Trainer(config, dataset, folder, 60 * minutes)
    if saved is not None:
        trainer.restore(saved.arrays, saved.meta)
        if saved.damage:
            print(saved.fall_back(), file=sys.stderr)
    else:
        folder = trainer.folder = new_run_folder(out) if out else claim_next_folder(Path("runs"), config.data)
        held.enter_context(alone(folder))
    _announce(trainer)
    try:
        result = _fit(trainer)
    except Interrupted:
        with contextlib.suppress(BrokenPipeError):  # Ctrl-C may have stopped the reader, too
            print(f"stopped and saved; go on with: {resume_command(folder)}", file=sys.stderr)
        return 130
    _conclude(trainer, result)
    return 0


def _announce(trainer: Trainer) -> None:
    """Say what is trained, on what, and where it goes."""
    config, dataset = trainer.config, trainer.dataset
    parameters = sum(p.data.size for _, p in trainer.model.parameters())
    pixels = f"{config.effective_resolution()} pixels"
    if config.early_resolution and config.epochs > 1:
        pixels += f" ({config.early_resolution} in the first half of the epochs)"
    with contextlib.suppress(BrokenPipeError):  # nobody reads it: train all the same
        print(
            f"MobileNetV1, width {config.width:g}, {parameters:,} parameters; {len(dataset.train_labels):,} training"
            f" and {len(dataset.test_labels):,} {dataset.held_out} images of {dataset.name},"
            f" {pixels}{', bfloat16' * (config.precision == 'bfloat16')}; run folder {trainer.folder}",
            flush=True,
        )
        if trainer.position.epoch == config.epochs:
            print("this run is complete already; its pictures are drawn again")
            return
        if untested := dataset.untested():
            names = ", ".join(untested[:5]) + ", ..." * (len(untested) > 5)
            print(f"note: the accuracy says nothing about classes without a {dataset.held_out} image: {names}")
        if config.early_resolution and config.epochs == 1:
            print("note: --early-resolution is for the first half of the epochs: one epoch has none")
        if trainer.total_steps < ENOUGH_STEPS:
            print(
                f"note: {trainer.total_steps} steps in all are few: batch norm's running statistics need about"
                f" {ENOUGH_STEPS}. Use {'a smaller --batch-size or ' * (config.batch_size > 1)}more --epochs"
            )


def _set_threads(threads: int) -> None:
    import numba  # here: loading it takes half a second, and only this option needs it so early

    import tinymnv1.kernels  # noqa: F401  (first: it says which threads Numba shall take)

    if not 1 <= threads <= numba.config.NUMBA_NUM_THREADS:
        raise ConfigError(f"--threads must be from 1 to {numba.config.NUMBA_NUM_THREADS}, got {threads}")
    numba.set_num_threads(threads)


def _begin_to_compile(config: TrainConfig, evaluate: bool) -> None:
    """The first time, let other processes compile kernels while this one reads the data and begins to train."""
    if config.backend == "numba":
        from tinymnv1.engine import first_run  # here: it loads Numba

        before_inference = []
        if config.engine == "fused":
            precision = config.effective_precision()
            first_run.begin(f"backward {precision}")
            # This process has the data to read first. And what inference shares with the backward pass is cached then.
            before_inference = [f"weights' gradient {precision}"]
        if evaluate:
            first_run.begin(*before_inference, "inference")


def _find_lr(config: TrainConfig, dataset: Dataset, folder: Path) -> None:
    """Sweep, say what to take, and draw."""
    from tinymnv1 import plots  # here: loading it takes half a second, and another process could be compiling

    with tqdm(total=WARM_UP + STEPS, unit="step", disable=None, leave=False) as bar:
        found = sweep(config, dataset, lambda loss: bar.update())
    new_run_folder(folder)
    picture, suggestion = folder / "find-lr.png", found.suggestion
    title = f"{config.optimizer}, batch {config.batch_size}, width {config.width:g} on {dataset.name}"
    figure = plots.learning_rates(found.rates, found.losses, found.smoothed, found.guess, suggestion, title)
    end = "where the network had become worse than a guess" if found.diverged else "and the loss held out to the end"
    if found.rates:
        print(f"{len(found.rates)} steps with learning rates from {found.rates[0]:.2g} to {found.rates[-1]:.2g}, {end}")
    if suggestion is None:
        print("no suggestion: the loss never rose, or at once, or was never below a guess's; look at the picture")
    else:
        print(
            f"suggestion: --lr {suggestion:g}, the highest rate at which the loss was still within"
            f" {found.tolerance:.2g} of its smallest value (running means). Above it the loss climbs. It is for the"
            " peak of a schedule that comes down again; with --schedule constant begin with a third of it"
        )
    plots.save_figure(figure, picture)
    print(f"loss against learning rate: {picture}")


def _fit(trainer: Trainer) -> Evaluation:
    """Train with a progress bar; the first Ctrl-C or SIGTERM asks for a stop after the step, a second one is blunt."""

    def stop(number: int, frame: FrameType | None) -> None:
        if trainer.stop_requested:
            raise KeyboardInterrupt
        trainer.stop_requested = True

    previous = {s: signal.signal(s, stop) for s in (signal.SIGINT, signal.SIGTERM)}
    progress = Progress(trainer)
    try:
        return trainer.fit()
    finally:
        progress.bar.close()
        for number, handler in previous.items():
            signal.signal(number, handler)


def _conclude(trainer: Trainer, result: Evaluation) -> None:
    """How good a finished run is, and its three pictures; the number first, in case they cannot be written."""
    from tinymnv1 import plots  # here: see _find_lr

    data, folder, percent = trainer.dataset, trainer.folder, 100 * result.accuracy
    with contextlib.suppress(BrokenPipeError):  # nobody reads it: draw all the same
        print(f"Accuracy of the model on the {data.held_out} images: {percent:.2f}%", flush=True)
    title = f"MobileNetV1 {trainer.config.width:g} on {data.name}: {data.held_out} accuracy {percent:.2f} %"
    predicted = result.probabilities.argmax(axis=1)
    matrix = plots.confusion_matrix(data.test_labels, predicted, len(data.classes))
    plots.save_figure(plots.curves(trainer.history, title, data.held_out), folder / "curves.png")
    plots.save_figure(plots.confusion(matrix, data.classes, title), folder / "confusion.png")
    plots.save_figure(
        plots.predictions(data.test_images, data.test_labels, result.probabilities, data.classes, title, data.held_out),
        folder / "predictions.png",
    )
    best = plots.best_row(trainer.history)
    print(f"best epoch {best['epoch']} with {100 * best['test_accuracy']:.2f} %; pictures and checkpoints in {folder}")


if __name__ == "__main__":
    sys.exit(run_command(main))
