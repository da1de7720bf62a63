"""The page's text: numbers into sentences, rows into HTML, everything into one file that asks nobody for anything.

Path: FaceCensus, InputCensus, strips -> document -> one HTML file. Whatever came from outside (names of inputs, reasons,
identities, settings) passes through `_e` and nothing else.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

from pipelines.formatting import bytes_text, clock, duration
from pipelines.inspect import cards
from pipelines.inspect.charts import share, sliver
from pipelines.inspect.gallery import LABELS, RELIT, Strip, view_box
from pipelines.inspect.inputs import STATUSES, Cause, InputCensus, InputRow
from pipelines.inspect.statistics import FaceCensus

_CAUSES_SHOWN = 30
OPEN_STRIPS = 8  # the rest of the gallery is folded
FLAG_WORDS = {
    "is_profile": "profile",
    "is_tiny": "tiny",
    "is_blurred": "blurred",
    "is_grey": "grey",
    "is_suspect": "not human?",
}
STATUS_WORDS = {"ok": "ok", "partial": "partial", "no_face": "no face", "error": "error"}


@dataclass
class Gallery:
    """The faces on show, with their tiles as data URIs."""

    varied: list[Strip] = field(default_factory=list)
    least: list[Strip] = field(default_factory=list)
    uris: list[list[str]] = field(default_factory=list)  # of varied, then least
    without_head: str = ""  # why nothing is rendered; empty if it is


@dataclass
class About:
    """The dataset as files."""

    place: str
    written: datetime | None
    file_bytes: int
    face_files: int
    schema: str
    settings: Mapping[str, Any]
    notices: Sequence[str]


def document(
    faces: FaceCensus,
    inputs: InputCensus,
    gallery: Gallery,
    about: About,
    thumbs: Mapping[str, str],
    edits: bytes | None = None,
) -> str:
    """The whole page.

    Args:
        thumbs: a small face as a data URI for each of the most seen persons.
        edits: the PNG of `rigface strip`, where there is one.
    """
    assets = files("pipelines") / "inspect"
    style, script, template = ((assets / name).read_text("utf-8") for name in ("page.css", "page.js", "template.html"))
    name = about.place.rstrip("/").rsplit("/", 1)[-1] or about.place
    return Template(template).substitute(
        policy=_policy(style, script),
        style=style,
        script=script,
        name=_e(name),
        lede=_lede(faces, inputs),
        figures=_figures(faces, inputs),
        about=_about(faces, about),
        notices=_settings(about.settings) + "".join(f'<p class="notice">{_e(text)}</p>' for text in about.notices),
        gallery_says=_gallery_says(faces, gallery),
        gallery=_gallery(gallery),
        edits=_edits(edits),
        seen=cards.seen(faces),
        trust=cards.trust(faces),
        people_says=cards.people_says(faces),
        people=cards.people(faces, thumbs),
        work_says=_work_says(inputs),
        work=_causes(inputs, faces) + cards.throughput(inputs),
        inputs_says=_inputs_says(inputs),
        inputs=_table(inputs),
        colophon=f"Written by <code>rigface inspect</code> on {datetime.now(UTC):%d %B %Y, %H:%M} UTC. "
        "One file; it loads nothing from anywhere. It holds pictures of people: share it as you would share them.",
    )


def _policy(style: str, script: str) -> str:
    """A content security policy that allows this page's own text and pictures, and nothing else."""
    style_hash, script_hash = (
        base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (style, script)
    )
    return (
        f"default-src 'none'; img-src data:; style-src 'sha256-{style_hash}'; script-src 'sha256-{script_hash}'; "
        "base-uri 'none'; form-action 'none'"
    )


def _e(text: Any) -> str:
    """Text from outside as HTML: escaped, and without controls, half surrogates or marks that turn the writing direction."""
    clean = str(text).encode("utf-8", "replace").decode()
    return escape("".join(c if c.isprintable() else " " if c.isspace() else "�" for c in clean), quote=True)


def _lede(faces: FaceCensus, inputs: InputCensus) -> str:
    if not inputs.count and not faces.rows:
        return "Nothing has been written here yet."
    trusted = faces.numbers["confidence"]
    text = f"{faces.rows:,} faces in {inputs.totals['frames']:,} sampled frames of {inputs.count:,} inputs"
    if inputs.duration_s >= 1:
        text += f", {duration(inputs.duration_s)} of video"
    text += f". {share(inputs.status['ok'], inputs.count)} of the inputs went through whole"
    if trusted.total:
        text += f"; half of the faces have a confidence above {trusted.quantile(0.5):.2f}"
    return text + "."


def _figures(faces: FaceCensus, inputs: InputCensus) -> str:
    failed = faces.rows - faces.ok
    named = [
        ("inputs", inputs.count, f"{inputs.status['ok']:,} ok, {inputs.failed:,} not" if inputs.count else ""),
        ("frames", inputs.totals["frames"], "sampled"),
        (
            "faces",
            faces.rows,
            f"{failed:,} without coefficients" if failed else "all with coefficients" if faces.rows else "",
        ),
        ("tracks", inputs.totals["tracks"], "one person, uninterrupted"),
    ]
    cells = [(label, f"{number:,}", note) for label, number, note in named]
    if faces.with_identity or not faces.rows:
        cells.append(("identities", f"{len(faces.people):,}", "one person, all inputs"))
    else:
        cells.append(("identities", "–", "not computed yet: rigface identities"))
    return "".join(f"<div><dt>{a}</dt><dd>{b}<small>{c}</small></dd></div>" for a, b, c in cells)


def _about(faces: FaceCensus, about: About) -> str:
    head, detector = faces.head, faces.detector
    pairs = [
        ("Place", f'<span class="path">{_e(about.place)}</span>'),
        ("Written", f"{about.written:%d %B %Y, %H:%M} UTC" if about.written else "–"),
        (
            "Head model",
            f"{_e(head.name)} {_e(head.version)}, {head.shape} shape, {head.expression} expression, {head.albedo} albedo",
        ),
        ("Detector", f"{_e(detector.name)} {_e(detector.version)}, {detector.landmarks} landmarks"),
        ("Files", f"{about.face_files:,} with faces, {bytes_text(about.file_bytes)} in all"),
        ("Schema", _e(about.schema)),
    ]
    return "".join(f"<div><dt>{label}</dt><dd>{text}</dd></div>" for label, text in pairs)


def _settings(settings: Mapping[str, Any]) -> str:
    if not settings:
        return ""
    rows = "".join(f"<div><dt>{_e(key)}</dt><dd>{_e(_plain(value))}</dd></div>" for key, value in settings.items())
    return f'<details class="settings"><summary>Settings it was made with</summary><dl>{rows}</dl></details>'


def _plain(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 160 else text[:159] + "…"


def _edits(strip: bytes | None) -> str:
    if strip is None:
        return ""
    data = base64.b64encode(strip).decode()
    return (
        '<section id="edits" aria-labelledby="edits-title"><h2 id="edits-title">Edits</h2><p class="sub">One of these faces, '
        "changed by numbers; below each picture what was asked and what was measured on the result.</p>"
        f'<figure class="edits"><img src="data:image/png;base64,{data}" alt="One person as photographed, turned, smiling and in '
        'another light"></figure></section>'
    )


def _gallery_says(faces: FaceCensus, gallery: Gallery) -> str:
    if not gallery.varied:
        return "No face with coefficients to show."
    text = f"{len(gallery.varied)} of {faces.ok:,}, chosen to differ in pose, light, person and confidence. Select a picture to enlarge it."
    if gallery.without_head:
        return f"{text} Nothing is rendered from the coefficients here: {_e(gallery.without_head)}."
    return f"{text} Relit means: {RELIT}, the same face otherwise."


def _gallery(gallery: Gallery) -> str:
    if not gallery.varied:
        return ""
    shown = [
        _strip(strip, uris, number)
        for number, (strip, uris) in enumerate(zip(gallery.varied + gallery.least, gallery.uris), 1)
    ]
    varied, least = shown[: len(gallery.varied)], shown[len(gallery.varied) :]
    names = [LABELS[tile.name] for tile in gallery.varied[0].tiles]
    heads = (
        '<div class="heads" aria-hidden="true"><span></span>' + "".join(f"<span>{n}</span>" for n in names) + "</div>"
    )
    out = f'<div class="strips tiles-{len(names)}">{heads}{"".join(varied[:OPEN_STRIPS])}'
    if len(varied) > OPEN_STRIPS:
        rest = "".join(varied[OPEN_STRIPS:])
        out += f'<details class="more"><summary>{len(varied) - OPEN_STRIPS} more faces</summary><div class="tiles-{len(names)}">{rest}</div></details>'
    out += "</div>"
    if least:
        out += '<div class="least"><h3>Least trusted</h3><p>The lowest confidence in the dataset, one face per person. '
        out += f'Where the pipeline went wrong, it should show here.</p><div class="strips tiles-{len(names)}">{heads}{"".join(least)}</div></div>'
    return out


def _strip(strip: Strip, uris: Sequence[str], number: int) -> str:
    facts = strip.facts
    uri, who = str(facts.get("uri") or ""), facts.get("identity")
    name = uri.rstrip("/").rsplit("/", 1)[-1]
    title = str(who) if who else f"track {facts.get('track')}"
    when = f"{clock(facts.get('time_s'))} · frame {facts.get('frame_index')}" + (
        f" · track {facts.get('track')}" if who else ""
    )
    angle = {key: _degrees(facts.get(f"{key}_deg")) for key in ("yaw", "pitch", "roll")}
    size = facts.get("face_size_px")
    numbers = [*angle.items(), ("size", "–" if size is None else f"{size:.0f} px")]
    dl = "".join(f"<dt>{label}</dt><dd>{value}</dd>" for label, value in numbers)
    trust = facts.get("confidence")
    bar = "" if trust is None else f'<p class="trust"><span>confidence</span>{sliver(trust, 1)}<b>{trust:.2f}</b></p>'
    chips = "".join(f"<li>{word}</li>" for flag, word in FLAG_WORDS.items() if facts.get(flag))
    head = (
        f'<div class="who"><h3 title="{_e(title)}"><bdi>{_e(title)}</bdi></h3>'
        f'<p class="where" title="{_e(uri)}"><bdi>{_e(name)}</bdi></p><p class="where">{when}</p><dl>{dl}</dl>{bar}'
        + (f'<ul class="chips">{chips}</ul>' if chips else "")
        + "</div>"
    )
    tiles = []
    for tile, source in zip(strip.tiles, uris):
        alt = f"{LABELS[tile.name]}: face {number}, {title}, yaw {angle['yaw']}, pitch {angle['pitch']}"
        marks = ""
        if tile.landmarks and strip.dots:
            kind = "marks traced" if strip.lines else "marks"
            marks = f'<svg class="{kind}" viewBox="{view_box()}" aria-hidden="true"><path class="dots" d="{strip.dots}"/><path class="lines" d="{strip.lines}"/></svg>'
        tiles.append(
            f'<figure><button type="button" class="tile"><img src="{source}" alt="{_e(alt)}" width="512" height="512">{marks}</button>'
            f"<figcaption>{LABELS[tile.name]}</figcaption></figure>"
        )
    return f'<article class="strip" aria-label="Face {number}">{head}{"".join(tiles)}</article>'


def _degrees(value: float | None) -> str:
    return "–" if value is None else f"{value:+.0f}°".replace("-", "−").replace("+0°", "0°").replace("−0°", "0°")


def _work_says(inputs: InputCensus) -> str:
    if not inputs.failed:
        return "Every input went through whole." if inputs.count else ""
    parts = [f"{inputs.status[s]:,} {STATUS_WORDS[s]}" for s in STATUSES if s != "ok" and inputs.status[s]]
    return f"{inputs.failed:,} of {inputs.count:,} inputs did not go through whole: {', '.join(parts)}."


def _causes(inputs: InputCensus, faces: FaceCensus) -> str:
    """Why inputs did not end well, and why single faces did not."""
    reasons = [(cause, count, "inputs" if count > 1 else "input") for cause, count in inputs.reasons()[:_CAUSES_SHOWN]]
    for text, count in faces.reasons.most_common(_CAUSES_SHOWN):
        reasons.append((Cause("error", "", text), count, "faces" if count > 1 else "face"))
    if not reasons:
        body = '<p class="none">None.</p>'
    else:
        most = max(count for _, count, _ in reasons)
        rows = "".join(
            f'<tr><td><span class="status {_e(cause.status)}">{_e(STATUS_WORDS.get(cause.status, cause.status))}</span></td>'
            f'<td class="stage-name muted">{_e(cause.stage or "–")}</td><td>{_e(cause.text)}</td>'
            f'<td class="number">{count:,} {unit}</td><td class="bar-cell">{sliver(count, most)}</td></tr>'
            for cause, count, unit in reasons
        )
        heads = "".join(
            f'<th scope="col" class="{kind}">{name}</th>'
            for name, kind in (("status", ""), ("stage", "stage-name"), ("reason", ""), ("how many", "number"))
        )
        heads += '<th class="bar-cell"><span class="hidden">share</span></th>'
        body = f'<div class="scroll"><table class="causes"><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>'
    says = "Inputs that could not be read, held nobody or were kept in part, and faces without coefficients."
    return f'<div class="card wide"><h3>Failures by reason</h3><p>{says}</p>{body}</div>'


def _inputs_says(inputs: InputCensus) -> str:
    shown = len(inputs.rows())
    if shown < inputs.count:
        return f"The first {shown:,} of {inputs.count:,}, those that need looking at first. All of them are in <code>inputs/</code>."
    return "What became of each, those that need looking at first."


def _table(inputs: InputCensus) -> str:
    rows = inputs.rows()
    if not rows:
        return '<p class="none">No inputs are recorded.</p>'
    chips = [f'<button type="button" data-status="" aria-pressed="true">all {inputs.count:,}</button>']
    chips += [
        f'<button type="button" data-status="{_e(status)}" aria-pressed="false">{_e(STATUS_WORDS.get(status, status))} {inputs.status[status]:,}</button>'
        for status in (*STATUSES, *sorted(set(inputs.status) - set(STATUSES)))
        if inputs.status[status]
    ]
    names = ("status", "input", "kind", "frames", "faces", "size", "length", "stage", "reason")
    kinds = ("", "", "spare", "number", "number", "number spare", "number spare", "spare", "")
    heads = "".join(
        f'<th scope="col" class="{k}"><button type="button">{n}</button></th>' for n, k in zip(names, kinds)
    )
    return (
        '<div class="filter" role="search" hidden><label class="hidden" for="find">Find inputs by name, stage or reason</label>'
        f'<input type="search" id="find" placeholder="Find a name, a stage, a reason">{"".join(chips)}<output id="tally" for="find"></output></div>'
        f'<div class="ledger" tabindex="0" role="region" aria-label="Inputs"><table id="ledger"><thead><tr>{heads}</tr></thead>'
        f"<tbody>{''.join(_row(row) for row in rows)}</tbody></table></div>"
    )


def _row(row: InputRow) -> str:
    folder, _, name = row.uri.rpartition("/")
    size = f"{row.width} × {row.height}" if row.width and row.height else "–"
    pixels = (row.width or 0) * (row.height or 0)
    length = "–" if row.duration_s is None or row.kind == "image" else clock(row.duration_s)
    return (
        f'<tr data-is="{_e(row.status)}"><td data-v="{row.rank}"><span class="status {_e(row.status)}">{_e(STATUS_WORDS.get(row.status, row.status))}</span></td>'
        f'<td><span class="path" title="{_e(row.uri)}"><bdi><i>{_e(_short(folder) + "/" if folder else "")}</i>{_e(name)}</bdi></span></td>'
        f'<td class="spare muted">{_e(row.kind)}</td>{_count(row.frames)}{_count(row.faces)}'
        f'<td class="number spare" data-v="{pixels}">{size}</td><td class="number spare" data-v="{row.duration_s or 0}">{length}</td>'
        f'<td class="spare muted">{_e(row.stage)}</td><td>{_e(row.reason)}</td></tr>'
    )


def _count(number: int | None) -> str:
    return f'<td class="number" data-v="{number or 0}">{"–" if number is None else f"{number:,}"}</td>'


def _short(folder: str) -> str:
    """The end of a long path; the whole of it is in the cell's title."""
    return folder if len(folder) <= 32 else "…" + folder[-31:]
