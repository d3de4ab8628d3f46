"""Reading a model's answers: their reasoning and their final part, as tokens, for one tokenizer and its template."""

from __future__ import annotations

from functools import cached_property

from ftcli.models.templates.answer_parts import Parts, Structure
from ftcli.worker.inference.sampling import until_end
from ftcli.worker.tokenise.encoder import Encoder, Ids

_PROMPT_END = 64
"""Tokens of a prompt that are read to see whether it ends in the generation prompt."""


class AnswerReader:
    """Divides answers as the chat template does; an answer to bare text, or without a template, is all final."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder, self._tokenizer = encoder, encoder.tokenizer

    def final(self, prompt_ids: Ids, answer_ids: Ids) -> str:
        """The final part of an answer, without special tokens and white space at its ends."""
        return self.parts(prompt_ids, answer_ids).final

    def whole(self, prompt_ids: Ids, answer_ids: Ids) -> str:
        """The whole answer without special tokens, from the reasoning tag on that its prompt has opened."""
        opened = self._structure_after(prompt_ids).opened
        return f"{opened}\n{self._decoded(answer_ids)}" if opened else self._decoded(answer_ids)

    def parts(self, prompt_ids: Ids, answer_ids: Ids) -> Parts:
        """Both parts, without special tokens and white space at their ends.

        Args:
            prompt_ids: the prompt, or its last tokens.
            answer_ids: with or without an end token; what follows the first one is ignored.
        """
        structure = self._structure_after(prompt_ids)
        ids = self._until_end(answer_ids)
        if not structure.marker:
            return Parts("", self._decoded(ids))
        text = self._text(ids)
        if structure.marker not in text:
            cut_off = not structure.divided(text).final
            return Parts(self._decoded(ids), "") if cut_off and text else Parts("", self._decoded(ids))
        # The fewest tokens that hold the marker: the others are the final part.
        low, high = 1, len(ids)
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if structure.marker in self._text(ids[:middle]) else (middle + 1, high)
        reasoning, within = structure.divided(self._text(ids[:low]))
        return Parts(reasoning, (within + self._decoded(ids[low:], strip=False)).strip())

    @cached_property
    def _structure(self) -> Structure:
        return self._encoder.serving.structure if self._encoder.has_template else Structure()

    def _structure_after(self, prompt_ids: Ids) -> Structure:
        if not self._structure.marker:
            return self._structure
        return self._structure.of_prompt(self._text(prompt_ids[-_PROMPT_END:]))

    def _until_end(self, ids: Ids) -> Ids:
        found, ended = until_end(ids, self._encoder.stop_ids)
        return found[:-1] if ended else found

    def _text(self, ids: Ids) -> str:
        text: str = self._tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return text

    def _decoded(self, ids: Ids, *, strip: bool = True) -> str:
        text: str = self._tokenizer.decode(self._until_end(ids), skip_special_tokens=True)
        return text.strip() if strip else text
