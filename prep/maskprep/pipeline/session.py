"""One user at work on one cache: the commands as methods, ``maskprep.open(photos, cache).crop(margin=0.2)``."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from maskprep.audit import Audit, decide, run_audit
from maskprep.base import VERSION, Progress, Silent, UsageError, UserError, cores
from maskprep.crops import ViewSettings
from maskprep.dataset import DEFAULT_VIEW
from maskprep.faces import Choose, Subjects
from maskprep.labels import Attribute, Changes, DuplicateReport, Schema, allow_pairs, apply, gather, open_duplicates
from maskprep.labels import table as labelling
from maskprep.mattes import MatteSettings, check_runtime, open_model
from maskprep.mattes import models as matte_models
from maskprep.photos import PhotoFolder, find_image
from maskprep.pipeline import config as configuration
from maskprep.pipeline.config import Config, check_view_name
from maskprep.pipeline.damage import check_accounts
from maskprep.pipeline.opening import look, open_settings, record
from maskprep.pipeline.plan import Photos, plan
from maskprep.store import (
    Decision,
    Pool,
    Report,
    Tables,
    change,
    check,
    decisions,
    is_cache,
    login,
    read_table,
    refresh,
    resolve,
    sweep,
)


class Session:
    """A cache and its photos, with the commands as methods. Each method returns the session.

    Args:
        source: photo folder (never written to) or cache.
        cache: where the cache is wanted; by default ``cache/<name of the photo folder>``.
        config: a maskprep.yaml; by default the one in the photo folder, or the one the cache was made with.
        workers: processes; by default as many as there are cores.
        engine: ``processes`` or ``serial``.
        progress: where progress is reported.

    Attributes:
        root: the photo folder, absolute.
        config: what the cache is to hold.
        config_path: maskprep.yaml in use, None without one.
        report: what the last method did.
        photos: the photo folder as the last method met it, None before.
        changes: what the fixes made of the labels, as of the last method.
        faces_wanted: whether faces are looked for; None: where a view shows them.

    Raises:
        UserError: the cache or its settings cannot be used.
    """

    def __init__(
        self,
        source: Path | str,
        cache: Path | str | None = None,
        config: Path | str | None = None,
        *,
        workers: int | None = None,
        engine: str = "processes",
        progress: Progress | None = None,
    ) -> None:
        check(engine, workers)
        self.source = Path(source)
        self.workers, self.engine = workers or cores(), engine
        self.cache, self.root = resolve(self.source, None if cache is None else Path(cache))
        opened = open_settings(self.cache, self.root, None if config is None else Path(config))
        self.config, self.config_path, self._removed = opened.config, opened.path, opened.removed
        self.report = Report(progress or Silent(), notes=opened.notes)
        self.photos: Photos | None = None
        self.changes = Changes()
        self.faces_wanted: bool | None = None

    # ------------------------------------------------------------ what the last method did

    @property
    def progress(self) -> Progress:
        """Where progress is reported."""
        return self.report.progress

    @property
    def computed(self) -> Counter[str]:
        """Rows made, by stage."""
        return self.report.computed

    @property
    def failed(self) -> dict[str, str]:
        """Photos of which something could not be made this time, with why; the next run tries again."""
        return self.report.failed

    @property
    def notes(self) -> list[str]:
        """Sentences for the user."""
        return self.report.notes

    @property
    def ignored(self) -> Counter[str]:
        """Files that are no photos, counted by reason."""
        return self.photos.walk.ignored if self.photos else Counter()

    @property
    def unlisted(self) -> list[str]:
        """Folders among the photos that cannot be listed, with why."""
        return self.photos.walk.unlisted if self.photos else []

    @property
    def layout(self) -> str:
        """Layout of the photo folder."""
        return self.photos.described.layout if self.photos else ""

    @property
    def detected(self) -> bool:
        """Whether the layout was recognised by looking at the folder."""
        return self.config.source.layout == "auto"

    @property
    def seeks_faces(self) -> bool:
        """Whether faces are looked for: not where all views show whole photos or their middle."""
        return self.config.shows_faces if self.faces_wanted is None else self.faces_wanted

    @property
    def folder(self) -> PhotoFolder:
        """Opens the photos."""
        return PhotoFolder(self.root, self.config.index.max_megapixels)

    @property
    def schema(self) -> Schema:
        """What the cache classifies."""
        return Schema.from_dict(self.cache.read()["schema"])

    # ------------------------------------------------------------ stages

    def tables(self, audit: bool = False) -> Tables:
        """The stages of the cache for the photos as they are now, with what they have made.

        Args:
            audit: whether the stages of an audit are among them.
        """
        self.photos = self.photos or look(self.cache, self.root, self.config)
        stages = plan(self.photos, self.config, self.cache.decisions, faces_sought=self.seeks_faces, audit=audit)
        return Tables(self.cache, stages)

    def subjects(self) -> Subjects:
        """The choice of every subject, with what is needed to explain one."""
        tables = self.tables()
        choose = tables.stages["choose"]
        assert isinstance(choose, Choose)
        return choose.subjects(tables)

    def _refresh(
        self,
        names: Iterable[str] | None = None,
        *,
        views: Iterable[str] | None = None,
        matted: bool = True,
        audit: bool = False,
    ) -> Session:
        """Bring the cache up to date.

        Args:
            names: of the stages, None for all.
            views: which views are cut, None for all.
            matted: whether the views that are to have mattes get them.
            audit: whether photos are measured, too.

        Raises:
            UserError: anything the user can mend.
            KeyboardInterrupt: stopped; all committed shards stay and the next run goes on from them.
        """
        self.report = Report(self.report.progress, notes=self.report.notes if self.photos is None else [])
        wanted = None if names is None else set(names)
        cut = {"", *(self.config.views if views is None else views)}
        with self.cache.lock(), Pool(self.workers, self.engine) as pool:
            if wanted is None:  # a mistake in a fix is reported before the long work
                labels = self.config.labels
                gather(labels.fixes, labels.preset, labels.min_agree, self.cache.decisions)
            for folder in (self.cache.root, *self.cache.root.glob("stages/*"), *self.cache.root.glob("views/*")):
                sweep(folder)
            for view in self._removed:
                shutil.rmtree(self.cache.view(view), ignore_errors=True)
                self.notes.append(f"View '{view}' is no longer in '{self.config_path}': its crops are deleted.")
            self._removed = []
            self.photos = look(self.cache, self.root, self.config)
            described, tables = self.photos.described, self.tables(audit)
            self.notes.extend(described.notes)
            stages = [*tables.stages.values()]
            record(self.cache, self.root, self.config, self.config_path, described, stages)
            asked = [s for s in stages if (wanted is None or s.name in wanted) and s.name.partition(":")[2] in cut]
            frozen = () if matted else tuple(stage.name for stage in asked if stage.name.startswith("matte:"))
            refresh(asked, tables, pool, self.folder, self.report, frozen=frozen)
            self.notes.extend(labelling.unknown_values(described.table, described.schema))
            if wanted is None:
                check_accounts(self.cache, self.config.choose.no_face)
        return self

    def _repr_html_(self) -> str:
        """For notebooks: what the cache holds, by status, split, error and label."""
        from maskprep.pipeline import explain  # which uses sessions

        return explain.overview(self)

    def log(self, command: str, seconds: float) -> None:
        """Add the line of a finished command to log.jsonl."""
        statuses: dict[str, int] = {}
        if self.cache.subjects.is_file():
            statuses = dict(sorted(Counter(read_table(self.cache.subjects, ["status"])["status"]).items()))
        entry = {"command": command, "versions": {"maskprep": VERSION}, "computed": dict(self.computed)}
        self.cache.append_log({**entry, "counts": statuses, "seconds": round(seconds, 2)})

    # ------------------------------------------------------------ commands

    def index(self, layout: str | None = None) -> Session:
        """List, hash and decode every photo once: images.parquet.

        Args:
            layout: how labels are read; by default as before, or by looking at the folder.
        """
        return self._read_as(layout)._refresh(("index", "images"))

    def run(self, layout: str | None = None) -> Session:
        """Bring every stage and every view up to date. See :meth:`index` for the argument."""
        return self._read_as(layout)._refresh()

    def _read_as(self, layout: str | None) -> Session:
        source = dataclasses.replace(self.config.source, **_given({"layout": layout}))
        self.config = dataclasses.replace(self.config, source=source)
        return self

    def stats(self) -> Session:
        """Mean and standard deviation of every view: stats.json, after bringing the crops up to date."""
        return self._refresh()

    def audit(self, predictions: Sequence[Path | str] = ()) -> Audit:
        """Bring everything up to date, measure the photos, and run the checks of an audit.

        Args:
            predictions: oof.parquet files or run folders.
        """
        self._refresh(audit=True)
        files = [Path(file) for file in predictions]
        with self.cache.lock():
            return run_audit(self.tables(audit=True), self.folder, self.schema, self.progress, files)

    def name_classes(self, classes: Mapping[str, Sequence[str]]) -> Session:
        """Say what photos without labels are to be labelled with, for ``maskprep review``; the cache remembers it.

        Args:
            classes: the classes of each attribute, in index order.

        Raises:
            UsageError: the photos have other labels already, or a name or class that cannot be one.
        """
        wanted = Schema(tuple(Attribute(name, tuple(values)) for name, values in classes.items()), tuple(classes))
        known = self.index().schema
        if known.attributes and known != wanted:
            names = ", ".join(attribute.name for attribute in known.attributes)
            hint = "Change them in maskprep.yaml, section schema."
            raise UsageError(f"The cache has other attributes or classes: {names}.", hint)
        self.config = dataclasses.replace(self.config, schema=wanted)
        return self

    def detect(self) -> Session:
        """Find all faces and choose the subjects, without cutting crops.

        Raises:
            UsageError: no view of the cache shows faces.
        """
        if not self.seeks_faces:
            raise UsageError(
                f"No view of '{self.cache.root}' shows faces, so none are looked for.",
                f"Add one with: maskprep crop {self.cache.root} --view faces --crop face",
            )
        return self._refresh(views=())

    def crop(
        self,
        view: str = DEFAULT_VIEW,
        *,
        size: tuple[int, int] | None = None,
        margin: float | None = None,
        align: str | None = None,
        crop: str | None = None,
        border: str | None = None,
        zoom: float | None = None,
        no_face: str | None = None,
        detectors: tuple[str, ...] | None = None,
    ) -> Session:
        """Find the faces, choose the subject of every photo and cut the crops of one view.

        Args:
            view: name of the set of crops.
            size: height and width in pixels. This and the following: None keeps what the cache or maskprep.yaml says.
            margin: added on each side of the face, relative to its longer side.
            align: none, eyes or similarity.
            crop: face, centre or none.
            border: inside, reflect, replicate, constant or blur.
            zoom: how many times larger a centred crop shows the middle, at least 1.
            no_face: rescue, whole, drop or error.
            detectors: names of the detectors that look at every photo.
        """
        check_view_name(view)
        fresh = not is_cache(self.cache.root) and self.config.views == Config().views
        views = {} if fresh else dict(self.config.views)
        edits: dict[str, Any] = {"size": size, "margin": margin, "align": align, "crop": crop, "border": border}
        edits["zoom"] = zoom if zoom is not None or crop in (None, "centre") else 1.0  # other crops have none
        views[view] = dataclasses.replace(views.get(view, ViewSettings()), **_given(edits))
        self.config = dataclasses.replace(
            self.config,
            views=views,
            choose=dataclasses.replace(self.config.choose, **_given({"no_face": no_face})),
            detect=dataclasses.replace(self.config.detect, **_given({"detectors": detectors})),
        )
        return self._refresh(views=[view], matted=False)

    def rembg(
        self,
        view: str | None = None,
        *,
        model: str | None = None,
        on: str | None = None,
        refine: str | None = None,
        runtime: str | None = None,
        providers: Sequence[str] | None = None,
    ) -> Session:
        """Separate the subject of every crop from the background: one soft matte per crop.

        Args:
            view: which crops; None for those that there are now. A view that is added later gets mattes when it is
                asked for, or where maskprep.yaml has a section ``matte`` that names no views.
            model: name of a model or path of an ONNX file. This and the following: None keeps what the cache says.
            on: crop, or photo (the whole photo is looked at, and its matte cropped).
            refine: none, guided or closed-form.
            runtime: onnxruntime or openvino.
            providers: what onnxruntime runs on, such as ``cuda``.
        """
        before = self.config.matte
        named = None if model is None else matte_models.find(model).name
        chosen = None if providers is None else tuple(providers)
        edits = _given({"model": named, "on": on, "refine": refine, "runtime": runtime, "providers": chosen})
        if view is not None and view not in self.config.views:
            raise UsageError(f"There is no view '{view}'.", f"Known views: {', '.join(self.config.views)}.")
        if self.config_path is None or configuration.load(self.config_path).matte is None:  # else the file says which
            earlier = () if before is None else before.views
            edits["views"] = tuple(dict.fromkeys([*earlier, *([view] if view is not None else self.config.views)]))
        settings = dataclasses.replace(before or MatteSettings(), **edits)
        self.config = dataclasses.replace(self.config, matte=settings)
        local = matte_models.locate(settings.model)  # before any long work, and before the cache remembers it
        check_runtime(settings.runtime, settings.providers)
        if not local.model.weight:  # a file of one's own may be anything
            with open_model(local, 1, settings.runtime, settings.providers):
                pass
        views = [view] if view is not None else [v for v in self.config.views if settings.covers(v)]
        return self._refresh(views=views)

    def relabel(
        self,
        *,
        fixes: Sequence[Path | str] | None = None,
        preset: str | None = None,
        min_agree: int | None = None,
        dry_run: bool = False,
    ) -> Session:
        """Apply fixes to the labels; the cache remembers them. What they do is :attr:`changes`.

        Args:
            fixes: CSV or YAML files (:mod:`maskprep.labels.fixes`), in place of those remembered; empty for none. This
                and the following: None keeps what the cache or maskprep.yaml says.
            preset: a list of published label errors, ``none`` for none.
            min_agree: use those of the preset that at least so many published lists agree on.
            dry_run: only find out what the fixes would do. Photos are indexed if they are not, nothing else is written.
        """
        edits: dict[str, Any] = {"min_agree": min_agree}
        if fixes is not None:
            edits["fixes"] = tuple(os.fspath(Path(file).resolve()) for file in fixes)
        asked = dataclasses.replace(self.config.labels, **_given(edits))
        if preset is not None:
            asked = dataclasses.replace(asked, preset=None if preset == "none" else preset)
        found = gather(asked.fixes, asked.preset, asked.min_agree, self.cache.decisions)  # a mistake comes first
        first = self.index().report
        changes = apply(read_table(self.cache.images), self.schema, found)
        if not dry_run:  # and fixes that cannot be applied never come to be remembered
            self.config = dataclasses.replace(self.config, labels=asked)
            self._refresh(views=())
            self.report.computed.update(first.computed)
        self.changes = changes
        return self

    def duplicates(
        self, *, distance: int | None = None, allow: Iterable[str] = (), reason: str = ""
    ) -> DuplicateReport:
        """Find photos that are there twice. The cache is brought up to date, without cutting crops.

        Args:
            distance: most bits of 256 in which near copies differ; None for the usual one. Others are not kept.
            allow: photos whose pairs across people or splits do no harm (kept in decisions.csv).
            reason: why they do none.
        """
        self._refresh(views=())
        found = open_duplicates(self.cache, distance)
        known = read_table(self.cache.images, ["image"])["image"].tolist()
        names = [find_image(known, name, self.root) for name in allow]
        if not names:
            return found
        when = datetime.now(UTC).isoformat(timespec="seconds")
        made = [d for name in names for d in allow_pairs(found, name, reason=reason, by=login(), when=when)]
        change(self.cache.decisions, made)
        return open_duplicates(self.cache, distance)

    def decide(self, image: str, verdict: str, value: str = "", *, reason: str = "", by: str | None = None) -> Decision:
        """Decide on one image, in place of an earlier decision on the same. The next command obeys it.

        Args:
            image: its name in the cache, a path to the photo, or an unambiguous end of either.
            verdict: keep, drop, face, box or relabel.
            value: see :func:`maskprep.audit.decisions.decide`.
            reason: why.
            by: who decided; None for the login.

        Raises:
            UsageError: no such image, verdict or value.
        """
        self._refresh(views=())
        name = find_image(read_table(self.cache.images, ["image"])["image"].tolist(), image, self.root)
        made = decide(name, verdict, value, self.subjects(), read_table(self.cache.labels), self.schema)
        when = datetime.now(UTC).isoformat(timespec="seconds")
        made = dataclasses.replace(made, reason=reason, by=login() if by is None else by, when=when)
        decisions.replace(self.cache.decisions, [made])
        return made


def _given(edits: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in edits.items() if value is not None}


def prepare(
    source: Path,
    cache: Path,
    settings: Mapping[str, Any],
    view: str,
    workers: int | None = None,
    *,
    matted: bool = False,
) -> None:
    """Crops of other photos by the settings of an earlier cache, as a trained run needs them.

    Args:
        source: photo folder.
        cache: a new or earlier cache of these photos.
        settings: the ``settings`` of the earlier cache's dataset.json.
        view: the only view that is cut.
        workers: processes; by default as many as there are cores.
        matted: whether the crops need mattes.
    """
    asked = configuration.parse(settings)
    if view not in asked.views:
        raise UserError(f"The settings have no view '{view}'; they have: {', '.join(asked.views)}.")
    faces_needed = asked.needs_faces(view, matted)
    matte = None if asked.matte is None else dataclasses.replace(asked.matte, providers=())  # others may run here
    asked = dataclasses.replace(
        asked,
        views={view: asked.views[view]},
        labels=labelling.LabelSettings(),
        matte=matte if matted or asked.choose.matte else None,  # which may tell who the subject is
    )
    session = Session(source, cache, workers=workers)
    session.config = dataclasses.replace(asked, source=session.config.source)
    session.faces_wanted = faces_needed
    session._refresh(matted=matted)


def command(name: str) -> Callable[..., Any]:
    """A method of :class:`Session` as a function, which takes the arguments of both."""
    method = getattr(Session, name)

    @functools.wraps(method)
    def call(source: Path | str, *opening: Path | str | None, **options: Any) -> Any:
        own = {name: options.pop(name) for name in inspect.signature(Session).parameters if name in options}
        return method(Session(source, *opening, **own), **options)

    return call
