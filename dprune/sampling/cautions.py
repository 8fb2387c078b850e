"""What images are asked for that a model has not learnt; nothing here imports torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from dprune.formats.provenance import Record, parents_of
from dprune.models.classes import TrainedClasses
from dprune.models.files import ModelFile
from dprune.sampling.companions import COARSE, Companion
from dprune.sampling.settings import SampleSettings


def cautions(model: ModelFile, settings: SampleSettings, companions: Sequence[Companion] = ()) -> Iterator[str]:
    """Yield a sentence for each; a file made elsewhere does not say what it was trained on."""
    yield from _of_model(model, settings)
    for one in companions:
        yield from _of_companion(one, model, settings)


def _of_model(model: ModelFile, settings: SampleSettings) -> Iterator[str]:
    classes = model.network.get("classes")
    if not classes:
        return
    trained = TrainedClasses.of(model.network, classes)
    if trained.samples is not None:
        yield from _of_classes(model, trained, settings)
    yield from _of_guidance(model, settings)


def _of_companion(one: Companion, model: ModelFile, settings: SampleSettings) -> Iterator[str]:
    """Yield what a companion has not learnt of what the model is to draw with it."""
    network = one.file.network
    if not network.get("classes"):
        return
    drawn = TrainedClasses.of(model.network, model.network.get("classes", network["classes"])).present.tolist()
    asked = settings.classes.listed if settings.classes else ()
    unknown = set(asked or drawn).intersection(TrainedClasses.of(network, network["classes"]).empty.tolist())
    if unknown:
        called = one.file.class_names.listed(sorted(unknown))
        yield f"--{one.role} {one.file.path} was trained on no sample of {called}: name other --classes."
    if one.role == COARSE:
        yield from _of_guidance(one.file, settings)


def _of_guidance(model: ModelFile, settings: SampleSettings) -> Iterator[str]:
    samples = TrainedClasses.of(model.network, model.network["classes"]).samples
    labelled = None if samples is None else sum(samples)
    if settings.cfg != 1 and not _knows_none(model.record, labelled):
        yield (
            f"--cfg {settings.cfg:g}: {model.path} was trained with --label-dropout 0, so it never learnt "
            "to draw without a label, which guidance needs: give --cfg 1, or train it with label dropout."
        )


def _of_classes(model: ModelFile, trained: TrainedClasses, settings: SampleSettings) -> Iterator[str]:
    asked = settings.classes.listed if settings.classes else ()
    known, names = set(trained.present.tolist()), model.class_names
    if strange := sorted(set(asked) - known):
        called = names.listed(strange)
        yield f"--classes: {model.path} was trained on no sample of {called}: name other classes."
    elif len(trained.empty) and not asked:
        yield (
            f"{model.path} was trained on no sample of {len(trained.empty)} of its {trained.count} classes "
            f"({names.listed(trained.empty)}): they are left out, unless --classes names them."
        )


def _knows_none(record: Record | None, labelled: int | None = None) -> bool:
    """Tell whether a model, or one that it began with, may have learnt what there is without a label.

    Args:
        record: provenance of the model.
        labelled: samples with a label that it was trained on, None where that is not known.
    """
    options = record["options"] if record else {}
    if options.get("label_dropout") != 0 or (labelled is not None and options.get("samples", 0) > labelled):
        return True
    begun = parents_of(record).get("init")
    return begun is not None and _knows_none(begun.get("provenance"))
