"""The operators that a user of torch can count on: one row each, compiled without a part left to torch, equal to torch.

Rows of one family are compiled as one network, since that takes one run of the kernel compiler; a failure names its row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import nnaccel_core
from frontend_torch.nets import Lambda
from frontend_torch.reference import close, interpreted
from nnaccel_core.ir import Segment

Row = Callable[..., Any]
INF = float("inf")


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def positions(*shape: int, below: int) -> torch.Tensor:
    return torch.randint(below, shape, generator=torch.Generator().manual_seed(1))


IMAGE = drawn(2, 4, 9, 12)


def same(x: torch.Tensor) -> torch.Tensor:
    return x


def plane(x: torch.Tensor) -> torch.Tensor:
    return x[:, :, 0]


def volume(x: torch.Tensor) -> torch.Tensor:
    return x.reshape(2, 4, 3, 3, 12)


SHAPED = ((1, plane), (2, same), (3, volume))


class On(nn.Module):
    """A layer behind a function that gives its inputs."""

    def __init__(self, layer: nn.Module, inputs: Row) -> None:
        super().__init__()
        self.layer, self.inputs = layer, inputs

    def forward(self, *args: torch.Tensor) -> Any:
        given = self.inputs(*args)
        return self.layer(*given) if isinstance(given, tuple) else self.layer(given)


ACTIVATIONS: dict[str, Row] = {
    "relu": F.relu,
    "relu6": F.relu6,
    "leaky_relu": F.leaky_relu,
    "leaky_relu 0.3": lambda x: F.leaky_relu(x, 0.3),
    "prelu": nn.PReLU(4),
    "elu": F.elu,
    "elu 0.5": lambda x: F.elu(x, 0.5),
    "selu": F.selu,
    "celu": F.celu,
    "gelu": F.gelu,
    "gelu tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
    "hardswish": F.hardswish,
    "hardsigmoid": F.hardsigmoid,
    "hardtanh": F.hardtanh,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "softplus": F.softplus,
    "softplus 2": lambda x: F.softplus(x, 2.0, 5.0),
    "softsign": F.softsign,
    "mish": F.mish,
    "logsigmoid": F.logsigmoid,
    "glu": lambda x: F.glu(x, 1),
    "threshold": lambda x: F.threshold(x, 0.1, 2.0),
    "exp": torch.exp,
    "expm1": torch.expm1,
    "log": lambda x: torch.log(x.abs() + 0.1),
    "log1p": lambda x: torch.log1p(x.abs()),
    "log2": lambda x: torch.log2(x.abs() + 0.1),
    "sqrt": lambda x: torch.sqrt(x.abs()),
    "rsqrt": lambda x: torch.rsqrt(x.abs() + 0.1),
    "pow 2": lambda x: x**2,
    "pow 3": lambda x: x.pow(3),
    "pow -0.5": lambda x: (x.abs() + 0.1) ** -0.5,
    "pow tensor": lambda x: torch.pow(x.abs() + 0.1, x.flip(0)),
    "number to a power": lambda x: 2.0**x,
    "clamp": lambda x: x.clamp(-1, 0.5),
    "clamp min": lambda x: x.clamp(min=0.2),
    "clamp max": lambda x: x.clamp(max=0.2),
    "clamp tensors": lambda x: torch.clamp(x, x.flip(0) - 1, x.flip(0) + 1),
    "where": lambda x: torch.where(x > 0, x, x * 2),
    "where number": lambda x: torch.where(x > 0, x, 0.5),
    "erf": torch.erf,
    "sin": torch.sin,
    "cos": torch.cos,
    "tan": lambda x: torch.tan(x * 0.5),
    "abs": torch.abs,
    "neg": torch.neg,
    "sign": torch.sign,
    "floor": torch.floor,
    "ceil": torch.ceil,
    "round": torch.round,
    "trunc": torch.trunc,
    "frac": torch.frac,
    "reciprocal": lambda x: torch.reciprocal(x.abs() + 0.1),
    "square": torch.square,
    "maximum": lambda x: torch.maximum(x, x.flip(0)),
    "minimum": lambda x: torch.minimum(x, x.flip(0)),
    "remainder": lambda x: torch.remainder(x, 0.7),
    "lerp": lambda x: torch.lerp(x, x.flip(0), 0.3),
    "addcmul": lambda x: torch.addcmul(x, x, x, value=0.5),
    "masked_fill": lambda x: x.masked_fill(x > 0, -1.0),
}

LOGIC: dict[str, Row] = {
    "eq": lambda x, i: x == x.flip(0),
    "ne": lambda x, i: i != 1,
    "lt": lambda x, i: x < 0.5,
    "le": lambda x, i: i <= i.flip(0),
    "gt": lambda x, i: x.gt(0),
    "ge": lambda x, i: i.ge(2),
    "and": lambda x, i: (x > 0) & (i > 0),
    "or": lambda x, i: (x > 0) | (i > 0),
    "xor": lambda x, i: (x > 0) ^ (i > 0),
    "not": lambda x, i: ~(x > 0),
    "logical_and": lambda x, i: torch.logical_and(x, i),
    "logical_not": lambda x, i: torch.logical_not(i),
    "isnan": lambda x, i: x.isnan(),
    "isinf": lambda x, i: (1 / (i - 1)).isinf(),
    "any": lambda x, i: (x > 1).any(1),
    "all": lambda x, i: (i >= 0).all(),
    "integer add": lambda x, i: i + 3,
    "integer sub": lambda x, i: 3 - i,
    "integer mul": lambda x, i: i * i,
    "integer floor_divide": lambda x, i: (i - 2) // 2,
    "integer divide trunc": lambda x, i: torch.div(i - 2, 2, rounding_mode="trunc"),
    "integer floor_divide tensor": lambda x, i: (i - 2) // (i + 1),
    "integer remainder": lambda x, i: (i - 2) % 3,
    "integer remainder tensor": lambda x, i: (i - 2) % (i + 1),
    "integer true divide": lambda x, i: i / 3,
    "integer pow": lambda x, i: i**2,
    "integer abs": lambda x, i: (i - 2).abs(),
    "integer bits": lambda x, i: (i & 1) | (i ^ 2),
    "integer not": lambda x, i: ~i,
    "integer clamp": lambda x, i: i.clamp(1, 2),
    "integer sum": lambda x, i: i.sum(1),
    "integer maximum": lambda x, i: torch.maximum(i, i.flip(0)),
    "integer shift left": lambda x, i: i << 2,
    "integer shift right": lambda x, i: (i - 2) >> 1,
    "int32": lambda x, i: i.int() * 2 + 1,
    "boolean sum": lambda x, i: (x > 0).sum(),
    "boolean to float": lambda x, i: (x > 0).float(),
    "count_nonzero": lambda x, i: torch.count_nonzero(i, 1),
    "mixed": lambda x, i: x * i + True,
}

REDUCTIONS: dict[str, Row] = {
    "sum": lambda x: x.sum(),
    "sum axis": lambda x: x.sum(1),
    "sum axes": lambda x: x.sum((2, 3), keepdim=True),
    "mean": lambda x: x.mean(),
    "mean axes": lambda x: x.mean((1, -1)),
    "prod": lambda x: x.prod(1),
    "amax": lambda x: x.amax((2, 3)),
    "amin": lambda x: x.amin(-1, keepdim=True),
    "max": lambda x: x.max(),
    "max axis": lambda x: x.max(1),
    "min axis": lambda x: x.min(-1),
    "var": lambda x: x.var((2, 3)),
    "std": lambda x: x.std(1, unbiased=False),
    "norm": lambda x: x.norm(dim=1),
    "norm 1": lambda x: x.norm(1, 2),
    "norm inf": lambda x: x.norm(INF, 2),
    "normalize": lambda x: F.normalize(x),
    "logsumexp": lambda x: x.logsumexp(1),
    "argmax": lambda x: x.argmax(1),
    "argmax all": lambda x: x.argmax(),
    "argmax keepdim": lambda x: x.argmax(-1, keepdim=True),
    "argmin": lambda x: x.argmin(2),
    "cumsum": lambda x: x.cumsum(2),
    "cumsum last": lambda x: x.cumsum(-1),
    "softmax": lambda x: x.softmax(1),
    "softmax last": lambda x: x.softmax(-1),
    "log_softmax": lambda x: x.log_softmax(1),
    "log_softmax last": lambda x: x.log_softmax(-1),
    "cosine_similarity": lambda x: F.cosine_similarity(x, x.flip(1)),
}

NORMS: dict[str, Row] = {
    "batch_norm 1d": On(nn.BatchNorm1d(4), plane),
    "batch_norm 2d": nn.BatchNorm2d(4),
    "batch_norm 3d": On(nn.BatchNorm3d(4), volume),
    "batch_norm without affine": nn.BatchNorm2d(4, affine=False),
    "layer_norm": nn.LayerNorm(12),
    "layer_norm axes": nn.LayerNorm((9, 12)),
    "layer_norm without affine": lambda x: F.layer_norm(x, (12,)),
    "group_norm": nn.GroupNorm(2, 4),
    "group_norm 1d": lambda x: F.group_norm(plane(x), 4),
    "instance_norm": nn.InstanceNorm2d(4),
    "instance_norm affine": nn.InstanceNorm2d(4, affine=True),
    "instance_norm 1d": lambda x: F.instance_norm(plane(x)),
    "instance_norm 3d": lambda x: F.instance_norm(volume(x)),
    "local_response_norm": nn.LocalResponseNorm(3),
    "local_response_norm even": nn.LocalResponseNorm(2, 1e-2, 0.5, 2.0),
    "local_response_norm 1d": lambda x: F.local_response_norm(plane(x), 3),
    "rms_norm": nn.RMSNorm(12),
    "rms_norm eps": lambda x: F.rms_norm(x, (9, 12), eps=1e-4),
}


def _pools() -> dict[str, Row]:
    rows: dict[str, Row] = {}
    for d, shaped in SHAPED:
        top, mean, power = (getattr(F, f"{kind}_pool{d}d") for kind in ("max", "avg", "lp"))
        fit, fit_top, back = (getattr(F, f"{kind}{d}d") for kind in ("adaptive_avg_pool", "adaptive_max_pool", "max_unpool"))
        wide = (3,) * (d - 1) + (5,) if d < 3 else (2, 3, 5)
        variants: dict[str, Row] = {
            f"max {d}d": lambda x, f=top: f(x, 2),
            f"max {d}d padding": lambda x, f=top, k=wide: f(x, k, 2, tuple(n // 2 for n in k)),
            f"max {d}d ceil": lambda x, f=top: f(x, 2, 2, ceil_mode=True),
            f"max {d}d ceil overhang": lambda x, f=top: f(x, 3, 2, 1, ceil_mode=True),
            f"max {d}d dilation": lambda x, f=top: f(x, 2, 1, 1, dilation=2),
            f"max {d}d dilation ceil": lambda x, f=top: f(x, 2, 3, 1, dilation=2, ceil_mode=True),
            f"max {d}d indices": lambda x, f=top: f(x, 2, return_indices=True),
            f"max {d}d indices padding": lambda x, f=top: f(x, 3, 2, 1, ceil_mode=True, return_indices=True),
            f"max {d}d indices dilation": lambda x, f=top: f(x, 2, 1, 1, dilation=2, return_indices=True),
            f"avg {d}d": lambda x, f=mean: f(x, 2),
            f"avg {d}d padding": lambda x, f=mean: f(x, 3, 2, 1),
            f"avg {d}d padding not counted": lambda x, f=mean: f(x, 3, 2, 1, count_include_pad=False),
            f"avg {d}d ceil": lambda x, f=mean: f(x, 2, 2, ceil_mode=True),
            f"avg {d}d ceil padding": lambda x, f=mean: f(x, 3, 2, 1, ceil_mode=True),
            f"avg {d}d ceil padding not counted": lambda x, f=mean: f(x, 3, 2, 1, ceil_mode=True, count_include_pad=False),
            f"adaptive avg {d}d": lambda x, f=fit: f(x, 3),
            f"adaptive avg {d}d uneven": lambda x, f=fit: f(x, 2),
            f"adaptive max {d}d": lambda x, f=fit_top: f(x, 3),
            f"adaptive max {d}d uneven": lambda x, f=fit_top: f(x, 2),
            f"adaptive max {d}d indices": lambda x, f=fit_top: f(x, 2, return_indices=True),
            f"global avg {d}d": lambda x, f=fit: f(x, 1),
            f"global max {d}d": lambda x, f=fit_top: f(x, 1),
            f"lp {d}d": lambda x, f=power: f(x, 2.0, 2, 2),
            f"lp {d}d ceil": lambda x, f=power: f(x.abs(), 3.0, 2, 2, ceil_mode=True),
        }
        if d > 1:
            variants[f"avg {d}d divisor"] = lambda x, f=mean: f(x, 2, divisor_override=3)
            variants[f"avg {d}d ceil divisor"] = lambda x, f=mean: f(x, 3, 2, 1, ceil_mode=True, divisor_override=5)
            variants[f"max {d}d unpooled"] = lambda x, f=top, g=back: g(
                *f(x, 2, return_indices=True), 2, output_size=x.shape[2:]
            )
            variants[f"adaptive avg {d}d None"] = lambda x, f=fit, d=d: f(
                x, (None,) * (d - 1) + (5,)
            )
        rows.update({name: lambda x, f=f, s=shaped: f(s(x)) for name, f in variants.items()})
    return rows


def _convolutions() -> dict[str, Row]:
    rows: dict[str, Row] = {}
    for d, shaped in SHAPED:
        conv, back = getattr(nn, f"Conv{d}d"), getattr(nn, f"ConvTranspose{d}d")
        variants: dict[str, nn.Module] = {
            "": conv(4, 6, 3),
            " without bias": conv(4, 6, 3, bias=False),
            " 1x1": conv(4, 6, 1),
            " padding": conv(4, 6, 3, padding=1),
            " stride": conv(4, 6, 3, stride=2, padding=1),
            " dilation": conv(4, 6, 3, padding=2, dilation=2),
            " groups": conv(4, 6, 3, padding=1, groups=2),
            " depthwise": conv(4, 4, 3, padding=1, groups=4),
            " depthwise stride": conv(4, 8, 3, stride=2, padding=1, groups=4),
            " same": conv(4, 6, 2, padding="same"),
            " same dilation": conv(4, 6, 2, padding="same", dilation=3),
            " valid": conv(4, 6, 2, padding="valid"),
            " reflect": conv(4, 6, 3, padding=1, padding_mode="reflect"),
            " replicate": conv(4, 6, 3, padding=1, padding_mode="replicate"),
            " circular": conv(4, 6, 3, padding=1, padding_mode="circular"),
        }
        transposed: dict[str, nn.Module] = {
            "": back(4, 6, 3),
            " stride": back(4, 6, 3, stride=2, padding=1, output_padding=1),
            " 2x2": back(4, 6, 2, 2),
            " groups": back(4, 6, 3, stride=2, groups=2),
            " dilation": back(4, 6, 2, dilation=2, bias=False),
            " depthwise": back(4, 4, 4, stride=2, padding=1, groups=4),
        }
        rows.update({f"conv {d}d{name}": On(layer, shaped) for name, layer in variants.items()})
        rows.update({f"transposed conv {d}d{name}": On(layer, shaped) for name, layer in transposed.items()})
        rows[f"conv {d}d one sample"] = On(conv(4, 6, 3), lambda x, s=shaped: s(x)[0])
    return {
        **rows,
        "conv 2d unequal": nn.Conv2d(4, 6, (3, 1), stride=(1, 2), padding=(2, 0), dilation=(2, 1)),
        "transposed conv 2d unequal": nn.ConvTranspose2d(4, 6, (3, 2), stride=(1, 3), padding=(1, 0), dilation=(1, 2)),
        "conv 2d asymmetric": nn.Sequential(nn.ZeroPad2d((1, 0, 2, 1)), nn.Conv2d(4, 6, 3, 2)),
    }


PRODUCTS: dict[str, Row] = {
    "linear": lambda a, b, i: F.linear(a, b[0].mT, b[0, 0]),
    "linear without bias": lambda a, b, i: F.linear(a, b[0].mT),
    "matmul": lambda a, b, i: a @ b,
    "matmul broadcast": lambda a, b, i: a[:, None] @ b,
    "matmul vector": lambda a, b, i: a @ b[0, :, 0],
    "mm": lambda a, b, i: torch.mm(a[0], b[0]),
    "bmm": lambda a, b, i: torch.bmm(a, b),
    "baddbmm": lambda a, b, i: torch.baddbmm(a[:, :, :1], a, b, beta=0.5),
    "addmm": lambda a, b, i: torch.addmm(b[0, 0], a[0], b[0], alpha=2),
    "outer": lambda a, b, i: torch.outer(a[0, 0], b[0, 0]),
    "dot": lambda a, b, i: torch.dot(a[0, 0], a[1, 0]),
    "bilinear": On(nn.Bilinear(4, 5, 3), lambda a, b, i: (a[:, 0], b[:, 0])),
    "einsum matmul": lambda a, b, i: torch.einsum("bij,bjk->bik", a, b),
    "einsum transposed": lambda a, b, i: torch.einsum("bij->jbi", a),
    "einsum sum": lambda a, b, i: torch.einsum("bij->b", a),
    "einsum outer": lambda a, b, i: torch.einsum("i,j->ij", a[0, 0], b[0, 0]),
    "einsum implicit": lambda a, b, i: torch.einsum("bij,bjk", a, b),
    "einsum dots": lambda a, b, i: torch.einsum("...ij,...jk->...ik", a, b),
    "einsum three": lambda a, b, i: torch.einsum("bij,bjk,kl->bil", a, b, b[0].mT),
    "einsum diagonal": lambda a, b, i: torch.einsum("bii->bi", a[:, :3, :3]),
    "einsum trace": lambda a, b, i: torch.einsum("bii->b", a[:, :3, :3]),
    "einsum all": lambda a, b, i: torch.einsum("bij,bij->", a, a),
    "attention": lambda a, b, i: F.scaled_dot_product_attention(a, a, a),
    "causal attention": lambda a, b, i: F.scaled_dot_product_attention(a, a, a, is_causal=True),
    "embedding": lambda a, b, i: F.embedding(i, a[0]),
}


def _index_put(x: torch.Tensor, accumulate: bool) -> torch.Tensor:
    return x.index_put((torch.tensor([0, 1, 0]), torch.tensor([1, 2, 1])), x[:1, 0].expand(3, 9, 12), accumulate=accumulate)


def _written(x: torch.Tensor) -> torch.Tensor:
    y = x.clone()
    y[:, [0, 2]] = 1.5
    y[:, :, 1:4] = x[:, :, 5:8]
    y[1] += 1
    y[y > 1] = 0.5
    return y


MOVING: dict[str, Row] = {
    "concat": lambda x, p: torch.cat([x, x.flip(1)], 1),
    "concat last": lambda x, p: torch.cat([x, x[..., :2]], -1),
    "split": lambda x, p: x.split(2, 1),
    "split sizes": lambda x, p: x.split([1, 3], 1),
    "chunk": lambda x, p: x.chunk(3, 2),
    "tensor_split": lambda x, p: torch.tensor_split(x, 3, 1),
    "unbind": lambda x, p: x.unbind(1),
    "slice": lambda x, p: x[:, 1:3, ::2, -5:],
    "narrow": lambda x, p: x.narrow(2, 1, 4),
    "select": lambda x, p: x.select(1, -1),
    "reshape": lambda x, p: x.reshape(2, -1),
    "flatten": lambda x, p: x.flatten(1),
    "unflatten": lambda x, p: x.unflatten(3, (3, 4)),
    "transpose": lambda x, p: x.transpose(1, 3),
    "permute": lambda x, p: x.permute(0, 2, 3, 1),
    "expand": lambda x, p: x[:, :1].expand(2, 5, 9, 12),
    "repeat": lambda x, p: x.repeat(1, 2, 1, 1),
    "squeeze": lambda x, p: x[:, :1].squeeze(1),
    "unsqueeze": lambda x, p: x.unsqueeze(2),
    "tile": lambda x, p: x.tile((2, 1)),
    "repeat_interleave": lambda x, p: x.repeat_interleave(2, 1),
    "stack": lambda x, p: torch.stack([x, x * 2], 1),
    "flip": lambda x, p: x.flip(2, 3),
    "roll": lambda x, p: x.roll((1, -2), (2, 3)),
    "roll all": lambda x, p: x.roll(5),
    "rot90": lambda x, p: torch.rot90(x, 1, (2, 3)),
    "gather": lambda x, p: x.gather(1, p[:, :3]),
    "gather last": lambda x, p: x.gather(-1, p[..., :5] * 3),
    "take_along_dim": lambda x, p: x.take_along_dim(x.argsort(2), 2),
    "index_select": lambda x, p: x.index_select(2, torch.tensor([3, 0, 3])),
    "index": lambda x, p: x[:, [2, 0]],
    "index two axes": lambda x, p: x[:, torch.tensor([0, 1]), torch.tensor([2, -1])],
    "index apart": lambda x, p: x[torch.tensor([0, 1]), :, torch.tensor([2, 3])],
    "scatter": lambda x, p: x.scatter(1, p[:, :1], 7.0),
    "scatter tensor": lambda x, p: x.scatter(2, p[:, :, :1] * 2, x[:, :, :1]),
    "scatter_add": lambda x, p: x.scatter_add(1, p, x),
    "scatter reduce=multiply": lambda x, p: x.scatter(1, p, x, reduce="multiply"),
    **{
        f"scatter_reduce {how}": lambda x, p, how=how: x.scatter_reduce(1, p, x, how)
        for how in ("sum", "prod", "amax", "amin", "mean")
    },
    **{
        f"scatter_reduce {how} alone": lambda x, p, how=how: x.scatter_reduce(1, p.clamp(max=2), x, how, include_self=False)
        for how in ("sum", "prod", "amax", "amin", "mean")
    },
    "index_add": lambda x, p: x.index_add(2, torch.tensor([0, 2, 0]), x[:, :, :3], alpha=2),
    "index_copy": lambda x, p: x.index_copy(2, torch.tensor([0, 2, 1]), x[:, :, 3:6]),
    "index_fill": lambda x, p: x.index_fill(1, torch.tensor([0, 2]), -1.0),
    "index_put": lambda x, p: _index_put(x, False),
    "index_put accumulate": lambda x, p: _index_put(x, True),
    "written": lambda x, p: _written(x),
    "masked_scatter by where": lambda x, p: torch.where(x > 0, x.flip(0), x),
    "tril": lambda x, p: x.tril(1),
    "triu": lambda x, p: x.triu(),
    "diagonal": lambda x, p: x.diagonal(dim1=2, dim2=3),
    "one_hot": lambda x, p: F.one_hot(p[0, 0, 0], 5),
    "topk": lambda x, p: x.topk(3),
    "topk smallest": lambda x, p: x.topk(2, 1, largest=False),
    "sort": lambda x, p: x.sort(2),
    "sort descending": lambda x, p: x.sort(1, descending=True),
    "argsort": lambda x, p: x.argsort(-1),
    "meshgrid": lambda x, p: x + torch.meshgrid(torch.arange(9), torch.arange(12), indexing="ij")[1],
    "unfold by slices": lambda x, p: torch.stack([x[..., k : k + 8] for k in range(3)]),
    "pixel_shuffle": lambda x, p: F.pixel_shuffle(x, 2),
    "pixel_unshuffle": lambda x, p: F.pixel_unshuffle(x, 3),
    "channel_shuffle": lambda x, p: F.channel_shuffle(x, 2),
}


def _pads() -> dict[str, Row]:
    rows: dict[str, Row] = {
        "constant": lambda x: F.pad(x, (1, 2, 0, 3)),
        "constant value": lambda x: F.pad(x, (1, 1), value=-1.5),
        "constant crop": lambda x: F.pad(x, (-1, 2, 1, -2)),
        "constant channels": lambda x: F.pad(x, (0, 0, 0, 0, 1, 2)),
        "constant batch": lambda x: F.pad(x, (0, 0, 0, 0, 0, 0, 1, 0)),
        "constant one sample": lambda x: F.pad(x[0], (1, 2, 0, 3)),
    }
    for mode in ("reflect", "replicate", "circular"):
        rows[f"{mode} 1d"] = lambda x, mode=mode: F.pad(plane(x), (2, 1), mode=mode)
        rows[f"{mode} 2d"] = lambda x, mode=mode: F.pad(x, (2, 1, 0, 3), mode=mode)
        rows[f"{mode} 3d"] = lambda x, mode=mode: F.pad(volume(x), (2, 1, 1, 1, 0, 2), mode=mode)
        rows[f"{mode} one sample"] = lambda x, mode=mode: F.pad(x[0], (2, 1, 0, 3), mode=mode)
    return rows


def _resizes() -> dict[str, Row]:
    rows: dict[str, Row] = {}
    for mode in ("nearest", "nearest-exact", "bilinear", "bicubic", "area"):
        corners: list[dict[str, bool]] = [{"align_corners": False}, {"align_corners": True}] if mode.startswith("bi") else [{}]
        for more in corners:
            name = mode + (" corners" if more.get("align_corners") else "")
            rows[f"{name} larger"] = lambda x, m=mode, k=more: F.interpolate(x, (13, 19), mode=m, **k)
            rows[f"{name} smaller"] = lambda x, m=mode, k=more: F.interpolate(x, (4, 7), mode=m, **k)
            rows[f"{name} twice"] = lambda x, m=mode, k=more: F.interpolate(x, scale_factor=2, mode=m, **k)
            rows[f"{name} by 1.7"] = lambda x, m=mode, k=more: F.interpolate(x, scale_factor=1.7, mode=m, **k)
    for more in ({"align_corners": False}, {"align_corners": True}):
        name = " corners" if more["align_corners"] else ""
        rows[f"linear{name}"] = lambda x, k=more: F.interpolate(plane(x), 20, mode="linear", **k)
        rows[f"trilinear{name}"] = lambda x, k=more: F.interpolate(volume(x), (4, 5, 7), mode="trilinear", **k)
    rows["nearest 1d"] = lambda x: F.interpolate(plane(x), 20)
    rows["nearest 3d"] = lambda x: F.interpolate(volume(x), (4, 5, 7))
    return rows


def _grid_samples() -> dict[str, Row]:
    rows: dict[str, Row] = {}
    for mode in ("bilinear", "nearest", "bicubic"):
        for padding in ("zeros", "border", "reflection"):
            for corners in (False, True):
                rows[f"{mode} {padding}{' corners' if corners else ''}"] = lambda x, g, v, h, m=mode, p=padding, c=corners: (
                    F.grid_sample(x, g, m, p, c)
                )
                if mode != "bicubic":
                    rows[f"{mode} {padding}{' corners' if corners else ''} 3d"] = (
                        lambda x, g, v, h, m=mode, p=padding, c=corners: F.grid_sample(v, h, m, p, c)
                    )
    rows["affine_grid"] = lambda x, g, v, h: F.affine_grid(
        g[:, 0, :2].repeat(1, 1, 2)[:, :, :3], (2, 4, 5, 6), align_corners=False
    )
    rows["affine_grid corners"] = lambda x, g, v, h: F.affine_grid(
        g[:, 0, :2].repeat(1, 1, 2)[:, :, :3], (2, 4, 5, 6), align_corners=True
    )
    return rows


#: family -> (arguments, rows)
FAMILIES: Mapping[str, tuple[tuple[torch.Tensor, ...], Mapping[str, Row]]] = {
    "activations": ((IMAGE,), ACTIVATIONS),
    "logic": ((drawn(3, 5), positions(3, 5, below=4)), LOGIC),
    "reductions": ((IMAGE,), REDUCTIONS),
    "norms": ((IMAGE,), NORMS),
    "pools": ((IMAGE,), _pools()),
    "convolutions": ((IMAGE,), _convolutions()),
    "products": ((drawn(2, 3, 4), drawn(2, 4, 5), positions(3, 2, below=3)), PRODUCTS),
    "moving": ((IMAGE, positions(2, 4, 9, 12, below=4)), {k: lambda x, p, f=f: f(x * 2, p) for k, f in MOVING.items()}),
    "pads": ((IMAGE,), _pads()),
    "resizes": ((IMAGE,), _resizes()),
    "grid_samples": (
        (IMAGE, drawn(2, 5, 7, 2, seed=2), drawn(2, 3, 4, 5, 6), drawn(2, 2, 3, 4, 3, seed=3)),
        _grid_samples(),
    ),
}


def network(rows: Mapping[str, Row]) -> nn.Module:
    """One network that returns the results of all ``rows``."""
    layers = nn.ModuleList(f for f in rows.values() if isinstance(f, nn.Module))
    net = Lambda(lambda self, *args: tuple(f(*args) for f in rows.values()), layers=layers)
    generator = torch.Generator().manual_seed(3)
    for p in net.parameters():
        p.data.copy_(torch.randn(p.shape, generator=generator))
    for m in net.modules():
        if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.running_mean is not None:
            m.running_mean.copy_(torch.randn(m.running_mean.shape, generator=generator) * 0.1)
            m.running_var.copy_(torch.rand(m.running_var.shape, generator=generator) + 0.5)
    return net.eval()


#: Grid samples that are compiled: each brings large kernels of its own, made of the same pieces.
COMPILED_GRIDS = (
    "bilinear zeros", "bilinear border corners", "nearest reflection", "bicubic zeros", "bicubic reflection corners",
    "bilinear reflection 3d", "affine_grid",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_compiled_whole_and_equal_to_torch(family: str) -> None:
    args, rows = FAMILIES[family]
    if family == "grid_samples":
        rows = {name: rows[name] for name in COMPILED_GRIDS}
    net = network(rows)
    try:
        fast = nnaccel_core.optimize(net)
        with torch.no_grad():
            got, want = fast(*args), net(*args)
    except (nnaccel_core.DeviceError, nnaccel_core.ToolchainError, nnaccel_core.PluginError) as e:
        pytest.skip(f"no CPU backend here: {e}")
    report = fast.nnaccel_report()
    assert not report["own_calls"], report
    assert not report["trace_refused"], report
    foreign = [f for program in nnaccel_core.explain(fast).programs for f in program.foreign]
    wrong = []
    for name, g, w in zip(rows, got, want, strict=True):
        try:
            close(g, w, 2e-5)
        except AssertionError as e:
            wrong.append(f"{name}: {e}")
    assert not foreign, foreign
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(("family", "row"), [(f, r) for f, (_, rows) in FAMILIES.items() for r in rows])
def test_each_row_alone(family: str, row: str) -> None:
    """On the numpy references: what the compiler is given means what torch does, and is whole."""
    args, rows = FAMILIES[family]
    net = network({row: rows[row]})
    fast = interpreted(net)
    with torch.no_grad():
        close(fast(*args), net(*args))
    report = fast.nnaccel_report()
    assert not report["own_calls"], report
    assert not report["trace_refused"], report
    (made,) = fast._nnaccel.session.made.values()
    assert [type(p) for p in made.captured.program.parts] == [Segment], report["programs"]


class _FindsPositives(nn.Module):
    """Layers around a result whose size depends on the data."""

    def __init__(self, by_mask: bool) -> None:
        super().__init__()
        self.first, self.by_mask = nn.Linear(6, 6), by_mask

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y = torch.relu(self.first(x)) * 2
        found = y[y > 0.5] if self.by_mask else torch.nonzero(y > 0.5)
        return torch.tanh(found * 0.5) + 1, y.sum(1)


@pytest.mark.slow
@pytest.mark.parametrize("by_mask", [False, True], ids=["nonzero", "mask"])
def test_a_size_that_depends_on_data_ends_a_segment(by_mask: bool) -> None:
    net = _FindsPositives(by_mask).eval()
    try:
        fast = nnaccel_core.optimize(net)
        with torch.no_grad():
            for seed in range(4):
                x = drawn(3, 6, seed=seed)
                close(fast(x), net(x), 2e-5)
            close(fast(torch.full((3, 6), -100.0)), net(torch.full((3, 6), -100.0)), 2e-5)
    except (nnaccel_core.DeviceError, nnaccel_core.ToolchainError, nnaccel_core.PluginError) as e:
        pytest.skip(f"no CPU backend here: {e}")
    report = fast.nnaccel_report()
    assert "nonzero" in report["trace_refused"], report
    assert not report["own_calls"], report
    # What comes before and what comes after are compiled; only the search itself is torch's.
    programs = nnaccel_core.explain(fast).programs
    ops = {op for program in programs for segment in program.segments for g in segment.groups for op in g.ops}
    assert {"matmul", "tanh"} <= ops
