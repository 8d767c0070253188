"""Every call that the mapping knows, with torch's semantics: one line each, on the numpy references."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from frontend_torch.nets import Lambda
from frontend_torch.reference import close, interpreted
from nnaccel_core.ir import Segment

NAN, INF = float("nan"), float("inf")
IMAGE = (2, 4, 6, 9)
#: Values where element-wise functions change their course.
EDGES = torch.tensor([NAN, INF, -INF, 0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 2.5, -2.5, 3.0, -3.0, 6.5, 1e-3, -1e-3, 30.0, -30.0])


def drawn(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    return x if dtype is torch.float32 else (x > 0 if dtype is torch.bool else (x * 5).to(dtype))


def same(f: Callable[..., Any], *args: Any, whole: bool = True, **owned: Any) -> None:
    """``f`` gives torch's results; compiled as one segment when ``whole``, else partly left to torch."""
    if isinstance(f, nn.Module):
        owned["layer"] = f
    net = Lambda(lambda self, *a: f(*a), **owned).eval()
    fast = interpreted(net)
    with torch.no_grad():
        want = net(*args)
        got = fast(*args)
    close(got, want)
    report = fast.nnaccel_report()
    assert not report["own_calls"], report
    assert not report["trace_refused"], report
    parts = [p for program in fast._nnaccel.session.made.values() for p in program.captured.program.parts]
    assert all(isinstance(p, Segment) for p in parts) == whole, report["programs"]


def cases(*functions: Callable[..., Any]) -> Any:
    return pytest.mark.parametrize("f", functions, ids=[str(k) for k in range(len(functions))])


def gelu_at_edges(x: Any) -> Any:
    """GELU, that of infinity (EDGES[1]) by itself: in vectors of 16 floats PyTorch makes NaN of it."""
    return torch.cat([F.gelu(x[:1]), F.gelu(x[1:2]), F.gelu(x[2:])])


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@cases(
    F.relu, F.relu6, F.silu, F.elu, F.softsign, F.hardswish, F.hardsigmoid, F.hardtanh, F.leaky_relu, F.tanhshrink,
    F.logsigmoid, F.hardshrink, F.softshrink, F.celu, F.selu, torch.tanh, torch.sigmoid, torch.abs, torch.neg, torch.floor,
    torch.ceil, torch.round, torch.trunc, torch.frac, torch.sign, torch.sgn, torch.square, torch.isnan, torch.isinf,
    torch.isfinite, torch.nan_to_num, torch.exp, torch.expm1, torch.special.expit, gelu_at_edges, F.softplus, F.rrelu,
    torch.positive, lambda x: F.celu(x, 0.7), lambda x: F.hardshrink(x, 1.0), lambda x: F.softshrink(x, 1.0),
    lambda x: F.threshold(x, 0.1, 20.0), lambda x: F.elu(x, 0.3), lambda x: F.softplus(x, 2.0, 5.0),
    lambda x: F.hardtanh(x, -2, 0.5), lambda x: x.clamp(-1, 1), lambda x: x.clamp(2, 1), lambda x: x.clamp(min=0),
    lambda x: x.clamp_max(0.3), lambda x: torch.clip(x, max=torch.tensor(0.2)), lambda x: torch.clamp(x, min=torch.zeros(18)),
    lambda x: x.nan_to_num(1.0, 2.0, -2.0), lambda x: x > 0, lambda x: x.ne(x), lambda x: x.ge(0.5),
    lambda x: torch.logical_not(x), lambda x: torch.logical_and(x, x > 0), lambda x: torch.maximum(x, -x),
    lambda x: torch.minimum(x, x.flip(0)), lambda x: torch.where(x > 0, x, -x), lambda x: x.where(x > 0, 0.0),
    lambda x: torch.where(x > 0, 1.0, 2), lambda x: torch.where(x > 0, 1, 2), lambda x: x.masked_fill(x != x, 7),
    lambda x: torch.remainder(x, 0.7), lambda x: x % -1.5, lambda x: x.nan_to_num() * 0 + 5.5 % (x.isfinite() + 1.0),
    lambda x: torch.div(x, 0.3, rounding_mode="trunc"), lambda x: torch.amax(x, 0), lambda x: torch.argmax(x),
    lambda x: torch.sort(x).values, lambda x: torch.topk(x, 3).values, lambda x: x[:4].cumsum(0),
    lambda x: F.softmax(x[1:2], 0), lambda x: torch.logsumexp(x[1:], 0), lambda x: torch.stack([x, x]).max(0),
    lambda x: x.isnan().any(), lambda x: (x == x).all(),
)  # fmt: skip
def test_pointwise_at_the_edges(f: Callable[..., Any]) -> None:
    same(f, EDGES)


@cases(
    torch.log2, torch.log10, torch.exp2, torch.tan, F.mish, F.logsigmoid, torch.rsqrt, torch.log1p, lambda x: x // 0.3,
    lambda x: torch.floor_divide(x, -0.7), lambda x: torch.div(x, x.flip(0), rounding_mode="floor"),
    lambda x: torch.div(x, x.flip(0), rounding_mode="trunc"), lambda x: torch.remainder(x, x.flip(0)), lambda x: x % 0.3,
    lambda x: 2 ** (x % 3), lambda x: torch.pow(x, x.flip(0)), lambda x: x.pow(-1), lambda x: x**-0.5, lambda x: x.softmax(0),
)  # fmt: skip
def test_pointwise_on_positive_numbers(f: Callable[..., Any]) -> None:
    same(f, drawn(5, 7).abs() + 0.1)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8, torch.bool])
@cases(
    lambda x: x & (x > 0), lambda x: x | x.flip(0), lambda x: x ^ x.flip(0), lambda x: ~x,
    lambda x: torch.bitwise_and(x, 1 > 0), lambda x: torch.logical_or(x, x.flip(0)), lambda x: torch.logical_xor(x, x.flip(0)),
    lambda x: x + x.flip(0), lambda x: x * 3, lambda x: x * x.flip(0), lambda x: x.maximum(x.flip(0)), lambda x: x / 3,
    lambda x: x.isnan(), lambda x: x.isfinite(), lambda x: x == 1, lambda x: x.sum(), lambda x: x.prod(0),
    lambda x: x.cumsum(1), lambda x: x.float().mean(), lambda x: x.exp(), lambda x: x.masked_fill(x > 0, 1),
    lambda x: torch.where(x > 0, x, 2), lambda x: x.count_nonzero(1), lambda x: x.sign(),
)  # fmt: skip
def test_integers_and_booleans(f: Callable[..., Any], dtype: torch.dtype) -> None:
    same(f, drawn(4, 5, dtype=dtype))


@cases(
    lambda x: x // 3, lambda x: x // -3, lambda x: x % 3, lambda x: x % -3, lambda x: torch.div(x, 2, rounding_mode="floor"),
    lambda x: x**2, lambda x: x**3, lambda x: x.clamp(-2, 3), lambda x: x.clamp(4, 1), lambda x: x.clamp(min=0.5),
    lambda x: x.trunc(), lambda x: x.amax(1), lambda x: x.argmin(1), lambda x: x.sort(1).values, lambda x: x.topk(2)[0],
    lambda x: x.relu(), lambda x: -x, lambda x: F.one_hot(x.abs(), 20), lambda x: F.threshold(x, 1, -9), lambda x: x.tril(),
    lambda x: x.flip(1), lambda x: abs(x), lambda x: 7 - x, lambda x: x.max(1), lambda x: F.pad(x, (1, 1), value=3),
    lambda x: x[:, [0, 2]], lambda x: x @ x.mT,
)  # fmt: skip
def test_signed_integers(f: Callable[..., Any]) -> None:
    same(f, drawn(4, 5, dtype=torch.int64))


@cases(
    lambda x: x.sum(-1), lambda x: x.prod(2), lambda x: x.prod(), lambda x: x.amin((1, -1), keepdim=True),
    lambda x: x.aminmax(), lambda x: x.aminmax(dim=1, keepdim=True), lambda x: (x > 0).all(1), lambda x: (x > 1).any(),
    lambda x: x.var((1, 2)), lambda x: torch.var_mean(x, 1), lambda x: torch.std_mean(x, (2, 3), keepdim=True),
    lambda x: x.std(1, correction=2), lambda x: x.std((1, 2), unbiased=False), lambda x: x.norm(dim=1), lambda x: x.norm(),
    lambda x: x.norm(1, 1), lambda x: x.norm(p=INF, dim=2), lambda x: x.norm(3, dim=(1, 2), keepdim=True),
    lambda x: torch.linalg.vector_norm(x, 0, dim=1), lambda x: torch.linalg.norm(x, dim=-1),
    lambda x: torch.linalg.vector_norm(x, -INF, (1, 3)), lambda x: torch.linalg.norm(x), lambda x: F.normalize(x, 1.0, 2),
    lambda x: F.normalize(x, p=3, dim=1), lambda x: F.cosine_similarity(x, x.flip(1), dim=-1),
    lambda x: F.pairwise_distance(x, x.flip(1)), lambda x: x.softmax(1), lambda x: F.softmin(x, -1), nn.Softmax2d(),
    lambda x: x.log_softmax(2), lambda x: x.logsumexp((1, 2)), lambda x: x.logsumexp(1, keepdim=True), lambda x: x.max(1),
    lambda x: x.min(-1, keepdim=True), lambda x: torch.max(x, dim=2).indices, lambda x: x.max(dim=1)[0], lambda x: x.argmax(),
    lambda x: x.argmax(1), lambda x: x.argmin(-1, keepdim=True), lambda x: torch.argmax(x, keepdim=True),
    lambda x: x.topk(2, 1), lambda x: torch.topk(x, 3, largest=False), lambda x: x.sort(2, descending=True),
    lambda x: x.argsort(1), lambda x: torch.sort(x, dim=1, stable=True), lambda x: x.msort(), lambda x: x.cumsum(-1),
    lambda x: torch.cumsum(x, 1, dtype=torch.float64),
)  # fmt: skip
def test_reductions_and_order(f: Callable[..., Any]) -> None:
    same(f, drawn(*IMAGE))


@cases(
    lambda x: x.flip(1), lambda x: x.flip(0, -1), lambda x: torch.flip(x, [2]), lambda x: x.fliplr(), lambda x: torch.flipud(x),
    lambda x: x.roll(2, 1), lambda x: torch.roll(x, (1, -2), (2, 3)), lambda x: x.roll(5), lambda x: x.tile(2),
    lambda x: x.tile((2, 1, 1, 1, 3)), lambda x: x.repeat_interleave(2, 1), lambda x: torch.repeat_interleave(x, 3),
    lambda x: torch.hstack([x, x]), lambda x: torch.vstack([x, x]), lambda x: torch.stack([x, x], -1), lambda x: x.tril(),
    lambda x: torch.triu(x, 1), lambda x: x[:, [0, 2, -1]], lambda x: x[:, :, [1, 0], 1:3],
    lambda x: x[..., torch.tensor([[0, 1], [2, -1]])], lambda x: x[:, torch.arange(3), torch.tensor([0, 2, -1])],
    lambda x: x[0, [1, 2]], lambda x: x[:, torch.tensor(2)], lambda x: x.index_select(2, torch.tensor([3, 0])),
    lambda x: x[:, None, [1]], lambda x: x.gather(1, torch.zeros(2, 1, 6, 9, dtype=torch.int64)),
    lambda x: x.take_along_dim(x.argsort(2), 2), lambda x: torch.take_along_dim(x, x.argmax(1, keepdim=True), 1),
    lambda x: torch.take_along_dim(x, torch.tensor([3, 1])),
    lambda x: x.scatter(1, torch.ones(2, 1, 6, 9, dtype=torch.int64), 7.0), lambda x: x.scatter_add(3, (x > 0).long(), x),
    lambda x: x.scatter(2, (x > 0).long()[:, :, :1], x[:, :, :1]), lambda x: x.scatter_reduce(1, (x > 0).long(), x, "amax"),
    lambda x: x.index_add(2, torch.tensor([0, 2, 0]), x[:, :, :3], alpha=2),
    lambda x: x + torch.meshgrid(torch.arange(6), torch.arange(9), indexing="ij")[1], lambda x: x + torch.eye(9)[:6],
    lambda x: x * torch.linspace(0, 1, 9), lambda x: x + torch.full((9,), 2.5) - torch.ones(6, 1) * torch.zeros(9),
    lambda x: x + torch.triu(torch.full((6, 6), -1.0), diagonal=1)[:, :1],
    lambda x: x.masked_fill(torch.ones(6, 9).tril() == 0, -INF), lambda x: x + torch.tensor(2),
    lambda x: x * torch.arange(1, 10, 1) / torch.arange(9, dtype=torch.float32).add(1),
)  # fmt: skip
def test_moving_elements(f: Callable[..., Any]) -> None:
    same(f, drawn(*IMAGE))


def test_writing_by_a_mask() -> None:
    def f(x: torch.Tensor) -> torch.Tensor:
        y = x * 1
        y[y > 1] = 0.5
        y[y < -1] = y.mean()
        y[y[:, :, 0, 0] > 0] = 3.0
        return y

    same(f, drawn(*IMAGE))


@cases(
    lambda x: F.interpolate(x, scale_factor=2), lambda x: F.interpolate(x, size=(3, 18)), lambda x: F.interpolate(x, 7),
    lambda x: F.interpolate(x, (11, 5), mode="nearest-exact"),
    lambda x: F.interpolate(x, scale_factor=(0.5, 3), mode="nearest-exact"),
    lambda x: F.interpolate(x, scale_factor=1 / 3, mode="nearest-exact"), lambda x: F.interpolate(x, scale_factor=(1.7, 0.6)),
    lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"),
    lambda x: F.interpolate(x, (7, 4), mode="bilinear", align_corners=True),
    lambda x: F.interpolate(x, scale_factor=1.7, mode="bilinear"),
    lambda x: F.interpolate(x, scale_factor=1.7, mode="bilinear", recompute_scale_factor=True),
    lambda x: F.interpolate(x, (13, 5), mode="bicubic"),
    lambda x: F.interpolate(x, scale_factor=1.3, mode="bicubic", align_corners=True),
    lambda x: F.interpolate(x[:, :, 0], 20, mode="linear"), lambda x: F.interpolate(x[:, :, 0], scale_factor=2.5),
    lambda x: F.interpolate(x[:, :, None], (2, 3, 7), mode="trilinear"), lambda x: F.interpolate(x, (3, 4), mode="area"),
    nn.Upsample(scale_factor=2), nn.Upsample((9, 9), mode="bilinear", align_corners=True),
    nn.UpsamplingNearest2d(scale_factor=3), nn.UpsamplingBilinear2d(scale_factor=2), lambda x: F.pixel_shuffle(x, 2),
    lambda x: F.pixel_unshuffle(x, 3), nn.PixelShuffle(2), lambda x: F.pixel_shuffle(x[0], 2), nn.PixelUnshuffle(3),
    nn.ChannelShuffle(2), lambda x: F.pad(x, (1, 2, 3, 0), mode="reflect"), lambda x: F.pad(x, (4, 2, 1, 0), mode="replicate"),
    lambda x: F.pad(x[0], (4, 2, 1, 0), mode="replicate"), lambda x: F.pad(x, (9, 2, 1, 0), mode="circular"),
    nn.ReflectionPad2d(2), nn.ReplicationPad2d((1, 2, 0, 3)), nn.CircularPad2d(2), nn.ZeroPad2d((-1, 1, 2, 0)),
    nn.ConstantPad2d(2, -INF), lambda x: nn.functional.pad(x[:, :, 0], (3, 1), mode="reflect"),
    lambda x: F.pad(x[:, :, None], (1, 1, 2, 2, 1, 0), mode="replicate"), nn.LocalResponseNorm(3),
    nn.LocalResponseNorm(2, 1e-2, 0.5, 2.0), lambda x: F.local_response_norm(x[:, :, 0], 3),
    lambda x: F.lp_pool2d(x, 2, 3, stride=2), lambda x: F.lp_pool2d(x.abs(), 3.0, (2, 3), ceil_mode=True),
    lambda x: F.lp_pool1d(x[:, :, 0], 1, 3), lambda x: F.lp_pool2d(x, INF, 2),
    lambda x: F.max_pool1d(x[:, :, 0], 3, 2, 1, ceil_mode=True), lambda x: F.max_pool2d(x, 3, 1, 1, dilation=2),
    lambda x: F.max_pool2d(x, (2, 3), ceil_mode=True), lambda x: F.max_pool3d(x[:, None], 2),
    lambda x: F.avg_pool1d(x[:, :, 0], 3, 2, 1), lambda x: F.avg_pool2d(x, 3, 2, 1, True, False),
    lambda x: F.avg_pool2d(x, 3, 2, 1, True, True), lambda x: F.avg_pool2d(x, 2, divisor_override=3),
    lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False, divisor_override=2),
    lambda x: F.avg_pool3d(x[:, None], (2, 3, 2), stride=1), lambda x: F.adaptive_avg_pool1d(x[:, :, 0], 4),
    lambda x: F.adaptive_avg_pool2d(x, (4, None)), lambda x: F.adaptive_avg_pool3d(x[:, None], (2, 4, 5)),
    lambda x: F.adaptive_max_pool1d(x[:, :, 0], 3), lambda x: F.adaptive_max_pool2d(x, (3, 3)),
    lambda x: F.adaptive_max_pool3d(x[:, None], (2, 3, 1)),
)  # fmt: skip
def test_images(f: Callable[..., Any]) -> None:
    same(f, drawn(*IMAGE))


@pytest.mark.parametrize("value", [NAN, INF])
@cases(
    lambda x: F.interpolate(x, scale_factor=2), lambda x: F.interpolate(x, (3, 3)),
    lambda x: F.pad(x, (1, 1, 0, 0), mode="reflect"), lambda x: F.max_pool2d(x, 2), lambda x: F.avg_pool2d(x, 2),
    lambda x: F.adaptive_avg_pool2d(x, 3), lambda x: F.pixel_unshuffle(x, 3),
)  # fmt: skip
def test_one_bad_pixel_spoils_only_its_surroundings(f: Callable[..., Any], value: float) -> None:
    x = drawn(*IMAGE)
    x[1, 2, 3, 4] = value
    same(f, x)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.ConvTranspose1d(4, 6, 3, 2, 1, 1), (2, 4, 7)),
        (nn.ConvTranspose2d(4, 6, (3, 2), stride=2, padding=1, groups=2, dilation=(1, 2)), (2, 4, 5, 6)),
        (nn.ConvTranspose2d(4, 3, 4, 2, 1, bias=False), (4, 5, 6)),
        (nn.ConvTranspose3d(2, 3, 2, 2), (1, 2, 3, 4, 2)),
        (nn.Conv2d(4, 6, 3, padding=2, padding_mode="reflect"), IMAGE),
        (nn.Conv2d(4, 6, 3, padding="same", padding_mode="circular"), IMAGE),
        (nn.Conv1d(4, 6, 3, padding=1, padding_mode="replicate"), (2, 4, 8)),
        (nn.GroupNorm(2, 4), IMAGE),
        (nn.GroupNorm(4, 4, affine=False), (3, 4)),
        (nn.InstanceNorm1d(4), (2, 4, 7)),
        (nn.InstanceNorm2d(4, affine=True), (4, 6, 9)),
        (nn.InstanceNorm2d(4, affine=True, track_running_stats=True), IMAGE),
        (nn.RMSNorm((6, 9), eps=1e-4), IMAGE),
        (nn.RMSNorm(9, elementwise_affine=False), IMAGE),
        (nn.LayerNorm((6, 9)), IMAGE),
        (nn.CELU(0.5), IMAGE),
        (nn.GLU(-1), (3, 8)),
        (nn.Softmin(1), IMAGE),
        (nn.RReLU(), IMAGE),
        (nn.Bilinear(3, 4, 2), None),
        (nn.CosineSimilarity(), None),
    ],
    ids=lambda x: repr(x),
)
def test_layers(layer: nn.Module, shape: Sequence[int] | None) -> None:
    torch.manual_seed(0)
    for p in layer.parameters():
        nn.init.normal_(p)
    layer.eval()
    if shape is None:
        pair = (drawn(5, 3), drawn(5, 4)) if isinstance(layer, nn.Bilinear) else (drawn(5, 3), drawn(5, 3).flip(0))
        same(lambda a, b: layer(a, b), *pair, layer=layer)
    else:
        same(lambda x: layer(x), drawn(*shape), layer=layer)


@cases(
    lambda a, b: torch.einsum("ij,jk->ik", a[0], b[0]), lambda a, b: torch.einsum("bij,bjk", a, b),
    lambda a, b: torch.einsum("bij,bjk->kb", a, b), lambda a, b: torch.einsum("...ij,...jk->...ik", a, b),
    lambda a, b: torch.einsum("i,j->ij", a[0, 0], b[0, 0]), lambda a, b: torch.einsum("bij->bji", a),
    lambda a, b: torch.einsum("bij->", a), lambda a, b: torch.einsum("bij,bjk,kl->bil", a, b, b[0].mT),
    lambda a, b: torch.einsum("b i j, b i j -> b i", a, a),
    lambda a, b: torch.einsum("bhij,bhkj->bhik", a[:, None], a[:, None]), lambda a, b: torch.einsum("bij,jk->bik", [a, b[0]]),
    lambda a, b: torch.einsum("ij,ij->i", a[0], a[1]), lambda a, b: torch.einsum("bij,i->bj", a, a[0, :, 0]),
    lambda a, b: torch.outer(a[0, 0], b[0, 0]), lambda a, b: torch.dot(a[0, 0], a[1, 0]), lambda a, b: torch.inner(a[0], a[1]),
    lambda a, b: torch.mv(a[0], b[0, :, 0]), lambda a, b: torch.addmm(b[0, 0], a[0], b[0], beta=0.5, alpha=2),
    lambda a, b: a[0].matmul(b[0, :, 0]), lambda a, b: torch.baddbmm(torch.full((5,), NAN), a, b, beta=0),
    lambda a, b: torch.addmv(a[0, :, 0], a[0], b[0, :, 0], alpha=3), lambda a, b: torch.bmm(a, b),
    lambda a, b: F.linear(a, b[0].mT), lambda a, b: F.linear(a, b[0].mT, b[0, 0]),
)  # fmt: skip
def test_products(f: Callable[..., Any]) -> None:
    same(f, drawn(2, 3, 4), drawn(2, 4, 5))


def _masks() -> Sequence[torch.Tensor]:
    some = drawn(5, 7) > -0.5
    some[2] = False
    return some, torch.where(some, drawn(5, 7), -INF), (drawn(2, 1, 5, 7) > 0)


@pytest.mark.parametrize("mask", [*_masks(), None], ids=["hidden-row", "minus-infinity", "batched", "none"])
@pytest.mark.parametrize("more", [{}, {"scale": 0.3}], ids=["", "scale"])
def test_attention(mask: torch.Tensor | None, more: dict[str, Any]) -> None:
    q, k, v = drawn(2, 4, 5, 8), drawn(2, 4, 7, 8), drawn(2, 4, 7, 6)
    if mask is None:
        same(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True, **more), q, k, v)
        same(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, enable_gqa=True, **more), q, k[:, :2], v[:, :2])
    else:
        same(lambda q, k, v, m: F.scaled_dot_product_attention(q, k, v, m, **more), q, k, v, mask)


def test_embedding() -> None:
    table = nn.Embedding(10, 4, padding_idx=1)
    ids = torch.tensor([[1, 2, 9], [0, 0, 3]])
    same(lambda i: table(i), ids, table=table)
    same(lambda i, w: F.embedding(i.int(), w), ids, drawn(10, 4))
    net = Lambda(lambda s, i: s.table(i), table=table).eval()
    for bad in (10, -1):
        with torch.no_grad(), pytest.raises(Exception, match=r"index|out of"):
            interpreted(net)(torch.tensor([[bad]]))


@cases(
    lambda x: F.interpolate(x, scale_factor=0.5, mode="bilinear", antialias=True),
    lambda x: F.unfold(x, 2), lambda x: x.erfinv(), lambda x: x.prod(1).cumprod(0), lambda x: torch.linalg.norm(x, 2, (1, 2)),
    lambda x: F.fractional_max_pool2d(x, 2, output_size=3, _random_samples=torch.full((2, 4, 2), 0.5)),
)  # fmt: skip
def test_what_stays_in_torch(f: Callable[..., Any]) -> None:
    same(f, drawn(*IMAGE), whole=False)
