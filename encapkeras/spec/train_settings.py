"""The `train:` section of a spec: every setting, its unit, its default, what it may be.

Epochs are counted from 1; a learning rate holds for one step of the optimizer, which is one batch.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pydantic
from pydantic import Field

from encapkeras.validation import Settings

Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]
Epochs = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Section(Settings):
    """A map of a spec: unknown keys and ill-typed values are errors."""

    model_config = pydantic.ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Adam(Section):
    """Adam (Kingma and Ba, arXiv:1412.6980)."""

    kind: Literal["adam"] = "adam"
    learning_rate: Rate = Field(1e-3, description="Step size, before the schedule.")
    beta_1: Decay = Field(0.9, description="Decay of the mean gradient, per step.")
    beta_2: Decay = Field(0.999, description="Decay of the mean squared gradient, per step.")
    epsilon: Rate = Field(1e-7, description="Added to the root of the mean squared gradient.")


class SGD(Section):
    """Stochastic gradient descent."""

    kind: Literal["sgd"] = "sgd"
    learning_rate: Rate = Field(1e-2, description="Step size, before the schedule.")
    momentum: Decay = Field(0.9, description="Fraction of the previous step that is added to each step; 0 for none.")
    nesterov: bool = Field(
        False, description="Nesterov momentum: treat the gradient as if taken after the momentum's step."
    )


class RMSprop(Section):
    """RMSprop: gradients divided by a moving root of their mean square, or of their variance."""

    kind: Literal["rmsprop"] = "rmsprop"
    learning_rate: Rate = Field(1e-3, description="Step size, before the schedule.")
    rho: Decay = Field(0.9, description="Decay of the moving means, per step.")
    momentum: Decay = Field(0.0, description="Fraction of the previous step that is added to each step; 0 for none.")
    epsilon: Rate = Field(1e-7, description="Added to the mean square before the root is taken.")
    centered: bool = Field(False, description="Subtract the squared mean gradient, which leaves the variance.")


class Constant(Section):
    """The optimizer's learning rate in every step, after the warm-up."""

    kind: Literal["constant"] = "constant"
    warmup_epochs: Epochs = Field(0.0, description="Epochs at the start in which the rate rises linearly from 0.")


class Step(Section):
    """The learning rate falls by a factor at milestones."""

    kind: Literal["step"] = "step"
    milestones: list[pydantic.PositiveInt] = Field(
        min_length=1, description="Epochs after which the learning rate is multiplied by `factor`."
    )
    factor: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.1, description="Factor by which each milestone multiplies the rate."
    )
    warmup_epochs: Epochs = Field(0.0, description="Epochs at the start in which the rate rises linearly from 0.")


class Cosine(Section):
    """The learning rate falls along half a cosine from the end of the warm-up to the last step."""

    kind: Literal["cosine"] = "cosine"
    final_factor: Share = Field(0.0, description="The last learning rate, as a fraction of the optimizer's.")
    warmup_epochs: Epochs = Field(0.0, description="Epochs at the start in which the rate rises linearly from 0.")


class OneCycle(Section):
    """One rise to the optimizer's learning rate and one fall, each along half a cosine (Smith, arXiv:1708.07120)."""

    kind: Literal["one_cycle"] = "one_cycle"
    start_factor: Share = Field(0.04, description="The first learning rate, as a fraction of the optimizer's.")
    final_factor: Share = Field(4e-6, description="The last learning rate, as a fraction of the optimizer's.")
    warmup_epochs: Epochs | None = Field(None, description="Epochs of the rise; 30 % of all epochs if not given.")


Schedule = Constant | Step | Cosine | OneCycle


class WeightDecay(Section):
    """Weight decay: what pulls the weights towards 0."""

    kind: Literal["coupled", "decoupled"] = Field(
        "decoupled",
        description="coupled: `rate * weight` joins the gradient of every trainable weight, before clipping (L2); "
        "decoupled: each step multiplies every trainable weight by `1 - learning_rate * rate` (AdamW).",
    )
    rate: Rate = Field(description="Strength, per step.")


class Ema(Section):
    """Exponential moving average of the weights: what is validated, saved and tested in place of the weights."""

    momentum: Decay = Field(
        0.99,
        description="Fraction of the average that each step keeps: `average = momentum * average + (1 - momentum) * "
        "weight`, from the weight of the first step on; it looks about 1 / (1 - momentum) steps back.",
    )


class EarlyStopping(Section):
    """Ends the training when the metric `select` no longer becomes better."""

    patience: pydantic.PositiveInt = Field(
        description="Epochs without a better value of `select` after which training stops."
    )
    min_delta: Share = Field(0.0, description="By how much the metric (0 to 1) must change to count as better.")


class Analysis(Section):
    """Looks at what the routing layers do while the network is trained."""

    every: pydantic.PositiveInt = Field(description="Epochs from one analysis to the next, and to the first.")
    images: pydantic.PositiveInt = Field(
        256, description="How many validation images to analyse, balanced over classes."
    )


class ResumeState(Section):
    """When the resume state is saved: all that is needed to continue an interrupted training at the very step."""

    epochs: pydantic.PositiveInt = Field(1, description="Epochs from one save to the next.")
    minutes: Rate | None = Field(
        10.0, description="Minutes from one save to the next within an epoch; null for between epochs alone."
    )
    keep: pydantic.PositiveInt = Field(2, description="How many of the newest resume states to keep.")


class TrainSettings(Section):
    """The `train:` section of a spec.

    Examples:
        >>> TrainSettings.model_validate({"epochs": 3, "optimizer": {"kind": "sgd"}}).optimizer.learning_rate
        0.01
    """

    epochs: pydantic.PositiveInt = Field(10, description="Number of passes over the training set.")
    seed: Annotated[int, Field(ge=0, lt=2**32)] = Field(
        0, description="Determines the initial weights, the order and augmentation of images, and dropout."
    )
    optimizer: Annotated[Adam | SGD | RMSprop, Field(discriminator="kind")] = Field(
        Adam(), description="The optimizer and its settings."
    )
    schedule: Annotated[Schedule, Field(discriminator="kind")] = Field(
        Constant(), description="How the learning rate changes during training."
    )
    learning_rates: dict[str, Rate] | None = Field(
        None,
        description="Factors of the learning rate by node, or by patterns (`*`, `?`) of nodes' names: `{trunk: 0.1}`. "
        "Of several patterns that match a node, the last one counts. null for one rate.",
    )
    weight_decay: WeightDecay | None = Field(None, description="Weight decay; null for none.")
    precision: Literal["float32", "bfloat16", "float16"] = Field(
        "float32",
        description="Number type of matrix products and convolutions; weights, routing, batch norms and losses keep "
        "float32. float16 scales the loss, and needs a GPU.",
    )
    tf32: bool | None = Field(
        None,
        description="Whether GPUs may round the factors of float32 products to 10 bits; null for "
        "torch's default. No effect on a CPU.",
    )
    compile: bool = Field(
        False,
        description="Whether squash, batch norm with squash, dynamic and EM routing are compiled by torch.compile: "
        "minutes at the start, to save time in each step. Needs a C++ compiler; on GPUs Triton and a C compiler.",
    )
    clip_norm: Rate | None = Field(
        None, description="The largest norm that all gradients together may have; larger ones are scaled down to it."
    )
    accumulate: pydantic.PositiveInt = Field(
        1,
        description="How many batches make one step of the optimizer, with the mean of their gradients, as one batch "
        "that many times as large would; also across the end of an epoch. Schedule, warm-up and `ema` count batches.",
    )
    sync_batch_norm: bool = Field(
        False,
        description="When several processes train together: whether batch norms take their statistics over the whole "
        "batch, as one process would, instead of over the part of each.",
    )
    ema: Ema | None = Field(
        None, description="Use a moving average of the weights in their place; null for the weights themselves."
    )
    class_weights: Literal["balanced"] | dict[str, Rate] | None = Field(
        None,
        description="Factors of the losses of training images, by the name of their class, 1 for those not named; "
        "'balanced': images / (classes * images of that class), so that each class counts the same and their mean over "
        "the images is 1. null for none.",
    )
    select: Literal[
        "val_accuracy", "val_loss", "val_balanced_accuracy", "val_macro_f1", "val_auc", "val_calibration_error"
    ] = Field(
        "val_accuracy",
        description="The metric of the validation images that chooses the best epoch: the highest, or the lowest "
        "`val_loss` or `val_calibration_error`.",
    )
    early_stopping: EarlyStopping | None = Field(
        None, description="When to stop before the last epoch; null for never."
    )
    resume_state: ResumeState = Field(
        ResumeState(), description="When to save the state from which an interrupted training resumes."
    )
    max_bad_batches: Annotated[int, Field(ge=0)] = Field(
        0,
        description="How many batches with a non-finite loss or gradient to skip, in the whole training, "
        "before it stops.",
    )
    analysis: Analysis | None = Field(None, description="When to analyse the routing layers; null for never.")

    @pydantic.field_validator("schedule")
    @classmethod
    def _ends_its_rise(cls, schedule: Schedule, info: pydantic.ValidationInfo) -> Schedule:
        """Refuses a warm-up that lasts to the end; a single epoch is a trial, which any recipe allows."""
        epochs, warmup = info.data.get("epochs", 1), schedule.warmup_epochs
        if warmup is not None and 1 < epochs <= warmup:
            raise ValueError(f"warmup_epochs must be below train.epochs, {epochs}; received {warmup:g}")
        return schedule

    @pydantic.field_validator("select", mode="before")
    @classmethod
    def _chooses_by_itself(cls, select: Any) -> Any:
        """Refuses the mean IoU, which is there with masks alone, and then takes the place of the accuracy."""
        if select == "val_mean_iou":
            raise ValueError("the mean IoU of masks chooses the best epoch by itself: leave 'select' out.")
        return select

    @pydantic.field_validator("analysis")
    @classmethod
    def _comes_to_an_analysis(cls, analysis: Analysis | None, info: pydantic.ValidationInfo) -> Analysis | None:
        """Refuses an analysis that the training ends before; a single epoch is a trial, which any recipe allows."""
        epochs = info.data.get("epochs", 1)
        if analysis is not None and 1 < epochs < analysis.every:
            raise ValueError(f"every must be at most train.epochs, {epochs}; received {analysis.every}")
        return analysis
