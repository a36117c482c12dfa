"""Text features from texts whose overlap can be counted by hand."""

import pytest

from analysis.texts import prompt_text, text_features, words


def test_words_are_lower_case_and_keep_punctuation() -> None:
    assert words("It's 3.5 m, OK?") == ["it", "'", "s", "3", ".", "5", "m", ",", "ok", "?"]
    assert words(" \n") == []


def test_features_count_what_two_texts_share() -> None:
    found = text_features("a b c d", "a c b")
    assert found["words_chosen"] == 4 and found["words_rejected"] == 3
    assert found["length_difference"] == 1
    assert found["overlap"] == pytest.approx(6 / 7)  # order does not count
    assert found["edit_similarity"] == pytest.approx(4 / 7)  # "a b" or "a c" in order
    assert text_features("a a b", "a c")["overlap"] == pytest.approx(2 / 5)  # bags, not sets


def test_ends_of_the_scale() -> None:
    same, apart, empty = (text_features(*t) for t in (("x y", "X y"), ("x", "y"), ("", "")))
    assert same["overlap"] == same["edit_similarity"] == 1
    assert apart["overlap"] == apart["edit_similarity"] == 0
    assert empty["overlap"] == empty["edit_similarity"] == 1 and empty["length_difference"] == 0


def test_prompts_name_roles_only_where_there_are_several() -> None:
    one = {"role": "user", "content": "hello"}
    assert prompt_text([one]) == "hello"
    assert prompt_text([{"role": "system", "content": "be"}, one]) == "system: be\n\nuser: hello"
