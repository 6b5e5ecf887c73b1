"""Measure a training step, an inner step, a semi-amortised step and nll_iw, in ms and as a fraction of the peak.

    python benchmarks/steps.py [--size synthetic|yahoo|transformer|all] [--threads N] [--device cpu|cuda]
        [--repetitions N] [--json FILE]

Sizes: `synthetic` is He et al. 2019, Appendix B.1 (batch 16, length 11, vocabulary 1,004, embedding and hidden 50, one
latent dimension); `yahoo` is their Yahoo model (batch 32, 80 predicted tokens, vocabulary 20,001, embedding 512, hidden
1,024, latent 32) on random tokens; `transformer` is the default of that model on short reviews (batch 64,
12 predicted tokens, vocabulary 5,000). `plain` is the same step as in the published code of He et al. (for the
Transformer, with the causal layers of torch.nn): one cross-entropy over all logits, torch's dropout and clipping. All
variants are timed alternately in one process, so their ratios are valid even
if the machine's speed drifts; quote ratios, not milliseconds. The peak is the best float32 matrix product of this run;
FLOPs count the matrix products that the step needs.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lagvae_core.data import TextDomain, TokenBatch
from lagvae_core.metrics.likelihood import importance_weighted, proposal_weight
from lagvae_core.models.lstm import LstmModel
from lagvae_core.models.transformer import TransformerModel
from lagvae_core.models.vae import Vae
from lagvae_core.randomness import Streams
from lagvae_core.runtime import keep_freed_memory, peak_memory_bytes
from lagvae_core.settings import TrainingConfig
from lagvae_core.strategies.base import BuildContext
from lagvae_core.strategies.sa_vae import SaVae
from lagvae_core.strategies.slots import TrainingComponents
from lagvae_core.training.learner import Learner


@dataclass(frozen=True)
class Size:
    batch: int
    predicted: int
    vocabulary: int
    model: LstmModel | TransformerModel
    repetitions: int
    iw_examples: int
    iw_samples: int

    def forward_flops(self) -> tuple[float, float]:
        """Return the matrix-product FLOPs of one batch in encoder and decoder."""
        m = self.model
        if isinstance(m, TransformerModel):
            tokens = self.batch * (self.predicted + 1)
            per_token = m.layers * (2.0 * 12 * m.width**2 + 4.0 * (self.predicted + 1) * m.width)
            return per_token * tokens, (per_token + 2.0 * m.width * self.vocabulary) * tokens
        gates = 4 * m.hidden
        encoder = 2.0 * gates * (m.embedding + m.hidden) * (self.predicted + 1) * self.batch
        per_token = 2.0 * gates * (m.embedding + m.latent_dim + m.hidden) + 2.0 * m.hidden * self.vocabulary
        return encoder, per_token * self.predicted * self.batch


SIZES = {
    "synthetic": Size(16, 11, 1004, LstmModel(latent_dim=1, hidden=50, embedding=50), 200, 4, 500),
    "yahoo": Size(32, 80, 20001, LstmModel(latent_dim=32, hidden=1024, embedding=512), 5, 1, 100),
    "transformer": Size(64, 12, 5000, TransformerModel(), 20, 4, 100),
}


STEPS = 10
"""Refinement steps of sa_vae, as in He et al. 2019."""

SLOW = ("nll_iw", "sa_vae")
"""Variants that are timed only in three of ten rounds, because they are slow."""


class PlainUpdate:
    """The end of a plain training step: the loss, the gradients, clipping and the optimisers."""

    parameters: list[nn.Parameter]
    optimisers: list[torch.optim.SGD]

    def update(self, mean: Tensor, logvar: Tensor, logits: Tensor, tokens: Tensor, step: tuple[int, ...]) -> None:
        """Update the encoder (0), the decoder (1), or both, as `step` says."""
        losses = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="none")
        rec = losses.view(len(mean), -1).sum(1)
        kl = 0.5 * (mean.square() + logvar.exp() - logvar - 1).sum(1)
        (rec + kl).mean().backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 5.0)
        for number in step:
            self.optimisers[number].step()


class PlainStep(PlainUpdate):
    """The training step as in the published code, on modules of the same shapes."""

    def __init__(self, size: Size, device: torch.device) -> None:
        m, v = size.model, size.vocabulary
        assert isinstance(m, LstmModel)
        self.encoder = nn.ModuleList(
            [nn.Embedding(v, m.embedding), nn.LSTM(m.embedding, m.hidden, batch_first=True)]
        ).append(nn.Linear(m.hidden, 2 * m.latent_dim, bias=False))
        self.decoder = nn.ModuleList(
            [nn.Embedding(v, m.embedding), nn.LSTM(m.embedding + m.latent_dim, m.hidden, batch_first=True)]
        )
        self.decoder.extend([nn.Linear(m.latent_dim, m.hidden, bias=False), nn.Linear(m.hidden, v, bias=False)])
        self.encoder.to(device)
        self.decoder.to(device)
        self.parameters = [*self.encoder.parameters(), *self.decoder.parameters()]
        for parameter in self.parameters:
            nn.init.uniform_(parameter, -0.01, 0.01)
        self.optimisers = [torch.optim.SGD(part.parameters(), lr=1.0) for part in (self.encoder, self.decoder)]

    def __call__(self, tokens: Tensor, step: tuple[int, ...] = (0, 1)) -> None:
        for optimiser in self.optimisers:
            optimiser.zero_grad()
        embed, lstm, to_latent = self.encoder
        mean, logvar = to_latent(lstm(embed(tokens))[1][0][0]).chunk(2, 1)
        z = mean + (0.5 * logvar).exp() * torch.randn_like(mean)
        embed, lstm, start, output = self.decoder
        words = F.dropout(embed(tokens[:, :-1]), 0.5)
        words = torch.cat([words, z[:, None].expand(-1, words.shape[1], -1)], 2)
        cell = start(z)[None]
        hidden = F.dropout(lstm(words, (cell.tanh(), cell))[0], 0.5)
        self.update(mean, logvar, output(hidden), tokens, step)


class PlainTransformerStep(PlainUpdate):
    """The training step with the causal layers of torch.nn, on modules of the same shapes."""

    def __init__(self, size: Size, device: torch.device) -> None:
        m, v = size.model, size.vocabulary
        assert isinstance(m, TransformerModel)

        def stack(rate: float) -> nn.TransformerEncoder:
            layer = nn.TransformerEncoderLayer(
                m.width, m.heads, 4 * m.width, rate, "gelu", batch_first=True, norm_first=True
            )
            layer.self_attn.dropout, layer.dropout.p = 0.0, 0.0  # ours drops neither weights nor hidden units
            return nn.TransformerEncoder(layer, m.layers, nn.LayerNorm(m.width), enable_nested_tensor=False)

        self.rate = m.dropout_in
        self.encoder = nn.ModuleList([nn.Embedding(v, m.width), stack(0.0), nn.Linear(m.width, 2 * m.latent_dim)])
        self.decoder = nn.ModuleList([nn.Embedding(v, m.width), stack(m.dropout), nn.Linear(m.latent_dim, m.width)])
        self.decoder.append(nn.Linear(m.width, v, bias=False))
        self.encoder.to(device)
        self.decoder.to(device)
        self.parameters = [*self.encoder.parameters(), *self.decoder.parameters()]
        steps = size.predicted + 1
        self.places = torch.randn(steps, m.width, device=device)
        self.mask = nn.Transformer.generate_square_subsequent_mask(steps, device=device)
        self.optimisers = [torch.optim.SGD(part.parameters(), lr=0.01) for part in (self.encoder, self.decoder)]

    def __call__(self, tokens: Tensor, step: tuple[int, ...] = (0, 1)) -> None:
        for optimiser in self.optimisers:
            optimiser.zero_grad()
        embed, blocks, to_latent = self.encoder
        mean, logvar = to_latent(blocks(embed(tokens) + self.places).mean(1)).chunk(2, 1)
        z = mean + (0.5 * logvar).exp() * torch.randn_like(mean)
        embed, blocks, from_z, output = self.decoder
        words = F.dropout(embed(tokens[:, :-1]), self.rate) + self.places[:-1]
        hidden = blocks(torch.cat([from_z(z)[:, None], words], 1), mask=self.mask, is_causal=True)[:, 1:]
        self.update(mean, logvar, output(hidden), tokens, step)


def measured_peak(device: torch.device) -> float:
    """Return the best rate of a float32 matrix product on this machine [FLOP/s]."""
    n = 2048 if device.type == "cpu" else 8192
    a, b = torch.randn(n, n, device=device), torch.randn(n, n, device=device)
    torch.mm(a, b)
    return 2.0 * n**3 / min(timed(lambda: torch.mm(a, b), device) for _ in range(8))


def timed(act: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    act()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def variants(size: Size, device: torch.device) -> dict[str, tuple[Callable[[], object], float]]:
    """Return the variants by name, each with a function to time and the FLOPs that it needs."""
    streams = Streams(0, device)
    components = TrainingComponents()
    domain = TextDomain(size.vocabulary)
    decoder = size.model.decoder(domain, streams["dropout"], components.options(size.model))
    model = Vae(size.model.encoder(domain, None), decoder, components.posterior, components.prior).to(device)
    learner = Learner(model, components, TrainingConfig(), streams)
    tokens = torch.randint(4, size.vocabulary, (size.batch, size.predicted + 1), device=device)
    batch = TokenBatch(tokens, torch.arange(size.batch))
    few = [TokenBatch(tokens[i : i + 1], torch.tensor([i])) for i in range(size.iw_examples)]
    plain = (PlainTransformerStep if isinstance(size.model, TransformerModel) else PlainStep)(size, device)
    encoder, decoder_flops = size.forward_flops()

    def full() -> None:
        model.train()
        learner.descend(learner.loss(batch, 1.0), encoder=True, decoder=True)

    def inner(scope: str) -> Callable[[], None]:
        def step() -> None:
            model.train()
            with learner.inner_loop(decoder_gradients=scope == "all"):
                loss = learner.loss(batch, 1.0)
                learner.descend(loss, encoder=True, decoder=False, clip_scope=scope)  # type: ignore[arg-type]

        return step

    def weigh() -> None:
        model.eval()
        chunk = 256 if device.type == "cpu" else 4096
        importance_weighted(model, few, size.iw_samples, 0, {"nll_iw": proposal_weight(model)}, sequences=chunk)

    def semi_amortised(backward: str) -> Callable[[], None]:
        config = SaVae.model_validate({"backward": backward, "refinement_steps": STEPS})
        update = config.build(BuildContext(size.model.latent_dim, 1))["update"]

        def step() -> None:
            model.train()
            update(learner, batch, 1.0)

        return step

    everything = 3 * (encoder + decoder_flops)
    return {
        "plain full step": (lambda: plain(tokens), everything),
        "plain inner step": (lambda: plain(tokens, (0,)), everything),
        "full step": (full, everything),
        "inner step, clip_scope all": (inner("all"), everything),
        "inner step, clip_scope per_module": (inner("per_module"), 3 * encoder + 2 * decoder_flops),
        f"sa_vae, {STEPS} steps, finite_diff": (semi_amortised("finite_diff"), everything + 6 * STEPS * decoder_flops),
        f"sa_vae, {STEPS} steps, none": (semi_amortised("none"), everything + 2 * (STEPS + 1) * decoder_flops),
        f"nll_iw, {size.iw_examples} x {size.iw_samples} samples": (
            weigh,
            decoder_flops / size.batch * size.iw_examples * size.iw_samples,
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--size", choices=[*SIZES, "all"], default="all")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--keep-freed-memory", choices=["yes", "no"], default="yes")
    parser.add_argument("--repetitions", type=int, help="number of timings of each variant; default by size")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    kept = options.keep_freed_memory == "yes" and keep_freed_memory()
    peak = measured_peak(device)
    name = torch.cuda.get_device_name() if device.type == "cuda" else f"{platform.processor() or platform.machine()}"
    print(f"torch {torch.__version__}, {name}, {options.threads} threads, freed memory kept: {kept}")
    print(f"float32 matrix-product peak {peak / 1e9:.0f} GFLOP/s")
    rows = []
    for label in SIZES if options.size == "all" else [options.size]:
        size = SIZES[label]
        acts = variants(size, device)
        times: dict[str, list[float]] = {name: [] for name in acts}
        for repetition in range((options.repetitions or size.repetitions) + 2):
            for name, (act, _) in acts.items():
                if name.startswith(SLOW) and repetition % 10 > 2:
                    continue
                seconds = timed(act, device)
                if repetition >= 2:
                    times[name].append(seconds)
        base = statistics.median(times["plain full step"])
        print(f"\n{label:<38}{'ms':>10}{'% of peak':>12}{'plain full = 1':>16}")
        for name, (_, flops) in acts.items():
            seconds = statistics.median(times[name])
            share = flops / seconds / peak
            ratio = "" if name.startswith("nll_iw") else f"{seconds / base:.2f}"
            print(f"  {name:<36}{seconds * 1e3:>10.2f}{share:>12.0%}{ratio:>16}")
            rows.append({"size": label, "what": name, "ms": seconds * 1e3, "share_of_peak": share})
    print(f"\npeak memory {peak_memory_bytes(device) / 2**20:.0f} MiB")
    if options.json:
        options.json.write_text(json.dumps({"peak_flops": peak, "threads": options.threads, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
