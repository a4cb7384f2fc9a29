"""What shows of each symptom, and what to try, in keys of the config and commands there are."""

from typing import NamedTuple

from experiments.output import symptoms
from experiments.output.found import Found
from experiments.output.markup import Html, prose, tag
from jaxflow.losses import flow_maps

__all__ = ["REMEDIES", "REMEDIES_OF_TOKENS", "Remedy", "advice", "verdicts_of"]


class Remedy(NamedTuple):
    """When a symptom counts as seen, and what helps."""

    shows: str
    attempt: str


REMEDIES = {
    "loss high near t = 0 or 1": Remedy(
        "In the first or last tenth of t the loss is above that of a Gaussian model by more than "
        "5 % and 3 standard errors.",
        "Near t = 1, where a velocity must amplify small errors of the data: let the network "
        'predict the data, `config.loss.kwargs.prediction` as "data" (with `regress` as '
        '"velocity" and the weight `sigma`, docs/losses.md has the table). At either end: draw '
        "its times more often, `config.times` as beta or mode, not logit_normal. More features of "
        "t and a wider network, `config.network.kwargs.width`.",
    ),
    "norm drifts": Remedy(
        "At some time the root mean square of samples is off that of the path by more than 5 % and "
        "4 standard errors.",
        "Without guidance the network is wrong where the curves part: train longer, "
        "`config.steps`, and average longer, `config.optimizer.ema_decay`. Under guidance it is "
        "the guidance: lower `config.sampler.guidance`. If only the run's own samples are off and "
        "not these, take more steps, `config.sampler.kwargs.grid.kwargs.n`.",
    ),
    "too few calls": Remedy(
        "In the frontier more steps of the run's own method and grid are better by more than 5 % "
        "and 2 standard errors.",
        "Paste the last line of the frontier's command behind `sample`, or raise "
        "`config.sampler.kwargs.grid.kwargs.n`; the grids shifted and cosine put steps where the "
        "way bends. For a straighter flow train anew with `config.coupling` as optimal_transport.",
    ),
    "guidance too strong": Remedy(
        "Guidance is above 1, and the distance to data is worse than at 1 by more than 5 % and 2 "
        "standard errors, or pixels at the lowest or highest level are more frequent than in "
        "held-out data by more than 0.01 and 3 standard errors.",
        "Lower `config.sampler.guidance`: `frontier --guidance=1,1.5,2` shows where the "
        "distance is least. If little guidance already harms, the unconditional half is weak: "
        "raise `config.drop.rate` and train longer.",
    ),
    "memorisation": Remedy(
        "The nearest training example of samples is nearer than 0.8 times that of held-out data.",
        "Stop earlier, `config.steps`. More data, or flips among `config.data.transforms`; a "
        "smaller `config.network.kwargs.width`, or `config.network.kwargs.dropout`.",
    ),
    "diverging or spiking loss": Remedy(
        "A step was skipped or a loss is not finite; a line of the log is more than twice the "
        "median of the ten before; or the loss ends half above its least (medians of five).",
        "Lower `config.optimizer.kwargs.learning_rate.kwargs.peak` and lengthen its "
        "`warmup`; clip harder, `config.optimizer.clip`; skip spikes, "
        "`config.optimizer.spike_deviations`; go back over bad data, `config.health.rollbacks`. "
        "`diagnosis.json` names the arrays that were not finite.",
    ),
    "steps of a flow map disagree": Remedy(
        "The semigroup residual is above 0.1, and the distance of samples to data differs between "
        "one step and four by more than 5 %.",
        "Where four are worse, the short steps are wrong: a larger share of r = t, "
        "`config.spans.kwargs.equal`, and `power` in `config.loss.kwargs` at 0, which weighs all "
        "pairs alike. Where one is worse, the long steps lag behind: a smaller share of r = t, and "
        "longer training, `config.steps`.",
    ),
    "underfit": Remedy(
        "A classifier tells samples from held-out data in at least 0.9 of the cases.",
        "Train longer, `config.steps`; a larger network, `config.network.kwargs.width`; a higher "
        "`config.optimizer.kwargs.learning_rate.kwargs.peak`. If a row above is seen, begin there.",
    ),
}


REMEDIES_OF_TOKENS = {
    "copies": Remedy(
        "The longest run of symbols that samples share with the training text is above 1.5 times "
        "that of held-out text.",
        "Stop earlier, `config.steps`. More text; a smaller `config.network.kwargs.width`.",
    ),
    "diverging or spiking loss": REMEDIES["diverging or spiking loss"],
    "misspelt": Remedy(
        "The share of words of samples that the training text has is below that of held-out text "
        "by more than 0.1.",
        "More calls, `config.sampler.kwargs.grid.kwargs.n`, or a surer sampler: "
        "`config.sampler.kwargs.method` as confident or trapezoidal, `config.sampler.guidance` as "
        "temperature or top_p (docs/tokens.md has them side by side). If 64 calls do not help, "
        "train longer, `config.steps`, with a larger `config.network.kwargs.width`.",
    ),
}


def advice(found: Found) -> Html:
    """The table of symptoms."""
    verdicts = verdicts_of(found)
    rows = []
    for name, remedy in (REMEDIES_OF_TOKENS if found.of_tokens else REMEDIES).items():
        state, told = verdicts[name]
        kind = "verdict seen" if state == symptoms.SEEN else "verdict"
        here = tag("td", tag("strong", state), tag("br"), prose(told), class_=kind)
        cells = tag("td", name), tag("td", prose(remedy.shows)), here
        rows.append(tag("tr", *cells, tag("td", prose(remedy.attempt))))
    head = tag("tr", *(tag("th", h) for h in ("symptom", "how it shows", "here", "what to try")))
    return tag("div", tag("table", tag("thead", head), tag("tbody", *rows)), class_="wide")


def verdicts_of(found: Found) -> dict[str, symptoms.Verdict]:
    """By the names of `REMEDIES`, or of `REMEDIES_OF_TOKENS`."""
    train, evaluate = (f"`{c}`" for c in (found.commands.train, found.commands.evaluate))
    rows = None if found.evaluation is None else found.evaluation.get("rows")
    diverging = symptoms.diverging(found.lines, found.diagnosis is not None, train)
    if found.of_tokens:
        return {
            "copies": symptoms.copied(rows, evaluate),
            "diverging or spiking loss": diverging,
            "misspelt": symptoms.misspelt(rows, evaluate),
        }
    pixels = found.saturation or (None, None)
    own, guided = f"`{found.commands.frontier_of_own}`", f"`{found.commands.frontier_guided}`"
    guidance = found.config["sampler"]["guidance"]
    scale = guidance["kwargs"].get("scale", 1.0) if isinstance(guidance, dict) else guidance
    return {
        "loss high near t = 0 or 1": symptoms.high_at_the_ends(found.losses, train),
        "norm drifts": symptoms.drifting(found.norms, train),
        "too few calls": symptoms.too_few_calls(found.points, found.own, own),
        "guidance too strong": symptoms.over_guided(scale, found.points, *pixels, guided),
        "memorisation": symptoms.memorised(rows, found.endless, evaluate),
        "diverging or spiking loss": diverging,
        "steps of a flow map disagree": symptoms.disagreeing(
            found.lines, found.config["loss"]["name"] in flow_maps.__all__, train
        ),
        "underfit": symptoms.underfit(rows, evaluate),
    }
