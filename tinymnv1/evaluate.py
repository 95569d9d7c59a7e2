"""Test a trained model again: `python -m tinymnv1.evaluate RUN`."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from tinymnv1 import plots
from tinymnv1.cli import CommandParser, path_argument, run_command
from tinymnv1.data import DATASETS, load_dataset
from tinymnv1.engine import inference_engine
from tinymnv1.errors import ConfigError
from tinymnv1.ops.window import Array
from tinymnv1.runs import load_trained
from tinymnv1.trainer import Evaluation, evaluate, flip_averaged


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = CommandParser(
        prog="python -m tinymnv1.evaluate",
        description=(
            "Run a trained model over the test images of the data set that it was trained on, or of another one with"
            " the same classes; or, if it was trained with --validation, over the images held out for that. Prints"
            " loss, accuracy and the accuracy of each class, and draws the confusion matrix."
        ),
    )
    parser.add_argument(
        "run", type=path_argument, metavar="RUN", help="a folder that tinymnv1.train wrote, or a .safetensors"
    )
    parser.add_argument(
        "--checkpoint",
        choices=("best", "last"),
        default=None,
        help="of a folder, the last epoch's or the best one's, chosen on the images that the run was evaluated on"
        " (default: best)",
    )
    parser.add_argument("--data", choices=DATASETS, default=None, help="another data set (default: the run's own)")
    parser.add_argument(
        "--data-dir", type=path_argument, default=None, help="where the data lies now (default: the run's own)"
    )
    parser.add_argument(
        "--split",
        choices=("validation", "test"),
        default=None,
        help="which images (default: those that the run was evaluated on)",
    )
    parser.add_argument(
        "--flip",
        action="store_true",
        help="also say what the mean of the logits of each image and of its mirror image gives",
    )
    parser.add_argument("--batch-size", type=int, default=128, help="images at a time (default: 128)")
    parser.add_argument(
        "--picture", type=path_argument, default=None, help="PNG file for the matrix (default: RUN/evaluation.png)"
    )
    args = parser.parse_args(argv)
    if args.batch_size < 1:
        raise ConfigError(f"--batch-size must be at least 1, got {args.batch_size}")
    trained = load_trained(args.run, args.checkpoint)
    picture = args.picture or trained.path.parent / "evaluation.png"
    plots.check_picture(picture)
    config = trained.config
    data = args.data or config.data
    if args.split == "validation" and not (config.validation and data == config.data):
        raise ConfigError(f"{args.run}: held out no images of {data} for validation; leave out --split validation")
    own_place = Path(config.data_dir) if config.data_dir and data == config.data else None
    dataset = load_dataset(data, args.data_dir or own_place, trained.preprocess.resolution)
    if dataset.classes != trained.classes:
        raise ConfigError(
            f"the model knows the classes {', '.join(trained.classes)}; this data has {', '.join(dataset.classes)}"
        )
    if data == config.data:
        try:
            dataset = (replace(config, validation=0) if args.split == "test" else config).part_of(dataset)
        except ConfigError as error:
            raise ConfigError(
                f"no images like the run's can be held out of this data ({error}); use --split test"
            ) from error
        own = "validation" if config.validation else "test"
        if dataset.held_out == own and dataset.fingerprint()["test images"] != trained.data.get("test images"):
            print(
                f"note: these are not the {own} images of the run: the data has changed since. It may have been trained"
                " on some of them",
                file=sys.stderr,
            )
    engine, count = inference_engine(trained.model), len(dataset.test_labels)

    def run(engine: Callable[[Array], Array]) -> Evaluation:
        images, labels = dataset.test_images, dataset.test_labels
        with tqdm(total=count, unit="image", disable=None, leave=False) as bar:
            return evaluate(engine, images, labels, trained.preprocess, args.batch_size, bar.update)

    result = run(engine)
    predicted = result.probabilities.argmax(axis=1)
    matrix = plots.confusion_matrix(dataset.test_labels, predicted, len(dataset.classes))
    print(f"{trained.path}, epoch {trained.epoch}, {count:,} {dataset.held_out} images of {dataset.name}")
    print(f"loss {result.loss:.4f}, accuracy {100 * result.accuracy:.2f} %")
    if args.flip:
        flipped = run(flip_averaged(engine))
        print(f"with flip averaging: loss {flipped.loss:.4f}, accuracy {100 * flipped.accuracy:.2f} %")
    width = max(map(len, dataset.classes))
    for k, name in enumerate(dataset.classes):
        of_class = matrix[k].sum()
        share = f"{100 * matrix[k, k] / of_class:6.2f} %  of {of_class:,}" if of_class else "no image"
        print(f"  {name:<{width}}  {share}")
    title = f"{trained.path.resolve().parent.name}: {dataset.held_out} accuracy {100 * result.accuracy:.2f} %"
    plots.save_figure(plots.confusion(matrix, dataset.classes, title), picture)
    print(f"confusion matrix: {picture}")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
