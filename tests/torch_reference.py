"""MobileNetV1 written with PyTorch's own modules: the judge of the whole-model tests. Imported only where torch is."""

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from tinymnv1.model import BLOCKS


def channels(width, count):
    return max(int(width * count), 8)


class Pad(nn.Module):
    """Zeros for a 3x3 kernel: one on each side, or TensorFlow's SAME (the odd one at the bottom and to the right)."""

    def __init__(self, stride, padding):
        super().__init__()
        self.stride, self.padding = stride, padding

    def forward(self, x):
        if self.padding == "symmetric":
            return functional.pad(x, (1, 1, 1, 1))
        sides = []
        for size in (x.shape[3], x.shape[2]):
            total = max((-(-size // self.stride) - 1) * self.stride + 3 - size, 0)
            sides += [total // 2, total - total // 2]
        return functional.pad(x, sides)


class Depthwise(nn.Module):
    """A 3x3 depthwise convolution in differentiable slices: PyTorch's own takes ten times as long in float64.

    tests/ops/test_against_torch.py holds our op against PyTorch's own; `test_the_judge` holds this one against it.
    """

    def __init__(self, count, stride):
        super().__init__()
        self.stride = stride
        self.weight = nn.Parameter(torch.randn(count, 1, 3, 3))

    def forward(self, xp):
        out_h, out_w = (xp.shape[2] - 3) // self.stride + 1, (xp.shape[3] - 3) // self.stride + 1
        y = 0
        for i in range(3):
            for j in range(3):
                rows = slice(i, i + self.stride * (out_h - 1) + 1, self.stride)
                columns = slice(j, j + self.stride * (out_w - 1) + 1, self.stride)
                y = y + xp[:, :, rows, columns] * self.weight[:, 0, i, j].reshape(1, -1, 1, 1)
        return y


def stem3x3(cout, stride, padding):
    return nn.Sequential(Pad(stride, padding), nn.Conv2d(3, cout, 3, stride, 0, bias=False))


def depthwise3x3(count, stride, padding):
    return nn.Sequential(Pad(stride, padding), Depthwise(count, stride))


class TorchMobileNetV1(nn.Module):
    """In float64. `copy_from` takes a tinymnv1 model's parameters and running statistics."""

    def __init__(self, num_classes, width, stem_stride, padding):
        super().__init__()
        stem = cin = channels(width, 32)
        layers = [stem3x3(stem, stem_stride, padding), nn.BatchNorm2d(stem), nn.ReLU6()]
        for count, stride in BLOCKS:
            cout = channels(width, count)
            layers += [depthwise3x3(cin, stride, padding), nn.BatchNorm2d(cin), nn.ReLU6()]
            layers += [nn.Conv2d(cin, cout, 1, bias=False), nn.BatchNorm2d(cout), nn.ReLU6()]
            cin = cout
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(cin, num_classes)
        self.double()

    def forward(self, x):
        return self.classifier(self.features(x).mean(dim=(2, 3)))

    def named_like_ours(self):
        """Our parameter name -> (PyTorch parameter, how to bring its array into our layout)."""

        def conv(w):  # (Cout, Cin, KH, KW) to (KH, KW, Cin, Cout)
            return w.transpose(2, 3, 1, 0)

        def depthwise(w):  # (C, 1, KH, KW) to (KH, KW, C)
            return w[:, 0].transpose(1, 2, 0)

        def pointwise(w):  # (Cout, Cin, 1, 1) to (Cin, Cout)
            return w[:, :, 0, 0].T

        def same(w):
            return w

        f = self.features
        named = {"stem.conv.weight": (f[0][-1].weight, conv)}
        for name, bn in self.batch_norms().items():
            named[f"{name}.gamma"], named[f"{name}.beta"] = (bn.weight, same), (bn.bias, same)
        for i in range(len(BLOCKS)):
            named[f"blocks.{i}.depthwise.weight"] = (f[3 + 6 * i][-1].weight, depthwise)
            named[f"blocks.{i}.pointwise.weight"] = (f[6 + 6 * i].weight, pointwise)
        named["classifier.weight"] = (self.classifier.weight, np.transpose)
        named["classifier.bias"] = (self.classifier.bias, same)
        return named

    def batch_norms(self):
        f = self.features
        found = {"stem.bn": f[1]}
        for i in range(len(BLOCKS)):
            found[f"blocks.{i}.depthwise_bn"], found[f"blocks.{i}.pointwise_bn"] = f[4 + 6 * i], f[7 + 6 * i]
        return found

    def copy_from(self, model):
        own = dict(model.parameters())
        named = self.named_like_ours()
        assert own.keys() == named.keys()
        with torch.no_grad():
            for name, (parameter, layout) in named.items():
                ours = layout(parameter.numpy())  # a view of PyTorch's memory, in our layout
                assert ours.shape == own[name].data.shape, name
                ours[...] = own[name].data
            state = model.state_dict()
            for name, bn in self.batch_norms().items():
                bn.running_mean.numpy()[...] = state[f"{name}.running_mean"]
                bn.running_var.numpy()[...] = state[f"{name}.running_var"]

    def gradients(self):
        return {name: layout(p.grad.numpy()) for name, (p, layout) in self.named_like_ours().items()}

    def parameters_like_ours(self):
        return {name: layout(p.detach().numpy()) for name, (p, layout) in self.named_like_ours().items()}
