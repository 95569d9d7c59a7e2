"""Classify your own images: `python -m tinymnv1.predict RUN IMAGE...`."""

import sys
from collections.abc import Sequence

import numpy as np

from tinymnv1 import plots
from tinymnv1.cli import CommandParser, path_argument, run_command
from tinymnv1.data import read_image
from tinymnv1.engine import inference_engine
from tinymnv1.errors import ConfigError
from tinymnv1.ops import softmax
from tinymnv1.runs import load_trained

SHOWN = 20
"""So many images are classified at a time, and drawn: more would not fit into a picture."""


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = CommandParser(
        prog="python -m tinymnv1.predict",
        description=(
            f"Print the most probable classes of each image and draw the first {SHOWN}. An image is scaled until its"
            " shorter side has the model's resolution, and the middle is kept."
        ),
    )
    parser.add_argument(
        "run", type=path_argument, metavar="RUN", help="a folder that tinymnv1.train wrote, or a .safetensors"
    )
    parser.add_argument("images", type=path_argument, nargs="+", metavar="IMAGE", help="any format that Pillow reads")
    parser.add_argument(
        "--checkpoint",
        choices=("best", "last"),
        default=None,
        help="of a folder, the last epoch's or the best one's, chosen on the images that the run was evaluated on"
        " (default: best)",
    )
    parser.add_argument(
        "--picture", type=path_argument, default=None, help="PNG file to draw into (default: RUN/predict.png)"
    )
    args = parser.parse_args(argv)
    trained = load_trained(args.run, args.checkpoint)
    picture = args.picture or trained.path.parent / "predict.png"
    if any(picture.resolve() == path.resolve() for path in args.images):
        raise ConfigError(f"{picture}: is one of the images, and would be overwritten; choose another --picture")
    plots.check_picture(picture)
    engine = inference_engine(trained.model)
    for first in range(0, len(args.images), SHOWN):
        paths = args.images[first : first + SHOWN]
        images = np.stack([read_image(path, trained.preprocess.resolution) for path in paths])
        probabilities = softmax(engine(trained.preprocess(images)))
        for path, p in zip(paths, probabilities, strict=True):
            top = np.argsort(-p, kind="stable")[:5]
            print(f"{path}: " + ", ".join(f"{trained.classes[k]} {100 * p[k]:.1f} %" for k in top))
        if first == 0:
            figure = plots.top_classes(images, [path.name for path in paths], probabilities, trained.classes)
            plots.save_figure(figure, picture)
    print(f"picture{f' of the first {SHOWN}' if len(args.images) > SHOWN else ''}: {picture}")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
