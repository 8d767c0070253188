"""Small networks with the real structure of BERT, GPT, ViT, an LSTM tagger and torch's own transformer layers."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn


class SelfAttention(nn.Module):
    """Multi-head self-attention; ``fused`` projects queries, keys and values at once, as GPT and ViT do."""

    def __init__(self, width: int, heads: int, fused: bool) -> None:
        super().__init__()
        self.heads = heads
        self.inputs = nn.ModuleList([nn.Linear(width, 3 * width)] if fused else [nn.Linear(width, width) for _ in range(3)])
        self.out = nn.Linear(width, width)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None, causal: bool = False) -> torch.Tensor:
        n, t, c = x.shape
        parts = self.inputs[0](x).split(c, dim=2) if len(self.inputs) == 1 else [layer(x) for layer in self.inputs]
        q, k, v = (p.view(n, t, self.heads, c // self.heads).transpose(1, 2) for p in parts)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)
        return self.out(y.transpose(1, 2).contiguous().view(n, t, c))


class Block(nn.Module):
    """A transformer block, normalized before (GPT, ViT) or after (BERT) its parts."""

    def __init__(self, width: int, heads: int, before: bool, approximate: str = "none") -> None:
        super().__init__()
        self.before = before
        self.attention = SelfAttention(width, heads, before)
        self.norms = nn.ModuleList([nn.LayerNorm(width, eps=1e-12), nn.LayerNorm(width)])
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(approximate), nn.Linear(4 * width, width), nn.Dropout(0.1))

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None, causal: bool = False) -> torch.Tensor:
        if self.before:
            x = x + self.attention(self.norms[0](x), mask, causal)
            return x + self.mlp(self.norms[1](x))
        x = self.norms[0](x + self.attention(x, mask, causal))
        return self.norms[1](x + self.mlp(x))


class Bert(nn.Module):
    """Devlin et al., 2019: word, position and type embeddings; padding hidden from attention; a pooled first token."""

    def __init__(self, width: int = 32, words: int = 50) -> None:
        super().__init__()
        self.word = nn.Embedding(words, width, padding_idx=0)
        self.position = nn.Embedding(64, width)
        self.kind = nn.Embedding(2, width)
        self.norm = nn.LayerNorm(width, eps=1e-12)
        self.dropout = nn.Dropout(0.1)
        self.blocks = nn.ModuleList(Block(width, 4, before=False) for _ in range(2))
        self.pooler = nn.Linear(width, width)
        self.classifier = nn.Linear(width, 3)
        self.register_buffer("position_ids", torch.arange(64).expand(1, -1), persistent=False)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor, kinds: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.word(ids) + self.position(self.position_ids[:, : ids.size(1)]) + self.kind(kinds)
        x = self.dropout(self.norm(x))
        hidden = (1.0 - mask[:, None, None, :].to(x.dtype)) * torch.finfo(x.dtype).min
        for block in self.blocks:
            x = block(x, hidden)
        return x, self.classifier(torch.tanh(self.pooler(x[:, 0])))


class Gpt(nn.Module):
    """Radford et al., 2019: learned positions, causal attention, the word table as output layer."""

    def __init__(self, width: int = 32, words: int = 50) -> None:
        super().__init__()
        self.word = nn.Embedding(words, width)
        self.position = nn.Embedding(64, width)
        self.blocks = nn.ModuleList(Block(width, 4, before=True, approximate="tanh") for _ in range(2))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, words, bias=False)
        self.head.weight = self.word.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.word(ids) + self.position(torch.arange(0, ids.size(1), dtype=torch.long, device=ids.device))
        for block in self.blocks:
            x = block(x, causal=True)
        return self.head(self.norm(x))


class OlderGpt(nn.Module):
    """Attention written out, with a mask in a buffer, as before torch had attention of its own."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.project, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.register_buffer("bias", torch.tril(torch.ones(64, 64)).view(1, 1, 64, 64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, t, c = x.size()
        q, k, v = (p.view(n, t, 4, c // 4).transpose(1, 2) for p in self.project(x).chunk(3, dim=-1))
        scores = (q @ k.transpose(-2, -1)) * (1.0 / math.sqrt(k.size(-1)))
        scores = scores.masked_fill(self.bias[:, :, :t, :t] == 0, float("-inf"))
        y = (F.softmax(scores, dim=-1) @ v).transpose(1, 2).reshape(n, t, c)
        return self.out(y)


class Vit(nn.Module):
    """Dosovitskiy et al., 2021: patches as tokens, a class token, learned positions."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 8, stride=8)
        self.token = nn.Parameter(torch.randn(1, 1, width))
        self.position = nn.Parameter(torch.randn(1, 17, width) * 0.02)
        self.blocks = nn.Sequential(*(Block(width, 4, before=True) for _ in range(2)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1) + self.position
        return self.head(self.norm(self.blocks(x))[:, 0])


class Tagger(nn.Module):
    """Words to tags through a two-way LSTM (Huang et al., 2015)."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.word = nn.Embedding(50, width)
        self.lstm = nn.LSTM(width, width, num_layers=2, bidirectional=True, batch_first=True)
        self.tag = nn.Linear(2 * width, 7)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return F.log_softmax(self.tag(torch.tanh(self.lstm(self.word(ids))[0])), dim=-1)


def encoder(width: int = 32, first: bool = True) -> nn.Module:
    """torch's own transformer encoder."""
    layer = nn.TransformerEncoderLayer(width, 4, 64, activation="gelu", batch_first=first, norm_first=first)
    return nn.TransformerEncoder(layer, 2, nn.LayerNorm(width), enable_nested_tensor=False)
