"""Plausible wrong answers to the exercises of 06_mobilenet: each must fail its check."""

WRONG = {
    "madds": [
        """
def madds(kind, height, width, stride, cin, cout):
    weights = {"conv": 9 * cin * cout, "depthwise": 9 * cin, "pointwise": cin * cout}[kind]
    return weights * (height // stride) * (width // stride)
""",
        """
def madds(kind, height, width, stride, cin, cout):
    weights = {"conv": 9 * cin * cout, "depthwise": 9 * cin, "pointwise": cin * cout}[kind]
    return weights * height * width
""",
        """
def madds(kind, height, width, stride, cin, cout):
    kernel = 1 if kind == "pointwise" else 9
    return kernel * cin * cout * -(-height // stride) * -(-width // stride)
""",
    ],
    "block": [
        """
import numpy as np

from tinymnv1 import ops


def block_forward(x, depthwise, depthwise_bn, pointwise, pointwise_bn, stride):
    z, _ = ops.depthwise_forward(x, depthwise, stride)
    z, _ = ops.relu6_forward(ops.batchnorm_inference(z, *depthwise_bn))
    y, _ = ops.pointwise_forward(z, pointwise)
    return ops.batchnorm_inference(y, *pointwise_bn)
""",
        """
import numpy as np

from tinymnv1 import ops


def block_forward(x, depthwise, depthwise_bn, pointwise, pointwise_bn, stride):
    z, _ = ops.depthwise_forward(x, depthwise, stride)
    z, _ = ops.relu6_forward(ops.batchnorm_forward(z, *depthwise_bn[:2])[0])
    y, _ = ops.pointwise_forward(z, pointwise)
    return ops.relu6_forward(ops.batchnorm_forward(y, *pointwise_bn[:2])[0])[0]
""",
        """
import numpy as np

from tinymnv1 import ops


def block_forward(x, depthwise, depthwise_bn, pointwise, pointwise_bn, stride):
    z, _ = ops.depthwise_forward(x, depthwise, stride)
    z = ops.batchnorm_inference(ops.relu6_forward(z)[0], *depthwise_bn)
    y, _ = ops.pointwise_forward(z, pointwise)
    return ops.batchnorm_inference(ops.relu6_forward(y)[0], *pointwise_bn)
""",
        """
import numpy as np

from tinymnv1 import ops


def block_forward(x, depthwise, depthwise_bn, pointwise, pointwise_bn, stride):
    z, _ = ops.depthwise_forward(x, depthwise, stride)
    z = np.maximum(ops.batchnorm_inference(z, *depthwise_bn), 0)  # ReLU, without the 6
    y, _ = ops.pointwise_forward(z, pointwise)
    return np.maximum(ops.batchnorm_inference(y, *pointwise_bn), 0)
""",
    ],
    "parameters": [
        """
from tinymnv1.model import BLOCKS


def parameters(width, classes):
    cin = max(int(32 * width), 8)
    total = 27 * cin
    for channels, _ in BLOCKS:
        cout = max(int(channels * width), 8)
        total += 9 * cin + cin * cout
        cin = cout
    return total + cin * classes + classes
""",
        """
from tinymnv1.model import BLOCKS


def parameters(width, classes):
    cin = round(32 * width)
    total = 27 * cin + 2 * cin
    for channels, _ in BLOCKS:
        cout = round(channels * width)
        total += 9 * cin + 2 * cin + cin * cout + 2 * cout
        cin = cout
    return total + cin * classes + classes
""",
        """
from tinymnv1.model import BLOCKS


def parameters(width, classes):
    cin = 32
    total = 27 * cin + 2 * cin
    for channels, _ in BLOCKS:
        total += 9 * cin + 2 * cin + cin * channels + 2 * channels
        cin = channels
    return int(width**2 * (total + cin * classes + classes))
""",
    ],
    "budget": [
        """
from tinymnv1.model import ModelConfig
from tinymnv1.summary import count_layers

PAIRS = [(width, resolution) for width in (1.0, 0.75, 0.5, 0.25) for resolution in (224, 192, 160, 128)]


def best_under(budget):
    costs = {(w, r): sum(row.madds for row in count_layers(ModelConfig(width=w), r, r)) for w, r in PAIRS}
    fitting = [pair for pair in PAIRS if costs[pair] <= budget]
    return max(fitting, key=costs.get) if fitting else None
""",
        """
def best_under(budget):
    for width in (1.0, 0.75, 0.5, 0.25):
        for resolution in (224, 192, 160, 128):
            if 569e6 * width**2 * (resolution / 224) ** 2 <= budget:
                return width, resolution
    return None
""",
        """
from tinymnv1.model import ModelConfig
from tinymnv1.summary import count_layers

TOP1 = {  # (width, resolution): ImageNet top-1 in %
    (1.0, 224): 70.9, (1.0, 192): 70.0, (1.0, 160): 68.0, (1.0, 128): 65.2,
    (0.75, 224): 68.4, (0.75, 192): 67.2, (0.75, 160): 65.3, (0.75, 128): 62.1,
    (0.5, 224): 63.3, (0.5, 192): 61.7, (0.5, 160): 59.1, (0.5, 128): 56.3,
    (0.25, 224): 49.8, (0.25, 192): 47.7, (0.25, 160): 45.5, (0.25, 128): 41.5,
}


def best_under(budget):
    fitting = [
        (w, r) for w, r in TOP1 if sum(row.madds for row in count_layers(ModelConfig(width=w), r, r)) < budget
    ]  # "at most" includes the budget itself
    return max(fitting, key=TOP1.get) if fitting else None
""",
    ],
}
