"""BLIP and BLIP-2: yes or no, matching and contrast, against the raw output of transformers' classes."""

import pytest
import torch
from transformers import BlipForQuestionAnswering

from trueline.perception import Answerer, Matcher, load
from trueline.perception.blip2 import Blip, Blip2
from trueline.perception.blip_vqa import BlipVqa

TEXTS = ["a red apple", "the blue car and the cat", "a dog"]


@pytest.fixture(scope="module")
def vqa(vqa_folder):
    return BlipVqa(vqa_folder, side=48)


def test_yes_against_no_at_the_first_step(vqa, vqa_folder, pictures):
    """With transformers' own forward pass as the witness: its loss on a label is -log P(that word)."""
    assert isinstance(vqa, Answerer)
    yes, no = (vqa.tokenizer.vocab[word] for word in ("yes", "no"))
    assert vqa.answers == [yes, no]
    net = BlipForQuestionAnswering.from_pretrained(vqa_folder).eval()
    for picture, text, got in zip(pictures, TEXTS, vqa.yes(pictures, [f"{t}?" for t in TEXTS]), strict=True):
        pixels = vqa.pictures([picture], return_tensors="pt").pixel_values
        assert pixels.shape == (1, 3, 48, 48)
        ids = vqa.tokenizer([f"{text}?"], return_tensors="pt").input_ids
        ids[:, 0] = net.config.text_config.bos_token_id + 1  # [ENC]
        with torch.no_grad():
            seen = net.vision_model(pixels, interpolate_pos_encoding=True).last_hidden_state
            read = net.text_encoder(ids, encoder_hidden_states=seen).last_hidden_state
            begin = torch.tensor([[net.config.text_config.bos_token_id]])
            logits = net.text_decoder(begin, encoder_hidden_states=read).logits[0, 0]
        p = logits.softmax(0)
        assert float(got) == pytest.approx(float(p[yes] / (p[yes] + p[no])), abs=1e-5)
        assert 0.001 < float(got) < 0.999


def test_an_answer_is_as_sure_as_its_first_tokens_together(vqa, pictures):
    """Of the whole vocabulary; a token that several spellings begin with counts once."""
    answers = [["Yes", "yes", " yes"], ["red", "cat"], ["no"]]
    asked = ["a cat?", "what is it?", "the red apple and the blue car?"]
    found = vqa.says(pictures, asked, answers)
    for picture, question, words, got in zip(pictures, asked, answers, found, strict=True):
        logits = vqa.first_step([picture], vqa.tokens([question]))[0].detach()
        ids = {vqa.tokenizer.vocab[word.strip().lower()] for word in words}
        assert float(got) == pytest.approx(sum(float(logits.softmax(0)[i]) for i in ids), abs=1e-6)
    assert len({vqa.tokenizer.vocab[word] for word in ("red", "cat")}) == 2
    both = vqa.says(pictures[:1] * 2, ["a cat?"] * 2, [["yes"], ["no"]])
    torch.testing.assert_close(both[0] / both.sum(), vqa.yes(pictures[:1], ["a cat?"])[0])
    assert vqa.says([], [], []).shape == (0,)
    with pytest.raises(ValueError, match="answers: BLIP's vocabulary has none of 'zyx'"):
        vqa.says(pictures[:1], ["a cat?"], [["zyx"]])
    with pytest.raises(ValueError):
        vqa.says(pictures[:1], ["a cat?"], [])


def test_the_answer_agrees_with_transformers_generate(vqa, pictures):
    """The first word that ``generate`` would say is the greatest of our first step, given the same question."""
    ids = torch.tensor(vqa.tokens(["a red apple?"]))
    pixels = vqa.pictures(pictures[:1], return_tensors="pt").pixel_values
    said = vqa.model.generate(ids, pixels, interpolate_pos_encoding=True, max_new_tokens=1, do_sample=False)
    with torch.no_grad():
        assert said[0, 1] == vqa.first_step(pictures[:1], ids.tolist())[0].argmax()


def test_a_question_does_not_depend_on_longer_ones_beside_it(vqa, pictures):
    alone = vqa.yes(pictures[:1], ["a cat?"])
    beside = vqa.yes(pictures[:2], ["a cat?", "the red apple and the blue car and the dog?"])
    torch.testing.assert_close(beside[:1], alone, atol=1e-5, rtol=0)


def test_questions_are_cleaned_and_cut_as_blip_does(vqa):
    short, long = vqa.tokens(["A (Red) apple!?", " ".join(["cat"] * 60)])
    assert vqa.tokenizer.convert_ids_to_tokens(short[1:]) == ["a", "red", "apple", "?", "[SEP]"]
    assert len(long) == 35 and long[-1] == vqa.tokenizer.sep_token_id
    assert short[0] == long[0] == vqa.begin_question
    assert vqa.yes([], []).shape == (0,)


def test_the_default_is_480_pixels(vqa_folder):
    assert "480 x 480" in load(f"blip-vqa={vqa_folder}").protocol


@pytest.mark.parametrize("head", ["itc", "itm"])
def test_blip2_heads(head, blip2_folder, pictures):
    matcher = Blip2(blip2_folder, head=head)
    assert isinstance(matcher, Matcher) and matcher.name == f"blip2-{head}"
    net, scores = matcher.model, matcher.match(pictures, TEXTS)
    for picture, text, got in zip(pictures, TEXTS, scores, strict=True):
        pixels = matcher.pictures([picture], return_tensors="pt").pixel_values
        words = matcher.tokenizer([text], return_tensors="pt")
        with torch.no_grad():
            seen = net.vision_model(pixels).last_hidden_state
            if head == "itc":  # greatest cosine of a query with the text's first token
                queries = net.qformer(query_embeds=net.query_tokens, encoder_hidden_states=seen)[0]
                image = net.vision_projection(queries)[0]
                read = net.qformer(
                    query_embeds=net.embeddings(input_ids=words.input_ids),
                    query_length=0,
                    attention_mask=words.attention_mask,
                )[0]
                wanted = torch.cosine_similarity(image, net.text_projection(read[:, 0])).max()
            else:  # mean over queries of the two logits, then softmax
                joint = net.embeddings(input_ids=words.input_ids, query_embeds=net.query_tokens)
                mask = torch.ones(1, 4 + words.input_ids.shape[1])
                out = net.qformer(
                    query_embeds=joint, query_length=4, attention_mask=mask, encoder_hidden_states=seen
                )[0]
                no, yes = net.itm_head(out[0, :4]).mean(0)
                wanted = yes.exp() / (yes.exp() + no.exp())
        assert float(got) == pytest.approx(float(wanted), abs=1e-5)
    assert float(scores.max() - scores.min()) > 1e-3


def test_blip2_with_place_holders_for_its_queries_scores_the_same(blip2_folder, pictures):
    for head in ("itc", "itm"):
        matcher = Blip2(blip2_folder, head=head)
        before = matcher.match(pictures, TEXTS)
        matcher.model.config.image_token_index = 5  # as in the checkpoints of newer transformers
        assert matcher.tokens(TEXTS)[0].shape[1] == 4 + len(matcher.tokenizer(TEXTS[1]).input_ids)
        torch.testing.assert_close(matcher.match(pictures, TEXTS), before, atol=1e-5, rtol=0)


def test_blip2_precision(blip2_folder, pictures):
    with pytest.raises(ValueError, match="not stable in float16"):
        Blip2(blip2_folder, dtype="float16")
    exact = load(f"blip2-itc={blip2_folder}").match(pictures, TEXTS)
    half = load(f"blip2-itc={blip2_folder}", dtype="bfloat16").match(pictures, TEXTS)
    assert half.dtype is torch.float32
    torch.testing.assert_close(half, exact, atol=0.05, rtol=0)


@pytest.mark.parametrize("head", ["itc", "itm"])
def test_blip_heads_agree_with_transformers(head, blip_folder, pictures):
    matcher = load(f"blip-{head}={blip_folder}")
    assert isinstance(matcher, Blip) and matcher.name == f"blip-{head}"
    for picture, text, got in zip(pictures, TEXTS, matcher.match(pictures, TEXTS), strict=True):
        pixels = matcher.pictures([picture], return_tensors="pt").pixel_values
        words = matcher.tokenizer([text], return_tensors="pt")
        with torch.no_grad():
            raw = matcher.model(words.input_ids, pixels, use_itm_head=head == "itm").itm_score[0]
        wanted = raw[1].exp() / raw.exp().sum() if head == "itm" else raw[0]
        assert float(got) == pytest.approx(float(wanted), abs=1e-5)


def test_no_pairs_no_scores(blip2_folder):
    assert Blip2(blip2_folder).match([], []).shape == (0,)
