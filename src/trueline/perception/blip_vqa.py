"""BLIP as an answerer of yes-or-no questions: the model of T2I-CompBench's B-VQA.

Written from BLIPvqa_eval of Karine-Huang/T2I-CompBench@1b7094991a57. What differs: probabilities are not rounded
to four digits, and the net is transformers' (Salesforce/blip-vqa-base), whose table of positions was shrunk to
384 pixels; it is interpolated back to the 480 pixels that the scorer uses.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor
from transformers import BlipForQuestionAnswering

from trueline.models.pretrained import Checkpoint, Dtype, batched, pixels_for, same_length

SIDE = 480  #: pixels
LONGEST = 35  #: tokens of a question
_MARKS = re.compile(r'[.!"()*#:;~]')


class BlipVqa:
    """P(yes) / (P(yes) + P(no)) at the decoder's first step, in 0..1; or P of any answer's first token."""

    def __init__(
        self,
        checkpoint: str,
        device: str = "cpu",
        dtype: Dtype = "float32",
        *,
        side: int = SIDE,
        **files: Any,
    ):
        source = Checkpoint(checkpoint, **files)
        self.model = source.model(BlipForQuestionAnswering, device, dtype)
        self.tokenizer = source.tokenizer()
        self.pictures = source.image_processor(
            "BlipImageProcessor", size={"height": side, "width": side}, resample=3
        )
        self.answers = [self._word("yes"), self._word("no")]
        text = self.model.config.text_config
        # BLIP adds two words to BERT's: [DEC] begins an answer, [ENC] replaces [CLS] before a question that looks
        # at a picture. transformers' own generate() leaves [CLS] there.
        self.begin_answer, self.begin_question = text.bos_token_id, text.bos_token_id + 1
        if self.begin_question >= text.vocab_size:
            raise ValueError(f"{checkpoint} lacks BLIP's [ENC] token; give a checkpoint of blip-vqa")
        self.name = "blip-vqa"
        self.protocol = f"{source.title}, PIL bicubic to {side} x {side}, {LONGEST} tokens"

    def _word(self, word: str) -> int:
        ids = self.tokenizer(word, add_special_tokens=False).input_ids
        if len(ids) != 1 or ids[0] == self.tokenizer.unk_token_id:
            raise ValueError(f"the tokenizer has no single token for {word!r}; give a checkpoint of blip-vqa")
        return ids[0]

    def yes(self, images: Sequence[Image], questions: Sequence[str]) -> Tensor:
        return self._read(images, questions, lambda logits, _: logits[:, self.answers].softmax(1)[:, 0])

    def says(
        self, images: Sequence[Image], questions: Sequence[str], answers: Sequence[Sequence[str]]
    ) -> Tensor:
        """Over the whole vocabulary, at the decoder's first step. BLIP knows no capitals, and no space before a word.

        Raises:
            ValueError: none of the answers to a question begins with a token of the vocabulary.
        """
        same_length(questions, answers)
        begins = [self._begins(words) for words in answers]

        def sure(logits: Tensor, rows: Sequence[int]) -> Tensor:
            found = logits.softmax(1)
            return torch.stack([found[k, begins[row]].sum() for k, row in enumerate(rows)])

        return self._read(images, questions, sure)

    def _begins(self, words: Sequence[str]) -> list[int]:
        """The first tokens of these answers, each once."""
        ids = [self.tokenizer(word, add_special_tokens=False).input_ids[:1] for word in words]
        known = {id for first in ids for id in first if id != self.tokenizer.unk_token_id}
        if not known:
            raise ValueError(f"answers: BLIP's vocabulary has none of {', '.join(map(repr, words))}")
        return sorted(known)

    def _read(
        self,
        images: Sequence[Image],
        questions: Sequence[str],
        read: Callable[[Tensor, Sequence[int]], Tensor],
    ) -> Tensor:
        """``read`` of the first step's logits (n, vocabulary) to the questions of these rows, (n,) float32."""
        same_length(images, questions)
        ids, answers = self.tokens(questions), torch.zeros(len(questions))

        def some(pictures: list[Image], asked: list[list[int]], rows: list[int]) -> Tensor:
            with torch.inference_mode():
                return read(self.first_step(pictures, asked).float(), rows)

        # Questions of one length together, without padding: transformers 5.23 drops the mask of the decoder's
        # cross-attention (BlipTextAttention never hands it on), so that padding would be read.
        for length in sorted({len(row) for row in ids}):
            rows = [i for i, row in enumerate(ids) if len(row) == length]
            answers[rows] = batched(some, [images[i] for i in rows], [ids[i] for i in rows], rows)
        return answers

    def first_step(self, images: Sequence[Image], ids: Sequence[list[int]]) -> Tensor:
        """Logits of the answer's first word, (n, vocabulary), to questions of one length in tokens."""
        pixels = pixels_for(self.model, self.pictures, images)
        image = self.model.vision_model(pixel_values=pixels, interpolate_pos_encoding=True).last_hidden_state
        # Part by part: BlipForQuestionAnswering.forward makes a mask on the CPU and hides the decoder's logits.
        asked = torch.tensor(ids, device=self.model.device)
        read = self.model.text_encoder(
            input_ids=asked, attention_mask=torch.ones_like(asked), encoder_hidden_states=image
        ).last_hidden_state
        start = torch.full((len(ids), 1), self.begin_answer, device=self.model.device)
        return self.model.text_decoder(input_ids=start, encoder_hidden_states=read).logits[:, 0]

    def tokens(self, questions: Sequence[str]) -> list[list[int]]:
        """Ids of each question as BLIP cleans it: lower case, without some marks ("?" stays), cut, [ENC] first."""
        if not questions:
            return []
        cleaned = [_MARKS.sub("", question.lower()).rstrip() for question in questions]
        read = self.tokenizer(cleaned, truncation=True, max_length=LONGEST).input_ids
        return [[self.begin_question, *row[1:]] for row in read]
