"""The fused training engine: the layers' results, for every shape of network and batch, bit for bit again each time."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from engine_cases import branches_of_engine, images, judge_step, layers_step, make_model, result
from numeric import relative_error

from tinymnv1.engine import PRECISIONS, LayerEngine, TrainingEngine, training, training_engine
from tinymnv1.engine.training import PointwiseStage
from tinymnv1.errors import ConfigError
from tinymnv1.kernels.simd import GRADIENT_ROWS, PANEL, host_simd
from tinymnv1.optim import SGD, clip_gradient_norm

# A gradient is ten or twenty layers of sums away from the loss. With enough values per channel the layers' own float32
# error is 1e-5 to 8e-5; FEW below are the cases in which it is larger.
TOLERANCE = 1e-4
QUARTER = {"width": 0.25}

# settings of the network, then images, height, width and label smoothing
CASES = {
    "plain": (QUARTER, 16, 16, 16, 0.0),
    "smoothing": (QUARTER, 16, 16, 16, 0.2),
    "symmetric, odd image": (QUARTER, 12, 17, 23, 0.0),
    "tf, odd image": (QUARTER | {"padding": "tf"}, 12, 17, 23, 0.0),
    "symmetric, stem stride 2": (QUARTER | {"stem_stride": 2}, 8, 35, 29, 0.0),
    "tf, stem stride 2": (QUARTER | {"stem_stride": 2, "padding": "tf"}, 8, 40, 36, 0.0),
    "relu, 17 to 143 channels, 1000 classes": (
        {"width": 0.28, "num_classes": 1000, "activation": "relu", "in_channels": 4}, 16, 16, 16, 0.0,
    ),
    "9 to 147 channels, tf": ({"width": 0.288, "padding": "tf"}, 16, 9, 16, 0.0),
    "16 to 271 channels, grey": ({"width": 0.53, "in_channels": 1}, 16, 16, 16, 0.0),
    "eps and momentum": (QUARTER | {"bn_eps": 1e-3, "bn_momentum": 0.4}, 16, 8, 8, 0.0),
}  # fmt: skip

# So few values per channel in the last batch norms that they leave digits of the gradient out, in the layers as well.
FEW = {
    "width 1": ({"width": 1.0}, 12, 8, 8, 0.1),
    "1x1 images": (QUARTER, 16, 1, 1, 0.0),
    "2x3 images": (QUARTER, 16, 2, 3, 0.1),
    "one image": (QUARTER, 1, 65, 65, 0.0),
    "one small image": (QUARTER, 1, 33, 33, 0.0),
    "four values": (QUARTER, 4, 8, 8, 0.0),
}


def both(settings, n, h, w, smoothing=0.0, seed=0):
    """A step by the engine and one by the layers, each with its judge: four steps."""
    x, labels = images(n, h, w, settings.get("in_channels", 3), settings.get("num_classes", 10))
    engine = TrainingEngine(make_model(seed=seed, **settings))
    fused = result(engine.model, *engine.forward_backward(x, labels, smoothing))
    branches = branches_of_engine(engine, x.shape)
    layers, others = layers_step(make_model(seed=seed, **settings), x, labels, smoothing)
    judges = [judge_step(make_model("numpy", seed, **settings), x, labels, b, smoothing) for b in (branches, others)]
    return fused, layers, *judges


def assert_same_bits(a, b):
    """Two steps gave the same loss, logits, gradients and statistics, bit for bit."""
    assert a.loss == b.loss
    np.testing.assert_array_equal(a.logits, b.logits)
    for name in a.gradients:
        np.testing.assert_array_equal(a.gradients[name], b.gradients[name], err_msg=name)
    for name in a.statistics:
        np.testing.assert_array_equal(a.statistics[name], b.statistics[name], err_msg=name)


@pytest.mark.parametrize("name", CASES)
def test_a_step_is_the_layers_step(name):
    fused, layers, judge, _ = both(*CASES[name])
    assert judge.off_by <= 1e-4, "a value went down a branch where rounding cannot have sent it"
    for other in (judge, layers):
        assert fused.loss == pytest.approx(other.loss, rel=1e-5)
        assert relative_error(fused.logits, other.logits) <= TOLERANCE
        for k, statistic in fused.statistics.items():
            assert relative_error(statistic, other.statistics[k]) <= 1e-5, k
    for k, error in fused.errors(judge).items():
        assert error <= TOLERANCE, k


def test_a_stem_of_many_weights():
    """Elsewhere more than FEW_WEIGHTS get a product of their own, but the stem's rows are not kept for it."""
    x, labels = images(16, 8, 8, 460)
    engine = TrainingEngine(make_model(in_channels=460, **QUARTER))
    fused = result(engine.model, *engine.forward_backward(x, labels))
    layers, _ = layers_step(make_model(in_channels=460, **QUARTER), x, labels)
    for name in ("stem.conv.weight", "blocks.0.depthwise.weight"):
        assert relative_error(fused.gradients[name], layers.gradients[name]) <= 1e-3, name


@pytest.mark.parametrize("name", FEW)
def test_where_digits_are_lost_no_more_are_lost_than_in_the_layers(name):
    """Over four networks, and the median over their parameters: the error of one of them is chance.

    A channel whose few values happen to lie close together is divided by next to nothing. Of the layers' own gradients
    some are then off by a third, and some values by 3e-3 of a kink.
    """
    ours, theirs, lost, lost_by_layers, off_by, off_by_layers = [], [], [0.0], [0.0], [0.0], [0.0]
    for seed in range(4):
        fused, layers, judge, layers_judge = both(*FEW[name], seed=seed)
        ours += fused.errors(judge).values()
        theirs += layers.errors(layers_judge).values()
        lost += [relative_error(a, judge.statistics[k]) for k, a in fused.statistics.items()]
        lost_by_layers += [relative_error(a, layers_judge.statistics[k]) for k, a in layers.statistics.items()]
        off_by.append(judge.off_by)
        off_by_layers.append(layers_judge.off_by)
        assert fused.loss == pytest.approx(judge.loss, rel=1e-4)
    assert np.median(ours) <= max(TOLERANCE, 3 * np.median(theirs))
    assert max(ours) <= max(TOLERANCE, 5 * max(theirs))
    assert max(lost) <= max(1e-5, 5 * max(lost_by_layers))
    assert max(off_by) <= max(1e-3, 5 * max(off_by_layers))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_gradient_of_many_weights_is_the_same_however_it_is_cut(precision, monkeypatch):
    """Into parts of some tiles by some panels: 138 to 271 channels end with a tile and a panel that are not whole."""
    x, labels = images(8, 16, 16)
    steps = []
    for tiles, panels in ((0, 0), (1, 3), (5, 1)):
        if tiles:
            part = {"rows": tiles * GRADIENT_ROWS, "columns": panels * PANEL}
            monkeypatch.setattr(training, "shared_out", lambda whole, part=part: whole._replace(**part))
        engine = TrainingEngine(make_model(width=0.53), precision)
        steps.append(result(engine.model, *engine.forward_backward(x, labels)))
    assert_same_bits(steps[0], steps[1])
    assert_same_bits(steps[0], steps[2])


def test_dropout_draws_the_layers_masks():
    """From the model's own generator, so that a resumed run goes on with the right numbers."""
    fused, layers, judge, _ = both(QUARTER | {"dropout": 0.3}, 16, 8, 8, 0.1)
    plain, *_ = both(QUARTER, 16, 8, 8, 0.1)
    assert fused.loss == pytest.approx(layers.loss, rel=1e-5)
    assert relative_error(fused.logits, layers.logits) <= TOLERANCE
    assert relative_error(fused.logits, plain.logits) > 0.1
    for k, error in fused.errors(judge).items():
        assert error <= 3 * TOLERANCE, k  # 16 values per channel in the last batch norms


def test_one_engine_takes_batches_of_any_shape_in_turn():
    """A partial batch after a full one, a larger image, and back: memory is used again, numbers are not."""
    engine = TrainingEngine(make_model(width=0.25))
    start = engine.model.state_dict()
    for shape in ((16, 16, 16), (3, 16, 16), (16, 16, 16), (2, 33, 31), (16, 16, 16), (7, 4, 5)):
        engine.model.load_state_dict(start)
        again = result(engine.model, *engine.forward_backward(*images(*shape)))
        fresh = TrainingEngine(make_model(width=0.25))
        assert_same_bits(again, result(fresh.model, *fresh.forward_backward(*images(*shape))))


def test_a_step_forgets_a_nan_of_the_step_before():
    """A diverging step must be seen; the memory it leaves behind must not reach the next one."""
    engine = TrainingEngine(make_model(width=0.28))
    start = engine.model.state_dict()
    x, labels = images(8, 8, 8)
    before = result(engine.model, *engine.forward_backward(x, labels))
    engine.model.load_state_dict(start)
    spoilt = x.copy()
    spoilt[3, 4, 5, 1] = np.nan
    loss, logits = engine.forward_backward(spoilt, labels)
    assert np.isnan(loss)
    assert np.isnan(logits).any()
    assert np.isnan(engine.model.stem.layers["conv"].params["weight"].grad).any()
    engine.model.load_state_dict(start)
    assert_same_bits(before, result(engine.model, *engine.forward_backward(x, labels)))


def test_an_infinite_weight_makes_the_loss_a_nan():
    model = make_model(width=0.25)
    model.blocks[5].layers["pointwise"].params["weight"].data[3, 4] = np.inf
    loss, _ = TrainingEngine(model).forward_backward(*images(8, 8, 8))
    assert np.isnan(loss)


def test_a_hundred_steps_stay_with_the_layers():
    """Off the kinks, as in the test of ten steps with PyTorch: near a kink any two float32 programs part for good.

    The judge makes the same hundred steps in float64. The engine may leave it three times as far behind as the layers
    do, which have the same float32 weights to round.
    """
    models = [make_model(b, width=0.25, off_kinks=True) for b in ("numba", "numba", "numpy")]
    engines = [TrainingEngine(models[0]), LayerEngine(models[1]), LayerEngine(models[2])]
    optimizers = [SGD(m.parameters(), 0.01, 0.9) for m in models]
    start = models[2].state_dict()
    for step in range(100):
        x, labels = images(4, 17, 17, seed=step)
        losses = []
        for model, engine, optimizer in zip(models, engines, optimizers, strict=True):
            losses.append(engine.forward_backward(x.astype(model.dtype), labels, 0.1)[0])
            clip_gradient_norm(model.parameters(), 1.0)
            optimizer.step()
        assert losses[0] == pytest.approx(losses[2], rel=1e-5), step
    fused, layers, judge = (m.state_dict() for m in models)
    moved = max(np.abs(judge[k] - start[k]).max() for k, _ in models[0].parameters())
    apart = [max(np.abs(s[k] - judge[k]).max() for k, _ in models[0].parameters()) for s in (fused, layers)]
    assert moved > 1e-3
    assert apart[0] <= 3 * apart[1]
    assert apart[0] <= 1e-3 * moved


def test_what_it_returns_is_the_callers():
    """Logits of the last step stay what they were when the next step runs on the same memory."""
    engine = TrainingEngine(make_model(width=0.25))
    x, labels = images(8, 8, 8)
    kept_x = x.copy()
    _, logits = engine.forward_backward(x, labels)
    kept = logits.copy()
    _, others = engine.forward_backward(x + 1, labels)
    np.testing.assert_array_equal(logits, kept)
    assert not np.shares_memory(logits, others)
    np.testing.assert_array_equal(x, kept_x)


def test_images_need_not_be_contiguous():
    x, labels = images(8, 8, 10)
    results = []
    for batch in (np.ascontiguousarray(x[:, :, ::-1]), x[:, :, ::-1]):
        engine = TrainingEngine(make_model(width=0.25))
        results.append(result(engine.model, *engine.forward_backward(batch, labels)))
    assert_same_bits(*results)


def test_wrong_input_is_refused_as_by_the_model():
    engine = TrainingEngine(make_model(width=0.25))
    x, labels = images(4, 8, 8)
    for wrong in (x[0], x[..., :2], x[:0], x.astype(np.float64)):
        with pytest.raises(ConfigError, match="images must be"):
            engine.forward_backward(wrong, labels)
    with pytest.raises(ConfigError):
        engine.forward_backward(x, labels[:3])
    with pytest.raises(ConfigError):
        engine.forward_backward(x, labels + 10)


@pytest.mark.parametrize("make_engine", [TrainingEngine, LayerEngine])
def test_labels_that_do_not_fit_are_refused_before_anything_changes(make_engine):
    model = make_model(width=0.25)
    before = model.state_dict()
    x, labels = images(4, 8, 8)
    for wrong in (labels + 10, labels - 10, labels[:3], labels.astype(float)):
        with pytest.raises(ConfigError, match="labels must be"):
            make_engine(model).forward_backward(x, wrong)
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(array, before[name], err_msg=name)


def test_batch_norm_cannot_train_on_one_value():
    """As the layers say. With M = 1 the unbiased variance is 0 / 0 and would spoil the running statistics silently."""
    x, labels = images(1, 8, 8)
    for make_engine in (LayerEngine, TrainingEngine):
        model = make_model(width=0.25)
        before = model.state_dict()
        with pytest.raises(ConfigError, match="one value per channel"):
            make_engine(model).forward_backward(x, labels)
        for name, array in model.state_dict().items():
            np.testing.assert_array_equal(array, before[name], err_msg=f"{name} has changed")


def test_a_smoothing_that_does_not_fit_changes_nothing():
    x, labels = images(2, 16, 16)
    for make_engine in (LayerEngine, TrainingEngine):
        model = make_model(width=0.25)
        before = model.state_dict()
        with pytest.raises(ConfigError, match=r"label_smoothing must be in \[0, 1\], got 1.5"):
            make_engine(model).forward_backward(x, labels, 1.5)
        for name, array in model.state_dict().items():
            np.testing.assert_array_equal(array, before[name], err_msg=f"{name} has changed")


def test_the_numpy_backend_walks_the_layers():
    model = make_model("numpy", width=0.25)
    with pytest.raises(ConfigError, match="LayerEngine"):
        TrainingEngine(model)
    assert isinstance(training_engine(model), LayerEngine)
    assert isinstance(training_engine(make_model(width=0.25), fused=False), LayerEngine)
    assert isinstance(training_engine(make_model(width=0.25)), TrainingEngine)


def test_bfloat16_rounds_the_factors_of_the_pointwise_products_alone():
    """Each product is judged in tests/kernels/test_fused.py; here, that the engine takes these and no others.

    Eight bits of each factor are left; averaged over 16 images and 27 layers they move the loss in its third digit.
    """
    x, labels = images(16, 16, 16)
    found = {}
    for precision in ("float32", "bfloat16"):
        engine = TrainingEngine(make_model(width=0.25), precision)
        found[precision] = engine.forward_backward(x, labels)[0]
        (plan,) = engine._plans.values()
        kinds = {stage.product.packed.dtype for stage in plan.stages if isinstance(stage, PointwiseStage)}
        assert kinds == {np.dtype({"float32": np.float32, "bfloat16": np.uint32}[precision])}
        assert plan.stem.product.packed.dtype == plan.head.product.packed.dtype == np.float32
        assert {p.grad.dtype for _, p in engine.model.parameters()} == {np.dtype(np.float32)}
    assert found["bfloat16"] == pytest.approx(found["float32"], rel=1e-2)
    assert found["bfloat16"] != pytest.approx(found["float32"], rel=1e-6)


def test_an_unknown_precision_is_refused():
    with pytest.raises(ConfigError, match="float32, bfloat16, got 'float16'"):
        TrainingEngine(make_model(width=0.25), "float16")
    for model, fused in ((make_model("numpy", width=0.25), True), (make_model(width=0.25), False)):
        with pytest.raises(ConfigError, match="layers train in float32, got 'bfloat16'"):
            training_engine(model, fused, "bfloat16")


THREADS = """
import sys, hashlib, itertools, numpy as np, numba
from tinymnv1 import MobileNetV1
from tinymnv1.engine import InferenceEngine, TrainingEngine

# Many small images; few; large ones in bands; and width 1, where dw is shared out by columns instead of by rows.
CASES = [(0.25, 33, 16, 15), (0.25, 2, 17, 20), (0.28, 2, 96, 96), (1.0, 2, 24, 24)]

def digest():
    everything = hashlib.sha256()
    for precision, (width, n, h, w) in itertools.product(("float32", "bfloat16"), CASES):
        rng = np.random.default_rng(n)
        model = MobileNetV1(10, width, stem_stride=1, dropout=0.1, rng=5)
        engine = TrainingEngine(model, precision)
        for batch in (n, n - 1):
            x = rng.normal(size=(batch, h, w, 3)).astype(np.float32)
            loss, logits = engine.forward_backward(x, rng.integers(0, 10, batch))
            results = [np.array(loss), logits, *(p.grad for _, p in model.parameters()), *model.state_dict().values()]
            results += [InferenceEngine(model)(x)]
            for r in results:
                assert np.isfinite(r).all()
                everything.update(np.ascontiguousarray(r).tobytes())
    return everything.hexdigest()

for threads in sys.argv[1:]:
    numba.set_num_threads(int(threads))
    print(digest())
"""


def digests(*threads, **environment):
    """What the script above prints, for so many threads in turn, in a process of its own."""
    command = [sys.executable, "-c", THREADS, *map(str, threads)]
    environment = os.environ | {"NUMBA_NUM_THREADS": "4"} | environment
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.split()


def test_results_do_not_depend_on_the_threads():
    """Bit for bit, training and inference: otherwise a run cannot be reproduced on another machine."""
    found = digests(1, 2, 4, 4)
    assert len(found) == 4
    assert len(set(found)) == 1


def test_the_run_that_compiles_the_kernels_gives_the_bits_of_later_runs(tmp_path):
    """A kernel fresh from the compiler and the same kernel from the cache on disk must round alike.

    Small functions stand, as copies, in the code of several kernels; which copy runs depends on what was loaded first.
    The first run has one thread, so no other process compiles for it.
    """
    found = [digests(threads, NUMBA_CACHE_DIR=str(tmp_path), NUMBA_NUM_THREADS=threads) for threads in "12"]
    assert len(found[0]) == 1
    assert found[0] == found[1]


OTHER_VECTORS = """
import json
from engine_cases import branches_of_engine, images, judge_step, make_model, result
from numeric import relative_error
from tinymnv1.engine import InferenceEngine, TrainingEngine

settings = {"width": 0.25}
x, labels = images(2, 17, 17)
engine = TrainingEngine(make_model(**settings))
logits = InferenceEngine(engine.model)(x)
expected = make_model("numpy", **settings).forward(x.astype(float))
step = result(engine.model, *engine.forward_backward(x, labels))
judge = judge_step(make_model("numpy", **settings), x, labels, branches_of_engine(engine, x.shape))
print(json.dumps({
    "inference": relative_error(logits, expected), "logits": relative_error(step.logits, judge.logits),
    "gradients": max(step.errors(judge).values()), "off_by": judge.off_by,
}))
"""


@pytest.mark.parametrize("variable", ["TINYMNV1_SIMD=avx2", "TINYMNV1_SIMD=neon", "NUMBA_DISABLE_JIT=1"])
def test_other_vectors_give_the_same_step(variable):
    """Narrower vectors cut rows, panels and tiles elsewhere; without the compiler, each vector checks its bounds."""
    name, value = variable.split("=")
    if value == "avx2" and host_simd() == "neon":
        pytest.skip("this machine has no AVX2")
    tests = Path(__file__).parents[1]
    environment = os.environ | {name: value, "PYTHONPATH": os.pathsep.join([str(tests), str(tests.parent)])}
    command = [sys.executable, "-c", OTHER_VECTORS]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    errors = json.loads(done.stdout)
    assert errors["inference"] <= 1e-5
    assert errors["logits"] <= TOLERANCE
    assert errors["gradients"] <= 3 * TOLERANCE  # 8 values per channel in the last batch norms
    assert errors["off_by"] <= 1e-4
