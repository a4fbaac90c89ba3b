"""The ladder of full-scale models: decoders like Llama's (RMSNorm before each part, RoPE, SwiGLU, untied embeddings), by name.

A name is the count of all parameters at a vocabulary of 50,304, that of Pythia, to within 10 %; `1m`, for tests, counts
without embeddings. With V tokens in the vocabulary and d = d_model, d_kv = d / heads * kv_heads:

    parameters = layers (2 d^2 + 2 d d_kv + 3 d ffn + 2 d) + d + 2 d V
    FLOPs for each trained token = 6 (parameters - d V) + 6 layers d (sequence + 1)

Source: Kaplan et al. 2020 (arXiv:2001.08361) for 6 FLOPs a parameter, with the output head counted and the look-up of the
embedding not; the attention of a token reads half a row on average, as the kernels compute it.
"""

from __future__ import annotations

from dataclasses import dataclass

from mixopt.errors import JobError, did_you_mean

NAMED_AT = 50_304


@dataclass(frozen=True)
class Shape:
    """A model's shape. `source` is the model whose shape it is.

    `learning_rate` is a peak that was published, and `rate_source` with which model, where no law of rates was fitted.
    """

    d_model: int
    layers: int
    heads: int
    kv_heads: int
    ffn: int
    source: str
    learning_rate: float | None = None
    rate_source: str = ""
    rope_theta: int = 500_000
    norm_eps: float = 1e-5

    @property
    def body(self) -> int:
        """Parameters without the embeddings of input and output."""
        d, d_kv = self.d_model, self.d_model // self.heads * self.kv_heads
        return self.layers * (2 * d * d + 2 * d * d_kv + 3 * d * self.ffn + 2 * d) + d

    def parameters(self, vocabulary: int) -> int:
        """All parameters."""
        return self.body + 2 * self.d_model * vocabulary

    def flops(self, vocabulary: int, sequence: int) -> float:
        """FLOPs to train on one token, in rows of `sequence` tokens."""
        attention = 6.0 * self.layers * self.d_model * (sequence + 1)
        return 6.0 * (self.body + self.d_model * vocabulary) + attention


PYTHIA = "width, layers and heads of Pythia (arXiv:2304.01373), ffn 8/3 of the width"
LADDER = {
    "1m": Shape(128, 5, 4, 4, 344, "the proxies' 1m"),
    "60m": Shape(384, 12, 6, 6, 1024, "our own: width of OLMo-core's 60M with the depth of Pythia-160M"),
    "160m": Shape(768, 12, 12, 12, 2048, PYTHIA),
    "410m": Shape(1024, 24, 16, 16, 2816, PYTHIA),
    "1b": Shape(2048, 16, 16, 16, 5632, "width, layers and heads of OLMo 1B (arXiv:2402.00838)"),
    "1.4b": Shape(2048, 24, 16, 16, 5632, PYTHIA, 4.0e-4, "OLMo 1B (arXiv:2402.00838)"),
    "3b": Shape(3072, 28, 24, 8, 8192, "Llama 3.2 3B, embeddings untied", 3.0e-4, "OLMo 7B (arXiv:2402.00838)"),
    "8b": Shape(4096, 32, 32, 8, 14336, "Llama 3 8B (arXiv:2407.21783)", 3.0e-4, "Llama 3 8B (arXiv:2407.21783)"),
}


def shape(name: str) -> Shape:
    """The shape of a named model. Raises JobError for an unknown name."""
    if name not in LADDER:
        raise JobError(f"model: unknown name {name!r}; {did_you_mean(name, LADDER)} Models: {', '.join(LADDER)}.")
    return LADDER[name]
