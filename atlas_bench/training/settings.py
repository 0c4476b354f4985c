"""What a training run is asked to do."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Stage:
    """Streams of ``length`` tokens, a share ``noise`` of which is noise."""

    length: int = 64  # tokens
    noise: float = 0.0  # share of them, from 0 to 1
    coarse: bool = False  # gradients at chunks model.coarse_factor times the memory's
    price: float = 1.0  # share of the change penalty; none to a model that did not pass before
    longest: float | None = None  # share of training.tokens; null: the curriculum's


def default_stages() -> list[Stage]:
    """Facts alone until they are answered: with coarse chunks, in which nothing that is written is
    overwritten, then with the model's own. Then noise and its price, then length."""
    return [
        Stage(64, 0.0, coarse=True, price=0.0, longest=0.35),
        Stage(128, 0.0, price=0.0),
        Stage(256, 0.5),
        Stage(512, 0.8, price=3.0),
        Stage(1024, 0.9, price=10.0),
    ]


@dataclass
class CurriculumSettings:
    """Streams get noisier, then longer, whenever the answers' accuracy passes the threshold, or
    when a stage has had its share: a model that does not get there still meets every length."""

    stages: list[Stage] = field(default_factory=default_stages)  # in turn
    threshold: float = 0.92  # running accuracy on answers that ends a stage
    patience: int = 40  # steps a stage lasts at least
    longest: float = 0.2  # share of training.tokens after which a stage ends all the same


@dataclass
class TrainingSettings:
    """Budget, optimizer and objective."""

    tokens: int = 1_000_000  # the budget
    # Passes over a task's fixed training set, instead of tokens; for tasks that have one.
    epochs: float | None = None
    batch_tokens: int = 512  # tokens a step
    min_streams: int = 2  # streams a step, however long they are: fewer would be noise
    accumulate: int = 1  # micro-batches a step; the same gradient with less memory
    learning_rate: float = 4e-3  # the highest; of AdamW
    final_rate: float = 0.1  # share of the learning rate that the cosine ends at
    warmup_steps: int = 500  # in which the learning rate rises from 0
    weight_decay: float = 0.01  # of matrices but for the memories' initial weights
    betas: list[float] = field(default_factory=lambda: [0.9, 0.98])  # of AdamW
    clip: float = 1.0  # norm of the gradient
    language_modelling_weight: float = 0.02  # of all other tokens beside the answers
    # Price on the mean of what is written and forgotten, in the stages that charge it: noise is
    # worth neither. Charged before facts are answered, it teaches never to write.
    change_penalty: float = 1.0
    question_every: int = 10  # tokens between two questions of a stream, on average
    checkpoint_every: int = 100  # steps
    validate_every: int | None = None  # steps; for tasks that have validation examples
    stop_at: float | None = None  # accuracy on them that ends training
    curriculum: CurriculumSettings = field(default_factory=CurriculumSettings)


def check_training(settings: TrainingSettings) -> None:
    """Raise ValueError in one sentence for a value that cannot be trained with."""
    for name in (
        "tokens",
        "batch_tokens",
        "min_streams",
        "accumulate",
        "question_every",
        "checkpoint_every",
    ):
        if getattr(settings, name) < 1:
            raise ValueError(f"training.{name}={getattr(settings, name)} must be at least 1")
    for name in ("epochs", "validate_every", "stop_at"):
        if getattr(settings, name) is not None and getattr(settings, name) <= 0:
            raise ValueError(f"training.{name}={getattr(settings, name)} must be above 0, or null")
    if settings.stop_at is not None and settings.validate_every is None:
        raise ValueError("training.stop_at needs training.validate_every=STEPS to look at")
    for name in ("learning_rate", "clip"):
        if getattr(settings, name) <= 0:
            raise ValueError(f"training.{name}={getattr(settings, name)} must be above 0")
    for name in ("warmup_steps", "weight_decay", "language_modelling_weight", "change_penalty"):
        if getattr(settings, name) < 0:
            raise ValueError(f"training.{name}={getattr(settings, name)} must not be negative")
    if not 0 <= settings.final_rate <= 1:
        raise ValueError(f"training.final_rate={settings.final_rate} must lie in 0..1")
    if len(settings.betas) != 2 or not all(0 <= beta < 1 for beta in settings.betas):
        raise ValueError(f"training.betas={settings.betas} must be two numbers in 0..1, 1 excluded")
    stages = settings.curriculum.stages
    shares = {"": settings.curriculum.longest}
    shares |= {f"stages[{index}].": stage.longest for index, stage in enumerate(stages)}
    for name, share in shares.items():
        if share is not None and share <= 0:
            raise ValueError(f"training.curriculum.{name}longest={share} must be above 0")
    for index, stage in enumerate(stages):
        if stage.length < 64 or not 0 <= stage.noise < 1:
            raise ValueError(
                f"training.curriculum.stages[{index}]={stage.length} tokens, {stage.noise} noise "
                f"must have 64 tokens or more and a share in 0..1, 1 excluded"
            )
        if stage.price < 0:
            raise ValueError(
                f"training.curriculum.stages[{index}].price={stage.price} must not be negative"
            )
    if not stages:
        raise ValueError(
            "training.curriculum.stages is empty; name at least one, as {length: 64, noise: 0.0}"
        )
