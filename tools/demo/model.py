"""A Llama decoder in plain torch: the model that `train.py` fits and `check.py` holds against transformers.

Parameters bear the names and shapes of transformers' `LlamaForCausalLM`, so a state dict of one loads in the other.
Own code on purpose: that both give the same loss then says something.
"""

import dataclasses

import torch
from torch import nn
from torch.nn import functional


@dataclasses.dataclass(frozen=True)
class Shape:
    """Sizes of the model, under the keys of a transformers `config.json`."""

    vocab_size: int = 3072
    hidden_size: int = 256
    intermediate_size: int = 512
    num_hidden_layers: int = 6
    num_attention_heads: int = 8
    num_key_value_heads: int = 2
    head_dim: int = 32
    max_position_embeddings: int = 512
    rope_theta: float = 10000.0
    rms_norm_eps: float = 1e-5


class RmsNorm(nn.Module):
    """`x / sqrt(mean(x^2) + eps) * weight`, the mean taken in f32."""

    def __init__(self, size: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x):
        return functional.rms_norm(x.float(), (x.shape[-1],), self.weight, self.eps)


def rotary_tables(shape: Shape):
    """Cosines and sines, `[positions, head_dim]`, of the half-split rotary embedding."""
    exponents = torch.arange(0, shape.head_dim, 2, dtype=torch.float32) / shape.head_dim
    angles = torch.outer(torch.arange(shape.max_position_embeddings, dtype=torch.float32), shape.rope_theta**-exponents)
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos(), angles.sin()


def rotate(x, cos, sin):
    """Turns each pair `(x[i], x[i + head_dim / 2])` by its position's angle."""
    low, high = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-high, low], dim=-1) * sin


class Attention(nn.Module):
    """Causal grouped-query attention."""

    def __init__(self, shape: Shape):
        super().__init__()
        self.shape = shape
        query, key_value = shape.num_attention_heads * shape.head_dim, shape.num_key_value_heads * shape.head_dim
        self.q_proj = nn.Linear(shape.hidden_size, query, bias=False)
        self.k_proj = nn.Linear(shape.hidden_size, key_value, bias=False)
        self.v_proj = nn.Linear(shape.hidden_size, key_value, bias=False)
        self.o_proj = nn.Linear(query, shape.hidden_size, bias=False)

    def forward(self, x, cos, sin):
        batch, length, _ = x.shape

        def heads(projected, count):
            return projected.view(batch, length, count, self.shape.head_dim).transpose(1, 2)

        query = rotate(heads(self.q_proj(x), self.shape.num_attention_heads), cos, sin)
        key = rotate(heads(self.k_proj(x), self.shape.num_key_value_heads), cos, sin)
        value = heads(self.v_proj(x), self.shape.num_key_value_heads)
        repeats = self.shape.num_attention_heads // self.shape.num_key_value_heads
        key, value = key.repeat_interleave(repeats, dim=1), value.repeat_interleave(repeats, dim=1)
        query, key = query.to(value.dtype), key.to(value.dtype)
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self.o_proj(mixed.transpose(1, 2).reshape(batch, length, -1))


class Mlp(nn.Module):
    """`down(silu(gate(x)) * up(x))`."""

    def __init__(self, shape: Shape):
        super().__init__()
        self.gate_proj = nn.Linear(shape.hidden_size, shape.intermediate_size, bias=False)
        self.up_proj = nn.Linear(shape.hidden_size, shape.intermediate_size, bias=False)
        self.down_proj = nn.Linear(shape.intermediate_size, shape.hidden_size, bias=False)

    def forward(self, x):
        return self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    """One decoder layer, norms before the sublayers."""

    def __init__(self, shape: Shape):
        super().__init__()
        self.self_attn = Attention(shape)
        self.mlp = Mlp(shape)
        self.input_layernorm = RmsNorm(shape.hidden_size, shape.rms_norm_eps)
        self.post_attention_layernorm = RmsNorm(shape.hidden_size, shape.rms_norm_eps)

    def forward(self, x, cos, sin):
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        return x + self.mlp(self.post_attention_layernorm(x))


class Decoder(nn.Module):
    """Embedding, layers and the last norm."""

    def __init__(self, shape: Shape):
        super().__init__()
        self.embed_tokens = nn.Embedding(shape.vocab_size, shape.hidden_size)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.num_hidden_layers))
        self.norm = RmsNorm(shape.hidden_size, shape.rms_norm_eps)


class Llama(nn.Module):
    """The language model; the embedding is also the output head."""

    def __init__(self, shape: Shape):
        super().__init__()
        self.model = Decoder(shape)
        cos, sin = rotary_tables(shape)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                # Unit gain per layer; what is added to the residual stream shrinks with depth.
                into_residual = name.endswith(("o_proj.weight", "down_proj.weight"))
                gain = (2 * shape.num_hidden_layers) ** -0.5 if into_residual else 1.0
                nn.init.normal_(parameter, std=gain * parameter.shape[1] ** -0.5)

    def forward(self, tokens):
        """Logits `[batch, length, vocab]` for tokens `[batch, length]`."""
        length = tokens.shape[1]
        cos, sin = self.cos[:length], self.sin[:length]
        x = self.model.embed_tokens(tokens)
        for layer in self.model.layers:
            x = layer(x, cos, sin)
        return functional.linear(self.model.norm(x), self.model.embed_tokens.weight)


@torch.no_grad()
def window_nlls(logits_of, tokens, context: int, batch: int = 8):
    """Mean nats per predicted token of each non-overlapping window of `context` tokens, `[windows]`, f64.

    A short last window is dropped; every token of a window but its first is predicted. `logits_of` maps tokens
    `[batch, context]` to logits.
    """
    n_windows = len(tokens) // context
    windows = torch.as_tensor(tokens[: n_windows * context], dtype=torch.long).view(n_windows, context)
    results = []
    for chunk in windows.split(batch):
        logits = logits_of(chunk)[:, :-1].float()
        losses = functional.cross_entropy(logits.flatten(0, 1), chunk[:, 1:].flatten(), reduction="none")
        results.append(losses.double().view(len(chunk), -1).mean(dim=1))
    return torch.cat(results)


def mean_nll(logits_of, tokens, context: int) -> float:
    """Mean nats per predicted token over all windows of `window_nlls`."""
    return window_nlls(logits_of, tokens, context).mean().item()


def round_to_nearest(weight, bits: int, group: int):
    """`weight` through a min/max affine grid of `bits` bits per group of `group` inputs, zero always on the grid."""
    rows, columns = weight.shape
    grouped = weight.float().view(rows, columns // group, group)
    low = grouped.amin(-1, keepdim=True).clamp(max=0.0)
    high = grouped.amax(-1, keepdim=True).clamp(min=0.0)
    levels = 2**bits - 1
    scale = ((high - low) / levels).clamp(min=1e-10)
    zero = torch.round(-low / scale)
    codes = (torch.round(grouped / scale) + zero).clamp(0, levels)
    return ((codes - zero) * scale).view(rows, columns)
