"""The 35 perturbations of texts, a function each; no model and no torch.

    from steadyvlm.perturb import text

    asked = text.typos("What is the man holding?", severity=2)

Every function takes a text and returns one. The draw depends on the text, the level and `seed` only; functions that
draw nothing take `seed` for the sake of one signature. `profile="paper"` gives the released generator where it differs.

`apply_text` does the same by name, also says what became of the text, and takes `Resources`: trained models for the
five levels that want one (to_formal, to_casual, to_passive, to_active, back_trans), word vectors, and settings. These
functions use none, and so rewrite those five and swap_syn_word_emb by rules.

All of a text may change. `perturb_sample` changes the question of a sample and nothing else of its prompt.
"""

from __future__ import annotations

from steadyvlm.perturb.base import Profile
from steadyvlm.perturb.text.apply import apply_text, ingredients
from steadyvlm.perturb.text.guard import Parts, perturb_sample, split_prompt, split_text
from steadyvlm.perturb.text.work import Resources


def ocr(text: str, severity: int = 3, *, seed: int = 0, profile: Profile = "general") -> str:
    """Misread characters as a scanner does (o for u, 8 for B) in 10 to 50 % of the words."""
    return apply_text(text, "ocr", severity, profile=profile, seed=seed).text


def punctuation(text: str, severity: int = 1, *, seed: int = 0, profile: Profile = "general") -> str:
    """Change the mark at the end and put quotation marks or brackets around the sentence."""
    return apply_text(text, "punctuation", severity, profile=profile, seed=seed).text


def typos(text: str, severity: int = 3, *, seed: int = 0, profile: Profile = "general") -> str:
    """Replace, swap, insert or delete one character in 10 to 50 % of the words."""
    return apply_text(text, "typos", severity, profile=profile, seed=seed).text


def keyboard(text: str, severity: int = 3, *, seed: int = 0, profile: Profile = "general") -> str:
    """Hit a neighbouring key once in 10 to 50 % of the words."""
    return apply_text(text, "keyboard", severity, profile=profile, seed=seed).text


def spell_error(text: str, severity: int = 3, *, seed: int = 0, profile: Profile = "general") -> str:
    """Misspell 10 to 50 % of the words as people do."""
    return apply_text(text, "spell_error", severity, profile=profile, seed=seed).text


def random_char_insert(text: str, severity: int = 3, *, seed: int = 0, profile: Profile = "general") -> str:
    """Insert any printable character after 10 to 50 % of the characters."""
    return apply_text(text, "random_char_insert", severity, profile=profile, seed=seed).text


def random_char_replace(text: str, severity: int = 3, *, seed: int = 0, profile: Profile = "general") -> str:
    """Replace 10 to 50 % of the characters by any printable one."""
    return apply_text(text, "random_char_replace", severity, profile=profile, seed=seed).text


def random_char_swap(text: str, severity: int = 3, *, seed: int = 0, profile: Profile = "general") -> str:
    """Exchange 10 to 50 % of the characters with others anywhere."""
    return apply_text(text, "random_char_swap", severity, profile=profile, seed=seed).text


def random_char_delete(text: str, severity: int = 3, *, seed: int = 0, profile: Profile = "general") -> str:
    """Delete 10 to 50 % of the characters."""
    return apply_text(text, "random_char_delete", severity, profile=profile, seed=seed).text


def to_passive(text: str, severity: int = 1, *, seed: int = 0, profile: Profile = "general") -> str:
    """Put an active sentence into the passive voice."""
    return apply_text(text, "to_passive", severity, profile=profile, seed=seed).text


def tense(text: str, severity: int = 1, *, seed: int = 0, profile: Profile = "general") -> str:
    """Put one verb into another form; of long texts one in ten words."""
    return apply_text(text, "tense", severity, profile=profile, seed=seed).text


def to_formal(text: str, severity: int = 1, *, seed: int = 0, profile: Profile = "general") -> str:
    """Say it formally: no contractions, no slang, a capital and a mark."""
    return apply_text(text, "to_formal", severity, profile=profile, seed=seed).text


def to_casual(text: str, severity: int = 1, *, seed: int = 0, profile: Profile = "general") -> str:
    """Say it casually: contractions, everyday words, no capital."""
    return apply_text(text, "to_casual", severity, profile=profile, seed=seed).text


def to_active(text: str, severity: int = 1, *, seed: int = 0, profile: Profile = "general") -> str:
    """Put a passive sentence into the active voice."""
    return apply_text(text, "to_active", severity, profile=profile, seed=seed).text


def double_denial(text: str, severity: int = 1, *, seed: int = 0, profile: Profile = "general") -> str:
    """Say of everything good that it is not bad."""
    return apply_text(text, "double_denial", severity, profile=profile, seed=seed).text


def insert_adv(text: str, severity: int = 1, *, seed: int = 0, profile: Profile = "general") -> str:
    """Put an adverb before every verb."""
    return apply_text(text, "insert_adv", severity, profile=profile, seed=seed).text


def append_irr(text: str, severity: int = 1, *, seed: int = 0, profile: Profile = "general") -> str:
    """Put an empty phrase before the sentence, and a proverb behind a long one."""
    return apply_text(text, "append_irr", severity, profile=profile, seed=seed).text


def random_word_insert(text: str, severity: int = 3, *, seed: int = 0, profile: Profile = "general") -> str:
    """Insert `[UNK]` at random places, for 10 to 50 % of the words."""
    return apply_text(text, "random_word_insert", severity, profile=profile, seed=seed).text


def drop_nn(text: str, severity: int = 1, *, seed: int = 0, profile: Profile = "general") -> str:
    """Replace all nouns by `[UNK]`."""
    return apply_text(text, "drop_nn", severity, profile=profile, seed=seed).text


def drop_rand_one_nn(text: str, severity: int = 1, *, seed: int = 0, profile: Profile = "general") -> str:
    """Replace one noun by `[UNK]`, wherever it stands."""
    return apply_text(text, "drop_rand_one_nn", severity, profile=profile, seed=seed).text


def drop_vb(text: str, severity: int = 1, *, seed: int = 0, profile: Profile = "general") -> str:
    """Replace all verbs by `[UNK]`."""
    return apply_text(text, "drop_vb", severity, profile=profile, seed=seed).text


def drop_vb_nn(text: str, severity: int = 1, *, seed: int = 0, profile: Profile = "general") -> str:
    """Replace all verbs and nouns by `[UNK]`."""
    return apply_text(text, "drop_vb_nn", severity, profile=profile, seed=seed).text


def only_nn(text: str, severity: int = 1, *, seed: int = 0, profile: Profile = "general") -> str:
    """Replace all but the nouns by `[UNK]`."""
    return apply_text(text, "only_nn", severity, profile=profile, seed=seed).text


def only_vb(text: str, severity: int = 1, *, seed: int = 0, profile: Profile = "general") -> str:
    """Replace all but the verbs by `[UNK]`."""
    return apply_text(text, "only_vb", severity, profile=profile, seed=seed).text


def only_vb_nn(text: str, severity: int = 1, *, seed: int = 0, profile: Profile = "general") -> str:
    """Replace all but verbs and nouns by `[UNK]`."""
    return apply_text(text, "only_vb_nn", severity, profile=profile, seed=seed).text


def drop_rand_one_vb(text: str, severity: int = 1, *, seed: int = 0, profile: Profile = "general") -> str:
    """Replace one verb by `[UNK]`, wherever it stands."""
    return apply_text(text, "drop_rand_one_vb", severity, profile=profile, seed=seed).text


def drop_first(text: str, severity: int = 1, *, seed: int = 0, profile: Profile = "general") -> str:
    """Replace the first word by `[UNK]`."""
    return apply_text(text, "drop_first", severity, profile=profile, seed=seed).text


def drop_last(text: str, severity: int = 1, *, seed: int = 0, profile: Profile = "general") -> str:
    """Replace the last word, with its mark, by `[UNK]`."""
    return apply_text(text, "drop_last", severity, profile=profile, seed=seed).text


def drop_first_and_last(text: str, severity: int = 1, *, seed: int = 0, profile: Profile = "general") -> str:
    """Replace the first and the last word by `[UNK]`."""
    return apply_text(text, "drop_first_and_last", severity, profile=profile, seed=seed).text


def shuffle_order(text: str, severity: int = 1, *, seed: int = 0, profile: Profile = "general") -> str:
    """Put the words into a random order."""
    return apply_text(text, "shuffle_order", severity, profile=profile, seed=seed).text


def random_word_delete(text: str, severity: int = 3, *, seed: int = 0, profile: Profile = "general") -> str:
    """Delete 10 to 50 % of the words."""
    return apply_text(text, "random_word_delete", severity, profile=profile, seed=seed).text


def swap_syn_word_emb(text: str, severity: int = 3, *, seed: int = 0, profile: Profile = "general") -> str:
    """Replace 10 to 50 % of the words by neighbours among word vectors, or by words of the same sort."""
    return apply_text(text, "swap_syn_word_emb", severity, profile=profile, seed=seed).text


def swap_syn_word_net(text: str, severity: int = 3, *, seed: int = 0, profile: Profile = "general") -> str:
    """Replace 10 to 50 % of the words by synonyms."""
    return apply_text(text, "swap_syn_word_net", severity, profile=profile, seed=seed).text


def back_trans(text: str, severity: int = 1, *, seed: int = 0, profile: Profile = "general") -> str:
    """Paraphrase: translate to another language and back, or by rules."""
    return apply_text(text, "back_trans", severity, profile=profile, seed=seed).text


def random_word_swap(text: str, severity: int = 3, *, seed: int = 0, profile: Profile = "general") -> str:
    """Exchange two words, for 10 to 50 % of the words."""
    return apply_text(text, "random_word_swap", severity, profile=profile, seed=seed).text


__all__ = [
    "ocr",
    "punctuation",
    "typos",
    "keyboard",
    "spell_error",
    "random_char_insert",
    "random_char_replace",
    "random_char_swap",
    "random_char_delete",
    "to_passive",
    "tense",
    "to_formal",
    "to_casual",
    "to_active",
    "double_denial",
    "insert_adv",
    "append_irr",
    "random_word_insert",
    "drop_nn",
    "drop_rand_one_nn",
    "drop_vb",
    "drop_vb_nn",
    "only_nn",
    "only_vb",
    "only_vb_nn",
    "drop_rand_one_vb",
    "drop_first",
    "drop_last",
    "drop_first_and_last",
    "shuffle_order",
    "random_word_delete",
    "swap_syn_word_emb",
    "swap_syn_word_net",
    "back_trans",
    "random_word_swap",
    "Parts",
    "Resources",
    "apply_text",
    "ingredients",
    "perturb_sample",
    "split_prompt",
    "split_text",
]
