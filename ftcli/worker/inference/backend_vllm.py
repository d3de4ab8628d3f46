"""The vLLM backend: answers many synthesis questions at once, with log-probabilities of choices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ftcli.core.errors import ConfigError, Problem
from ftcli.core.text import shell_word
from ftcli.models.sources import resolved_source
from ftcli.settings.backends import BackendSettings
from ftcli.settings.groups import ModelSettings
from ftcli.synthesis.backend import Question, Reply, require_backend
from ftcli.worker.inference.answer_reader import AnswerReader
from ftcli.worker.inference.backend_transformers import pairs_of
from ftcli.worker.models.load import as_granted, make_encoder


class Vllm:
    """A model or finished run. Each question has its own seed, so the rest of the batch does not affect its answer."""

    concurrency = 1

    def __init__(self, settings: BackendSettings, key: str, request: dict[str, Any]) -> None:
        """
        Args:
            key: the role's name, for errors.

        Raises:
            ConfigError: vLLM is not installed, or the model is an adapter.
        """
        require_backend(settings, key)
        import vllm  # type: ignore[import-not-found]

        assert settings.model is not None
        source = resolved_source(settings.model)
        if source.is_adapter:
            fix = f"run ftcli merge {shell_word(settings.model)} OUT, and use OUT"
            raise ConfigError(
                Problem(f"{key}.model", f"{settings.model} is an adapter, which must be merged for vLLM", fix)
            )
        found = as_granted(ModelSettings(name_or_path=settings.model, revision=settings.revision), request)
        self.batch_size: int | None = settings.batch_size
        self.name, self._sampling = settings.model, vllm.SamplingParams
        self.encoder = make_encoder(found)
        self.reader = AnswerReader(self.encoder)
        self._engine = vllm.LLM(
            model=source.location,
            revision=settings.revision,
            trust_remote_code=found.trust_remote_code,
            gpu_memory_utilization=settings.gpu_memory_utilization,
            max_model_len=settings.max_model_length,
        )
        self.requests = self.prompt_tokens = self.answer_tokens = 0

    def replies(self, questions: Sequence[Question]) -> list[Reply]:
        """As in the protocol."""
        prompts: list[list[int]] = []
        ways: list[Any] = []
        for question in questions:
            if question.choices:
                for ids, answer in zip(*pairs_of(self.encoder, [question]), strict=True):
                    prompts.append([*ids, *answer])
                    ways.append(self._sampling(temperature=0.0, max_tokens=1, prompt_logprobs=0))
            else:
                prompts.append(self.encoder.prompt_ids(question.turns))
                ways.append(
                    self._sampling(
                        temperature=question.temperature,
                        max_tokens=question.max_new_tokens,
                        seed=question.seed,
                        stop_token_ids=sorted(self.encoder.stop_ids),
                    )
                )
        outputs = iter(self._engine.generate([{"prompt_token_ids": ids} for ids in prompts], ways, use_tqdm=False))
        found = [
            self._chosen(question, outputs) if question.choices else self._answered(next(outputs))
            for question in questions
        ]
        self.requests += len(found)
        self.prompt_tokens += sum(reply.prompt_tokens for reply in found)
        self.answer_tokens += sum(reply.answer_tokens for reply in found)
        return found

    def _answered(self, output: Any) -> Reply:
        [answer] = output.outputs
        prompt, ids = list(output.prompt_token_ids), list(answer.token_ids)
        return Reply(text=self.reader.final(prompt, ids), prompt_tokens=len(prompt), answer_tokens=len(ids))

    def _chosen(self, question: Question, outputs: Any) -> Reply:
        """The more likely choice, by the log-probabilities of its tokens after the question."""
        prompts, answers = pairs_of(self.encoder, [question])
        sums = []
        for ids, answer in zip(prompts, answers, strict=True):
            logprobs = next(outputs).prompt_logprobs[len(ids) :]
            sums.append(sum(float(at[token].logprob) for at, token in zip(logprobs, answer, strict=True)))
        text = question.choices[sums.index(max(sums))]
        return Reply(text=text, choice_logps=tuple(sums), prompt_tokens=len(prompts[0]), answer_tokens=1)

    def about(self) -> dict[str, Any]:
        """As in the protocol."""
        used = {"requests": self.requests, "prompt_tokens": self.prompt_tokens, "answer_tokens": self.answer_tokens}
        return {"type": "vllm", "model": self.name, **used}
