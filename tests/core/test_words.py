from penstock.core.words import divisors, nearest, suggest


def test_nearest_ignores_case_and_dashes() -> None:
    assert nearest("Micro-Batchs", ["micro_batches", "model"]) == "micro_batches"
    assert nearest("zzz", ["steps"]) == ""
    assert nearest("steps", []) == ""


def test_suggest_gives_one_name_or_all() -> None:
    assert suggest("stps", ["steps", "seed"]) == "did you mean 'steps'?"
    assert suggest("zzz", ["steps", "seed"]) == "choose from steps, seed"
    assert suggest("zzz", []) == "there is none to choose from"


def test_divisors_are_all_or_the_closest() -> None:
    assert divisors(6) == "1, 2, 3, 6"
    assert divisors(96, near=10) == "4, 6, 8, 12"
    assert divisors(7, near=3) == "1, 7"
