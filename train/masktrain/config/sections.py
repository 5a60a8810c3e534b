"""The settings of a fit by section: each default, its help and where it comes from, in one place.

Those about what is learnt from are in :mod:`masktrain.config.images`.

Light imports only: the command line reads them for ``--help``.
"""

from __future__ import annotations

from dataclasses import dataclass

from maskprep.base import UsageError
from masktrain.config.settings import Section, setting

SCHEDULES = ["cosine", "constant", "step", "multistep", "exponential", "cyclic", "restarts", "onecycle", "plateau"]
TARGETS = ("joint", "heads", "ordinal", "number")
LOSSES = ["ce", "focal", "f1", "ce_f1", "ldam", "bce", "soft_margin"]
CLASS_WEIGHTS = ("none", "sqrt", "inverse", "log", "effective")
SOUPS = ("none", "uniform", "greedy")
HEADS = ("linear", "cosine")
EPOCHS = ("best", "last")
MIRRORS = ("none", "mirror")
LOGS = ("tensorboard", "wandb", "mlflow")
AMP = ("auto", "off", "bf16", "fp16")


@dataclass(frozen=True)
class ModelConfig(Section):
    """The network."""

    name: str = setting("tf_efficientnet_lite0", "Name of a timm model.", "its ImageNet weights need no hub")
    second: str = setting(
        "",
        "Another timm model whose features are put beside those of the first; each sees the crops at its own size.",
        "a CNN and a transformer err differently",
    )
    pretrained: bool = setting(True, "Start from pretrained weights.", "timm")
    start: str = setting(
        "",
        "Start from the weights of another run, or of a .safetensors or .pth file, of the same model: all that fit, the"
        " classifier only where target and classes are the same.",
    )
    dropout: float = setting(0.2, "Dropout before the classifier.", "EfficientNet, arXiv 1905.11946", low=0, high=0.95)
    drop_path: float = setting(
        0.0, "Share of residual branches dropped while training.", "arXiv 1603.09382", low=0, high=0.9
    )
    freeze: int = setting(0, "First stages that do not learn, norms included; -1 for all but the classifier.", low=-1)
    thaw: float = setting(
        0.0,
        "Share of the epochs over which frozen stages thaw one after another, from the top; 0 for never.",
        "gradual unfreezing, arXiv 1801.06146",
        low=0,
        high=1,
    )
    thaw_on_plateau: bool = setting(
        False,
        "Thaw all frozen stages when select.by has not improved for half of select.patience, instead of model.thaw.",
    )
    checkpointing: bool = setting(
        False,
        "Gradient checkpointing: less memory, about a third more time.",
        "arXiv 1604.06174",
    )
    head: str = setting(
        "linear",
        "Classifier: linear, or cosine (normalised features and weights, outputs times loss.scale; for LDAM).",
        "arXiv 1906.07413",
        choices=HEADS,
    )


@dataclass(frozen=True)
class TargetConfig(Section):
    """What the network answers."""

    kind: str = setting(
        "auto",
        "joint (one answer per joint class), heads (one per attribute), ordinal (heads that know the order of bins),"
        " number (a head that answers with the number itself) or auto (number where the data tells one, otherwise"
        " joint). For a network of its own for each attribute see fit --parts.",
        "number is 0.05 better than joint in benchmarks/RESULTS.md",
        choices=(*TARGETS, "auto"),
    )
    number_share: float = setting(
        0.5, "Share of the number's own error in the loss of a head that answers with it.", low=0, high=1
    )
    weights: tuple[float, ...] = setting(
        (), "Weight of each head's loss, in the order of the attributes (default: alike).", low=0
    )
    losses: tuple[str, ...] = setting(
        (), "Loss of each head, in the order of the attributes (default: --loss).", choices=LOSSES
    )
    smoothing: tuple[float, ...] = setting(
        (),
        "Label smoothing of each head, in the order of the attributes (default: loss.label_smoothing).",
        low=0,
        high=0.9,
    )


@dataclass(frozen=True)
class LossConfig(Section):
    """What is minimised."""

    name: str = setting(
        "ce",
        "ce, focal, f1 (soft F1), ce_f1 (both), ldam, bce (summed over classes) or soft_margin (their mean).",
        "focal arXiv 1708.02002, LDAM arXiv 1906.07413",
        choices=LOSSES,
    )
    label_smoothing: float = setting(
        0.1,
        "Target mass spread evenly over all classes (eps/C each, the true class too); not in soft F1.",
        "arXiv 1512.00567",
        low=0,
        high=0.9,
    )
    class_weights: str = setting(
        "sqrt",
        "Weight of a class by its count n: none, sqrt (n^-1/2), inverse (1/n), log (1/log(1+n)) or effective number.",
        "effective number: arXiv 1901.05555",
        choices=CLASS_WEIGHTS,
    )
    beta: float = setting(
        0.9999,
        "Beta of the effective-number class weights, (1-beta)/(1-beta^n).",
        "arXiv 1901.05555",
        low=0,
        high=0.999999,
    )
    defer: float = setting(
        0.0, "Share of the training after which class weights begin to count.", "DRW, arXiv 1906.07413", low=0, high=1
    )
    gamma: float = setting(2.0, "Focus of the focal loss.", "arXiv 1708.02002", low=0, high=10)
    f1_share: float = setting(0.7, "Share of soft F1 in ce_f1.", low=0, high=1)
    margin: float = setting(0.5, "LDAM's margin of the rarest class.", "arXiv 1906.07413", low=0, high=1)
    scale: float = setting(
        30.0, "LDAM's scale of the margins, and of the cosine head's outputs.", "arXiv 1906.07413", low=0, open_low=True
    )


@dataclass(frozen=True)
class OptimConfig(Section):
    """Optimiser."""

    epochs: int = setting(
        0,
        "Passes over the training images; 0 for as many as give 600 updates, but 8 at least and 60 at most.",
        "8 epochs of 30 people with 7 photos each are only 90 updates",
        low=0,
    )
    batch_size: int = setting(
        0,
        "Images per step; 0 for 16, or 64 on a GPU with more than 3,000 images in an epoch.",
        "16: more updates than 32",
        low=0,
    )
    optimizer: str = setting("adamw", "Name of a timm optimiser.", "AdamW, arXiv 1711.05101")
    lr: float = setting(
        0.0,
        "Peak learning rate, a tenth or less of the default for transformers; 0 for 1e-3 times the root of the batch"
        " size over 16.",
        "measured: 3e-4 is too low for EfficientNet-Lite0, 1e-3 to 3e-3 are alike at batches of 32",
        low=0,
    )
    weight_decay: float = setting(0.02, "Weight decay; none on biases and norms.", "timm", low=0)
    layer_decay: float = setting(
        1.0,
        "Factor of the learning rate from each layer to the one before it; 1 for none.",
        "BEiT, arXiv 2106.08254",
        low=0.1,
        high=1,
    )
    micro_batch: int = setting(
        0,
        "Images on the device at once, the gradients adding up; 0 for the whole batch. Halved when memory runs out.",
        low=0,
    )
    sam: float = setting(
        0.0, "Radius of sharpness-aware minimisation (two passes); 0 for none.", "arXiv 2010.01412", low=0
    )
    clip: float = setting(1.0, "Largest norm of the gradient; 0 for no limit.", "AutoGluon's default", low=0)
    ema: float = setting(
        0.0,
        "Decay of the running average of the weights, which is then what is scored and kept; 0 for none.",
        "warm-up (1+t)/(10+t), as TensorFlow has it",
        low=0,
        high=0.99999,
    )


@dataclass(frozen=True)
class ScheduleConfig(Section):
    """The learning rate over the updates."""

    kind: str = setting(
        "cosine",
        "cosine, constant, step, multistep, exponential, cyclic (triangles), restarts (a cosine anew in every cycle),"
        " onecycle or plateau (of the selection score).",
        "restarts: SGDR, arXiv 1608.03983; onecycle: arXiv 1708.07120",
        choices=SCHEDULES,
    )
    warmup: float = setting(0.1, "Share of the steps that warm up.", "AutoGluon's default", low=0, high=1)
    floor: float = setting(0.0, "Lowest share of the peak rate.", low=0, high=1)
    gamma: float = setting(
        0.1,
        "Factor of a drop, for step, multistep and plateau; of the whole run for exponential.",
        low=0,
        high=1,
        open_low=True,
    )
    stretches: int = setting(3, "Equal stretches of step, each gamma times lower.", low=1)
    milestones: tuple[float, ...] = setting((0.6, 0.85), "Shares of the run where multistep drops.", low=0, high=1)
    cycles: int = setting(
        3, "Cycles of cyclic and restarts, for snapshots.", "snapshot ensembles, arXiv 1704.00109", low=1
    )
    patience: int = setting(2, "Epochs without a better score before plateau drops.", low=0)


@dataclass(frozen=True)
class SelectConfig(Section):
    """Which epoch is kept."""

    by: str = setting(
        "macro_f1",
        "By which score an epoch is the best: macro_f1, macro_f1_all, accuracy, val_loss, or one of an attribute such"
        " as age.macro_f1; or last, see select.epoch.",
    )
    epoch: str = setting(
        "best",
        "best: the epoch that is best by select.by on the people held out, "
        "whose scores are then too high; last: nothing is"
        " chosen on them and no fit ends early (--select last).",
        choices=EPOCHS,
    )
    patience: int | None = setting(
        None,
        "Epochs without a better score before the fit ends; 0 for never. By default never where optim.epochs is given,"
        " otherwise a quarter of the epochs, 5 at least.",
        low=0,
    )
    stop_by: str = setting("", "Score of the patience, where it is not that of the selection.")
    last: int = setting(0, "Last epochs whose weights are kept, for soup.", low=0)
    every: int = setting(
        1, "For soup, keep every so many epochs only, such as the ends of cycles (epochs / cycles).", low=1
    )
    soup: str = setting(
        "none",
        "Average the weights of the last epochs, kept if it scores higher: none, uniform (SWA) or greedy.",
        "SWA, arXiv 1803.05407; soups, arXiv 2203.05482",
        choices=SOUPS,
    )

    def __post_init__(self) -> None:
        if self.by == "last":
            object.__setattr__(self, "by", "macro_f1")
            object.__setattr__(self, "epoch", "last")
        super().__post_init__()
        if self.epoch == "last" and self.soup == "greedy":
            raise UsageError(
                "select.soup=greedy chooses epochs on the held-out people, which --select last forbids.",
                "Set select.soup=uniform.",
            )
        if self.soup != "none" and self.last < 2:
            raise UsageError("A soup needs at least two epochs.", "Keep more of them: --set select.last=5")


@dataclass(frozen=True)
class RunConfig(Section):
    """How it is run."""

    seed: int = setting(0, "Seed of every random draw of the training.", low=0, high=2**32 - 1)
    snapshot_seconds: float = setting(
        60.0,
        "Seconds between two snapshots within an epoch, from which --resume "
        "continues; the result does not depend on it.",
        low=0,
    )
    minutes: float = setting(
        0.0, "Time limit of each fit in minutes, with fewer epochs if needed; 0 for no limit.", low=0
    )
    probe: bool = setting(True, "Also score a linear probe: logistic regression on the features before training.")
    device: str = setting("auto", "auto, cpu, cuda, cuda:1, ...", "torch")
    tta: str = setting(
        "none",
        "Average over the crop and its mirror image when scoring and predicting: none or mirror.",
        choices=MIRRORS,
    )
    amp: str = setting(
        "auto", "Mixed precision: auto (16 bits on CUDA, none on a CPU), off, bf16 or fp16.", choices=AMP
    )
    compile: bool | None = setting(
        None,
        "Compile the training step (torch.compile, with CUDA graphs); by default on a GPU when a fit sees more than"
        " 300,000 images, which pays for the minute it takes.",
        "torch",
    )
    deterministic: bool = setting(False, "On CUDA, compute the same bits every time, more slowly; a CPU always does.")
    plugins: tuple[str, ...] = setting(
        (), "Plugins that the other settings use, with their hashes; set only by --plugin."
    )
    protocol: str = setting("", "Hash of the protocol that the settings follow; set only by masktrain fit.")
    deviates: tuple[str, ...] = setting((), "How and why the settings differ from the protocol; set only by --deviate.")
    extended: tuple[int, ...] = setting(
        (),
        "Epochs after which --resume RUN --epochs N added more and restarted the schedule; set only by it.",
    )
    log: tuple[str, ...] = setting(
        (), "Also log the metrics to tensorboard, wandb or mlflow (optional packages).", choices=LOGS
    )
