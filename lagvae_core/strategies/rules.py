"""Rules for combining strategies: the traits they refer to, and the codes of incompatibilities and warnings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final

__all__ = ["CODES", "RESULT_CODES", "ConfigWarning", "Incompatibility", "Trait"]


CODES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "E-SLOT": "Two strategies fill the same exclusive slot, or one strategy is listed twice.",
        "E-RANGE": "Values that are valid individually contradict each other.",
        "E-PSEUDO": "The encoder reads an input that the pseudo-inputs of the prior do not have.",
        "E01": "One strategy adapts the effective KL weight, and another strategy fixes it.",
        "E02": "A schedule and a constant factor would both multiply the KL.",
        "E03": "Both strategies change the posterior means or their spread.",
        "E04": "The refinement steps are not defined for the other strategy's posterior, prior or penalty.",
        "E05": "Both strategies are remedies for the lag of the inference network.",
        "E06": "The guaranteed minimum KL does not hold for another prior, or it makes free bits ineffective.",
        "E07": "The free-bits mode compares a KL that the other strategy does not provide.",
        "E08": "The scaled generator is defined for the prior N(0, I) only.",
        "E09": "The strategy does not apply to this kind of data, model or decoder.",
        "E10": "The strategy acts on the latent variable, but the model has none.",
        "E11": "The strategy has no effect, because nothing in the decoder is random.",
        "E12": "The batch size is smaller than the statistics of the strategy require.",
        "E13": "The combination is untested.",
        "E14": "The strategy evaluates Gaussian posteriors at samples of other examples, but the posteriors are flows.",
        "E15": "Both strategies are parameterisations of the same model.",
        "E16": "The refinement steps are defined for a weighted ELBO, which the other strategy replaces.",
        "E17": "The weight of a divergence is negative.",
        "E18": "An option or strategy that is set has no effect in this configuration.",
        "W1": "Two strategies change how fast the encoder learns, so their effects cannot be separated.",
        "W2": "The multiplier of the objective changes in outer updates only, not in inner encoder steps.",
        "W3": "A decay of the learning rate may restore model weights from an earlier cycle of the KL schedule.",
        "W4": "The strategy uses batch statistics, but each batch contains a single group of examples.",
        "W5": "A term of the loss is not part of the refinement steps; it applies only at the refined posterior.",
        "W6": "Several strategies add a penalty, and no paper gives weights for this combination.",
        "W7": "The KL weight does not reach the final value of its schedule within the training.",
        "W8": "Epsilon weakens the normalisation of the posterior means, and with it the guaranteed KL.",
        "W9": "The factor of the posterior means has reached its upper bound, so it scales noise.",
        "W10": "The importance weights vary so much that the estimate of the likelihood is unreliable.",
        "W11": "Many words of valid or test are unknown, and training never showed the symbol that replaces them.",
    }
)
"""Every code of an incompatibility (E...) or a warning (W...), with its meaning; docs/messages.md says what to do."""

RESULT_CODES: Final[frozenset[str]] = frozenset({"W7", "W8", "W9", "W10"})
"""Codes of warnings that can depend on the result of a trial, and that tables and fronts repeat."""


class Trait(StrEnum):
    """A property of a strategy by which other strategies reject it, warn about it or adapt to it.

    Compatibility rules use traits and slots, never the names of strategies, so they also cover third-party strategies.
    """

    TEXT_ONLY = "text_only"
    """It applies to text only, because it acts on words."""
    IMAGES_ONLY = "images_only"
    """It applies to images only, because it acts on pixels."""
    GAUSSIAN_LIKELIHOOD = "gaussian_likelihood"
    """It is defined only for a decoder whose likelihood is a Gaussian with one variance for all features."""
    CLOSED_FORM = "closed_form"
    """It computes the model from the training data, so nothing is trained."""
    NO_LATENT_VARIABLE = "no_latent_variable"
    """Its model has no latent variable."""
    WORKS_WITHOUT_Z = "works_without_z"
    """It does not act on z, so it also applies to a model without a latent variable."""
    BATCH_STATISTICS = "batch_statistics"
    """It uses statistics over the examples of a training batch, so it matters how examples are grouped into batches."""
    REGULARISES_BATCH = "regularises_batch"
    """It penalises the posteriors of a batch jointly, which is undefined if each posterior is refined separately."""
    NORMALISES_MEANS = "normalises_means"
    """It normalises the posterior means over the batch and fixes their spread."""
    SCALES_MEANS = "scales_means"
    """It multiplies the posterior means by a factor that fixes their spread."""
    FLOW_POSTERIOR = "flow_posterior"
    """q(z|x) is a flow, not a Gaussian: its density at the sample of another example requires inverting the flow."""
    KL_NOT_BY_DIMENSION = "kl_not_by_dimension"
    """The KL is not a sum over latent dimensions."""
    KL_SAMPLED = "kl_sampled"
    """The KL of an example is estimated from one sample and may be negative."""
    FIXED_KL_WEIGHT = "fixed_kl_weight"
    """It multiplies the KL by a weight that does not depend on the KL, so the loss remains a weighted ELBO."""
    INNER_LOOP = "inner_loop"
    """It trains the encoder alone for many inner steps before each outer update."""
    UNTESTED_WITH_INNER_LOOP = "untested_with_inner_loop"
    """It learns or records something in outer updates only, and has not been tested with an inner loop."""
    BOUNDED_RECEPTIVE_FIELD = "bounded_receptive_field"
    """Its decoder reads a bounded number of previous words."""
    ENCODER_READS_BAG = "encoder_reads_bag"
    """Its encoder also reads the bag of words of the example."""


@dataclass(frozen=True)
class Incompatibility:
    """The reason why a strategy cannot be used in a configuration.

    Args:
        code: Code of the rule, a key of `CODES`.
        message: A clause that names the strategies and says how to resolve the problem, without a full stop.
    """

    code: str
    message: str


@dataclass(frozen=True)
class ConfigWarning:
    """Advice on a valid configuration, shown and stored as "W1: message".

    Args:
        code: Code of the rule, a key of `CODES`; None for advice without a code.
        message: A complete sentence.
    """

    code: str | None
    message: str

    def __str__(self) -> str:
        return self.message if self.code is None else f"{self.code}: {self.message}"
