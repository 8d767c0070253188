"""Networks in 16 bits on the CPU: kernels of several layers give the numbers of their layers one by one."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="the torch frontend's tests need torch")
pytest.importorskip("nnaccel_backend_x86", reason="needs the x86 backend")

import nnaccel_core  # noqa: E402


class Chain(torch.nn.Module):
    """Element-wise layers that fit into one kernel, with a softmax that uses what is in front of it twice."""

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return torch.softmax(torch.relu(x * y + 0.1) * y - x, dim=-1) * y + x


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_groups_round_where_their_layers_would(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(64, 48, generator=generator).to(dtype) for _ in range(2))
    grouped, layers = nnaccel_core.optimize(Chain()), nnaccel_core.optimize(Chain(), dfp=False)
    with torch.no_grad():
        assert torch.equal(grouped(x, y), layers(x, y))
    groups = [len(g.ops) for p in nnaccel_core.explain(grouped, x, y).programs for s in p.segments for g in s.groups]
    assert max(groups) >= 4, groups
