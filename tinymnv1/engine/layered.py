"""The plain engine: it walks the model's layers one after the other, each with its own op."""

from tinymnv1.model import MobileNetV1
from tinymnv1.ops import softmax_cross_entropy
from tinymnv1.ops.loss import check_labels, check_smoothing
from tinymnv1.ops.window import Array


class LayerEngine:
    """Forward, loss and backward of a model, layer by layer."""

    def __init__(self, model: MobileNetV1) -> None:
        self.model = model

    def forward_backward(self, x: Array, labels: Array, label_smoothing: float = 0.0) -> tuple[float, Array]:
        """One training step's gradients.

        x: (N, H, W, C) of the model's dtype.  labels: (N,) integers.
        Fills p.grad of every parameter and updates the running statistics. Returns the mean loss in nats and the
        logits, (N, classes). Raises ConfigError on labels or a smoothing that do not fit, before anything has changed.
        """
        check_labels(labels, len(x), self.model.config.num_classes)
        check_smoothing(label_smoothing)
        logits = self.model.forward(x, train=True)
        loss, dlogits = softmax_cross_entropy(logits, labels, label_smoothing)
        self.model.backward(dlogits)
        return loss, logits

    def __call__(self, x: Array) -> Array:
        """Logits (N, classes) in evaluation mode."""
        return self.model.forward(x, train=False)
