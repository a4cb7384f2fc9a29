"""How far generated samples are from real ones: distances, tests and likelihoods.

| metric | zero or chance means | bias | units |
|---|---|---|---|
| `wasserstein`, `sliced_wasserstein` | the samples coincide | upwards | the data's |
| `mmd_squared` | equal distributions | none | none |
| `energy_distance` | equal distributions | none | the data's |
| `frechet` | equal means and covariances | upwards, of order 1/n | the features' squared |
| `classifier_two_sample` | 0.5: indistinguishable to this classifier | none | a rate |
| `nearest` | 0: a copy of a training example | compare at equal sizes | the data's |
| `class_accuracy` | 1: every class is recognised | none | a rate |
| `bits_per_dim` | | none, for a bound on the code length | bits |
| `ngram_entropy` | 0: each token is told by those before it | downwards | bits |
| `ngram_kl` | equal n-grams | upwards, mostly | bits |
| `perplexity` | that of real text under the same reference | none | |
| `spelling_rate` | 1: every word is known | none | a rate |
| `longest_copy` | 0: no token of the text | grows with the text | tokens |
"""

from jaxflow.metrics.classify import Accuracy, class_accuracy, fit_classifier, fit_features
from jaxflow.metrics.distances import (
    energy_distance,
    median_distance,
    mmd_squared,
    sliced_wasserstein,
    wasserstein,
)
from jaxflow.metrics.frechet import (
    Moments,
    frechet,
    frechet_from_moments,
    moments,
    streamed_moments,
)
from jaxflow.metrics.likelihood import bits_per_dim, importance_weighted
from jaxflow.metrics.nearest import Nearest, nearest
from jaxflow.metrics.text import (
    longest_copy,
    ngram_entropy,
    ngram_kl,
    perplexity,
    spelling_rate,
    words_of,
)
from jaxflow.metrics.two_sample import TwoSample, classifier_two_sample

__all__ = [
    "Accuracy",
    "Moments",
    "Nearest",
    "TwoSample",
    "bits_per_dim",
    "class_accuracy",
    "classifier_two_sample",
    "energy_distance",
    "fit_classifier",
    "fit_features",
    "frechet",
    "frechet_from_moments",
    "importance_weighted",
    "longest_copy",
    "median_distance",
    "mmd_squared",
    "moments",
    "nearest",
    "ngram_entropy",
    "ngram_kl",
    "perplexity",
    "sliced_wasserstein",
    "spelling_rate",
    "streamed_moments",
    "wasserstein",
    "words_of",
]
