"""One user at work on one cache: the commands as methods, ``maskprep.open(photos, cache).crop(margin=0.2)``."""

from __future__ import annotations

import dataclasses
import functools
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

from maskprep.audit import Audit, run_audit
from maskprep.base import VERSION, Progress, Silent, UsageError, UserError, cores, some
from maskprep.crops import ViewSettings
from maskprep.dataset import DEFAULT_VIEW
from maskprep.faces import Choose, Subjects
from maskprep.labels import Changes, DuplicateReport, Schema, allow_pairs, apply, gather, layouts, open_duplicates
from maskprep.labels import table as labelling
from maskprep.mattes import MatteSettings, check_runtime, open_model, planes
from maskprep.mattes import models as matte_models
from maskprep.photos import PhotoFolder, Walk, find_image, walk
from maskprep.pipeline import config as configuration
from maskprep.pipeline.config import CONFIG_NAME, Config, check_view_name
from maskprep.pipeline.plan import Photos, plan
from maskprep.store import (
    Pool,
    Report,
    Stage,
    Tables,
    change,
    check,
    is_cache,
    login,
    read_table,
    refresh,
    resolve,
    sweep,
    to_json,
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
        source: the photo folder or cache that was given.
        cache: the cache.
        root: the photo folder, absolute.
        config: what the cache is to hold.
        config_path: maskprep.yaml in use, None without one.
        report: what the last method did.
        photos: the photo folder as the last method met it, None before.
        changes: what the fixes made of the labels, as of the last method.
        faces_wanted: whether faces are looked for; None: where a view shows them.

    Raises:
        UserError: see :func:`maskprep.store.cache.resolve` and :func:`maskprep.pipeline.config.load`.
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
        self.report = Report(progress or Silent())
        self.photos: Photos | None = None
        self.changes = Changes()
        self._removed: list[str] = []
        self.faces_wanted: bool | None = None
        self.config, self.config_path = self._settings(None if config is None else Path(config))

    def _settings(self, path: Path | None) -> tuple[Config, Path | None]:
        base = Config()
        known = is_cache(self.cache.root)
        if known:
            recorded = self.cache.read()
            try:
                base = configuration.parse({**recorded["settings"], "source": recorded["source"]["settings"]})
            except UserError as error:
                raise UserError(f"'{self.cache.dataset}' is damaged: {error.message}", "Restore it.") from error
            if recorded["source"]["schema_given"]:
                base = dataclasses.replace(base, schema=Schema.from_dict(recorded["schema"]))
            if path is None and recorded["source"]["config"] and Path(recorded["source"]["config"]).is_file():
                path = Path(recorded["source"]["config"])
        if path is None and (self.root / CONFIG_NAME).is_file():
            path = self.root / CONFIG_NAME
        loaded = configuration.load(path, base) if path else base
        if known and path:
            self._removed = [v for v in recorded["source"].get("views", ()) if v not in self._listed(path)]
            left = {name: view for name, view in loaded.views.items() if name not in self._removed}
            loaded = dataclasses.replace(loaded, views=left or Config().views)
        if known and (changed := configuration.differences(base, loaded)):
            self.report.notes.append(f"'{path}' counts before what the cache was made with: {some(changed)}.")
        if loaded.matte is not None and loaded.matte is base.matte and not loaded.matte.views:  # not recorded once
            views = tuple(v for v in loaded.views if (self.cache.view(v) / planes.DESCRIPTION).is_file())
            loaded = dataclasses.replace(loaded, matte=dataclasses.replace(loaded.matte, views=views))
        return loaded, path.resolve() if path else None

    def _listed(self, path: Path | None) -> list[str]:
        """The views that a maskprep.yaml names."""
        return [] if path is None else configuration.named_views(path)

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

    def stages(self, audit: bool = False) -> list[Stage]:
        """The stages of the cache, for the photos as they are now.

        Args:
            audit: whether those of an audit are among them.
        """
        if self.photos is None:
            self.photos = self._look()
        return plan(self.photos, self.config, self.cache.decisions, faces_sought=self.seeks_faces, audit=audit)

    def tables(self, audit: bool = False) -> Tables:
        """What the stages have made."""
        return Tables(self.cache, self.stages(audit))

    def subjects(self) -> Subjects:
        """The choice of every subject, with what is needed to explain one."""
        tables = self.tables()
        choose = tables.stages["choose"]
        assert isinstance(choose, Choose)
        return choose.subjects(tables)

    def _look(self) -> Photos:
        found = walk(self.root)
        images = [file.image for file in found.files]
        if not images:
            seen = ", ".join(f"{n} {what}" for what, n in found.ignored.most_common(3)) or "nothing at all"
            raise UserError(
                f"There are no photos in '{self.root}' (found: {seen}).", "Give the folder that holds them."
            )
        described = self._describe(images)
        ignored = Counter(found.ignored)
        for name in described.lists:  # a table that was read is not passed over
            what = f"not a photo ({PurePosixPath(name).suffix.lower()})"
            if ignored[what] and (self.root / name).is_file():
                ignored[what] -= 1
        return Photos(Walk(found.files, +ignored, found.unlisted), described)

    def _describe(self, images: Sequence[str]) -> layouts.Described:
        """What the layout says of the photos. A cache keeps its layout: a new table does not replace its labels.

        Raises:
            UserError: the layout that is recognised by looking at the folder is another than before.
        """
        settings = self.config.source
        described = layouts.describe(self.root, images, settings, self.config.schema)
        before = self.cache.read()["source"].get("layout") if is_cache(self.cache.root) else None
        if settings.layout != "auto" or before in (None, described.layout):
            return described
        now, lists = described.layout, f" ('{described.lists[0]}' names them)" if described.lists else ""
        if (before, now) == ("flat", "folders"):
            note = "Some photos lie in folders now; are these classes, say so with --layout folders."
            flat = dataclasses.replace(settings, layout=before)
            described = layouts.describe(self.root, images, flat, self.config.schema)
            return dataclasses.replace(described, notes=(note, *described.notes))
        raise UserError(
            f"The photos of '{self.cache.root}' were read as layout '{before}', and look like '{now}' now{lists}.",
            f"Say which holds: maskprep index {self.cache.root} --layout {before}, or --layout {now} for new labels.",
        )

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
        cut = set(self.config.views if views is None else views)
        with self.cache.lock(), Pool(self.workers, self.engine) as pool:
            if wanted is None:
                self._fixes()  # a mistake in a fix is reported before the long work
            for folder in (self.cache.root, *self.cache.root.glob("stages/*"), *self.cache.root.glob("views/*")):
                sweep(folder)
            self.photos = None
            for view in self._removed:
                shutil.rmtree(self.cache.view(view), ignore_errors=True)
                self.report.notes.append(f"View '{view}' is no longer in '{self.config_path}': its crops are deleted.")
            self._removed = []
            stages = self.stages(audit)
            described = self.photos.described  # type: ignore[attr-defined]
            self.report.notes.extend(described.notes)
            self._write_dataset(described, stages)
            tables = Tables(self.cache, stages)
            asked = [s for s in stages if (wanted is None or s.name in wanted) and _view(s) in {"", *cut}]
            frozen = () if matted else tuple(stage.name for stage in asked if stage.name.startswith("matte:"))
            refresh(asked, tables, pool, self.folder, self.report, frozen=frozen)
            self.report.notes.extend(labelling.unknown_values(described.table, described.schema))
            if wanted is None:
                self._check_accounts()
        return self

    def _fixes(self) -> Any:
        asked = self.config.labels
        return gather(asked.fixes, asked.preset, asked.min_agree, self.cache.decisions)

    def _check_accounts(self) -> None:
        """Every photo has exactly one row in every table, or something is very wrong.

        Raises:
            UserError: the tables do not agree; or photos without a face are an error by the settings.
        """
        images = list(read_table(self.cache.images, ["image"])["image"])
        if doubles := sorted(image for image, count in Counter(images).items() if count > 1):
            raise UserError(
                f"Several photos have the same name in '{self.cache.images}': {some(doubles)}.", "Rename them."
            )
        for path in (self.cache.subjects, self.cache.labels):
            if list(read_table(path, ["image"])["image"]) != images:
                raise UserError(
                    f"'{path}' does not list the same images as '{self.cache.images}'.",
                    "Delete both and run the command again.",
                )
        if self.config.choose.no_face == "error":
            subjects = read_table(self.cache.subjects, ["image", "status"])
            if without := list(subjects[subjects["status"] == "no_face"]["image"]):
                raise UserError(
                    f"{len(without)} photos have no face: {some(without)}.",
                    "Look at them with maskprep faces, and rule on them in decisions.csv or choose another --no-face.",
                )

    def _write_dataset(self, described: layouts.Described, stages: Sequence[Stage]) -> None:
        """Record what the cache is made from, before the first shard: an interrupted run goes on with it."""
        self.cache.root.mkdir(parents=True, exist_ok=True)
        recipes = {}
        for stage in stages:
            try:
                recipes[stage.name] = to_json(stage.recipe.to_dict())
            except UserError:  # its weights are not here yet
                continue
        self.cache.write(
            {
                "source": {
                    "root": os.fspath(self.root),
                    "layout": described.layout,
                    "labels": {
                        "origins": described.origins,
                        "unused": described.unused,
                        "refused": described.refused,
                        "lists": [name for name in described.lists if (self.root / name).is_file()],
                    },
                    "settings": dataclasses.asdict(self.config.source),
                    "schema_given": self.config.schema is not None,
                    "config": os.fspath(self.config_path) if self.config_path else None,
                    "views": self._listed(self.config_path),
                },
                "schema": described.schema.to_dict(),
                "settings": to_json(self.config.settings()),
                "stages": recipes,
            }
        )

    def log(self, command: str, seconds: float) -> None:
        """Add the line of a finished command to log.jsonl."""
        statuses: dict[str, int] = {}
        if self.cache.subjects.is_file():
            counts = read_table(self.cache.subjects, ["status"])["status"].value_counts().sort_index()
            statuses = {str(k): int(v) for k, v in counts.items()}
        entry = {"command": command, "versions": {"maskprep": VERSION}, "computed": dict(self.computed)}
        self.cache.append_log({**entry, "counts": statuses, "seconds": round(seconds, 2)})

    # ------------------------------------------------------------ commands

    def index(self, layout: str | None = None) -> Session:
        """List, hash and decode every photo once: images.parquet.

        Args:
            layout: how labels are read, one of :data:`maskprep.labels.layouts.LAYOUTS`; by default as before, or by
                looking at the folder.
        """
        self._set_layout(layout)
        return self._refresh(("index", "images"))

    def run(self, layout: str | None = None) -> Session:
        """Bring every stage and every view up to date. See :meth:`index` for the argument."""
        self._set_layout(layout)
        return self._refresh()

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

    def _set_layout(self, layout: str | None) -> None:
        if layout is not None:
            source = dataclasses.replace(self.config.source, layout=layout)
            self.config = dataclasses.replace(self.config, source=source)


def _view(stage: Stage) -> str:
    """The view that a stage belongs to, empty for the others."""
    return stage.name.partition(":")[2]


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
        raise UserError(f"The settings hold no view '{view}', only: {', '.join(asked.views)}.")
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


def _function(name: str) -> Callable[..., Any]:
    """A method of :class:`Session` as a function."""
    method = getattr(Session, name)

    @functools.wraps(method)
    def call(
        source: Path | str,
        cache: Path | str | None = None,
        config: Path | str | None = None,
        *,
        workers: int | None = None,
        engine: str = "processes",
        progress: Progress | None = None,
        **options: Any,
    ) -> Any:
        return method(Session(source, cache, config, workers=workers, engine=engine, progress=progress), **options)

    return call


crop, detect, duplicates, index = map(_function, ("crop", "detect", "duplicates", "index"))
relabel, rembg, run, stats = map(_function, ("relabel", "rembg", "run", "stats"))
