"""The evaluation and the model card as Markdown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict

import numpy as np

from selector.features import FEATURE_VERSION, NAMES
from selector.learn.evaluation import GROUPS, LEARNED, MODELLED, TREES, HeldOut
from selector.learn.pipeline import Trained
from selector.lowering.version import KERNEL_VERSION

_PROTOCOLS = {  # protocol -> heading, what it means
    "network": (
        "Held-out networks",
        "Every shape of a network is left out of training, in all data types, thread counts and targets.",
    ),
    "target": (
        "Held-out targets",
        "An instruction set that training has not seen, on shapes that it has. It is no evidence for a new CPU: other "
        "targets of the same CPU were trained on.",
    ),
    "cpu": (
        "Held-out CPUs",
        "All rows of one physical CPU are left out: what to expect on a CPU that nobody measured. `learned` is the "
        "policy as it is shipped, with the trust in the trees fitted on the other CPUs alone; `trees` follows them in "
        "full.",
    ),
    "shape": ("Held-out shapes", "Folds of whole shapes."),
}


def report(trained: Trained) -> str:
    """The last evaluation: what was trained on what, and how it compares where it was not trained."""
    sections = [
        f"# Evaluation of recipe `{trained.recipe.name}`\n",
        "Written by `selector train --report`. Efficiency is the time of the faster lowering over the time of the "
        "chosen one; regret is the time lost relative to the faster one. Ratios are medians of interleaved rounds; "
        "what is left of their noise counts against every policy, the oracle excepted.\n",
        _facts(trained),
        *_results(trained),
    ]
    return "\n".join(sections)


def model_card(trained: Trained) -> str:
    """What the released model is for, what it was made from, and where it is known to be weak."""
    data = trained.dataset
    targets, cpus = (", ".join(map(str, np.unique(column))) for column in (data.targets, data.cpus))
    limits = [
        f"It was trained on {targets}, measured on {cpus}. On any other CPU the trees' correction of the roofline "
        "counts in part, see `trust` above. The section on held-out CPUs below says what to expect "
        "there. The one on held-out targets does not: other targets of the same CPU were trained on.",
        "A layer whose dot instruction was never trained on is decided by the roofline.",
        f"Threads: {', '.join(map(str, np.unique(data.threads)))}. Other counts use the trees with the features of "
        "that count.",
        "Labels are noisy: the median width of the 95 % confidence interval of log2(t_int16 / t_int8) is "
        f"{np.median(data.width):.3f}. Rows whose lowerings are equally fast are decided by noise, and hardly matter.",
        "It knows the kernels it was measured with: after a change of the kernels, collect and train again.",
        "Times are those of a kernel alone with warm caches, not of a network around it.",
    ]
    return "\n".join(
        [
            "# Model card: which integer lowering of a quantized convolution is faster\n",
            "Predicts log2(t_int16 / t_int8) of one convolution on one CPU target from its shape, data types, weight "
            "facts and the target's features. Above zero `int8` is faster, below `int16`. Both lowerings give the same "
            "result bit for bit: a wrong prediction costs time, never correctness.\n",
            "Gradient-boosted trees (LightGBM text format) correct the analytic model, the roofline. Each prediction "
            "has an interval that holds 80 % of the measured ratios.\n",
            _facts(trained),
            "## Known limits\n",
            "\n".join(f"- {limit}" for limit in limits) + "\n",
            *_results(trained),
        ]
    )


def _facts(trained: Trained) -> str:
    data, model = trained.dataset, trained.fitted.model
    networks = Counter(name for names in data.networks for name in names)
    boosting = ", ".join(f"{name} {value:.4g}" for name, value in asdict(trained.fitted.boosting).items())
    return _table(
        ("", ""),
        [
            ("data set", f"`{data.digest}`, {len(data)} rows, {len(np.unique(data.shapes))} shapes"),
            ("targets", ", ".join(f"{name} ({count})" for name, count in _counts(data.targets))),
            ("CPUs", ", ".join(f"{name} ({count})" for name, count in _counts(data.cpus))),
            ("kinds", ", ".join(f"{name} ({count})" for name, count in _counts(data.kinds))),
            ("threads", ", ".join(f"{name} ({count})" for name, count in _counts(data.threads))),
            ("networks", ", ".join(sorted(networks)) or "none"),
            ("int16 faster", f"{(data.log2_ratio < 0).mean():.1%} of the rows"),
            ("kernels", f"{KERNEL_VERSION}"),
            ("features", f"{len(NAMES)}, version {FEATURE_VERSION}"),
            ("prior", f"{trained.recipe.prior:.4g} of the roofline's answer"),
            ("trust on other CPUs", ", ".join(f"{form} {share:.0%}" for form, share in model.trust.items()) or "least"),
            ("hyper-parameters", f"{boosting}, {trained.recipe.tuning.trials} trials"),
        ],
    )


def _results(trained: Trained) -> list[str]:
    verdicts = [
        (item.what, f"{item.reached:.4f}", f"{item.wanted:.4f}", "yes" if item.met else "**no**")
        for item in trained.evaluation.verdicts()
    ]
    sections = ["## Bars\n", _table(("bar", "reached", "wanted", "met"), verdicts)]
    for protocol, (title, text) in _PROTOCOLS.items():
        if protocol in trained.evaluation.held_out:
            sections += [f"## {title}\n", f"{text}\n", _protocol(trained.evaluation.held_out[protocol])]
    return [*sections, *_modelled(trained)]


def _modelled(trained: Trained) -> list[str]:
    """What becomes of the policy where a target is known by its modelled profile alone."""
    if not trained.agreement:
        return []
    text = (
        "How much rests on having measured a target. Agreement: rows for which the model of all rows decides alike "
        "from the measured profile and from the modelled one (`selector targets describe`). Efficiency: of models "
        f"that have not seen the target, nor, in the columns `…{MODELLED}`, its measured profile.\n"
    )
    policies = [name + suffix for name in (LEARNED, TREES) for suffix in ("", MODELLED)]
    held_out = trained.evaluation.held_out.get("target")
    scores = {name: held_out.scores_by("fold", name) for name in policies} if held_out else {}
    rows = [
        (target, f"{share:.1%}", *[f"{scores[name][target].mean:.4f}" for name in scores])
        for target, share in trained.agreement.items()
    ]
    return ["## Modelled profiles\n", text, _table(("target", "agreement", *scores), rows)]


def _protocol(held_out: HeldOut) -> str:
    scores, times = held_out.scores(), held_out.time_ratios()
    rows = [
        (
            f"**{name}**" if name == LEARNED else name,
            *[f"{number:.4f}" for number in (value.mean, value.p10, value.p5, value.worst)],
            f"{value.regret_mean:.2%}",
            f"{value.agreement:.1%}",
            f"{times[name]:.4f}",
        )
        for name, value in sorted(scores.items(), key=lambda item: -item[1].mean)
    ]
    headings = ("policy", "mean", "P10", "P5", "worst", "mean regret", "right", "time ÷ oracle")
    share = f"{held_out.gap_closed():.0%}"
    closed = f"Of the gap between the best policy that learns nothing and the oracle {share} is closed.\n"
    corrected = f"Chance-corrected, a coin being 0 and the oracle 1: {held_out.chance_corrected(LEARNED):.4f}.\n"
    held = ", ".join(f"{group} {share:.1%}" for group, share in held_out.coverage().items())
    covered = [f"Measured ratios inside of their 80 % interval: {held}.\n"] if held else []
    tables = (_groups(held_out, column) for column in ("fold", *GROUPS))
    return "\n".join([_table(headings, rows), closed, corrected, *covered, *tables])


def _groups(held_out: HeldOut, column: str) -> str:
    """Mean efficiency of every policy, and the worst row of the learned one."""
    groups = {name: held_out.scores_by(column, name) for name in held_out.chosen}
    rows = [
        (label, str(own.rows), *[f"{groups[name][label].mean:.4f}" for name in groups], f"{own.worst:.3f}")
        for label, own in groups[LEARNED].items()
    ]
    return _table((column, "rows", *groups, f"{LEARNED}, worst"), rows)


def _counts(values: np.ndarray) -> list[tuple[str, int]]:
    names, counts = np.unique(values, return_counts=True)
    return [(str(name), int(count)) for name, count in zip(names, counts, strict=True)]


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [headings, ["---" if number == 0 else "---:" for number in range(len(headings))], *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines) + "\n"
