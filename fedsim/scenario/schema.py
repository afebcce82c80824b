"""The keys of a scenario: their types, ranges and defaults.

All models are frozen and refuse unknown keys, except where a block belongs to a plugin: there, the
keys that are not fedsim's own are the plugin's parameters.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from fedsim import yaml_lines
from fedsim.files import file_name

MOST_PIXELS = 16384
"""Height and width of an image, at most; one of it takes 0.8 GB."""
_MOST = 1_000_000_000
Count = Annotated[StrictInt, Field(ge=1, le=_MOST)]
Share = Annotated[StrictFloat, Field(ge=0, lt=1)]
Positive = Annotated[StrictFloat, Field(gt=0)]

DEFAULT_PROFILE = "default"
"""The profile that is the file itself."""


def _not_default(name: str) -> str:
    if name == DEFAULT_PROFILE:
        raise PydanticCustomError(
            "profile", "this is the file without a profile; choose another name"
        )
    return name


Patterns = Annotated[tuple[StrictStr, ...], Field(min_length=1)]
"""Names of a model's state, as a shell's patterns (`fedsim.wire.sharing`)."""

ProfileName = Annotated[StrictStr, AfterValidator(_not_default)]


class Block(BaseModel):
    """A block of fedsim's own keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class PluginBlock(Block):
    """A block that names a plugin; all keys but fedsim's own are the plugin's parameters."""

    model_config = ConfigDict(extra="allow")

    name: StrictStr

    @property
    def parameters(self) -> dict[str, Any]:
        """The plugin's parameters, as they are written."""
        return dict(self.model_extra or {})

    @classmethod
    def own_keys(cls) -> set[str]:
        """The keys that are fedsim's and not the plugin's."""
        return set(cls.model_fields)


def _as_block(value: Any) -> Any:
    """A plugin's name stands for a block with nothing else in it."""
    return {"name": value} if isinstance(value, str) else value


NamedPlugin = Annotated[PluginBlock, BeforeValidator(_as_block)]
"""An item of a list of plugins: a name, or a block with the name and parameters."""


class Split(Block):
    """Shares of the validation and test split; the rest is for training.

    With `folds`, the test split is fold number `fold` of so many (of volumes only). Of the patients
    to train on, clients have `fraction`; a smaller fraction is part of a larger one.
    """

    val: Share = 0.1
    test: Annotated[StrictFloat, Field(gt=0, lt=1)] = 0.1
    seed: Annotated[StrictInt, Field(ge=0)] = 0
    folds: Annotated[StrictInt, Field(ge=2)] | None = None
    fold: Annotated[StrictInt, Field(ge=0)] = 0
    fraction: Annotated[StrictFloat, Field(gt=0, le=1)] = 1.0

    @model_validator(mode="after")
    def _leaves_records_to_train(self) -> Split:
        if self.val + self.test >= 1:
            raise PydanticCustomError(
                "split", "val and test together must be below 1: nothing is left for training"
            )
        return self


class Features(Block):
    """What a frozen network makes of each image, in the place of the image or beside it.

    Attributes:
        network: a name of the catalogue of pretrained networks (`fedsim weights ls`), or a model
            plugin.
        weights: of a model plugin: a file or package, as `model.init` names it; None: those of the
            catalogue, or random ones that are always the same.
        whiten: divide each principal direction of the public features by its standard deviation to
            this power; None: what is known to help the network.
        dimensions: directions that are kept; None: all.
        projection: principal components of the public features, or random directions.
        public: so many generated stand-in images teach the map; 0: nothing is centred or whitened.
        public_root: a folder of public images that teach it in their place.
        beside: keep the images as the records, each with its vector beside it, for methods that
            compare both.
    """

    network: StrictStr
    weights: StrictStr | None = None
    whiten: Annotated[StrictFloat, Field(ge=0, le=1)] | None = None
    dimensions: Count | None = None
    projection: Literal["pca", "random"] = "pca"
    public: Annotated[StrictInt, Field(ge=0, le=_MOST)] = 2000
    public_root: StrictStr | None = None
    beside: StrictBool = False


class Data(PluginBlock):
    """What the scenario is about.

    Attributes:
        name: a data set plugin.
        root: folder of the data set; None: its embedded stand-in is generated. Where a scenario
            does not write the key, `FEDSIM_DATA/<name>` is the folder, if it exists.
        size: height and width of the images in pixels.
        patch: of volumes, what a network sees at a time: (height, width) or (depth, height, width)
            in voxels; None: a whole slice.
        embedded: parameters of the stand-in, ignored when the data are read from disk.
        split: shares of the records.
        skip_bad: leave out records that cannot be used, instead of stopping.
        positive: of two classes the one that sensitivity, AUC and the like are of; None: what the
            data set says, else the last by name.
        window: of images with grey values of more than 8 bits, the values that become black and
            white; None: the percentiles 1 and 99 of each image.
        features: of images to classify, vectors that a frozen network makes of them, in their
            place; a text is the network's name.
    """

    root: StrictStr | None = None
    size: Annotated[StrictInt, Field(ge=8, le=MOST_PIXELS)] = 32
    patch: Annotated[tuple[Count, ...], Field(min_length=2, max_length=3)] | None = None
    embedded: dict[str, Any] = Field(default_factory=dict)
    split: Split = Split()
    skip_bad: StrictBool = False
    positive: StrictStr | None = None
    window: tuple[StrictFloat, StrictFloat] | None = None
    features: Features | None = None

    @field_validator("features", mode="before")
    @classmethod
    def _as_block(cls, value: Any) -> Any:
        return {"network": value} if isinstance(value, str) else value

    @field_validator("window")
    @classmethod
    def _rises(cls, value: tuple[float, float] | None) -> tuple[float, float] | None:
        if value is not None and not value[0] < value[1]:
            raise PydanticCustomError("window", "expected [low, high] with low below high")
        return value


class Labels(Block):
    """Who outlines which structures of volumes.

    Attributes:
        clients: client name -> the structures that it outlines; None: every client outlines all.
        organs: organ -> its structures, where it has several.
        union: an organ with all its structures is one class.
    """

    clients: dict[StrictStr, tuple[StrictStr, ...]] | None = None
    organs: dict[StrictStr, tuple[StrictStr, ...]] = Field(default_factory=dict)
    union: StrictBool = False


class Appearance(Block):
    """How the volumes of one client look, beside what the data set has: another scanner.

    Attributes:
        invert: bright becomes dark.
        gamma: of the brightness between three standard deviations below and above the mean, beyond
            which it is cut off; above 1 is darker.
        ramp: added brightness, in standard deviations, from -ramp in the first column to +ramp in
            the last one.
    """

    invert: StrictBool = False
    gamma: Positive = 1.0
    ramp: Annotated[StrictFloat, Field(allow_inf_nan=False)] = 0.0


class OwnClient(PluginBlock):
    """The client method of one client: another one or, without a name, other parameters."""

    name: StrictStr | None = None  # type: ignore[assignment]


class Forget(Block):
    """Training records that a client is asked to forget: one of these.

    Attributes:
        share: of its patients (or records), drawn from the run's seed.
        records: names of records.
        patients: names of patients.
    """

    share: Annotated[StrictFloat, Field(gt=0, le=1)] | None = None
    records: tuple[StrictStr, ...] = ()
    patients: tuple[StrictStr, ...] = ()

    @model_validator(mode="after")
    def _one_of_them(self) -> Forget:
        if (self.share is not None) + bool(self.records) + bool(self.patients) != 1:
            raise PydanticCustomError("forget", "expected one of share, records and patients")
        return self


class Override(Block):
    """What is different at one client.

    Attributes:
        client: its client method, or other parameters of the scenario's.
        wrapper: a plugin around its client method, see `fedsim.Wrapper`.
        appearance: of volumes, how its own look.
        forget: records that it is asked to forget.
    """

    client: OwnClient | None = None
    wrapper: PluginBlock | None = None
    appearance: Appearance | None = None
    forget: Forget | None = None


Labelled = Annotated[StrictFloat, Field(gt=0, le=1)]
"""A share of training records whose labels are known."""


Rate = Annotated[StrictFloat, Field(ge=1e-6, le=1e12)]
"""Records, or megabytes, a second."""
Hours = Annotated[StrictFloat, Field(ge=1e-3, le=1e6)]
"""After which something begins again."""


class Rates(Block):
    """A number for each client, by one of these.

    Attributes:
        lognormal: median, and standard deviation of the logarithm; drawn once from the run's seed.
        uniform: lowest and highest; drawn once.
        by_size: the mean over clients; that of a client is proportional to its training records.
        clients: client name -> its own.
        others: beside `clients`, that of the clients that are not named there.
    """

    lognormal: tuple[Rate, Annotated[StrictFloat, Field(ge=0, le=10)]] | None = None
    uniform: tuple[Rate, Rate] | None = None
    by_size: Rate | None = None
    clients: dict[StrictStr, Rate] | None = None
    others: Rate | None = None

    @model_validator(mode="after")
    def _one_of_them(self) -> Rates:
        known = [key for key in type(self).model_fields if key != "others"]
        told = [key for key in known if getattr(self, key) is not None]
        if len(told) != 1:
            raise PydanticCustomError("rates", f"expected one of {', '.join(known)}")
        if self.others is not None and self.clients is None:
            raise PydanticCustomError("rates", "others goes with clients")
        if self.uniform is not None and self.uniform[0] > self.uniform[1]:
            raise PydanticCustomError("rates", "uniform: expected [low, high]")
        return self


class Available(Block):
    """When clients work.

    Attributes:
        share: of each period that a client works; it begins at an hour drawn once for the client.
        period: hours.
    """

    share: Annotated[StrictFloat, Field(ge=1e-3, le=1)]
    period: Hours = 24.0


class Staleness(Block):
    """What a reply to an older model counts, by how many models came since (tau).

    Attributes:
        name: constant: 1; polynomial: (1 + tau)^-a; hinge: 1 up to b, then 1 / (a (tau - b) + 1).
        a, b: of the function; None: 0.5 of polynomial, 10 and 4 of hinge.
    """

    name: Literal["constant", "polynomial", "hinge"] = "polynomial"
    a: Positive | None = None
    b: Annotated[StrictInt, Field(ge=0)] | None = None

    _having: ClassVar[dict[str, tuple[str, ...]]] = {
        "constant": (),
        "polynomial": ("a",),
        "hinge": ("a", "b"),
    }

    @model_validator(mode="after")
    def _only_its_own(self) -> Staleness:
        wrong = [key for key in ("a", "b") if getattr(self, key) is not None]
        if wrong := [key for key in wrong if key not in self._having[self.name]]:
            raise PydanticCustomError("staleness", f"{self.name} has no {' and no '.join(wrong)}")
        return self


class Clock(Block):
    """Simulated time, see `docs/methods/asynchrony.md`. Nobody waits for it.

    Attributes:
        kind: the server waits for all replies of a round; for those that come before a deadline;
            for so many replies (FedBuff); or for one (FedAsync).
        speed: records that a client trains on in a second; None: 100, or as `trace` says.
        bandwidth: MB/s of a client's link, both ways; None: messages take no time.
        available: when clients work; None: always.
        jitter: standard deviation of the logarithm of a factor of each training's seconds.
        trace: a CSV file with columns client, hour, speed and, if wished, bandwidth: what holds
            from that hour on; speed 0 is a client that is away.
        period: hours after which a trace begins again; None: its last lines hold on.
        deadline: of kind deadline, seconds after which replies are not used.
        buffer: of kind buffered, replies that the server waits for.
        staleness: of kinds buffered and asynchronous, what older replies count.
        mixing: of kind asynchronous, the weight of a reply to the current model; None: 0.6.
        proximal: of kinds buffered and asynchronous, mu of mu/2 |w - w0|^2 in the clients' loss;
            None: it is not added.
    """

    kind: Literal["synchronous", "deadline", "buffered", "asynchronous"]
    speed: Rate | Rates | None = None
    bandwidth: Rate | Rates | None = None
    available: Available | None = None
    jitter: Annotated[StrictFloat, Field(ge=0, le=10)] = 0.0
    trace: StrictStr | None = None
    period: Hours | None = None
    deadline: Positive | None = None
    buffer: Count | None = None
    staleness: Staleness | None = None
    mixing: Annotated[StrictFloat, Field(gt=0, le=1)] | None = None
    proximal: Positive | None = None

    _needs: ClassVar[dict[str, str]] = {"deadline": "deadline", "buffered": "buffer"}
    _of_kinds: ClassVar[dict[str, tuple[str, ...]]] = {
        "deadline": ("deadline",),
        "buffer": ("buffered",),
        "staleness": ("buffered", "asynchronous"),
        "mixing": ("asynchronous",),
        "proximal": ("buffered", "asynchronous"),
    }

    @field_validator("staleness", mode="before")
    @classmethod
    def _staleness_as_block(cls, value: Any) -> Any:
        return _as_block(value)

    @model_validator(mode="after")
    def _only_its_own(self) -> Clock:
        needed = self._needs.get(self.kind)
        if needed is not None and getattr(self, needed) is None:
            raise PydanticCustomError("clock", f"kind {self.kind} needs {needed}")
        for key, kinds in self._of_kinds.items():
            if getattr(self, key) is not None and self.kind not in kinds:
                raise PydanticCustomError("clock", f"{key} is of kind {' and '.join(kinds)} alone")
        if self.trace is not None:
            for key in ("speed", "bandwidth", "available"):
                if getattr(self, key) is not None:
                    raise PydanticCustomError("clock", f"trace says it all: leave {key} out")
        elif self.period is not None:
            raise PydanticCustomError("clock", "period is of a trace")
        return self

    @property
    def waits(self) -> bool:
        """Whether the server waits for the clients that it asked, and asks nobody meanwhile."""
        return self.kind in ("synchronous", "deadline")


def joining(clients: int, participation: float) -> int:
    """How many of `clients` join a round: this share of all, at least one."""
    return max(1, round(participation * clients))


class Federation(Block):
    """Who holds what, and who joins a round.

    Attributes:
        clients: number of clients; None: the partition decides.
        participation: share of the clients that join a round.
        partition: a partition plugin.
        labels: of volumes, who outlines which structures; None: every client outlines all.
        appearance: of volumes, client name -> how its own look; scores are of the data as they are.
        labelled: of how many training records the labels are known: a share at every client, client
            name -> its share, or a file with the names of these records; None: of all.
        labelled_groups: in its place, of how many groups (patients, lesions, cases) at each client.
        local: what of the model stays at each client, which has its own: normalisation layers, the
            last layers, or what patterns of names match; None: the clients share all of it.
        overrides: client name -> what is different there.
        clock: simulated time, in which clients are slow, away or late; None: there is none.
    """

    clients: Count | None = None
    participation: Annotated[StrictFloat, Field(gt=0, le=1)] = 1.0
    partition: PluginBlock = PluginBlock(name="iid")
    labels: Labels | None = None
    appearance: dict[StrictStr, Appearance] = Field(default_factory=dict)
    labelled: Labelled | dict[StrictStr, Labelled] | StrictStr | None = None
    labelled_groups: Count | None = None
    local: Literal["norm", "head"] | Patterns | None = None
    overrides: dict[StrictStr, Override] = Field(default_factory=dict)
    clock: Clock | None = None

    @property
    def hides_labels(self) -> bool:
        """Whether the labels of some training records are hidden."""
        return self.labelled is not None or self.labelled_groups is not None


class Adapter(Block):
    """What is trained in the place of a model's weights (`fedsim.adapters`).

    A key that is left out (or null) is the adapter's own.

    Attributes:
        name: low-rank changes of layers, or tokens that refine the features of blocks.
        rank: of a layer's change, or of a block's tokens.
        alpha: of lora, what the change is multiplied by, over the rank.
        targets: of lora, patterns of the paths of layers.
        freeze_a: of lora, the first factor stays as the seed gives it and does not travel.
        tokens: of rein, in each block, the null token included.
        layers: of rein, patterns of the paths of blocks.
        scale: of rein, what the refinement is multiplied by at first.
        class_tokens: of rein, first tokens of the features that pass as they are.
    """

    name: Literal["lora", "rein"]
    rank: Count | None = None
    alpha: Annotated[StrictFloat, Field(gt=0)] | None = None
    targets: Patterns | None = None
    freeze_a: StrictBool | None = None
    tokens: Annotated[StrictInt, Field(ge=2, le=_MOST)] | None = None
    layers: Patterns | None = None
    scale: Annotated[StrictFloat, Field(ge=0)] | None = None
    class_tokens: Annotated[StrictInt, Field(ge=0)] | None = None

    _having: ClassVar[dict[str, tuple[str, ...]]] = {
        "lora": ("rank", "alpha", "targets", "freeze_a"),
        "rein": ("rank", "tokens", "layers", "scale", "class_tokens"),
    }

    @model_validator(mode="after")
    def _only_its_own(self) -> Adapter:
        having = self._having[self.name]
        if wrong := [key for key in self.parameters if key not in having]:
            raise PydanticCustomError(
                "adapter",
                f"{self.name} has no {' and no '.join(wrong)}; it has {', '.join(having)}",
            )
        return self

    @property
    def parameters(self) -> dict[str, Any]:
        """What is said of it, by key; the rest is the adapter's own."""
        return self.model_dump(exclude={"name"}, exclude_none=True)


class Model(PluginBlock):
    """A model plugin.

    Attributes:
        init: its first weights: a file, `package:NAME==VERSION/PATH`, or a name of
            `fedsim weights ls`. None, written `random`, too: as the seed gives them. With
            an adapter, its own may be missing in the file.
        adapter: what is trained in the place of its weights, and travels; None: nothing is added.
        trainable: what of it is trained: all, the last layers, these and all normalisation layers
            or all biases, or what patterns of names match. The rest stays as it was at first, and
            does not travel. With an adapter, what is trained beside it; all means the last layers.
    """

    init: StrictStr | None = None
    adapter: Adapter | None = None
    trainable: Literal["all", "head", "norm+head", "bias+head"] | Patterns = "all"

    @field_validator("adapter", mode="before")
    @classmethod
    def _adapter_as_block(cls, value: Any) -> Any:
        return _as_block(value)


class External(Block):
    """Records that no client has, and that the finished models are scored on.

    Attributes:
        sites: sites of the scenario's data that take no part.
        root: another folder, of a data set as `data` describes it.
        dataset: the data set plugin that reads `root`, with its options, where it is another one.
    """

    sites: tuple[StrictStr, ...] = ()
    root: StrictStr | None = None
    dataset: NamedPlugin | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> External:
        if bool(self.sites) == (self.root is not None):
            raise PydanticCustomError("external", "expected one of sites and root")
        if self.dataset is not None and self.root is None:
            raise PydanticCustomError("external", "dataset says how root is read: give root")
        return self


class Groups(Block):
    """Which classes are frequent and which are rare, by their records in the whole data set.

    Attributes:
        head: a class with more records than this is frequent.
        tail: a class with fewer records is rare; those between are medium.
    """

    head: Count
    tail: Count

    @model_validator(mode="after")
    def _in_order(self) -> Groups:
        if self.tail > self.head:
            raise PydanticCustomError("groups", "expected tail to be at most head")
        return self


class Evaluation(Block):
    """Which model is the result, and what is measured when.

    Attributes:
        select: the last round's model, or the best one on the pooled validation split.
        val_scores: score models on the pooled validation split, too, without choosing by it.
        on_clients: let clients evaluate, too.
        every: evaluate after every so many rounds.
        external: records of elsewhere, to score the finished models on.
        groups: score frequent, medium and rare classes by themselves.
        inspect: write down for each round how far what each client sent is from the aggregate, and
            what it counts in it; all replies of a round are in memory then. None: where there is an
            adversary, or the strategy is `robust`.
    """

    select: Literal["last", "pooled_val"] = "last"
    val_scores: StrictBool = False
    on_clients: StrictBool = False
    every: Count = 1
    external: External | None = None
    groups: Groups | None = None
    inspect: StrictBool | None = None


_ADDRESS = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[\w.-]+):[0-9]{1,5}", re.ASCII)


class Resources(Block):
    """Where and how wide to compute. Backend and workers change the time, not a bit of the result.

    Attributes:
        backend: clients in this process, or in Ray's actors; auto: where the run ends first.
        workers: actors; None: as many as fit.
        threads, server_threads: threads of a client and of the server; they may change last bits.
        gpus: GPUs of one worker; a fraction shares one; auto: what there is, shared by as many
            workers as its memory holds (`fedsim.grid.gpu`).
        ray_address: host:port of a running Ray cluster, or auto for the one that Ray finds here;
            None: this machine.
        fast: a mode of computing with other last bits: memory formats, fused optimiser steps, and
            clients that train together (`fedsim.grid.mode`).
        precision: of training; bfloat16 is automatic mixed precision.
    """

    backend: Literal["auto", "inline", "ray"] = "auto"
    workers: Count | None = None
    threads: Count = 1
    server_threads: Count = 1
    gpus: Literal["auto"] | Annotated[StrictFloat, Field(ge=0)] = "auto"
    ray_address: StrictStr | None = None
    fast: StrictBool = False
    precision: Literal["float32", "bfloat16"] = "float32"

    @field_validator("gpus")
    @classmethod
    def _whole_above_one(cls, value: float | str) -> float | str:
        if not isinstance(value, str) and value > 1 and value != int(value):
            raise PydanticCustomError("gpus", "expected a whole number, or a fraction below 1")
        return value

    @field_validator("ray_address")
    @classmethod
    def _with_port(cls, value: str | None) -> str | None:
        if value not in (None, "auto") and not _ADDRESS.fullmatch(value or ""):
            raise PydanticCustomError(
                "ray_address", "expected auto, or host:port of a running Ray cluster"
            )
        return value


class Faults(Block):
    """What happens when clients fail, and which failures are simulated.

    Attributes:
        on_client_error: a client that raises, dies, hangs or diverges stops the run, or is left
            out of the round.
        min_clients: a training round with fewer replies stops the run; 0 lets a round without
            replies pass and leaves the model as it is.
        client_timeout: seconds after which a client that has not answered counts as failed.
        dropout: probability that a client takes part in a round and never answers.
        delay: mean seconds of a simulated, exponentially distributed delay of each reply. It is
            noted, not slept.
        deadline: a reply with a longer simulated delay is not used.
    """

    on_client_error: Literal["stop", "skip"] = "stop"
    min_clients: Annotated[StrictInt, Field(ge=0)] = 1
    client_timeout: Annotated[StrictFloat, Field(gt=0)] | None = None
    dropout: Share = 0.0
    delay: Annotated[StrictFloat, Field(ge=0)] = 0.0
    deadline: Annotated[StrictFloat, Field(ge=0)] | None = None


class Dimensions(Block):
    """The coordinates that a filter compares: see `fedsim.privacy.mechanisms.Dimensions`.

    Attributes:
        measure: what must be large.
        gamma: share of the coordinates left out.
    """

    measure: Literal["magnitude", "std", "cov"]
    gamma: Share


class Filter(Block):
    """A cosine filter on the gradients of DP-SGD, see `docs/privacy.md`.

    Attributes:
        reference: what directions are compared with: a "private" sum of the same sample, the last
            unfiltered release ("alternating"), or as published ("paper_unsound": no guarantee).
        psi: keep a record where its cosine is above psi.
        dimensions: coordinates to compare; None compares all.
        reference_noise: noise multiplier of the private reference, over that of the update.
        combine: weight of the private reference in the update.
        noise: reading of the paper's noise on the gradients.
        cosine_noise: the paper's noise multiplier on the cosines, over that of the gradients.
        half_width: the paper clips cosines to psi plus or minus this.
    """

    reference: Literal["private", "alternating", "paper_unsound"]
    psi: Annotated[StrictFloat, Field(ge=-1, lt=1)] = 0.0
    dimensions: Dimensions | None = None
    reference_noise: Positive = 1.0
    combine: Annotated[StrictFloat, Field(ge=0, le=1)] = 0.5
    noise: Literal["shared", "independent"] = "shared"
    cosine_noise: Positive = 2.0
    half_width: Positive = 0.5


class Privacy(Block):
    """Differential privacy of the clients' training, see `docs/privacy.md`.

    Attributes:
        mechanism: "dp_sgd" makes the releases of every client's training private.
        target_epsilon: the noise multiplier is the smallest with which no client's epsilon is above
            this after the planned rounds, by the best upper bound.
        noise_multiplier: standard deviation of the noise over `max_grad_norm`; this or
            `target_epsilon`.
        delta: the common delta, below 1/n of every client.
        max_grad_norm: largest Euclidean norm of what one unit contributes to a sum.
        expected_batch: units in an average sample; a client with fewer samples all.
        unit: whose contents are protected: one record, one patient or lesion with all records, or
            one client; None: patient where records repeat a patient, else record.
        shared_patients: a patient may be at several sites: epsilon is that of all releases.
        max_epsilon: a round that would take a client's epsilon above this is not run.
        on_budget: stop the run there, or go on without that client.
        filter: of gradients; None keeps all.
        augmentations: average a record's gradients over so many augmentations before clipping.
        noise: "seeded" comes from the scenario and the seed, so that the run can be repeated, and
            whoever knows them can take it off: simulation. "secret" comes from a key that the
            operating system draws for the run, and that is erased when the run is done.
        trust: "own_noise": what each client sends is private by itself. "secure_sum": each client
            adds 1/sqrt(N) of the noise, and only the sum of all N clients' answers is private: it
            takes for granted that honest clients mask them, and that the server learns the sum
            alone.
        averaging: weight of the past in an exponential mean of the round's iterates, which is sent
            in place of the last one; 0 sends the last.
        physical_batch: records whose gradients are computed at a time; it changes no result beyond
            rounding.
        audit: when the run ends, attack its claim and write the verdict down: true or "mechanism"
            attacks one release, "run" the training of the client that pays most, again and with
            canaries, "lira" finished models (25 trainings).
    """

    mechanism: Literal["dp_sgd"] = "dp_sgd"
    target_epsilon: Annotated[StrictFloat, Field(ge=1e-4, le=1e4)] | None = None
    noise_multiplier: Annotated[StrictFloat, Field(ge=0, le=1e6)] | None = None
    delta: Annotated[StrictFloat, Field(ge=1e-100, lt=1)] = 1e-4
    max_grad_norm: Annotated[StrictFloat, Field(ge=1e-10, le=1e10)] = 1.0
    expected_batch: Count = 64
    unit: Literal["record", "patient", "client"] | None = None
    shared_patients: StrictBool = False
    max_epsilon: Positive | None = None
    on_budget: Literal["stop", "drop_client"] = "stop"
    filter: Filter | None = None
    augmentations: Count = 1
    noise: Literal["seeded", "secret"] = "seeded"
    trust: Literal["own_noise", "secure_sum"] = "own_noise"
    averaging: Share = 0.0
    physical_batch: Count = 64
    audit: StrictBool | Literal["mechanism", "run", "lira"] = False

    @field_validator("noise_multiplier")
    @classmethod
    def _none_or_some(cls, value: float | None) -> float | None:
        if value and value < 1e-3:
            raise PydanticCustomError("noise", "expected 0, for none, or at least 0.001")
        return value

    @model_validator(mode="after")
    def _noise_is_told_once(self) -> Privacy:
        if (self.target_epsilon is None) == (self.noise_multiplier is None):
            raise PydanticCustomError(
                "privacy", "expected one of target_epsilon and noise_multiplier, the other null"
            )
        if self.shared_patients and self.unit not in (None, "patient"):
            raise PydanticCustomError("privacy", "shared_patients needs unit: patient")
        if self.audit in ("run", "lira") and self.unit not in (None, "record"):
            raise PydanticCustomError(
                "privacy", "audit: run and audit: lira need unit: record; type privacy.audit=false"
            )
        return self


PartOf = Annotated[StrictFloat, Field(gt=0, lt=1)]
"""A share of the values of a model, neither none nor all."""


class Sparsify(Block):
    """Which values of a change travel.

    Attributes:
        topk: the share of them that is farthest from 0, of all tensors together.
    """

    topk: PartOf


class Sketch(Block):
    """A count sketch in the place of the values of a change.

    Attributes:
        rows: of it; each is a guess of every value, and their median counts.
        columns: of each row, as a share of the values.
        topk: the share of values that the server takes out of it, the others are 0.
    """

    rows: Annotated[StrictInt, Field(ge=1, le=99)] = 5
    columns: PartOf
    topk: PartOf


class Wire(Block):
    """Compression of the models that travel, around any method; see `docs/methods/compression.md`.

    Attributes:
        codec: of the values that clients send of the change of their models.
        sparsify: send the largest of these values alone.
        sketch: send a sketch of them; this or `sparsify`.
        error_feedback: what is left out of a change is added to the client's next one.
        down: codec of the models that the server sends.
    """

    codec: Literal["float32", "float16", "uint8", "int4"] = "float32"
    sparsify: Sparsify | None = None
    sketch: Sketch | None = None
    error_feedback: StrictBool = False
    down: Literal["float32", "float16", "uint8"] = "float32"

    @model_validator(mode="after")
    def _goes_together(self) -> Wire:
        if self.sparsify is not None and self.sketch is not None:
            raise PydanticCustomError("wire", "expected one of sparsify and sketch, not both")
        lossless = self.codec == "float32" and self.sparsify is None and self.sketch is None
        if self.error_feedback and lossless:
            raise PydanticCustomError(
                "wire",
                "error_feedback: nothing is left out of what clients send; name a codec, sparsify "
                "or sketch, or leave it out",
            )
        return self


class Adversary(PluginBlock):
    """Clients that collude against the training, see `docs/methods/adversaries.md`.

    Attributes:
        clients: their names; this or `count`.
        count: so many clients, picked by the run's seed.
        knows: what they know: what they trained themselves, what all clients trained, or that and
            the rule by which the server aggregates; None: the least that the attack needs.
    """

    clients: tuple[StrictStr, ...] | None = None
    count: Count | None = None
    knows: Literal["own", "updates", "aggregator"] | None = None

    @model_validator(mode="after")
    def _picked_once(self) -> Adversary:
        if (self.clients is None) == (self.count is None):
            raise PydanticCustomError("adversary", "expected one of clients and count")
        if self.clients is not None and len(set(self.clients)) < max(len(self.clients), 1):
            raise PydanticCustomError(
                "adversary", "clients: expected at least one client, and each only once"
            )
        return self


class Scenario(Block):
    """A validated scenario; `fedsim.scenario.load` makes one.

    `data.root`, files of `model.init` and `plugins` are absolute paths once loaded, and the
    selected profile is applied.
    """

    blocks: ClassVar[dict[tuple[str, ...], tuple[str, type[PluginBlock]]]] = {
        ("data",): ("datasets", Data),
        ("federation", "partition"): ("partitions", PluginBlock),
        ("model",): ("models", Model),
        ("strategy",): ("strategies", PluginBlock),
        ("client",): ("clients", PluginBlock),
        ("adversary",): ("adversaries", Adversary),
    }
    """Path of each block that names a plugin -> the plugin's group and the block's model."""

    name: StrictStr
    description: StrictStr = ""
    seeds: tuple[Annotated[StrictInt, Field(ge=0, lt=2**yaml_lines.MOST_BITS)], ...] = (0,)
    rounds: Count = 1
    data: Data
    federation: Federation = Federation()
    model: Model
    strategy: PluginBlock
    client: PluginBlock
    adversary: Adversary | None = None
    privacy: Privacy | None = None
    evaluation: Evaluation = Evaluation()
    resources: Resources = Resources()
    faults: Faults = Faults()
    wire: Wire | None = None
    observers: tuple[NamedPlugin, ...] = ()
    plugins: tuple[StrictStr, ...] = ()
    profile: StrictStr = DEFAULT_PROFILE
    profiles: dict[ProfileName, dict[StrictStr, Any]] = Field(default_factory=dict)

    _path: Path | None = PrivateAttr(default=None)
    _places: dict[tuple[str, ...], str] = PrivateAttr(default_factory=dict)

    @property
    def path(self) -> Path | None:
        """The file the scenario was read from."""
        return self._path

    def place(self, *path: str) -> str:
        """Where a key of a plugin's block, or the block, was written: "file.yaml:12", or ""."""
        # What was not written itself came with the nearest block above it that was.
        above = (path[:depth] for depth in range(len(path), 0, -1))
        return next((at for one in above if (at := self._places.get(one))), "")

    def data_root(self) -> Path | None:
        """The folder of the data set; None: its embedded stand-in is generated."""
        return None if self.data.root is None else Path(self.data.root)

    def resolved(self) -> dict[str, Any]:
        """All keys with their values, defaults included, as plain lists and dictionaries.

        The profile is applied: its name stays as a label, with nothing left to override.
        """
        values = self.model_dump()
        values["profiles"] = {} if self.profile == DEFAULT_PROFILE else {self.profile: {}}
        plain = _plain(values)
        assert isinstance(plain, dict)
        return plain

    def to_yaml(self) -> str:
        """`resolved()` as YAML; loading it gives the same scenario."""
        return yaml_lines.write(self.resolved())

    @field_validator("name")
    @classmethod
    def _names_a_folder(cls, value: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", value) or value != file_name(value):
            raise PydanticCustomError(
                "name",
                "expected letters, digits, '_', '-' and '.', first a letter or digit, at most 80: "
                "a folder of runs gets that name",
            )
        return value

    @field_validator("seeds")
    @classmethod
    def _different(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if not value or len(set(value)) < len(value):
            raise PydanticCustomError("seeds", "expected at least one seed, and each only once")
        return value


def _plain(value: Any) -> Any:
    """Tuples as lists, all the way down."""
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list | tuple) else value
