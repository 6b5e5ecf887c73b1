import copy
import json
import pickle
import re
from contextlib import suppress

import pytest
from helpers import IMAGE_STRATEGIES, VECTOR_STRATEGIES, rejects
from pydantic import ValidationError

from lagvae_core.config.recipe import RECIPES
from lagvae_core.config.trial import TrialConfig, complete_stored, data_warnings, format_run_id, parse_trial
from lagvae_core.config.validation import issues_of
from lagvae_core.errors import MISSING, ConfigError
from lagvae_core.strategies import CATALOGUE

TEXT = {"data": {"kind": "text", "path": "somewhere", "partition": "fixed_random"}}
IMAGES = {"data": {"kind": "images", "path": "images.npz"}}
VECTORS = {"data": {"kind": "vectors", "path": "vectors.npz"}}

PYDANTIC_WORDS = re.compile(r"(?i)input|a valid|unable|_type|dictionary|instance|should")
"""Words of pydantic's own messages."""


def issues(values):
    """Return the issues of a configuration by key."""
    with pytest.raises(ConfigError) as caught:
        parse_trial(values)
    by_key = {issue.where: issue for issue in caught.value.issues}
    assert len(by_key) == len(caught.value.issues), "several issues about one value"
    return by_key


def stack_issues(*strategies, **sections):
    """Return the issues of a stack; all of them must be about the stack."""
    with pytest.raises(ConfigError) as caught:
        parse_trial({"strategies": list(strategies), **sections})
    assert {issue.where for issue in caught.value.issues} == {"strategies"}
    return caught.value.issues


def codes(issues):
    return [issue.code for issue in issues]


# --- objects of subclasses -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("section", ["data", "model", "strategies[1]", "training", "evaluation"])
def test_an_object_of_a_subclass_is_rejected(section):
    """Its runs would have the identity of the parent's."""
    plain = parse_trial({"strategies": ["mae", "beta_vae"]})
    name, _, position = section.partition("[")
    part = getattr(plain, name)
    part = part[1] if position else part
    changed = type("Changed", (type(part),), {})()
    values = {name: (plain.strategies[0], changed) if position else changed}
    with rejects(section) as found:
        parse_trial(values)
    assert found[0].value == "Changed"
    assert type(part).__name__ in found[0].message
    assert parse_trial({name: getattr(plain, name)}).config_id("x")


# --- defaults --------------------------------------------------------------------------------------------------------


def test_defaults_for_images():
    config = parse_trial(IMAGES)
    training = config.training
    assert (config.model.kind, config.model.latent_dim, config.model.variant) == ("resnet_pixelcnn", 32, "v2")
    assert (training.optimiser, training.learning_rate, training.batch_size) == ("adam", 1e-3, 50)
    assert (training.decay_patience, training.decay_min_epoch, training.decay_reference) == (20, 0, "best")
    assert (training.max_decays, training.epochs, training.clip_norm) == (5, 1000, 5.0)
    assert config.evaluation.mi_batch_size == 50
    assert parse_trial({}).training.decay_reference == parse_trial(TEXT).training.decay_reference == "last"


@pytest.mark.parametrize(
    ("values", "where", "value"),
    [
        ({**IMAGES, "model": {"kind": "lstm"}}, "model.kind", "lstm"),
        ({"model": {"kind": "resnet_pixelcnn"}}, "model.kind", "resnet_pixelcnn"),
        ({**IMAGES, "model": {"kernels": [7, 4]}}, "model.kernels[1]", 4),
        ({**IMAGES, "model": {"kernels": []}}, "model.kernels", []),
        ({**IMAGES, "model": {"variant": "v3"}}, "model.variant", "v3"),
        ({"data": {"kind": "image"}, "model": {"latent_dim": 3}}, "data.kind", "image"),
    ],
)
def test_issues_about_images(values, where, value):
    with rejects(where) as found:
        parse_trial(values)
    assert found[0].value == value


def test_a_model_of_another_kind_of_data_is_rejected_with_the_kinds_that_it_models():
    with rejects("model.kind") as found:
        parse_trial({"model": {"kind": "resnet_pixelcnn"}})
    assert "synthetic" in found[0].message
    assert "images" in found[0].hint


def test_defaults_for_synthetic_data():
    config = parse_trial({})
    assert config == parse_trial({"data": {"kind": "synthetic"}}) == parse_trial({"data": {}}) == TrialConfig()
    assert (config.model.latent_dim, config.model.hidden, config.model.embedding) == (1, 50, 50)
    training = config.training
    assert (training.batch_size, training.epochs, training.decay_min_epoch) == (16, 50, 0)


def test_defaults_for_text():
    config = parse_trial(TEXT)
    assert (config.model.latent_dim, config.model.hidden, config.model.embedding) == (32, 1024, 512)
    training = config.training
    assert (training.batch_size, training.epochs, training.decay_min_epoch) == (32, 100, 15)
    assert (training.optimiser, training.learning_rate, training.clip_norm) == ("sgd", 1.0, 5.0)
    assert (training.decay_factor, training.decay_patience, training.max_decays) == (0.5, 2, 5)
    assert (config.evaluation.iw_samples, config.evaluation.mi_batch_size) == (500, 32)


@pytest.mark.parametrize("kind", RECIPES)
def test_given_values_replace_only_their_defaults(kind):
    required = {"text": {"path": "somewhere"}, "reinflection": {"path": "somewhere", "language": "turkish"}}
    data = {"kind": kind, **(required | {kind: {"path": "x.npz"} for kind in ("images", "vectors")}).get(kind, {})}
    config = parse_trial({"data": data, "model": {"latent_dim": 8}, "training": {"epochs": 3}})
    assert (config.model.latent_dim, config.training.epochs) == (8, 3)
    assert config.model.kind == RECIPES[kind]["model"]["kind"]
    assert config.training.batch_size == RECIPES[kind]["training"]["batch_size"]


def test_the_bare_name_of_a_strategy_means_its_defaults():
    short = parse_trial({"strategies": ["aggressive", "kl_linear_epoch"]})
    long = parse_trial({"strategies": [{"kind": "aggressive"}, {"kind": "kl_linear_epoch"}]})
    assert short == long
    assert [strategy.kind for strategy in short.strategies] == ["aggressive", "kl_linear_epoch"]


def test_a_configuration_is_immutable():
    config = parse_trial({})
    with pytest.raises(ValidationError, match="frozen"):
        config.seed = 3


# --- round trips and identity ----------------------------------------------------------------------------------------

STACKS = [[kind] for kind in CATALOGUE] + [[], ["aggressive", "kl_linear_epoch"], ["encoder_lr", "scale_vae"]]


def valid_configurations():
    """Yield every stack on every kind of data on which it is valid."""
    for data in ({}, TEXT, IMAGES, VECTORS):
        for stack in STACKS:
            with suppress(ConfigError):
                yield parse_trial({**data, "strategies": stack, "seed": 7})


VALID = list(valid_configurations())


def name_of(config):
    return f"{config.data.kind}-{'+'.join(strategy.kind for strategy in config.strategies)}"


def test_every_strategy_is_valid_on_some_kind_of_data():
    assert {config.strategies[0].kind for config in VALID if config.strategies} == set(CATALOGUE)


@pytest.mark.parametrize("config", VALID, ids=name_of)
def test_a_configuration_survives_json_and_pickle(config):
    for again in (
        TrialConfig.model_validate_json(config.model_dump_json()),
        parse_trial(json.loads(config.model_dump_json())),
        pickle.loads(pickle.dumps(config)),
    ):
        assert again == config
        assert again.canonical() == config.canonical()
        assert again.run_id("data") == config.run_id("data")


def test_the_json_contains_the_defaults_of_its_time(monkeypatch):
    written = parse_trial(TEXT).model_dump_json()
    monkeypatch.setitem(RECIPES["text"]["model"], "hidden", 3)
    monkeypatch.setitem(RECIPES["text"]["training"], "epochs", 3)
    again = TrialConfig.model_validate_json(written)
    assert (again.model.hidden, again.training.epochs) == (1024, 100)


def leaves(values, path=()):
    """Yield the path of every value that is neither a mapping nor a list of mappings."""
    if isinstance(values, dict):
        for key, item in values.items():
            yield from leaves(item, (*path, key))
    elif isinstance(values, list) and values and isinstance(values[0], dict):
        for number, item in enumerate(values):
            yield from leaves(item, (*path, number))
    else:
        yield path


def replaced(values, path, value):
    values = copy.deepcopy(values)
    inner = values
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return values


WORDS = ("adam", "per_module", "valid", "text", "image", "paper", "kim", "pooled", "valid", "start", "no", "elsewhere")
WORDS += ("total_batch", "cosine", "softplus", "ar1")
WORDS += ("resplit_random", "padded", "zero", "row", "hidden", "encoder")
WORDS += ("features", "batch", "learned")
WORDS += ("autograd", "reference", "notoken", "scnn", "add", "output", "target", "imq", "bernoulli", "kl", "step")
WORDS += ("sgd", "last", "best", "fixed", "fixed_random", "reduced", "gated13", "grey", "fresh", "drop")
CANDIDATES = (True, False, 3, 9, 0.37, 1, 40, 0.99, 0.01, *WORDS, [0.8, 0.9], [1, 2], [1, 3], {"kind": "lstm"}, "model")
CANDIDATES += (["a"],)

HELD = {("model", "border"), ("model", "likelihood"), ("model", "degrees"), ("model", "totals")}
"""Fields with one valid value in these configurations; other tests change them."""


def valid_changes(values, path, config):
    """Yield valid configurations that differ from `config` only in the value at `path`."""
    for candidate in CANDIDATES:
        try:
            changed = parse_trial(replaced(values, path, candidate))
        except ConfigError:
            continue
        if changed != config:
            yield changed
    if path[0] == "strategies" and len(path) == 3:
        yield from changes_of_strategy(path[1], path[2], config)


def changes_of_strategy(number, field, config):
    """Yield configurations with a value that is valid for the strategy, even if the stack or its mode rejects it."""
    one = config.strategies[number]
    for candidate in CANDIDATES:
        try:
            other = type(one).model_validate({**one.model_dump(), field: candidate})
        except ValidationError:
            continue
        if other != one:
            stack = [*config.strategies[:number], other, *config.strategies[number + 1 :]]
            yield config.model_copy(update={"strategies": tuple(stack)})


@pytest.mark.parametrize("config", VALID, ids=name_of)
def test_every_value_except_the_seed_and_the_path_is_part_of_the_identity(config):
    values = config.model_dump(mode="json")
    paths = list(leaves(values))
    assert len(paths) > 30
    for path in paths:
        if path[-1] == "kind":
            continue
        if path in HELD:
            continue
        changed = next(valid_changes(values, path, config), None)
        if path == ("strategies",):  # an empty stack has no value to change
            continue
        assert changed is not None, f"add a valid value of {path} to CANDIDATES"
        same = changed.config_id("data") == config.config_id("data")
        assert same == (path in {("seed",), ("data", "path")}), path
        assert (changed.run_id("data") == config.run_id("data")) == (path == ("data", "path")), path


@pytest.mark.parametrize(
    ("model", "change"),
    [
        ({"likelihood": "student_t"}, {"degrees": 3.0}),
        ({"likelihood": "poisson"}, {"totals": "observed"}),
        ({"likelihood": "poisson"}, {"likelihood": "multinomial"}),
    ],
)
def test_the_likelihood_of_vectors_is_part_of_the_identity(model, change):
    one, other = (parse_trial({**VECTORS, "model": fields}) for fields in (model, model | change))
    assert one.config_id("data") != other.config_id("data")


def test_the_border_of_gated12_kim_is_part_of_the_identity():
    ids = {
        parse_trial(
            {
                "data": {"kind": "images", "path": "images.npz"},
                "model": {"kind": "resnet_pixelcnn", "variant": "gated12_kim", "border": border},
            }
        ).config_id("data")
        for border in ("bias", "zero")
    }
    assert len(ids) == 2


def test_the_stack_its_order_and_the_data_are_part_of_the_identity():
    ids = [
        parse_trial({"strategies": stack}).config_id(fingerprint)
        for stack in ([], ["aggressive"], ["aggressive", "encoder_lr"], ["encoder_lr", "aggressive"])
        for fingerprint in ("one", "other")
    ]
    assert len(set(ids)) == len(ids)


def test_a_stored_scale_vae_of_0_1_0_keeps_its_start_and_its_identity():
    stored = parse_trial({"strategies": [{"kind": "scale_vae", "start": "model"}]})
    values = stored.model_dump(mode="json")
    del values["strategies"][0]["start"]
    assert parse_trial(complete_stored(values)) == stored
    assert "start" not in json.loads(stored.canonical())["strategies"][0]
    assert parse_trial({"strategies": ["scale_vae"]}).config_id("") != stored.config_id("")


def test_a_config_id_has_twelve_digits_and_a_run_id_adds_the_seed():
    config = parse_trial({"seed": 42})
    assert re.fullmatch(r"[0-9a-f]{12}", config.config_id("data"))
    assert config.run_id("data") == f"{config.config_id('data')}-42" == format_run_id(config.config_id("data"), 42)


def test_the_spelling_of_numbers_does_not_change_the_identity():
    one = parse_trial({"training": {"learning_rate": 1, "clip_norm": 5}})
    other = parse_trial({"training": {"learning_rate": 1.0, "clip_norm": "5e0"}})
    assert one.config_id("data") == other.config_id("data") == parse_trial({}).config_id("data")


# --- issues ----------------------------------------------------------------------------------------------------------


def test_all_issues_are_reported_at_once():
    found = issues(
        {
            "training": {
                "epochss": 3,
                "learning_rate": -1,
                "batch_size": "many",
                "momentum": 1.5,
                "optimiser": "rmsprop",
                "clip_norm": float("inf"),
                "epochs": 2.5,
                "reload_best_on_decay": "perhaps",
                "adam_betas": [0.9, 1.0],
            },
            "model": {"hidden": 0},
            "strategies": ["agressive", {"kind": "beta_vae", "beta": "much"}],
            "seed": -1,
        }
    )
    assert {key: issue.value for key, issue in found.items()} == {
        "training.epochss": MISSING,
        "training.learning_rate": -1,
        "training.batch_size": "many",
        "training.momentum": 1.5,
        "training.optimiser": "rmsprop",
        "training.clip_norm": float("inf"),
        "training.epochs": 2.5,
        "training.reload_best_on_decay": "perhaps",
        "training.adam_betas[1]": 1.0,
        "model.hidden": 0,
        "strategies[0].kind": "agressive",
        "strategies[1].beta": "much",
        "seed": -1,
    }
    for bound, key in {"0": "training.learning_rate", "1": "training.momentum"}.items():
        assert bound in found[key].message
    for choice in ("sgd", "adam"):
        assert choice in found["training.optimiser"].message
    for kind in CATALOGUE:
        assert kind in found["strategies[0].kind"].hint
    assert "epochs" in found["training.epochss"].hint
    assert "aggressive" in found["strategies[0].kind"].hint


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"training": {"momentum": 2}},
            "training.momentum: must be less than 1, got 2. (Momentum of SGD; default 0.0.)",
        ),
        (
            {"trainin": 3},
            "trainin: unknown key. Did you mean training? "
            "Known keys: data, model, strategies, training, evaluation, seed.",
        ),
        (
            {"data": {"kind": "text"}},
            "data.path: is required but missing. "
            "(Folder with a .txt, .csv, .tsv, .jsonl or .parquet file for each of train, valid and test.)",
        ),
        (
            {"data": {"kind": "sythetic"}},
            "data.kind: unknown kind, got 'sythetic'. Did you mean synthetic? "
            "Known kinds: synthetic, text, reinflection, images, vectors, linear_gaussian.",
        ),
    ],
)
def test_golden_messages(values, message):
    with pytest.raises(ConfigError) as caught:
        parse_trial(values)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("values", "where", "value", "in_hint"),
    [
        ({"data": {"kind": None}}, "data.kind", None, ""),
        ({"strategies": [{"beta": 3}]}, "strategies[0]", {"beta": 3}, "aggressive"),
        ({"strategies": "aggressive"}, "strategies", "aggressive", "default ()"),
        ({"strategies": [{"kind": "beta_vae", "bta": 3}]}, "strategies[0].bta", MISSING, "beta?"),
        ({"training": {"epochs": None}}, "training.epochs", None, "default 50 for synthetic, 100 for text"),
        ({"data": {"kind": "text", "path": ""}}, "data.path", "", ".parquet"),
        ({"training": 3}, "training", 3, "default TrainingConfig"),
        ({"training": {"adam_betas": [0.1] * 3}}, "training.adam_betas", [0.1] * 3, "default (0.9, 0.999)"),
        ([], "the file", [], ""),
    ],
)
def test_an_issue_carries_the_key_the_value_and_a_hint(values, where, value, in_hint):
    with rejects(where) as found:
        parse_trial(values)
    assert found[0].value == value
    assert in_hint in found[0].hint


def test_a_value_that_fits_no_member_of_a_union_is_one_issue():
    with rejects("strategies[0].budget") as found:
        parse_trial({"strategies": [{"kind": "aggressive", "budget": "converg"}]})
    assert found[0].message == "must be 'converge' or an integer"


WRONG_VALUES = (
    *(None, True, -1, 0, 2.5, 10**30, float("nan"), "x", "", [], [1], [[]], {}, {"kind": "x"}),
    *({"a": {"b": 1}}, {1: 2}),
)


def test_no_message_contains_the_words_of_pydantic():
    for stack in (["aggressive", "kl_linear_epoch", "encoder_lr"], ["beta_vae", "scale_vae"]):
        for data in ({}, TEXT):
            values = parse_trial({**data, "strategies": stack}).model_dump(mode="json")
            paths = {path[:cut] for path in leaves(values) for cut in range(1, len(path) + 1)}
            for path in sorted(paths, key=str):
                for value in WRONG_VALUES:
                    try:
                        parse_trial(replaced(values, path, value))
                    except ConfigError as error:
                        for issue in error.issues:
                            assert re.fullmatch(r"[\w.\[\]]+|the file", issue.where), issue
                            assert issue.message, issue
                            assert not issue.message.endswith("."), issue
                            assert issue.hint == "" or issue.hint[-1] in ".?)", issue
                            assert issue.code or not PYDANTIC_WORDS.search(issue.message), issue
                            assert not re.search(r"pydantic|https?:", str(issue)), issue


def test_the_source_precedes_the_issues():
    with pytest.raises(ConfigError, match=r"^sweep\.yaml: seed: .*'x'"):
        parse_trial({"seed": "x"}, "sweep.yaml")
    with pytest.raises(ConfigError, match=r"^sweep\.yaml: 2 problems\.\n  .*\n  "):
        parse_trial({"seed": "x", "sead": 1}, "sweep.yaml")


def test_pydantic_s_own_validation_leads_to_the_same_issues():
    with pytest.raises(ValidationError) as caught:
        TrialConfig.model_validate({"seed": -1})
    (issue,) = issues_of(caught.value, TrialConfig)
    assert (issue.where, issue.value) == ("seed", -1)


# --- stacks ----------------------------------------------------------------------------------------------------------


def test_beta_with_a_schedule_is_rejected_with_the_equivalent_schedule():
    for stack in (["beta_vae", "kl_linear_epoch"], ["kl_linear_epoch", "beta_vae"]):
        (issue,) = stack_issues(*stack)
        assert issue.code == "E02"
        assert issue.value == "+".join(stack)
        assert "kl_linear_epoch.w_end = 0.4" in issue.hint


def test_batch_statistics_need_a_large_batch():
    (issue,) = stack_issues("scale_vae", training={"batch_size": 7})
    assert issue.code == "E12"
    assert "scale_vae.min_f_batch" in issue.hint
    parse_trial({"strategies": ["scale_vae"], "training": {"batch_size": 8}})
    parse_trial({"strategies": [{"kind": "scale_vae", "min_f_batch": 7}], "training": {"batch_size": 7}})


def test_an_untested_combination_must_be_allowed_explicitly():
    (issue,) = stack_issues("aggressive", "scale_vae")
    assert issue.code == "E13"
    assert "aggressive.allow_untested" in issue.hint
    parse_trial({"strategies": [{"kind": "aggressive", "allow_untested": True}, "scale_vae"]})


@pytest.mark.parametrize("kind", CATALOGUE)
def test_a_strategy_may_be_listed_only_once(kind):
    data = IMAGES if kind in IMAGE_STRATEGIES else VECTORS if kind in VECTOR_STRATEGIES else {}
    (issue,) = stack_issues(kind, kind, **data)
    assert issue.code == "E-SLOT"
    assert kind in issue.message
    assert issue.hint != ""


def test_a_slot_may_be_filled_only_once():
    (issue,) = stack_issues("beta_vae", "free_bits")
    assert str(issue) == (
        "strategies: beta_vae and free_bits both fill the slot objective [E-SLOT], got 'beta_vae+free_bits'. "
        "Remove beta_vae or free_bits."
    )


def test_every_incompatibility_is_reported_at_once_and_only_once():
    found = stack_issues("aggressive", "scale_vae", "beta_vae", "kl_linear_epoch", training={"batch_size": 4})
    assert sorted(codes(found)) == ["E02", "E12", "E13"]


def test_a_falling_schedule_is_rejected():
    (issue,) = stack_issues({"kind": "kl_linear_epoch", "w_start": 0.5, "w_end": 0.2})
    assert issue.code == "E-RANGE"
    assert "0.5 > 0.2" in issue.hint


@pytest.mark.parametrize(
    "stack",
    [
        ["aggressive", "kl_linear_epoch"],
        ["scale_vae", "kl_linear_epoch"],
        ["beta_vae", "aggressive", "encoder_lr"],
        ["beta_vae", "scale_vae"],
        ["free_bits", "kl_linear_epoch"],
        ["aggressive", "kl_cyclical"],
    ],
)
def test_compatible_stacks_are_accepted(stack):
    assert [strategy.kind for strategy in parse_trial({"strategies": stack}).strategies] == stack


def test_two_strategies_that_speed_up_the_encoder_cause_a_warning():
    def warnings(multiplier, *others):
        stack = [{"kind": "encoder_lr", "multiplier": multiplier}, *others]
        return parse_trial({"strategies": stack}).warnings()

    (warning,) = warnings(2, "aggressive")
    assert warning.code == "W1"
    assert "encoder_lr" in warning.message
    assert "aggressive" in warning.message
    assert warnings(1, "aggressive") == ()
    assert warnings(2, "beta_vae") == ()
    assert parse_trial({"strategies": ["aggressive"]}).warnings() == ()


@pytest.mark.parametrize(
    ("train", "valid", "test", "splits"),
    [
        (0.0, 0.06, 0.0, ["valid"]),
        (0.0, 0.06, 0.5, ["valid", "test"]),
        (0.0, 0.05, 0.05, []),
        (0.001, 0.5, 0.5, []),
    ],
)
def test_unknown_words_are_a_warning_if_training_never_showed_their_symbol(train, valid, test, splits):
    rates = {"train_oov_rate": train, "valid_oov_rate": valid, "test_oov_rate": test}
    warnings = data_warnings(rates | {"unit": "characters"})
    assert [warning.code for warning in warnings] == ["W11"] * bool(splits)
    for warning in warnings:
        assert [split for split in ("valid", "test") if f"characters of {split}" in warning.message] == splits
    assert data_warnings({"train_mean_grey": 0.1}) == ()
