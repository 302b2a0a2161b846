"""Rollouts by padded batches through `transformers`: no start-up cost, quick for tiny models."""

from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import StopStringCriteria

from actors.branches import Branches, can_share, sharing_pays
from actors.buckets import Bucket
from actors.engine import Draft, Drafts, GenerationRequest
from rlhf.collecting.dispatch import Failure
from rlhf.config.models import DType, Lora, TransformersRolloutConfig
from rlhf.learning.reading import CannotPack, RowReader, find_packing, longest_seen
from rlhf.models.adapters import adapter_parameters, with_adapter
from rlhf.models.batching import Shape, consecutive
from rlhf.models.loading import load_causal
from rlhf.records import Sampling, Tokens


class TransformersEngine:
    """Samples every request of a call together; calls run one after another."""

    def __init__(
        self,
        path: str,
        dtype: DType,
        config: TransformersRolloutConfig,
        end_token_ids: Sequence[int],
        tokenizer: Any,
        lora: Lora | None = None,
    ) -> None:
        """`lora`: of the adapter that the model gets, which is computed beside it."""
        self._tokenizer = tokenizer
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._model = load_causal(path, getattr(torch, dtype.value))
        if lora is not None:
            self._model = with_adapter(self._model, lora)
            for _, parameter in adapter_parameters(self._model):  # made in fp32 whatever the model
                parameter.data = parameter.data.to(getattr(torch, dtype.value))
        self._model.to(self._device).eval()
        self._dtype = dtype
        self._initial: Any = None
        self._config = config
        self._end_token_ids = torch.tensor(list(end_token_ids), device=self._device)

    async def generate(
        self, requests: Sequence[GenerationRequest]
    ) -> AsyncIterator[list[tuple[int, Drafts | Failure]]]:
        by_sampling: dict[Sampling, list[int]] = defaultdict(list)
        for i, request in enumerate(requests):
            # What goes on after a call or a turn has another limit than what begins.
            by_sampling[replace(request.sampling, max_tokens=0)].append(i)
        for sampling, indices in by_sampling.items():
            asked = [requests[i] for i in indices]
            shapes = [
                Shape(len(one.token_ids), one.sampling.max_tokens, sampling.num_completions)
                for one in asked
            ]
            for batch in consecutive(shapes, self._config.max_batch_tokens):
                chosen = [indices[i] for i in batch]
                yield list(zip(chosen, self._sample([requests[i] for i in chosen]), strict=True))

    def load_initial(self, path: str) -> None:
        """Keeps the initial policy too, for sampling from it and from mixtures with it."""
        model = load_causal(path, getattr(torch, self._dtype.value))
        self._initial = model.to(self._device).eval()

    def _players(self, mixture: float) -> list[tuple[Any, float]]:
        """Models and their weights in the mixture; those of weight 0 are left out."""
        if mixture and self._initial is None:
            raise RuntimeError("the initial policy has not been loaded")
        both = [(self._model, 1 - mixture), (self._initial, mixture)]
        return [(model, weight) for model, weight in both if weight]

    @torch.inference_mode()
    def _sample(self, requests: Sequence[GenerationRequest]) -> list[Drafts]:
        """R = prompts x completions rows, A of which go on; each row's randomness depends on its
        own seed alone, and the requests' samplings differ in their limits at most."""
        sampling = requests[0].sampling
        n, limits = sampling.num_completions, [one.sampling.max_tokens for one in requests]
        limit, limit_R = max(limits), torch.tensor(limits, device=self._device).repeat_interleave(n)
        uniforms_RT = self._uniforms_RT(requests, limit)
        players = self._players(sampling.mixture)
        weights = [weight for _, weight in players]
        prompts = [one.token_ids for one in requests]
        shares = self._shares([*map(len, prompts)], limit, n)
        going = Branches([model for model, _ in players], prompts, n, shares, self._device)
        logits_AV = _mixed(going.begin(), weights)
        row_A = torch.arange(len(limit_R), device=self._device)
        tokens_RT = torch.zeros(len(row_A), limit, dtype=torch.long, device=self._device)
        logprobs_RT, length_R = torch.zeros_like(uniforms_RT), torch.zeros_like(row_A)
        stopped_R, cut_R = torch.zeros(2, len(row_A), dtype=torch.bool, device=self._device)
        stops = [StopStringCriteria(self._tokenizer, list(sampling.stop))] if sampling.stop else []
        for t in range(limit):
            token_A, logprob_A = _draw(logits_AV, uniforms_RT[row_A, t], sampling)
            tokens_RT[row_A, t], logprobs_RT[row_A, t], length_R[row_A] = token_A, logprob_A, t + 1
            goes_on_A = ~torch.isin(token_A, self._end_token_ids)
            for has_stopped in stops:
                stops_A = goes_on_A & has_stopped(tokens_RT[row_A, : t + 1], None).bool()
                stopped_R[row_A], goes_on_A = stops_A, goes_on_A & ~stops_A
            cut_R[row_A] = goes_on_A & (limit_R[row_A] == t + 1)
            left = torch.nonzero(goes_on_A & ~cut_R[row_A])[:, 0]
            if not len(left):
                break
            if len(left) < len(row_A):
                row_A, token_A = row_A[left], token_A[left]
                going.keep(left)
            logits_AV = _mixed(going.step(token_A), weights)
        drafts = [
            Draft(tuple(row[:length]), tuple(values[:length]), truncated, stopped)
            for row, values, length, truncated, stopped in zip(
                *(x.tolist() for x in (tokens_RT, logprobs_RT, length_R, cut_R, stopped_R)),
                strict=True,
            )
        ]
        return [tuple(drafts[i : i + n]) for i in range(0, len(drafts), n)]

    def _uniforms_RT(self, requests: Sequence[GenerationRequest], limit: int) -> Tensor:
        """A number in [0, 1) for every token that a row may have."""
        drawn = [
            np.random.Generator(np.random.Philox(key=request.seed + i)).random(limit)
            for request in requests
            for i in range(request.sampling.num_completions)
        ]
        uniforms_RT = torch.from_numpy(np.stack(drawn)).to(self._device, torch.float32)
        return uniforms_RT.clamp(max=1 - 2**-24)  # what is nearest to 1 is rounded to it

    def _shares(self, lengths: Sequence[int], limit: int, num_each: int) -> bool:
        """Whether the completions of such prompts share the prompt's keys and values."""
        longest = max(lengths) + num_each * limit
        return (
            sharing_pays(lengths, limit, num_each)
            and longest <= longest_seen(self._model.config)
            and self._can_share
        )

    @cached_property
    def _can_share(self) -> bool:
        vocabulary = self._model.config.get_text_config().vocab_size
        return can_share(self._model, vocabulary, self._device)

    async def load_weights(self, buckets: Sequence[Bucket], version: int) -> None:
        weights = {name: value for bucket in buckets for name, value in bucket.weights().items()}
        self._take(self._model.state_dict(), weights, version)

    async def load_adapter(self, weights: Mapping[str, Tensor], version: int) -> None:
        self._take(dict(adapter_parameters(self._model)), weights, version)

    def _take(self, own: Mapping[str, Tensor], weights: Mapping[str, Tensor], version: int) -> None:
        if missing := own.keys() - weights.keys():
            raise ValueError(f"weights of version {version} lack {sorted(missing)[:5]}")
        with torch.inference_mode():
            for name, value in weights.items():
                own[name].copy_(value)

    async def logprobs(self, rows: Sequence[Tokens]) -> list[list[float]]:
        return self._reader.each(rows, self._config.max_batch_tokens)

    @cached_property
    def _reader(self) -> RowReader:
        try:
            packing = find_packing(self._model, self._model.config, self._device)
        except CannotPack:  # as the policy, which reads the same rows, says at its start
            packing = None
        return RowReader(self._model, self._device, packing)


def _mixed(logits: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Logits of the normalised product of the models' probabilities, each to its weight (Munos et
    al. 2023, arXiv 2312.00886, Section 4)."""
    if len(logits) == 1:
        return logits[0]
    both = [
        one.float().log_softmax(-1) * weight for one, weight in zip(logits, weights, strict=True)
    ]
    return torch.stack(both).sum(0)


def _draw(logits_RV: Tensor, uniform_R: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """One token per row by inverting the cumulative distribution, and its log-probability."""
    logprobs_RV = logits_RV.float().log_softmax(-1)
    if sampling.temperature == 0:
        token_R = logprobs_RV.argmax(-1)
    else:
        probs_RV = (logprobs_RV / sampling.temperature).softmax(-1)
        if sampling.top_p < 1:
            probs_RV = _nucleus(probs_RV, sampling.top_p)
        cumulative_RV = probs_RV.cumsum(-1)
        level_R1 = uniform_R[:, None] * cumulative_RV[:, -1:]
        token_R = torch.searchsorted(cumulative_RV, level_R1, right=True).squeeze(-1)
        token_R = token_R.clamp(max=logits_RV.shape[-1] - 1)
    return token_R, logprobs_RV.gather(-1, token_R[:, None]).squeeze(-1)


def _nucleus(probs_RV: Tensor, top_p: float) -> Tensor:
    """Zeroes all but the likeliest tokens that together reach `top_p`."""
    sorted_RV, order_RV = probs_RV.sort(-1, descending=True)
    beyond_RV = sorted_RV.cumsum(-1) - sorted_RV >= top_p
    return probs_RV.masked_fill(beyond_RV.scatter(-1, order_RV, beyond_RV), 0.0)
