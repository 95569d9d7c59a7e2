"""Images per second of a training step, by width: `python benchmarks/training_speed.py`.

A step is forward, loss, backward and optimizer on a batch that is in memory: 32x32 pixels, stem stride 1. The median of
the steps is printed, and the fastest and slowest, since a shared machine is noisy.
"""

import argparse
import time

import numpy as np

from tinymnv1 import MobileNetV1
from tinymnv1.engine import LayerEngine
from tinymnv1.optim import SGD


def measure(width: float, batch_size: int, steps: int) -> list[float]:
    """Images per second of each of `steps` training steps, after two to warm up."""
    model = MobileNetV1(num_classes=10, width=width, stem_stride=1)
    engine, optimizer = LayerEngine(model), SGD(model.parameters(), 0.01, 0.9, weight_decay=5e-4)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(batch_size, 32, 32, 3)).astype(np.float32)
    labels = rng.integers(0, 10, batch_size)
    speeds = []
    for _ in range(steps + 2):
        started = time.perf_counter()
        engine.forward_backward(x, labels)
        optimizer.step()
        speeds.append(batch_size / (time.perf_counter() - started))
    return speeds[2:]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--widths", type=float, nargs="+", default=[0.25, 1.0], help="width multipliers")
    parser.add_argument("--batch-size", type=int, default=128, help="images per step")
    parser.add_argument("--steps", type=int, default=20, help="steps to measure")
    args = parser.parse_args()
    print("width   images/s   slowest   fastest")
    for width in args.widths:
        speeds = measure(width, args.batch_size, args.steps)
        print(f"{width:5g} {np.median(speeds):10,.0f} {min(speeds):9,.0f} {max(speeds):9,.0f}")


if __name__ == "__main__":
    main()
