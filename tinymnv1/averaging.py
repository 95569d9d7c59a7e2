"""An exponential moving average of a model's weights, kept beside training and used in place of the weights.

With a learning rate that is not yet small, the weights wander about a good place; their mean is nearer to it than they
are (Polyak and Juditsky 1992; as a moving average: Szegedy et al. 2016, arXiv 1512.00567, section 8).

    average = WeightAverage(model, decay=0.999)
    optimizer.step()
    average.update(step)
    logits = average.model.forward(x)
"""

import numpy as np

from tinymnv1.errors import ConfigError
from tinymnv1.model import MobileNetV1


class WeightAverage:
    """A second model, whose weights and running statistics are the averages of those of `source`.

    decay: the share of the average that each step keeps, in [0, 1): it looks back over about 1 / (1 - decay) steps.
    Raises ConfigError otherwise. In the first steps it keeps less, so that the initial weights are soon forgotten:

        keep = min(decay, (1 + step) / (10 + step))
        average = keep * average + (1 - keep) * weights

    Batch norm's running statistics are averaged in the same way. They belong to the weights of their own step, those of
    the averaged network are a little different; to have these exactly, one would run training images through it before
    each evaluation (Izmailov et al. 2018, arXiv 1803.05407, section 3.2). But where the rate falls to nothing at
    the end of a run (cosine, one-cycle), all weights in the average are nearly the same, and so are their statistics.
    """

    def __init__(self, source: MobileNetV1, decay: float) -> None:
        if not 0 <= decay < 1:
            raise ConfigError(f"decay must be in [0, 1), got {decay}")
        self.source, self.decay = source, decay
        self.model = MobileNetV1(**source.config_dict(), backend=source.backend, dtype=source.dtype)
        self.model.load_state_dict(source.state_dict())

    def update(self, step: int) -> None:
        """Take in the weights of `source` as they are now. step: 1 after the first optimizer step."""
        keep = min(self.decay, (1 + step) / (10 + step))
        # The two models are of one layout, so their flat buffers have every number at the same place.
        average_step = self.model.buffer.ops.average_step
        average_step(self.model.buffer.data, self.source.buffer.data, keep)
        mine, theirs = ([array for _, array in m.net.named_buffers()] for m in (self.model, self.source))
        statistics = np.concatenate(mine)  # one array instead of 54 short ones
        average_step(statistics, np.concatenate(theirs), keep)
        for array, values in zip(mine, np.split(statistics, np.cumsum([a.size for a in mine])[:-1]), strict=True):
            array[...] = values
