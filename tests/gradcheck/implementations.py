"""Correct ops, each written in another way: the grader must let every one of them pass."""

import numpy as np
from numpy.lib.stride_tricks import as_strided, sliding_window_view


def zeros_around(size, kernel, stride, padding):
    """(output size, zeros before, zeros after)."""
    if padding == "tf":
        out = (size + stride - 1) // stride
        total = max(0, (out - 1) * stride + kernel - size)
        return out, total // 2, (total + 1) // 2
    p = (kernel - 1) // 2
    return (size + 2 * p - kernel) // stride + 1, p, p


def padded(x, w, stride, padding):
    oh, top, bottom = zeros_around(x.shape[1], w.shape[0], stride, padding)
    ow, left, right = zeros_around(x.shape[2], w.shape[1], stride, padding)
    return np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0))), oh, ow, top, left


def pair(op, forward, backward):
    return {f"{op}_forward": forward, f"{op}_backward": backward}


# depthwise


def depthwise_loops():
    """One output pixel at a time."""

    def forward(x, w, stride=1, padding="symmetric"):
        xp, oh, ow, top, left = padded(x, w, stride, padding)
        y = np.empty((len(x), oh, ow, x.shape[3]), x.dtype)
        for h in range(oh):
            for v in range(ow):
                patch = xp[:, h * stride : h * stride + w.shape[0], v * stride : v * stride + w.shape[1]]
                y[:, h, v] = (patch * w).sum(axis=(1, 2))
        return y, {"xp": xp, "w": w, "s": stride, "at": (top, left), "shape": x.shape}

    def backward(dy, cache):
        xp, w, s, (top, left), shape = cache.values()
        kh, kw, _ = w.shape
        dxp, dw = np.zeros_like(xp), np.zeros_like(w)
        for h in range(dy.shape[1]):
            for v in range(dy.shape[2]):
                g = dy[:, h, v][:, None, None]
                dxp[:, h * s : h * s + kh, v * s : v * s + kw] += g * w
                dw += (xp[:, h * s : h * s + kh, v * s : v * s + kw] * g).sum(axis=0)
        return dxp[:, top : top + shape[1], left : left + shape[2]].copy(), dw

    return pair("depthwise", forward, backward)


def depthwise_windows(contract):
    """Stride tricks: a view with a window for each output pixel, and a contraction over it."""

    def windows(xp, w, stride):
        view = sliding_window_view(xp, w.shape[:2], axis=(1, 2))  # (N, OH', OW', C, KH, KW)
        return view[:, ::stride, ::stride]

    def forward(x, w, stride=1, padding="symmetric"):
        xp, oh, ow, top, left = padded(x, w, stride, padding)
        return contract("nhwcij,ijc->nhwc", windows(xp, w, stride)[:, :oh, :ow], w), (xp, w, stride, top, left, x.shape)

    def backward(dy, cache):
        xp, w, stride, top, left, shape = cache
        (n, oh, ow, c), (kh, kw, _) = dy.shape, w.shape
        dw = contract("nhwcij,nhwc->ijc", windows(xp, w, stride)[:, :oh, :ow], dy)
        # dx: a correlation at stride 1 of the spread-out, padded dy with the flipped kernel
        spread = np.zeros((n, xp.shape[1] + kh - 1, xp.shape[2] + kw - 1, c), dy.dtype)
        spread[:, kh - 1 : kh - 1 + oh * stride : stride, kw - 1 : kw - 1 + ow * stride : stride] = dy
        dxp = contract("nhwcij,ijc->nhwc", windows(spread, w, 1), w[::-1, ::-1])
        return dxp[:, top : top + shape[1], left : left + shape[2]].copy(), dw

    return pair("depthwise", forward, backward)


def depthwise_einsum():
    return depthwise_windows(np.einsum)


def depthwise_tensor_views():
    """as_strided by hand, multiplication and sums instead of einsum."""

    def view(xp, kh, kw, oh, ow, s):
        n, h, v, c = xp.strides
        return as_strided(xp, (xp.shape[0], oh, ow, kh, kw, xp.shape[3]), (n, h * s, v * s, h, v, c), writeable=True)

    def forward(x, w, stride=1, padding="symmetric"):
        xp, oh, ow, top, left = padded(x, w, stride, padding)
        y = (view(xp, *w.shape[:2], oh, ow, stride) * w).sum(axis=(3, 4))
        return y, [xp, w, stride, top, left, x.shape]

    def backward(dy, cache):
        xp, w, stride, top, left, (_, height, width, _) = cache
        kh, kw, _ = w.shape
        dw = (view(xp, kh, kw, *dy.shape[1:3], stride) * dy[:, :, :, None, None]).sum(axis=(0, 1, 2))
        dxp = np.zeros_like(xp)
        grid = view(dxp, kh, kw, *dy.shape[1:3], stride)
        for i in range(kh):
            for j in range(kw):
                grid[:, :, :, i, j] += dy * w[i, j]
        return np.ascontiguousarray(dxp[:, top : top + height, left : left + width]), dw

    return pair("depthwise", forward, backward)


def depthwise_im2col():
    """Columns by an index table, np.add.at to put them back."""

    def table(height, width, kh, kw, oh, ow, s):
        rows = s * np.arange(oh)[:, None, None, None] + np.arange(kh)[None, None, :, None]
        columns = s * np.arange(ow)[None, :, None, None] + np.arange(kw)[None, None, None, :]
        return (rows * width + columns).reshape(oh * ow, kh * kw)

    def forward(x, w, stride=1, padding="symmetric"):
        xp, oh, ow, top, left = padded(x, w, stride, padding)
        index = table(*xp.shape[1:3], *w.shape[:2], oh, ow, stride)
        columns = xp.reshape(len(x), -1, x.shape[3])[:, index]  # (N, OH*OW, K*K, C)
        y = (columns * w.reshape(-1, w.shape[2])).sum(axis=2).reshape(len(x), oh, ow, -1)
        return y, (columns, index, w, xp.shape, (top, left), x.shape)

    def backward(dy, cache):
        columns, index, w, padded_shape, (top, left), shape = cache
        n, oh, ow, c = dy.shape
        g = dy.reshape(n, oh * ow, 1, c)
        dw = (columns * g).sum(axis=(0, 1)).reshape(w.shape)
        dxp = np.zeros((n, padded_shape[1] * padded_shape[2], c), dy.dtype)
        np.add.at(dxp, (slice(None), index), g * w.reshape(-1, c))
        return dxp.reshape(padded_shape)[:, top : top + shape[1], left : left + shape[2]].copy(), dw

    return pair("depthwise", forward, backward)


def depthwise_channels():
    """A plain 2-D correlation, channel by channel and image by image, cropped through an index grid."""

    def forward(x, w, stride=1, padding="symmetric"):
        xp, oh, ow, top, left = padded(x, w, stride, padding)
        y = np.zeros((len(x), oh, ow, x.shape[3]), x.dtype)
        for n in range(len(x)):
            for c in range(x.shape[3]):
                full = np.lib.stride_tricks.sliding_window_view(xp[n, :, :, c], w.shape[:2])
                y[n, :, :, c] = np.tensordot(full, w[:, :, c], axes=2)[::stride, ::stride][:oh, :ow]
        return y, (x, w, stride, top, left)

    def backward(dy, cache):
        x, w, stride, top, left = cache
        dx, dw = np.zeros(x.shape, x.dtype), np.zeros(w.shape, w.dtype)
        for i in range(w.shape[0]):
            for j in range(w.shape[1]):
                rows = stride * np.arange(dy.shape[1]) + i - top
                columns = stride * np.arange(dy.shape[2]) + j - left
                r, c = (rows >= 0) & (rows < x.shape[1]), (columns >= 0) & (columns < x.shape[2])
                at = np.ix_(np.arange(len(x)), rows[r], columns[c])
                inside = dy[:, r][:, :, c]
                dx[at] += inside * w[i, j]
                dw[i, j] = (x[at] * inside).sum(axis=(0, 1, 2))
        return dx, dw

    return pair("depthwise", forward, backward)


# batch norm

AXES = (0, 1, 2)


def batchnorm_loops():
    """One channel at a time, one-dimensional formulas."""

    def forward(x, gamma, beta, eps=1e-5):
        y, mean, var = np.empty_like(x), np.empty_like(gamma), np.empty_like(gamma)
        kept = []
        for c in range(x.shape[3]):
            values = x[..., c].ravel()
            mean[c] = values.sum() / values.size
            var[c] = ((values - mean[c]) ** 2).sum() / values.size
            y[..., c] = gamma[c] * (x[..., c] - mean[c]) / np.sqrt(var[c] + x.dtype.type(eps)) + beta[c]
            kept.append((mean[c], var[c] + x.dtype.type(eps)))
        return y, (x, gamma, kept), mean, var

    def backward(dy, cache):
        x, gamma, kept = cache
        dx, dgamma, dbeta = np.empty_like(x), np.empty_like(gamma), np.empty_like(gamma)
        for c, (mean, spread) in enumerate(kept):
            g, z = dy[..., c], (x[..., c] - mean) / np.sqrt(spread)
            dgamma[c], dbeta[c] = (g * z).sum(), g.sum()
            dx[..., c] = gamma[c] / np.sqrt(spread) * (g - dbeta[c] / g.size - z * dgamma[c] / g.size)
        return dx, dgamma, dbeta

    return pair("batchnorm", forward, backward)


def batchnorm_fused():
    """y = x * scale + shift; dx from dgamma and dbeta."""

    def forward(x, gamma, beta, eps=1e-5):
        mean, var = x.mean(axis=AXES), x.var(axis=AXES)
        scale = gamma / np.sqrt(var + x.dtype.type(eps))
        return x * scale + (beta - mean * scale), (x, gamma, mean, var, eps), mean, var

    def backward(dy, cache):
        x, gamma, mean, var, eps = cache
        inv = 1 / np.sqrt(var + x.dtype.type(eps))
        m = x.dtype.type(x.size // x.shape[3])
        dbeta = dy.sum(axis=AXES)
        dgamma = ((x - mean) * dy).sum(axis=AXES) * inv
        return gamma * inv / m * (m * dy - dbeta - (x - mean) * inv * dgamma), dgamma, dbeta

    return pair("batchnorm", forward, backward)


def batchnorm_staged():
    """Backward through the graph of small steps: the gradient of mean, of variance, of each use of x."""

    def forward(x, gamma, beta, eps=1e-5):
        rows = x.reshape(-1, x.shape[3])
        mean = rows.mean(axis=0)
        centred = rows - mean
        var = np.mean(centred**2, axis=0)
        std = np.sqrt(var + x.dtype.type(eps))
        return (gamma * (centred / std) + beta).reshape(x.shape), (centred, std, gamma, x.shape), mean, var

    def backward(dy, cache):
        centred, std, gamma, shape = cache
        g = dy.reshape(centred.shape)
        m = dy.dtype.type(len(g))
        dxhat = g * gamma
        dvar = (dxhat * centred * -0.5 / std**3).sum(axis=0)
        dmean = (-dxhat / std).sum(axis=0) + dvar * (-2 * centred).mean(axis=0)
        dx = dxhat / std + dvar * 2 * centred / m + dmean / m
        return dx.reshape(shape), (g * centred / std).sum(axis=0), g.sum(axis=0)

    return pair("batchnorm", forward, backward)


def batchnorm_einsum():
    def forward(x, gamma, beta, eps=1e-5):
        count = x.dtype.type(x.size // x.shape[3])
        mean = np.einsum("nhwc->c", x) / count
        d = x - mean
        var = np.einsum("nhwc,nhwc->c", d, d) / count
        inv = (var + x.dtype.type(eps)) ** x.dtype.type(-0.5)
        return np.einsum("nhwc,c->nhwc", d, gamma * inv) + beta, (d, inv, gamma), mean, var

    def backward(dy, cache):
        d, inv, gamma = cache
        count = d.dtype.type(d.size // d.shape[3])
        dbeta = np.einsum("nhwc->c", dy)
        dgamma = np.einsum("nhwc,nhwc,c->c", dy, d, inv)
        dx = np.einsum("nhwc,c->nhwc", dy - dbeta / count - d * (inv * dgamma / count), gamma * inv)
        return dx, dgamma, dbeta

    return pair("batchnorm", forward, backward)


def batchnorm_projection():
    """dx by linear algebra: take out of g its components along 1 and along xhat. Channels first inside."""

    def forward(x, gamma, beta, eps=1e-5):
        channels = np.moveaxis(x, 3, 0).reshape(x.shape[3], -1)
        mean, var = channels.mean(axis=1), channels.var(axis=1)
        inv = 1 / np.sqrt(var + x.dtype.type(eps))
        xhat = (channels - mean[:, None]) * inv[:, None]
        y = gamma[:, None] * xhat + beta[:, None]
        n, h, w, c = x.shape
        return np.ascontiguousarray(np.moveaxis(y.reshape(c, n, h, w), 0, 3)), (xhat, inv, gamma), mean, var

    def backward(dy, cache):
        xhat, inv, gamma = cache
        n, h, w, c = dy.shape
        g = np.moveaxis(dy, 3, 0).reshape(c, -1)
        basis = np.stack([np.ones_like(xhat), xhat])  # (2, C, M)
        parts = np.einsum("kcm,cm->kc", basis, g) / g.shape[1]
        dx = (gamma * inv)[:, None] * (g - np.einsum("kc,kcm->cm", parts, basis))
        dx = np.ascontiguousarray(np.moveaxis(dx.reshape(c, n, h, w), 0, 3))
        return dx.astype(dy.dtype), (g * xhat).sum(axis=1), g.sum(axis=1)

    return pair("batchnorm", forward, backward)


# softmax cross-entropy


def loss_loops():
    def softmax_cross_entropy(logits, labels, label_smoothing=0.0):
        n, k = logits.shape
        loss, dlogits = 0.0, np.zeros_like(logits)
        for row in range(n):
            z = logits[row] - max(logits[row])
            p = np.exp(z) / np.exp(z).sum()
            for c in range(k):
                t = label_smoothing / k + (1 - label_smoothing) * (c == labels[row])
                loss -= t * (z[c] - np.log(np.exp(z).sum())) / n
                dlogits[row, c] = (p[c] - t) / n
        return loss, dlogits

    return {"softmax_cross_entropy": softmax_cross_entropy}


def loss_gathered():
    """The smoothed loss as a blend of the label's and the mean negative logarithm; a gradient set in place."""

    def softmax_cross_entropy(logits, labels, label_smoothing=0.0):
        n, k = logits.shape
        top = logits.max(axis=1, keepdims=True)
        log_sum = np.log(np.exp(logits - top).sum(axis=1)) + top[:, 0]
        nll = log_sum - logits[np.arange(n), labels]
        uniform = log_sum - logits.mean(axis=1)
        loss = ((1 - label_smoothing) * nll + label_smoothing * uniform).mean()
        d = np.exp(logits - log_sum[:, None])
        d[np.arange(n), labels] -= 1 - label_smoothing
        return loss, ((d - label_smoothing / k) / n).astype(logits.dtype)

    return {"softmax_cross_entropy": softmax_cross_entropy}


def loss_one_hot():
    def softmax_cross_entropy(logits, labels, label_smoothing=0.0):
        k = logits.shape[1]
        target = np.eye(k, dtype=logits.dtype)[labels] * (1 - label_smoothing) + label_smoothing / k
        e = np.exp(logits - logits.max(axis=1)[:, None])
        p = e / e.sum(axis=1)[:, None]
        return float(-np.sum(target * np.log(p), axis=1).mean()), (p - target).astype(logits.dtype) / len(logits)

    return {"softmax_cross_entropy": softmax_cross_entropy}


def loss_jacobian():
    """Through the full Jacobian of softmax: dL/dz = J.T @ (-t / p)."""

    def softmax_cross_entropy(logits, labels, label_smoothing=0.0):
        n, k = logits.shape
        target = np.full((n, k), label_smoothing / k, logits.dtype)
        target[np.arange(n), labels] += logits.dtype.type(1 - label_smoothing)
        p = np.exp(logits - np.logaddexp.reduce(logits, axis=1, keepdims=True))
        jacobian = np.einsum("nc,cd->ncd", p, np.eye(k)) - np.einsum("nc,nd->ncd", p, p)
        dlogits = np.einsum("ncd,nc->nd", jacobian, -target / p) / n
        return -np.einsum("nc,nc->", target, np.log(p)) / n, dlogits.astype(logits.dtype)

    return {"softmax_cross_entropy": softmax_cross_entropy}


def loss_einsum():
    def softmax_cross_entropy(logits, labels, label_smoothing=0.0):
        n, k = logits.shape
        log_p = logits - np.logaddexp.reduce(logits, axis=1)[:, None]
        hot = (labels[:, None] == np.arange(k)[None, :]).astype(logits.dtype)
        t = hot - logits.dtype.type(label_smoothing) * (hot - logits.dtype.type(1 / k))
        return -float(np.einsum("nc,nc->", t, log_p)) / n, (np.exp(log_p) - t) / logits.dtype.type(n)

    return {"softmax_cross_entropy": softmax_cross_entropy}


CORRECT = {
    "depthwise": (
        depthwise_loops,
        depthwise_einsum,
        depthwise_tensor_views,
        depthwise_im2col,
        depthwise_channels,
    ),
    "batchnorm": (batchnorm_loops, batchnorm_fused, batchnorm_staged, batchnorm_einsum, batchnorm_projection),
    "softmax_cross_entropy": (loss_loops, loss_gathered, loss_one_hot, loss_jacobian, loss_einsum),
}
