import copy
import json
import pickle
import re
from contextlib import suppress

import pytest
from helpers import IMAGE_STRATEGIES
from pydantic import ValidationError

from lagvae_core.config.recipe import RECIPES
from lagvae_core.config.trial import TrialConfig, parse_trial
from lagvae_core.config.validation import issues_of
from lagvae_core.errors import ConfigError
from lagvae_core.strategies import CATALOGUE

TEXT = {"data": {"kind": "text", "path": "somewhere", "partition": "fixed_random"}}
IMAGES = {"data": {"kind": "images", "path": "images.npz"}}
MESSAGE = re.compile(r"^(?P<key>[\w.\[\]]+|the file) must (?P<law>.+?), but is (?P<value>.+?)\.( (?P<remedy>.+[.?]))?$")

PARSER = re.compile(r"(?i)input|a valid|unable|_type|dictionary|instance|should")
"""Words of pydantic's own messages."""


def issues(given):
    """The mistakes of a configuration by key."""
    with pytest.raises(ConfigError) as caught:
        parse_trial(given)
    found = caught.value.issues
    assert len({issue.where for issue in found}) == len(found), "two mistakes about one value"
    return {issue.where: issue for issue in found}


def incompatibilities(*strategies, **sections):
    """The codes for which a stack is refused, and the whole message."""
    with pytest.raises(ConfigError) as caught:
        parse_trial({"strategies": list(strategies), **sections})
    return re.findall(r"\((E[-\w]+)\)", str(caught.value)), str(caught.value)


# --- defaults --------------------------------------------------------------------------------------------------------


def test_the_recipe_of_images():
    config = parse_trial(IMAGES)
    training = config.training
    assert (config.model.kind, config.model.latent_dim, config.model.variant) == ("resnet_pixelcnn", 32, "v2")
    assert (training.optimiser, training.learning_rate, training.batch_size) == ("adam", 1e-3, 50)
    assert (training.decay_patience, training.decay_min_epoch, training.decay_reference) == (20, 0, "best")
    assert (training.max_decays, training.epochs, training.clip_norm) == (5, 1000, 5.0)
    assert config.evaluation.mi_batch_size == 50
    assert parse_trial({}).training.decay_reference == parse_trial(TEXT).training.decay_reference == "last"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({**IMAGES, "model": {"kind": "lstm"}}, r"model\.kind must model data of kind images, but is 'lstm'"),
        ({"model": {"kind": "resnet_pixelcnn"}}, r"model data of kind synthetic.*It models images\."),
        ({**IMAGES, "model": {"kernels": [7, 4]}}, r"^model\.kernels\[1\] must be odd, but is 4\."),
        ({**IMAGES, "model": {"kernels": []}}, r"^model\.kernels must"),
        (
            {**IMAGES, "model": {"variant": "v3"}},
            r"^model\.variant must be 'v2', 'gated13' or 'gated12_kim', but is 'v3'",
        ),
        (
            {"data": {"kind": "image"}, "model": {"latent_dim": 3}},
            r"^data\.kind must be one of.*Did you mean images\?$",
        ),
    ],
)
def test_mistakes_about_images(given, message):
    with pytest.raises(ConfigError, match=message) as caught:
        parse_trial(given)
    assert len(caught.value.issues) == 1


def test_the_recipe_of_the_synthetic_data():
    config = parse_trial({})
    assert config == parse_trial({"data": {"kind": "synthetic"}}) == parse_trial({"data": {}}) == TrialConfig()
    assert (config.model.latent_dim, config.model.hidden, config.model.embedding) == (1, 50, 50)
    training = config.training
    assert (training.batch_size, training.epochs, training.decay_min_epoch) == (16, 50, 0)


def test_the_recipe_of_text():
    config = parse_trial(TEXT)
    assert (config.model.latent_dim, config.model.hidden, config.model.embedding) == (32, 1024, 512)
    training = config.training
    assert (training.batch_size, training.epochs, training.decay_min_epoch) == (32, 100, 15)
    assert (training.optimiser, training.learning_rate, training.clip_norm) == ("sgd", 1.0, 5.0)
    assert (training.decay_factor, training.decay_patience, training.max_decays) == (0.5, 2, 5)
    assert (config.evaluation.iw_samples, config.evaluation.mi_batch_size) == (500, 32)


@pytest.mark.parametrize("kind", RECIPES)
def test_a_given_value_wins_over_the_recipe_and_leaves_the_rest_of_it(kind):
    needed = {"text": {"path": "somewhere"}, "reinflection": {"path": "somewhere", "language": "turkish"}}
    data = {"kind": kind, **(needed | {"images": {"path": "images.npz"}}).get(kind, {})}
    config = parse_trial({"data": data, "model": {"latent_dim": 8}, "training": {"epochs": 3}})
    assert (config.model.latent_dim, config.training.epochs) == (8, 3)
    assert config.model.kind == RECIPES[kind]["model"]["kind"]
    assert config.training.batch_size == RECIPES[kind]["training"]["batch_size"]


def test_a_bare_name_is_a_strategy_with_its_defaults():
    short = parse_trial({"strategies": ["aggressive", "kl_linear_epoch"]})
    long = parse_trial({"strategies": [{"kind": "aggressive"}, {"kind": "kl_linear_epoch"}]})
    assert short == long
    assert [strategy.kind for strategy in short.strategies] == ["aggressive", "kl_linear_epoch"]


def test_a_configuration_cannot_be_changed():
    config = parse_trial({})
    with pytest.raises(ValidationError, match="frozen"):
        config.seed = 3


# --- round trips and identity ----------------------------------------------------------------------------------------

STACKS = [[kind] for kind in CATALOGUE] + [[], ["aggressive", "kl_linear_epoch"], ["encoder_lr", "scale_vae"]]


def lawful():
    """Every stack on every kind of data on which it can be meant."""
    for data in ({}, TEXT, IMAGES):
        for stack in STACKS:
            with suppress(ConfigError):
                yield parse_trial({**data, "strategies": stack, "seed": 7})


WHOLE = list(lawful())


def test_every_strategy_is_lawful_on_some_kind_of_data():
    assert {config.strategies[0].kind for config in WHOLE if config.strategies} == set(CATALOGUE)


@pytest.mark.parametrize("config", WHOLE, ids=lambda c: f"{c.data.kind}-{'+'.join(s.kind for s in c.strategies)}")
def test_json_and_pickle_give_the_same_configuration_back(config):
    for again in (
        TrialConfig.model_validate_json(config.model_dump_json()),
        parse_trial(json.loads(config.model_dump_json())),
        pickle.loads(pickle.dumps(config)),
    ):
        assert again == config
        assert again.canonical() == config.canonical()
        assert again.run_id("data") == config.run_id("data")


def test_the_json_is_complete_and_so_does_not_follow_a_changed_default(monkeypatch):
    written = parse_trial(TEXT).model_dump_json()
    monkeypatch.setitem(RECIPES["text"]["model"], "hidden", 3)
    monkeypatch.setitem(RECIPES["text"]["training"], "epochs", 3)
    again = TrialConfig.model_validate_json(written)
    assert (again.model.hidden, again.training.epochs) == (1024, 100)


def leaves(values, path=()):
    """The path of every value that is not a mapping or a list of mappings."""
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
WORDS += ("autograd", "reference", "notoken", "scnn", "add", "output", "target", "imq", "bernoulli", "kl", "step")
WORDS += ("sgd", "last", "best", "fixed", "fixed_random", "reduced", "gated13")
CANDIDATES = (True, False, 3, 9, 0.37, 1, 40, 0.99, 0.01, *WORDS, [0.8, 0.9], [1, 2], [1, 3], {"kind": "lstm"})


def lawful_changes(values, path, config):
    """Configurations that differ in the value at `path` alone, one or two."""
    for candidate in CANDIDATES:
        try:
            changed = parse_trial(replaced(values, path, candidate))
        except ConfigError:
            continue
        if changed != config:
            yield changed
    if path[0] == "strategies" and len(path) == 3:
        yield from changes_of_one(path[1], path[2], config)


def changes_of_one(number, field, config):
    """The same where a value is lawful for its strategy, but not in this stack or in the mode of the default."""
    one = config.strategies[number]
    for candidate in CANDIDATES:
        try:
            other = type(one).model_validate({**one.model_dump(), field: candidate})
        except ValidationError:
            continue
        if other != one:
            stack = [*config.strategies[:number], other, *config.strategies[number + 1 :]]
            yield config.model_copy(update={"strategies": tuple(stack)})


@pytest.mark.parametrize("config", WHOLE, ids=lambda c: f"{c.data.kind}-{'+'.join(s.kind for s in c.strategies)}")
def test_every_value_but_the_seed_and_the_path_is_part_of_the_identity(config):
    values = config.model_dump(mode="json")
    walked = list(leaves(values))
    assert len(walked) > 30
    for path in walked:
        if path[-1] == "kind":
            continue
        changed = next(lawful_changes(values, path, config), None)
        if path == ("strategies",):  # an empty stack: no leaf to change
            continue
        assert changed is not None, f"no lawful change of {path} is known to this test"
        same = changed.config_id("data") == config.config_id("data")
        assert same == (path in {("seed",), ("data", "path")}), path
        assert (changed.run_id("data") == config.run_id("data")) == (path == ("data", "path")), path


def test_the_stack_its_order_and_the_data_are_part_of_the_identity():
    ids = [
        parse_trial({"strategies": stack}).config_id(fingerprint)
        for stack in ([], ["aggressive"], ["aggressive", "encoder_lr"], ["encoder_lr", "aggressive"])
        for fingerprint in ("one", "other")
    ]
    assert len(set(ids)) == len(ids)


def test_an_identity_is_twelve_digits_and_a_run_adds_the_seed():
    config = parse_trial({"seed": 42})
    assert re.fullmatch(r"[0-9a-f]{12}", config.config_id("data"))
    assert config.run_id("data") == f"{config.config_id('data')}-42"


def test_numbers_written_in_another_way_are_the_same_configuration():
    one = parse_trial({"training": {"learning_rate": 1, "clip_norm": 5}})
    other = parse_trial({"training": {"learning_rate": 1.0, "clip_norm": "5e0"}})
    assert one.config_id("data") == other.config_id("data") == parse_trial({}).config_id("data")


# --- mistakes --------------------------------------------------------------------------------------------------------


def test_every_mistake_is_told_at_once_with_key_value_law_and_remedy():
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
    told = {key: (issue.value, issue.message) for key, issue in found.items()}
    assert told == {
        "training.epochss": (3, "be a known key"),
        "training.learning_rate": (-1, "be greater than 0"),
        "training.batch_size": ("many", "be an integer"),
        "training.momentum": (1.5, "be less than 1"),
        "training.optimiser": ("rmsprop", "be 'sgd' or 'adam'"),
        "training.clip_norm": (float("inf"), "be a finite number"),
        "training.epochs": (2.5, "be an integer"),
        "training.reload_best_on_decay": ("perhaps", "be true or false"),
        "training.adam_betas[1]": (1.0, "be less than 1"),
        "model.hidden": (0, "be greater than or equal to 1"),
        "strategies[0].kind": ("agressive", f"be one of {', '.join(CATALOGUE)}"),
        "strategies[1].beta": ("much", "be a number"),
        "seed": (-1, "be greater than or equal to 0"),
    }
    assert found["training.epochss"].hint.startswith("Did you mean epochs? Known here: optimiser, learning_rate, ")
    assert found["strategies[0].kind"].hint == "Did you mean aggressive?"
    assert found["training.momentum"].hint == "It is: of SGD (default 0.0)."


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"trainin": 3},
            "trainin must be a known key, but is 3. Did you mean training? "
            "Known here: data, model, strategies, training, evaluation, seed.",
        ),
        (
            {"data": {"kind": "text"}},
            "data.path must be given, but is missing. It is: folder with train, valid and test as .txt, .txt.gz or "
            ".parquet.",
        ),
        (
            {"data": {"kind": "sythetic"}},
            "data.kind must be one of synthetic, text, reinflection, images, but is 'sythetic'. "
            "Did you mean synthetic?",
        ),
        ({"data": {"kind": None}}, "data.kind must be one of synthetic, text, reinflection, images, but is None."),
        (
            {"strategies": [{"beta": 3}]},
            f"strategies[0] must name its kind, but is {{'beta': 3}}. Known kinds: {', '.join(CATALOGUE)}.",
        ),
        (
            {"strategies": "aggressive"},
            "strategies must be a list, but is 'aggressive'. It is: remedies; none is the plain VAE (default ()).",
        ),
        (
            {"strategies": [{"kind": "beta_vae", "bta": 3}]},
            "strategies[0].bta must be a known key, but is 3. Did you mean beta? Known here: kind, beta.",
        ),
        (
            {"strategies": [{"kind": "aggressive", "budget": "converg"}]},
            "strategies[0].budget must be 'converge' or be an integer, but is 'converg'. "
            "It is: encoder steps before each decoder step: a number, or `converge` (default converge).",
        ),
        (
            {"training": {"epochs": None}},
            "training.epochs must be an integer, but is None. "
            "It is: passes over the training data, at most (default 50 for synthetic, 100 for text, "
            "50 for reinflection, 1000 for images).",
        ),
        ({"data": {"kind": "text", "path": ""}}, "data.path must have at least 1 character(s), but is ''. It is: "),
        ({"training": 3}, "training must be a mapping of keys to values, but is 3. It is: the base recipe"),
        ({"training": {"adam_betas": [0.1] * 3}}, "training.adam_betas must be a list of at most 2 values, but is "),
        ([], "the file must be a mapping of keys to values, but is []."),
    ],
)
def test_a_mistake_reads_as_a_sentence_for_a_human(given, message):
    with pytest.raises(ConfigError) as caught:
        parse_trial(given)
    assert str(caught.value).startswith(message)


ODD = (None, True, -1, 0, 2.5, 10**30, float("nan"), "x", "", [], [1], [[]], {}, {"kind": "x"}, {"a": {"b": 1}}, {1: 2})


def test_no_wrong_value_anywhere_is_told_in_the_words_of_the_parser():
    for stack in (["aggressive", "kl_linear_epoch", "encoder_lr"], ["beta_vae", "scale_vae"]):
        for data in ({}, TEXT):
            values = parse_trial({**data, "strategies": stack}).model_dump(mode="json")
            paths = {path[:cut] for path in leaves(values) for cut in range(1, len(path) + 1)}
            for path in sorted(paths, key=str):
                for value in ODD:
                    try:
                        parse_trial(replaced(values, path, value))
                    except ConfigError as error:
                        for issue in error.issues:
                            line = str(issue)
                            assert MESSAGE.match(line), line
                            assert not PARSER.search(str(issue.message)), line
                            assert not re.search(r"pydantic|https?:", line), line


def test_the_source_of_the_mistakes_stands_before_them():
    with pytest.raises(ConfigError, match=r"^sweep\.yaml: seed must be an integer, but is 'x'\."):
        parse_trial({"seed": "x"}, "sweep.yaml")
    with pytest.raises(ConfigError, match=r"^sweep\.yaml: 2 mistakes\.\n  .*\n  "):
        parse_trial({"seed": "x", "sead": 1}, "sweep.yaml")


def test_mistakes_of_a_validation_error_are_the_same_without_parse_trial():
    with pytest.raises(ValidationError) as caught:
        TrialConfig.model_validate({"seed": -1})
    (issue,) = issues_of(caught.value, TrialConfig)
    assert (issue.where, issue.value) == ("seed", -1)


# --- stacks ----------------------------------------------------------------------------------------------------------


def test_beta_with_a_schedule_is_refused():
    for stack in (["beta_vae", "kl_linear_epoch"], ["kl_linear_epoch", "beta_vae"]):
        codes, message = incompatibilities(*stack)
        assert codes == ["E02"]
        assert "set kl_linear_epoch.w_end = 0.4 and leave beta_vae out." in message


def test_statistics_of_a_batch_need_a_batch():
    codes, message = incompatibilities("scale_vae", training={"batch_size": 7})
    assert codes == ["E12"]
    assert "min_f_batch = 8, but training.batch_size is 7; raise it or lower scale_vae.min_f_batch." in message
    parse_trial({"strategies": ["scale_vae"], "training": {"batch_size": 8}})
    parse_trial({"strategies": [{"kind": "scale_vae", "min_f_batch": 7}], "training": {"batch_size": 7}})


def test_an_untested_combination_must_be_allowed():
    codes, message = incompatibilities("aggressive", "scale_vae")
    assert codes == ["E13"]
    assert "set aggressive.allow_untested = true" in message
    parse_trial({"strategies": [{"kind": "aggressive", "allow_untested": True}, "scale_vae"]})


@pytest.mark.parametrize("kind", CATALOGUE)
def test_a_strategy_is_named_once(kind):
    codes, message = incompatibilities(kind, kind, **(IMAGES if kind in IMAGE_STRATEGIES else {}))
    assert codes == ["E-SLOT"]
    assert f"{kind} is there twice" in message
    assert message.endswith("Remove one of the two.")


def test_a_slot_is_filled_once():
    codes, message = incompatibilities("beta_vae", "free_bits")
    assert codes == ["E-SLOT"]
    assert "beta_vae and free_bits both fill objective" in message


def test_every_reason_against_a_stack_is_told_at_once_and_once():
    codes, _ = incompatibilities("aggressive", "scale_vae", "beta_vae", "kl_linear_epoch", training={"batch_size": 4})
    assert sorted(codes) == ["E02", "E12", "E13"]


def test_a_schedule_that_falls_is_refused():
    _, message = incompatibilities({"kind": "kl_linear_epoch", "w_start": 0.5, "w_end": 0.2})
    assert "w_start <= w_end must hold, but got 0.5 > 0.2." in message


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
def test_a_meaningful_stack_is_accepted(stack):
    assert [strategy.kind for strategy in parse_trial({"strategies": stack}).strategies] == stack


def test_two_ways_to_a_faster_encoder_are_allowed_with_a_warning():
    def warnings(multiplier, *others):
        stack = [{"kind": "encoder_lr", "multiplier": multiplier}, *others]
        return parse_trial({"strategies": stack}).warnings()

    (warning,) = warnings(2, "aggressive")
    assert warning.startswith("W1: encoder_lr and aggressive both change the encoder's speed")
    assert warnings(1, "aggressive") == ()
    assert warnings(2, "beta_vae") == ()
    assert parse_trial({"strategies": ["aggressive"]}).warnings() == ()
