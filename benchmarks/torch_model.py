"""The network in PyTorch, as its users write it. Imported only in the processes that measure PyTorch."""

from typing import Any

import torch
from torch import nn

from benchmarks.network import convolutions
from tinymnv1 import MobileNetV1


def tensor(array: object) -> torch.Tensor:
    """A copy of an array, as a tensor."""
    return torch.tensor(array)


class TorchMobileNetV1(nn.Module):
    """With a tinymnv1 model's weights and running statistics."""

    def __init__(self, model: MobileNetV1) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for c in convolutions(model):
            cout, cin, kernel, _ = c.weight.shape
            conv = nn.Conv2d(cin * c.groups, cout, kernel, c.stride, c.padding, groups=c.groups, bias=False)
            bn = nn.BatchNorm2d(cout, model.config.bn_eps, model.config.bn_momentum)
            with torch.no_grad():
                conv.weight.copy_(tensor(c.weight))
                for to, array in ((bn.weight, c.gamma), (bn.bias, c.beta)):
                    to.copy_(tensor(array))
                bn.running_mean.copy_(tensor(c.mean))
                bn.running_var.copy_(tensor(c.var))
            layers += [conv, bn, nn.ReLU6(inplace=True)]
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(cout, model.config.num_classes)
        with torch.no_grad():
            self.classifier.weight.copy_(tensor(model.classifier.params["weight"].data.T))
            self.classifier.bias.copy_(tensor(model.classifier.params["bias"].data))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of images (N, 3, H, W)."""
        return self.classifier(self.features(x).mean(dim=(2, 3)))


def groups(model: nn.Module) -> list[dict[str, Any]]:
    """The parameters that decay, and those that do not: as ours, all but batch norms, biases and depthwise filters."""
    dense = [m for m in model.modules() if isinstance(m, nn.Linear) or (isinstance(m, nn.Conv2d) and m.groups == 1)]
    decaying = [m.weight for m in dense]
    ids = {id(p) for p in decaying}
    return [{"params": decaying}, {"params": [p for p in model.parameters() if id(p) not in ids], "weight_decay": 0.0}]


def images_to_torch(images: object, layout: str) -> torch.Tensor:
    """Our (N, H, W, C) images as (N, C, H, W), laid out in memory as "NCHW" or "channels_last"."""
    x = tensor(images).permute(0, 3, 1, 2)
    return x.contiguous(memory_format=torch.contiguous_format if layout == "NCHW" else torch.channels_last)


def in_layout(module: nn.Module, layout: str) -> nn.Module:
    """The module with its weights in the images' memory layout."""
    return module.to(memory_format=torch.channels_last) if layout == "channels_last" else module
