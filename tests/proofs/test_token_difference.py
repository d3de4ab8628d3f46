"""Every kind of difference between two tools' tokens is told apart, on rows small enough to read."""

from __future__ import annotations

from ftcli.proofs.token_difference import Difference, Rules, TokenRow, differences

BLANK, END, BOS = 90, 91, 92
RULES = Rules(limit=None, is_blank=lambda token: token == BLANK)
ANSWER = [1, 2, 3, 4, 5, 6, 7, 8, END, BLANK]
TRAINED = [0, 0, 0, 0, 1, 1, 1, 1, 1, 0]


def row(ids: list[int], trained: list[int], name: str = "") -> TokenRow:
    return TokenRow.of({"sequences": {name: {"ids": ids, "trained": [bool(each) for each in trained]}}})


OURS = row(ANSWER, TRAINED)


def kinds(theirs: TokenRow, rules: Rules = RULES, ours: TokenRow = OURS) -> list[str]:
    return [each.kind for each in differences(ours, theirs, rules)]


def test_the_same_tokens_and_the_same_mask_are_no_difference():
    assert kinds(row(ANSWER, TRAINED)) == []


def test_the_first_token_never_counts_as_trained_since_nothing_predicts_it():
    assert kinds(row(ANSWER, [1, *TRAINED[1:]])) == []
    assert row(ANSWER, [1] * 10).num_trained == 9


def test_a_trained_line_break_after_the_answer_is_only_white_space():
    assert differences(OURS, row(ANSWER, [*TRAINED[:-1], 1]), RULES) == [Difference("blank", "", 9, 9)]


def test_a_trained_prompt_is_another_mask():
    assert differences(OURS, row(ANSWER, [0, 0, 0, 1, 1, 1, 1, 1, 1, 0]), RULES) == [Difference("mask", "", 3, 3)]


def test_white_space_that_is_trained_with_other_tokens_is_no_kind_of_its_own():
    assert kinds(row(ANSWER, [0, 1, 1, 1, 1, 1, 1, 1, 1, 1])) == ["mask"]


def test_without_masks_only_tokens_are_compared():
    assert kinds(row(ANSWER, [1] * 10), Rules(limit=None, is_blank=RULES.is_blank, masks=False)) == []


def test_one_token_more_at_the_beginning_is_another_beginning_and_no_other_mask():
    assert kinds(row([BOS, *ANSWER], [0, *TRAINED])) == ["beginning"]


def test_a_missing_line_break_is_only_white_space():
    assert differences(OURS, row(ANSWER[:-1], TRAINED[:-1]), RULES) == [Difference("blank", "", 9, 9)]


def test_a_missing_end_token_is_another_end():
    assert differences(OURS, row(ANSWER[:-2], TRAINED[:-2]), RULES) == [Difference("end", "", 8, 8)]


def test_another_word_in_the_middle_is_the_template_wherever_the_rest_stands():
    # Four tokens of a system turn that only the other tool writes: 1 2 | 50 51 52 53 | 3 4 …
    theirs = row([1, 2, 50, 51, 52, 53, *ANSWER[2:]], [0, 0, 0, 0, 0, 0, *TRAINED[2:]])
    assert differences(OURS, theirs, RULES) == [Difference("template", "", 2, 2)]


def test_a_mask_that_differs_beside_the_template_is_told_where_the_tokens_are_surely_the_same():
    # Eight equal tokens behind what differs; the two before it might be alike by chance.
    theirs = row([1, 2, 50, 51, *ANSWER[2:]], [0, 1, 0, 0, 0, 1, *TRAINED[4:]])
    assert differences(OURS, theirs, RULES) == [Difference("template", "", 2, 2), Difference("mask", "", 3, 5)]


def test_a_row_at_the_limit_in_one_tool_is_cut_differently():
    rules = Rules(limit=8, is_blank=RULES.is_blank)
    assert kinds(row(ANSWER[:8], TRAINED[:8]), rules, row(ANSWER[:6], TRAINED[:6])) == ["cut"]
    assert kinds(row(ANSWER[:8], TRAINED[:8]), rules, row(ANSWER[:8], TRAINED[:8])) == []


def test_a_row_that_only_one_of_them_leaves_out_is_named_and_one_that_both_leave_out_is_the_same():
    out = TokenRow.of({"dropped": "it is too long"})
    assert kinds(out) == ["dropped"]
    assert kinds(out, ours=out) == []


def test_a_row_of_other_sequences_is_another_number_of_examples():
    assert kinds(row(ANSWER, TRAINED, "part 1")) == ["examples"]


def test_the_longer_rows_are_compared_in_no_time_however_they_repeat():
    many = [1, 2] * 4000
    assert kinds(row([7, *many[::-1]], [0] * 8001), ours=row([8, *many], [0] * 8001)) == ["template"]
