"""Transformers, held against attention written out."""

import math

import pytest
import torch
from torch import Tensor

from lab.models.attention import Attention, Block, Cache, rotate, rotations
from lab.models.gpt import GPT
from lab.models.vit import ViT


def reference(attention: Attention, x: Tensor) -> Tensor:
    """softmax(Q K^T / sqrt(d)) V, head by head."""
    width = x.shape[2]
    d = width // attention.num_heads
    q, k, v = (
        x @ attention.qkv.weight[i * width : (i + 1) * width].T + attention.qkv.bias[i * width : (i + 1) * width]
        for i in range(3)
    )
    heads = []
    for h in range(attention.num_heads):
        part = slice(h * d, (h + 1) * d)
        scores = q[..., part] @ k[..., part].transpose(1, 2) / math.sqrt(d)  # (B, T, T)
        if attention.causal:
            future = torch.ones(x.shape[1], x.shape[1]).triu(1).bool()
            scores = scores.masked_fill(future, -math.inf)
        heads.append(scores.softmax(-1) @ v[..., part])
    return torch.cat(heads, -1) @ attention.out.weight.T + attention.out.bias


@pytest.mark.parametrize("causal", [False, True])
def test_attention_is_its_formula(causal: bool) -> None:
    torch.manual_seed(0)
    attention = Attention(12, 3, dropout=0.0, causal=causal)
    x = torch.randn(2, 7, 12)
    torch.testing.assert_close(attention(x), reference(attention, x), atol=1e-5, rtol=1e-5)


def test_a_block_adds_what_it_makes_of_the_normalised() -> None:
    torch.manual_seed(0)
    block = Block(8, 2, dropout=0.0, causal=True)
    x = torch.randn(2, 5, 8)
    middle = x + block.attention(block.norm1(x))
    torch.testing.assert_close(block(x), middle + block.mlp(block.norm2(middle)))


def test_rotary_products_hang_on_distance_alone() -> None:
    torch.manual_seed(0)
    q, k = torch.randn(1, 1, 1, 8), torch.randn(1, 1, 1, 8)
    table = rotations(50, 8)

    def at(x: Tensor, position: int) -> Tensor:
        return rotate(x, table[:, position : position + 1])

    near = (at(q, 3) * at(k, 1)).sum()
    torch.testing.assert_close((at(q, 40) * at(k, 38)).sum(), near, atol=1e-5, rtol=1e-5)
    assert not torch.isclose((at(q, 3) * at(k, 2)).sum(), near)
    turned = torch.complex(*at(q, 5).view(2, 4))
    angles = 5 * 10_000 ** (-torch.arange(4) / 4)
    torch.testing.assert_close(turned, torch.complex(*q.view(2, 4)) * torch.polar(torch.ones(4), angles))


@pytest.mark.parametrize("positions", ["learned", "rotary"])
def test_the_future_is_not_seen(positions: str) -> None:
    model = GPT(16, 10, embed_dim=8, num_layers=2, num_heads=2, position_encoding=positions).eval()
    tokens = torch.randint(16, (1, 10))
    changed = tokens.clone()
    changed[0, 6:] = (changed[0, 6:] + 1) % 16
    torch.testing.assert_close(model(changed)[:, :6], model(tokens)[:, :6])
    assert not torch.allclose(model(changed)[:, 6:], model(tokens)[:, 6:])


@pytest.mark.parametrize("positions", ["learned", "rotary"])
@pytest.mark.parametrize("temperature", [0.0, pytest.param(1.0, marks=pytest.mark.slow)])
def test_the_cache_changes_no_token(positions: str, temperature: float) -> None:
    torch.manual_seed(1)
    model = GPT(32, 64, embed_dim=16, num_layers=3, num_heads=2, position_encoding=positions)
    for p in model.parameters():
        p.data.mul_(4)  # far from uniform
    prompt = torch.randint(32, (3, 5))
    plain = model.generate(prompt, 59, temperature=temperature, use_cache=False)
    assert torch.equal(model.generate(prompt, 59, temperature=temperature), plain)
    assert torch.equal(plain[:, :5], prompt)


def test_a_cache_takes_several_tokens_at_a_time() -> None:
    model = GPT(16, 12, embed_dim=8, num_layers=2, num_heads=2).eval()
    tokens = torch.randint(16, (2, 12))
    cache = model.make_cache()
    parts = [model(part, cache) for part in tokens.split([5, 1, 4, 2], dim=1)]
    torch.testing.assert_close(torch.cat(parts, 1), model(tokens), atol=1e-5, rtol=1e-4)
    assert isinstance(cache[0], Cache)
    assert len(cache[0]) == 12


def test_the_embedding_reads_the_tokens_out() -> None:
    model = GPT(16, 10, embed_dim=8, num_layers=1, num_heads=2, position_encoding="learned")
    sizes = {name: p.numel() for name, p in model.named_parameters()}
    assert sizes["embedding.weight"] == 16 * 8
    assert sum(sizes.values()) == 16 * 8 + 10 * 8 + (12 * 8 * 8 + 13 * 8) + 2 * 8, "no matrix for reading out"


@pytest.mark.parametrize(("pool", "tokens"), [("mean", 49), ("class_token", 50)])
def test_vit_has_a_token_for_each_patch(pool: str, tokens: int) -> None:
    model = ViT([1, 28, 28], 10, patch_size=4, embed_dim=8, num_layers=1, num_heads=2, pool=pool)  # type: ignore[arg-type]
    assert model.positions.shape == (1, tokens, 8)
    assert model(torch.randn(2, 1, 28, 28)).shape == (2, 10)


def test_patches_do_not_overlap() -> None:
    model = ViT([1, 8, 8], 2, patch_size=4, embed_dim=6, num_layers=1, num_heads=2)
    image = torch.randn(1, 1, 8, 8)
    token = model.patches(image).flatten(2).transpose(1, 2)[0, 1]  # upper right
    by_hand = model.patches.weight.flatten(1) @ image[0, 0, :4, 4:].flatten() + model.patches.bias
    torch.testing.assert_close(token, by_hand)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: ViT([1, 28, 28], 10, embed_dim=30, num_heads=4), "embed_dim=30, num_heads=4"),
        (lambda: ViT([1, 28, 28], 10, patch_size=5), "patch_size=5"),
        (lambda: GPT(16, 8, embed_dim=12, num_heads=4), "must be even, not 3"),
    ],
)
def test_sizes_that_cannot_be_are_refused(make: object, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make()  # type: ignore[operator]
