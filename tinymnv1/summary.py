"""What a MobileNetV1 costs, layer by layer: outputs, parameters, multiply-adds and bytes, beside the paper's figures.

    python -m tinymnv1.summary --width 0.5 --resolution 192

Everything is counted from the architecture; nothing is run. As in the paper, multiply-adds are those of the
convolutions and of the classifier; batch norm and activations are left out.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from tinymnv1.cli import CommandParser, run_command
from tinymnv1.errors import ConfigError
from tinymnv1.model import KERNEL, ModelConfig
from tinymnv1.ops.window import span

# Howard et al. 2017, tables 6 and 7: million multiply-adds and ImageNet top-1 (%) by width at 224 pixels, and by
# resolution at width 1.0; million parameters by width.
PAPER_MADDS = {(1.0, 224): 569, (0.75, 224): 325, (0.5, 224): 149, (0.25, 224): 41}
PAPER_MADDS |= {(1.0, 192): 418, (1.0, 160): 290, (1.0, 128): 186}
PAPER_PARAMETERS = {1.0: 4.2, 0.75: 2.6, 0.5: 1.3, 0.25: 0.5}
PAPER_TOP1 = {(1.0, 224): 70.6, (0.75, 224): 68.4, (0.5, 224): 63.7, (0.25, 224): 50.6}
PAPER_TOP1 |= {(1.0, 192): 69.1, (1.0, 160): 67.2, (1.0, 128): 64.4}


@dataclass(frozen=True)
class LayerCost:
    """One convolution with its batch norm, or the pool, or the classifier.

    height, width, channels: of the output.  parameters: trainable ones, batch norm's gamma and beta included.
    statistics: running means and variances.  madds: multiply-adds for one image.
    """

    name: str
    kind: str
    stride: int
    height: int
    width: int
    channels: int
    parameters: int
    statistics: int
    madds: int

    @property
    def output_bytes(self) -> int:
        """Size of the output of one image in float32."""
        return 4 * self.height * self.width * self.channels

    @property
    def weight_bytes(self) -> int:
        """Size of the parameters in float32."""
        return 4 * self.parameters


def count_layers(config: ModelConfig, height: int, width: int) -> list[LayerCost]:
    """The cost of every layer for one image of height x width pixels."""
    rows = []

    def convolution(name: str, kind: str, stride: int, cout: int, weights: int) -> None:
        nonlocal height, width
        if kind != "pointwise":
            height = span(height, KERNEL, stride, config.padding)[0]
            width = span(width, KERNEL, stride, config.padding)[0]
        madds = weights * height * width
        rows.append(LayerCost(name, kind, stride, height, width, cout, weights + 2 * cout, 2 * cout, madds))

    stem = config.stem_channels
    convolution("stem", "conv 3x3", config.stem_stride, stem, KERNEL * KERNEL * config.in_channels * stem)
    for i, (cin, cout, stride) in enumerate(config.blocks):
        convolution(f"blocks.{i}.depthwise", "depthwise 3x3", stride, cin, KERNEL * KERNEL * cin)
        convolution(f"blocks.{i}.pointwise", "pointwise", 1, cout, cin * cout)
    features, classes = config.blocks[-1][1], config.num_classes
    rows.append(LayerCost("pool", "global mean", 1, 1, 1, features, 0, 0, 0))
    rows.append(
        LayerCost("classifier", "linear", 1, 1, 1, classes, features * classes + classes, 0, features * classes)
    )
    return rows


def table(config: ModelConfig, resolution: int) -> str:
    """The layers, the totals and, where the paper has figures for this network, the paper's."""
    rows = count_layers(config, resolution, resolution)
    parameters, madds = sum(r.parameters for r in rows), sum(r.madds for r in rows)
    line = "{:<21} {:<14} {:>6} {:>14} {:>12} {:>15} {:>6} {:>14} {:>13}".format
    lines = [
        line(
            "layer", "kind", "stride", "output", "parameters", "multiply-adds", "share", "output bytes", "weight bytes"
        )
    ]
    for r in rows:
        output = f"{r.height}x{r.width}x{r.channels}"
        share = f"{100 * r.madds / madds:.2f}%"
        lines.append(
            line(
                r.name,
                r.kind,
                r.stride,
                output,
                f"{r.parameters:,}",
                f"{r.madds:,}",
                share,
                f"{r.output_bytes:,}",
                f"{r.weight_bytes:,}",
            )
        )
    outputs, weights = sum(r.output_bytes for r in rows), sum(r.weight_bytes for r in rows)
    lines.append(line("total", "", "", "", f"{parameters:,}", f"{madds:,}", "", f"{outputs:,}", f"{weights:,}"))
    statistics = sum(r.statistics for r in rows)
    lines.append("")
    lines.append(f"with running statistics: {parameters + statistics:,} numbers")
    lines.extend(_by_kind(rows, parameters, madds))
    lines.extend(_paper(config, resolution, parameters, madds))
    return "\n".join(lines)


def _by_kind(rows: Sequence[LayerCost], parameters: int, madds: int) -> list[str]:
    told = "(table 2 of the paper, where parameters are weights alone)"
    lines = ["", f"share of              parameters   multiply-adds   {told}"]
    for kind in ("conv 3x3", "depthwise 3x3", "pointwise", "linear"):
        of_kind = [r for r in rows if r.kind == kind]
        share_p = 100 * sum(r.parameters for r in of_kind) / parameters
        share_m = 100 * sum(r.madds for r in of_kind) / madds
        lines.append(f"  {kind:<18} {share_p:10.3f}%   {share_m:12.3f}%")
    return lines


def _paper(config: ModelConfig, resolution: int, parameters: int, madds: int) -> list[str]:
    """The paper's totals for this width and resolution, if it is the network that the paper measured."""
    if (config.num_classes, config.in_channels, config.stem_stride) != (1000, 3, 2):
        return ["", "The paper's figures are for 1,000 classes and a stem of stride 2: none to compare with."]
    key = (config.width, resolution)
    lines = ["", f"{'':<22}{'here':>12}{'paper':>10}"]
    if config.width in PAPER_PARAMETERS:
        lines.append(f"{'parameters (M)':<22}{parameters / 1e6:>12.3f}{PAPER_PARAMETERS[config.width]:>10}")
    if key in PAPER_MADDS:
        lines.append(f"{'multiply-adds (M)':<22}{madds / 1e6:>12.2f}{PAPER_MADDS[key]:>10}")
        lines.append(f"{'ImageNet top-1 (%)':<22}{'-':>12}{PAPER_TOP1[key]:>10}")
    if len(lines) == 2:
        return ["", "The paper has no figures for this width and resolution."]
    return lines


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = CommandParser(
        prog="python -m tinymnv1.summary",
        description=(
            "Print every layer of a MobileNetV1: output, trainable parameters (with batch norm's), multiply-adds for"
            " one image, bytes in float32; then the totals, and the paper's beside them where it has some."
        ),
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--width", type=float, default=1.0, help="width multiplier")
    parser.add_argument("--resolution", type=int, default=224, help="input height and width, pixels")
    parser.add_argument("--num-classes", type=int, default=1000, help="outputs of the classifier")
    parser.add_argument("--stem-stride", type=int, default=2, help="2 for ImageNet, 1 for the CIFAR form")
    args = parser.parse_args(argv)
    for name in ("resolution", "num_classes", "stem_stride"):
        if (value := getattr(args, name)) < 1:
            raise ConfigError(f"--{name.replace('_', '-')} must be at least 1, got {value}")
    config = ModelConfig(num_classes=args.num_classes, width=args.width, stem_stride=args.stem_stride)
    print(table(config, args.resolution))
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
