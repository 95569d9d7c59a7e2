"""The causes that a hint can name, each with the advice that goes with it. Plain words: a learner reads them.

{f} stands for the learner's function, {a} for the array that is wrong.
"""

from tinymnv1.ops.window import Array

Candidate = tuple[str, str, Array]
"""(argument, cause, what the argument would be under that cause)."""

ADVICE = {
    "kernel flipped": (
        "{a} is what comes out when the kernel is turned by 180 degrees. Forward is a cross-correlation: tap (i,"
        " j) meets x[h * stride + i - top]. In dx the same tap must write where it read."
    ),
    "kernel transposed": (
        "{a} is what comes out when the kernel's rows and columns change places: w[i, j] against w[j, i]."
    ),
    "stride forgotten": (
        "{a} is what comes out when neighbouring outputs are taken to be 1 pixel apart, not `stride` pixels. Read"
        " and write at h * stride + i."
    ),
    "overwritten instead of added": (
        "{a} is what comes out when a later tap or window overwrites (=) what an earlier one wrote into the same"
        " pixel. Add them up (+=)."
    ),
    "padding not cropped": (
        "{a} still has the padded shape, or its crop starts at the wrong pixel. Cut the zeros off: dxp[:, top :"
        " top + H, left : left + W]."
    ),
    "padding off by one": (
        "{a} is what comes out when the windows start one pixel off. Check how many zeros stand in front: (K - 1)"
        ' // 2, or total // 2 for "tf" (the odd one goes behind).'
    ),
    "padding mode ignored": (
        '{a} is right for the other padding mode. `padding` must reach the geometry: "symmetric" pads (K - 1) //'
        ' 2, "tf" depends on the size and the stride.'
    ),
    "heights and widths swapped": "{a} is what comes out when the padding of the rows is used for the columns.",
    "channels transposed": (
        "{a} is what comes out without the transpose: dx = dy @ w.T takes the gradient from Cout back to Cin."
        " (With Cin different from Cout the shapes would not have let you.)"
    ),
    "only one image": (
        "{a} has collected from only one image of the batch. The weight is shared by all images: sum over n."
    ),
    "divided by the batch": (
        "{a} is too small by the number of images. The loss has already averaged over the batch; dividing again"
        " here does it twice."
    ),
    "mean instead of sum": "{a} is a mean where a sum belongs: every position that used the weight adds its share.",
    "sum instead of mean": "{a} is a sum where a mean belongs: divide by the number of values.",
    "not divided by the window": (
        "{a} is too large by the number of pixels in the window. The mean's derivative is 1 / count."
    ),
    "divided by one side only": "{a} was divided by the height or the width alone: a map has H * W pixels.",
    "not divided by N": "{a} is too large by the number of images: the loss is the mean over the batch.",
    "divided by N twice": "{a} is too small by the number of images: it was divided by N a second time.",
    "upstream gradient forgotten": (
        "{a} does not depend on dy. The chain rule multiplies the op's own derivative by dy."
    ),
    "third term missing": (
        "{a} lacks the third term, - xhat * mean(g * xhat): x also reaches the loss through the variance."
    ),
    "mean term missing": "{a} lacks the second term, - mean(g): x also reaches the loss through the mean.",
    "statistics treated as constants": (
        "{a} is only the direct road, g / std. In training, mean and variance depend on x, too: two terms are missing."
    ),
    "gamma missing": "{a} is right but for gamma: start from g = gamma * dy, not from dy.",
    "inverse std missing": "{a} is right but for the factor 1 / sqrt(var + eps).",
    "beta missing": "{a} is right but for beta, which is added at the end.",
    "gamma and beta swapped": "{a} is what comes out with the roles of gamma and beta exchanged.",
    "x instead of xhat": "{a} was made with x where the normalised xhat belongs.",
    "wrong axes": (
        "{a} was averaged over the wrong axes. Batch norm has one mean for a channel: over n, h and w, axis=(0, 1, 2)."
    ),
    "unbiased variance": "{a} was made with the variance divided by M - 1. To normalise, batch norm divides by M.",
    "eps in the wrong place": (
        "{a} is what comes out with eps added outside of the root, or left out: it is sqrt(var + eps)."
    ),
    "standard deviation instead of variance": "{a} is the square root of what is asked for.",
    "variance by E[x^2] - E[x]^2": (
        "{a} has lost its digits: subtracting two large, nearly equal numbers. Centre x first, then take the mean"
        " of its square."
    ),
    "batch statistics in evaluation": (
        "{a} was normalised with this batch's mean and variance. In evaluation the running ones stand in for both."
    ),
    "mask open at 6": "{a} lets the gradient through above 6, where ReLU6 is flat.",
    "mask open at 0": "{a} lets the gradient through below 0, where ReLU is flat.",
    "mask always open": (
        "{a} is dy itself: the mask is true everywhere. Make it from x, not from the clipped y, for which 0 <= y"
        " <= 6 always holds."
    ),
    "upper bound missing": "{a} is plain ReLU: the minimum with 6 is missing.",
    "lower bound missing": "{a} is not cut off at 0.",
    "leaky": "{a} is not 0 below 0: values there are scaled down, not removed.",
    "all pixels of the window": "{a} gives dy to every pixel of the window. Only the largest one moved the maximum.",
    "shared among the window": (
        "{a} shares dy out over the window as a mean would. The maximum's whole gradient goes to the winner."
    ),
    "scale forgotten": "{a} lacks the factor 1 / (1 - p) that the values which survive are scaled by.",
    "scaled by p": (
        "{a} is scaled by 1 / p. p is the probability to drop; 1 - p survive, so the factor is 1 / (1 - p)."
    ),
    "p is the chance to keep": "the share of zeros in {a} is 1 - p, not p: p is the probability to drop.",
    "mask forgotten": "{a} ignores the mask: what was dropped has no gradient.",
    "fresh mask": "{a} was made with another mask than the forward pass. Keep the mask in the cache.",
    "rng ignored": "{a} does not follow `rng`: draw the mask from the generator that is handed in, anew in each call.",
    "label smoothing ignored": "{a} is right for label_smoothing=0: the smoothed target must be used in it.",
    "smoothing shared among the others": (
        "{a} spreads e over the other K - 1 classes. Here the target is e / K everywhere, plus 1 - e on the label."
    ),
    "target missing": "{a} is the softmax alone: subtract the target, p - t.",
    "softmax over the wrong axis": "{a} was normalised over the batch. Classes lie along axis 1.",
    "overflow": (
        "{a} is not finite where the logits are large: exp overflows above 709 (88 in float32). Subtract each"
        " row's largest logit first; it changes nothing else."
    ),
    "logarithm of base 2": "{a} is in bits: use the natural logarithm.",
    "sign flipped": "{a} is right but for its sign.",
    "bias gradient not summed": (
        "{a} still has the batch axis: the bias is shared by all images, so sum dy over axis 0."
    ),
    "bias forgotten": "{a} lacks the bias.",
    "accumulated instead of set": (
        "{f}, called a second time with the same arguments, adds to its first result. A gradient array must start"
        " at zero in every call."
    ),
    "state kept between calls": (
        "{f} gives another result when it is called again with the same arguments. It must depend on its"
        " arguments alone, and leave its cache as it is."
    ),
    "follows the wrong forward": (
        "{a} is the true gradient of your forward, but that is itself wrong. Mend the forward; this may then be right."
    ),
    "transposed": "{a} is right but for the order of its axes.",
    "all zero": "{a} is zero everywhere.",
    "not a number": "{a} holds NaN or infinity.",
    "doubled": "{a} is twice what it should be: is something added twice?",
    "padding": "{a} is wrong along the border only: look at the padding.",
    "stride": "{a} is wrong on a regular grid of pixels: look at where the stride is used.",
    "constant factor": "{a} is right but for a constant factor.",
    "channel": "{a} is wrong in some channels only.",
    "wrong shape": "{a} has the wrong shape.",
    "float64 instead of float32": (
        "{a} does not keep the dtype of x: np.zeros makes float64 unless it is told x.dtype."
    ),
}
