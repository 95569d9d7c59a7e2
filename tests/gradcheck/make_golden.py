"""Write the golden files: what PyTorch computes for the cases of every op, in float64.

    python tests/gradcheck/make_golden.py [FOLDER]

FOLDER is tinymnv1/gradcheck/golden by default. The only file of the grader that needs torch.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from tinymnv1.gradcheck.cases import cases
from tinymnv1.gradcheck.golden import FOLDER
from tinymnv1.gradcheck.spec import SPECS

SEED = 1704_04861 % 10_000
SKIPPED = ("dropout",)  # its mask is its own


def images(x):
    """NHWC to torch's NCHW."""
    return x.permute(0, 3, 1, 2)


def back(y):
    return y.permute(0, 2, 3, 1)


def zeros(size, kernel, stride, padding):
    """Zeros before and after one axis, by the definitions of the two modes."""
    if padding == "symmetric":
        return [(kernel - 1) // 2] * 2
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return [total // 2, total - total // 2]


def convolve(x, w, groups, stride=1, padding="symmetric"):
    """w: (KH, KW, Cin / groups, Cout)."""
    columns, rows = zeros(x.shape[2], w.shape[1], stride, padding), zeros(x.shape[1], w.shape[0], stride, padding)
    padded = functional.pad(images(x), columns + rows)
    return back(functional.conv2d(padded, w.permute(3, 2, 0, 1), stride=stride, groups=groups))


def batchnorm(x, gamma, beta, eps=1e-5):
    mean, var = torch.zeros(x.shape[3], dtype=x.dtype), torch.ones(x.shape[3], dtype=x.dtype)
    y = functional.batch_norm(images(x), mean, var, gamma, beta, training=True, momentum=1.0, eps=eps)
    count = x.numel() // x.shape[3]
    return {"y": back(y), "mean": mean, "var": var * (count - 1) / count}  # torch's running variance is unbiased


def batchnorm_inference(x, gamma, beta, running_mean, running_var, eps=1e-5):
    return back(functional.batch_norm(images(x), running_mean, running_var, gamma, beta, training=False, eps=eps))


TORCH = {
    "conv2d": lambda x, w, **options: convolve(x, w, 1, **options),
    "depthwise": lambda x, w, **options: convolve(x, w[:, :, None], x.shape[3], **options),
    "pointwise": lambda x, w: x @ w,
    "batchnorm": batchnorm,
    "batchnorm_inference": batchnorm_inference,
    "relu": functional.relu,
    "relu6": functional.relu6,
    "avgpool": lambda x, size, stride=None: back(functional.avg_pool2d(images(x), size, stride)),
    "maxpool": lambda x, size, stride=None: back(functional.max_pool2d(images(x), size, stride)),
    "global_avgpool": lambda x: functional.adaptive_avg_pool2d(images(x), 1).flatten(1),
    "linear": lambda x, w, b: functional.linear(x, w.T, b),
    "softmax": lambda logits: functional.softmax(logits, dim=1),
    "softmax_cross_entropy": lambda logits, labels, **options: functional.cross_entropy(logits, labels, **options),
}


def call(spec, case):
    """One case's arrays, by their names in the file."""
    tensors = {
        name: torch.tensor(value, requires_grad=f"d{name}" in spec.gradients)
        if isinstance(value, np.ndarray)
        else value
        for name, value in case.inputs.items()
    }
    result = TORCH[spec.name](*tensors.values(), **case.options)
    outputs = result if isinstance(result, dict) else {spec.returns[0]: result}
    arrays = {f"input/{k}": v for k, v in case.inputs.items() if isinstance(v, np.ndarray)}
    arrays |= {f"output/{k}": v.detach().numpy() for k, v in outputs.items()}
    if spec.gradients:
        y = outputs[spec.returns[0]]
        dy = case.draw(tuple(y.shape)) if spec.backward else np.ones(())
        y.backward(torch.tensor(dy))
        if spec.backward:
            arrays["dy"] = dy
        arrays |= {f"gradient/{name}": tensors[name[1:]].grad.numpy() for name in spec.gradients}
    return arrays


def main(folder):
    folder.mkdir(parents=True, exist_ok=True)
    for spec in (spec for spec in SPECS if spec.name not in SKIPPED):
        calls, arrays = [], {}
        for case in cases(spec, SEED):
            if next(iter(case.inputs.values())).dtype != np.float64:
                continue
            numbers = {k: v for k, v in case.inputs.items() if not isinstance(v, np.ndarray)}
            arrays |= {f"{len(calls)}/{name}": array for name, array in call(spec, case).items()}
            calls.append({"label": case.label, "order": list(case.inputs), "numbers": numbers, "options": case.options})
        np.savez(folder / f"{spec.name}.npz", calls=np.array(json.dumps(calls)), **arrays)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
