"""Networks and calls that one trace takes whole, against torch's own results."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from frontend_torch.nets import Lambda, ResNet, mlp, settled
from frontend_torch.reference import close, interpreted
from nnaccel_core.ir import Foreign, Segment


def check(net: nn.Module, *args, whole: bool = True, **kwargs):  # type: ignore[no-untyped-def]
    """The optimized network gives torch's result, from one compiled segment when ``whole``."""
    import copy

    net.eval()
    fast = interpreted(net)
    with torch.no_grad():
        mine = copy.deepcopy((args, kwargs))
        want = net(*args, **kwargs)
        got = fast(*mine[0], **mine[1])
    close(got, want)
    close(mine, (args, kwargs))
    report = fast.nnaccel_report()
    assert not report["own_calls"], report
    assert not report["trace_refused"], report
    parts = [p for program in fast._nnaccel.session.made.values() for p in program.captured.program.parts]
    if whole:
        assert len(parts) <= 1 and all(isinstance(p, Segment) for p in parts), parts
    else:
        assert any(isinstance(p, Foreign) for p in parts), parts
    return fast


def test_efficientnet_lite_is_one_segment() -> None:
    from efficientnet_lite_pytorch import EfficientNet

    net = settled(EfficientNet.from_name("efficientnet-lite0"))
    fast = check(net, torch.randn(1, 3, 64, 64))
    (program,) = fast._nnaccel.session.made.values()
    origins = {n.origin for n in program.captured.program.parts[0].graph.nodes}
    assert {"_conv_stem", "_blocks.3._depthwise_conv", "_fc"} <= origins


def test_efficientnet_with_custom_autograd_functions() -> None:
    from efficientnet_lite_pytorch import EfficientNet

    net = settled(EfficientNet.from_name("efficientnet-b0"))
    check(net, torch.randn(1, 3, 64, 64))


def test_resnet() -> None:
    check(settled(ResNet(8, 10)), torch.randn(2, 3, 40, 40))


def test_mlp() -> None:
    check(settled(mlp()), torch.randn(3, 2, 12))


def test_second_batch_size_needs_no_new_capture() -> None:
    net = settled(ResNet(8, 10, (1, 1)))
    fast = check(net, torch.randn(2, 3, 32, 32))
    with torch.no_grad():
        for n in (1, 5, 16):
            x = torch.randn(n, 3, 32, 32)
            close(fast(x), net(x))
    assert fast.nnaccel_report()["captures"] == 1


@pytest.mark.parametrize(
    "f",
    [
        F.relu,
        F.relu6,
        F.gelu,
        F.silu,
        F.mish,
        F.selu,
        F.elu,
        F.softplus,
        F.softsign,
        F.hardswish,
        F.hardsigmoid,
        F.hardtanh,
        F.leaky_relu,
        F.logsigmoid,
        torch.tanh,
        torch.sigmoid,
        torch.exp,
        torch.sin,
        torch.cos,
        torch.erf,
        torch.floor,
        torch.abs,
        torch.neg,
        torch.square,
        lambda x: F.gelu(x, approximate="tanh"),
        lambda x: F.leaky_relu(x, 0.3),
        lambda x: torch.sqrt(x.abs()),
        lambda x: torch.rsqrt(x.abs() + 1),
        lambda x: torch.log(x.abs() + 0.1),
        lambda x: x.reciprocal(),
        lambda x: torch.log1p(x.abs()),
        lambda x: -x,
        lambda x: abs(x),
        lambda x: x**2,
        lambda x: x**3,
        lambda x: x.abs() ** 0.5,
        lambda x: x.abs() ** 1.7,
        lambda x: 2.0**x,
        lambda x: x.pow(2),
        lambda x: 1 / (x.abs() + 1),
        lambda x: 1 - x,
        lambda x: x - 1,
        lambda x: 2 * x + 1,
        lambda x: torch.add(x, x, alpha=0.5),
        lambda x: torch.rsub(x, 3),
        lambda x: x.clamp(0),
        lambda x: x.clamp(max=0.5),
        lambda x: torch.clamp(x, -0.5, 0.5),
        lambda x: x.clamp_min(0.1),
        lambda x: torch.clamp(x, min=x.mean(), max=x.amax()),
        lambda x: torch.maximum(x, -x),
        lambda x: torch.min(x, x * 2),
        lambda x: torch.where(x > 0, x, -2.0),
        lambda x: x.masked_fill(x < 0, -1.0),
        lambda x: torch.where(x > 0, x, torch.exp(x)),
        lambda x: (x > 0) & (x < 1),
        lambda x: (x > 0) | ~(x < 1),
        lambda x: x == x.floor(),
        lambda x: x.lerp(x * 2, 0.3),
        lambda x: torch.addcmul(x, x, x, value=0.5),
        lambda x: torch.addcdiv(x, x, x.abs() + 1),
        lambda x: F.glu(x, 1),
        lambda x: F.softsign(x),
    ],
)
def test_pointwise(f) -> None:  # type: ignore[no-untyped-def]
    check(Lambda(lambda self, x: f(x)), torch.randn(3, 4, 5))


@pytest.mark.parametrize(
    "f",
    [
        lambda x: x.sum(),
        lambda x: x.sum(1),
        lambda x: x.mean((2, 3)),
        lambda x: x.mean([-1, -2], keepdim=True),
        lambda x: x.amax(1),
        lambda x: x.amin((0, 2)),
        lambda x: torch.max(x),
        lambda x: x.min(),
        lambda x: x.var(1),
        lambda x: x.std((1, 2), unbiased=False),
        lambda x: torch.var(x, dim=1, correction=0, keepdim=True),
        lambda x: x.softmax(-1),
        lambda x: F.log_softmax(x, 1),
        lambda x: F.normalize(x, dim=1),
        lambda x: F.cosine_similarity(x, x * 2 + 1, dim=1),
        lambda x: F.softmax(x, dim=2, dtype=torch.float64),
        lambda x: x.mean(dtype=torch.float64),
        lambda x: (x > 0).sum(1),
        lambda x: x.long().sum(),
    ],
)
def test_reductions(f) -> None:  # type: ignore[no-untyped-def]
    check(Lambda(lambda self, x: f(x)), torch.randn(3, 4, 5, 6))


@pytest.mark.parametrize(
    "f",
    [
        lambda x: x.view(x.size(0), -1),
        lambda x: x.view(x.shape[0] * 4, 30),
        lambda x: x.reshape(-1, 6),
        lambda x: x.flatten(1),
        lambda x: torch.flatten(x),
        lambda x: x.flatten(1, 2),
        lambda x: x.permute(0, 2, 3, 1),
        lambda x: x.transpose(1, -1).contiguous(),
        lambda x: x.unsqueeze(1),
        lambda x: x[:, :1].squeeze(1),
        lambda x: x[:, 0],
        lambda x: x[..., 2:5],
        lambda x: x[:, 1:3, ::2, -2:],
        lambda x: x[:, None, ..., 0],
        lambda x: x.narrow(1, 1, 2),
        lambda x: x.select(2, 3),
        lambda x: torch.cat([x, x * 2], 1),
        lambda x: torch.stack([x, -x], 1),
        lambda x: x.chunk(2, 1)[1],
        lambda x: x.split([1, 3], dim=1),
        lambda x: torch.split(x, 3, 2)[1],
        lambda x: x.unbind(1)[2],
        lambda x: x.expand(2, -1, -1, -1, -1),
        lambda x: x.repeat(1, 2, 1, 3),
        lambda x: F.pad(x, (1, 2, 3, 4)),
        lambda x: F.pad(x, (-1, 1), value=2.5),
        lambda x: x.movedim(1, -1),
        lambda x: x.swapaxes(1, 2),
        lambda x: x.unflatten(1, (2, -1)),
        lambda x: x.mT,
        lambda x: x[0].T if x.shape[1] == 7 else x,
        lambda x: x.view_as(x) + 0,
        lambda x: x.type_as(x) * 1,
        lambda x: x.double(),
        lambda x: x.to(torch.float64) + 1,
        lambda x: (x * 10).int(),
        lambda x: x.half().float(),
        lambda x: x.bool(),
        lambda x: torch.zeros_like(x) + x,
        lambda x: x.new_ones(4, 1, 1) + x,
        lambda x: x.reshape(x.shape[0], 2, 2, *x.shape[2:]),
        lambda x: x.detach() * 2,
        lambda x: x.clone(),
        lambda x: x + x.shape[1],
        lambda x: x.view(x.shape[:2] + (-1,)),
        lambda x: torch.concat((x, x), dim=-1),
        lambda x: x.expand_as(x) + 1,
        lambda x: x.broadcast_to(x.shape) * 1,
    ],
)
def test_shapes(f) -> None:  # type: ignore[no-untyped-def]
    check(Lambda(lambda self, x: f(x)), torch.randn(3, 4, 5, 6))


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 6, 3, padding="same"),
        nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2), groups=2),
        nn.Conv2d(4, 6, 3, padding="valid", bias=False),
        nn.MaxPool2d(3, 2, 1, ceil_mode=True),
        nn.AvgPool2d(3, 2, 1, count_include_pad=False),
        nn.AvgPool2d(2),
        nn.AdaptiveAvgPool2d(3),
        nn.AdaptiveAvgPool2d((1, None)),
        nn.AdaptiveMaxPool2d(1),
        nn.BatchNorm2d(4),
        nn.BatchNorm2d(4, affine=False),
        nn.BatchNorm2d(4, track_running_stats=False),
        nn.GroupNorm(2, 4),
        nn.InstanceNorm2d(4, affine=True),
        nn.LayerNorm((4, 9, 9)),
        nn.LayerNorm(9, elementwise_affine=False),
        nn.LayerNorm(9, bias=False),
        nn.RMSNorm(9),
        nn.PReLU(),
        nn.PReLU(4),
        nn.Linear(9, 3),
        nn.Linear(9, 3, bias=False),
        nn.Dropout2d(),
        nn.ZeroPad2d((1, 2, 3, 0)),
        nn.ConstantPad2d(1, 3.0),
        nn.Flatten(2),
        nn.Unflatten(1, (2, 2)),
        nn.ReLU6(),
        nn.Hardswish(),
        nn.Softmax(1),
        nn.Softmax2d(),
        nn.Threshold(0.1, 0.0),
    ],
    ids=lambda m: repr(m).split("\n")[0],
)
def test_layers(layer: nn.Module) -> None:
    check(settled(nn.Sequential(layer)), torch.randn(3, 4, 9, 9))


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv1d(4, 6, 3, padding=1), (2, 4, 11)),
        (nn.Conv3d(2, 3, 2), (1, 2, 4, 5, 6)),
        (nn.MaxPool1d(3, 2), (2, 4, 11)),
        (nn.AvgPool3d(2), (1, 2, 4, 4, 4)),
        (nn.BatchNorm1d(4), (5, 4)),
        (nn.BatchNorm1d(4), (2, 4, 11)),
        (nn.BatchNorm3d(2), (1, 2, 4, 5, 6)),
        (nn.Conv2d(4, 6, 3), (4, 8, 8)),
        (nn.MaxPool2d(2), (4, 8, 8)),
        (nn.Linear(7, 3), (7,)),
        (nn.AdaptiveAvgPool1d(4), (2, 3, 10)),
    ],
    ids=lambda x: repr(x),
)
def test_other_ranks(layer: nn.Module, shape: tuple[int, ...]) -> None:
    check(settled(nn.Sequential(layer)), torch.randn(shape))


def test_products() -> None:
    a, b, v = torch.randn(2, 3, 4), torch.randn(2, 4, 5), torch.randn(4)
    check(Lambda(lambda s, a, b, v: (a @ b, torch.bmm(a, b), a @ v, v @ b, v @ v, torch.matmul(a[0], b))), a, b, v)
    check(
        Lambda(lambda s, a, b, c: (torch.addmm(c, a, b), torch.mm(a, b), torch.baddbmm(c, a[None], b[None]))),
        a[0],
        b[0],
        torch.randn(5),
    )
    check(Lambda(lambda s, q, k: F.scaled_dot_product_attention(q, k, k)), torch.randn(2, 4, 6, 8), torch.randn(2, 4, 7, 8))
    check(Lambda(lambda s, q: F.scaled_dot_product_attention(q, q, q, is_causal=True)), torch.randn(2, 4, 6, 8))
    mask = torch.rand(6, 7) > 0.3
    mask[:, 0] = True
    check(
        Lambda(lambda s, q, k, m: F.scaled_dot_product_attention(q, k, k, attn_mask=m)),
        torch.randn(2, 4, 6, 8),
        torch.randn(2, 4, 7, 8),
        mask,
    )


def test_promotion_follows_torch() -> None:
    tensors = [
        torch.tensor([1, 2, 3]),
        torch.tensor([1.5, 2, 3]),
        torch.tensor([True, False, True]),
        torch.tensor(2.5, dtype=torch.float64),
        torch.tensor([1.0, 2, 3], dtype=torch.float64),
        torch.tensor(7),
        torch.tensor([1, 2, 3], dtype=torch.int32),
        torch.tensor([1, 2, 3], dtype=torch.uint8),
    ]
    for a in tensors:
        for b in [*tensors, 2, 2.5]:
            if isinstance(b, torch.Tensor):
                check(
                    Lambda(lambda s, a, b: (a * b if a.dtype != torch.bool or b.dtype != torch.bool else a, a / b, a > b)), a, b
                )
            else:
                check(Lambda(lambda s, a: (a + b, b - a if a.dtype != torch.bool else a, a / b, a <= b)), a)  # noqa: B023


def test_convolution_of_channels_last_images_gives_channels_last() -> None:
    net = settled(nn.Sequential(nn.Conv2d(4, 6, 3), nn.ReLU()))
    x = torch.randn(2, 4, 9, 9).to(memory_format=torch.channels_last)
    with torch.no_grad():
        out = check(net, x)(x)
        assert out.stride() == net(x).stride()
        assert interpreted(net)(x.contiguous()).is_contiguous()
        weights_last = net.to(memory_format=torch.channels_last)
        y = x.contiguous()
        assert interpreted(weights_last)(y).stride() == weights_last(y).stride()


def test_nested_arguments_and_results() -> None:
    def f(self, a, pair, *, extra=None, scale=1.0, names=()):  # type: ignore[no-untyped-def]
        b, c = pair
        out = {"sum": a + b * scale, "list": [c, None, 3, "text"], "shape": a.shape, "rows": a.size(0)}
        if extra is not None:
            out["extra"] = extra["x"] - a
        return out, (names, [a * 2])

    x = torch.randn(3, 4)
    check(Lambda(f), x, (x + 1, x + 2))
    check(Lambda(f), x, [x + 1, x + 2], extra={"x": x}, scale=2.5, names=("a",))


def test_keyword_tensors() -> None:
    check(Lambda(lambda s, a, b=None: a + (b if b is not None else 1)), torch.ones(2), b=torch.ones(2))


def test_sizes_returned_follow_the_batch() -> None:
    net = Lambda(lambda s, x: (x * 2, x.shape[0], x.size(0) * 3 + 1, x.numel()))
    fast = check(net, torch.randn(3, 4))
    assert fast(torch.randn(5, 4))[1:] == (5, 16, 20)
    assert fast.nnaccel_report()["captures"] == 1


def test_python_control_flow_on_the_batch_fixes_it() -> None:
    net = Lambda(lambda s, x: x * 2 if x.shape[0] > 2 else x * 3)
    fast = interpreted(net.eval())
    for n in (1, 2, 3, 4, 3, 1):
        x = torch.randn(n, 4)
        close(fast(x), net(x))
    report = fast.nnaccel_report()
    assert report["captures"] == 4 and "looks at the size" in report["programs"][0]


def test_python_loops_over_the_batch_fix_it() -> None:
    net = Lambda(lambda s, x: torch.stack([x[i] * i for i in range(x.shape[0])]).sum(0))
    fast = interpreted(net.eval())
    for n in (2, 3, 5):
        x = torch.randn(n, 4)
        close(fast(x), net(x))
    assert fast.nnaccel_report()["captures"] == 3


@pytest.mark.parametrize(
    "f",
    [
        lambda x: x.squeeze(),
        lambda x: x[-1],
        lambda x: x[1:],
        lambda x: x.expand(4, 4),
        lambda x: len(x) * x,
        lambda x: [t + 1 for t in x],
        lambda x: x / x.shape[0],
        lambda x: x.chunk(2),
        lambda x: x + torch.ones_like(x[0]).sum() * x.size(0),
    ],
)
def test_what_depends_on_the_batch_is_right_for_every_batch(f) -> None:  # type: ignore[no-untyped-def]
    net = Lambda(lambda s, x: f(x)).eval()
    fast = interpreted(net)
    for n in (4, 1, 4, 1):
        x = torch.randn(n, 4)
        try:
            want = net(x)
        except (RuntimeError, IndexError):
            continue
        close(fast(x), want)


def test_inputs_of_different_batch() -> None:
    net = Lambda(lambda s, a, b: a * b).eval()
    fast = interpreted(net)
    for na, nb in ((4, 4), (4, 1), (1, 4), (1, 1), (5, 5), (5, 1), (6, 6)):
        a, b = torch.randn(na, 3), torch.randn(nb, 3)
        close(fast(a, b), net(a, b))


def test_axis_equal_to_the_batch_only_by_chance() -> None:
    net = Lambda(lambda s, x: x @ x.transpose(0, 1) + x[:, :1]).eval()
    fast = interpreted(net)
    for n in (3, 4, 5):
        x = torch.randn(n, 4)
        close(fast(x), net(x))
    net = Lambda(lambda s, x: x + x.transpose(0, 1)).eval()
    fast = interpreted(net)
    x = torch.randn(4, 4)
    close(fast(x), net(x))
    x = torch.randn(1, 4)
    close(fast(x), net(x))


def test_parameters_used_directly() -> None:
    net = Lambda(
        lambda s, x: (s.gamma * x + s.shift.view(1, -1) * s.shift.mean(), s.table + x),
        gamma=nn.Parameter(torch.randn(4)),
        shift=nn.Parameter(torch.randn(4)),
        table=torch.randn(3, 4),
    )
    check(net, torch.randn(3, 4))


def test_tied_weights_are_one_parameter() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    net[1].weight = net[0].weight
    fast = check(net, torch.randn(2, 4))
    (program,) = fast._nnaccel.session.made.values()
    assert sum(name.endswith("weight") for name in program.captured.parameters) == 1
