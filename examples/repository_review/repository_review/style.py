"""The style sheet of the report: light and dark, from a phone to a wide screen, and on paper. No outside asset."""

CSS = """
:root { color-scheme: light dark;
  --ground: #f6f7f9; --card: #ffffff; --ink: #16202e; --soft: #566377; --line: #e1e6ed; --track: #edf0f5; --link: #3146c4;
  --complexity: #3f51d9; --risk: #d6336c; --documentation: #e8950c; --open_ends: #0f9d8f; --broken: #64748b;
  --attention: #d6336c; --watch: #e8950c; --calm: #0f9d8f;
  --attention-cell: #f7c5d5; --watch-cell: #fbe0b0; --calm-cell: #bfe6e0; }
@media (prefers-color-scheme: dark) { :root {
  --ground: #0e141c; --card: #161f2b; --ink: #e8edf4; --soft: #9aa8bb; --line: #273344; --track: #222e3e; --link: #9db0ff;
  --complexity: #7c8cff; --risk: #ff6b9a; --documentation: #f5b545; --open_ends: #35c9b8; --broken: #94a3b8;
  --attention: #ff6b9a; --watch: #f5b545; --calm: #35c9b8;
  --attention-cell: #5d2439; --watch-cell: #55401a; --calm-cell: #164641; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--ground); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; }
main, header, footer { max-width: 1080px; margin: 0 auto; padding: 0 20px; }
header { padding-top: 44px; }
.eyebrow { margin: 0; font-size: 13px; font-weight: 600; letter-spacing: .08em; text-transform: uppercase; color: var(--soft); }
h1 { margin: 6px 0 8px; font-size: clamp(28px, 5vw, 42px); line-height: 1.15; letter-spacing: -.02em; overflow-wrap: anywhere; }
h2 { margin: 0 0 4px; font-size: 20px; letter-spacing: -.01em; }
h3 { margin: 18px 0 6px; font-size: 14px; color: var(--soft); font-weight: 600; }
p { margin: 0 0 10px; }
.lead { font-size: 19px; max-width: 62ch; margin: 18px 0 0; }
.soft, .sub { color: var(--soft); }
.sub { margin-bottom: 18px; font-size: 14.5px; max-width: 72ch; }
code, .mono { font: .9em/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; overflow-wrap: anywhere; }
section { background: var(--card); border: 1px solid var(--line); border-radius: 14px; padding: 24px; margin: 20px 0; }
.top { display: grid; grid-template-columns: 190px 1fr; gap: 24px; align-items: center; }
.top .dial { text-align: center; }
.cards { display: grid; grid-template-columns: repeat(3, 1fr); gap: 24px; margin: 0; }
.cards div { border-left: 3px solid var(--line); padding-left: 14px; }
.cards dt { font-size: 13.5px; color: var(--soft); }
.cards dd { margin: 0; font-size: 26px; font-weight: 650; line-height: 1.2; letter-spacing: -.01em; font-variant-numeric: tabular-nums; }
.cards small { display: block; font-size: 13px; font-weight: 400; color: var(--soft); letter-spacing: 0; line-height: 1.45; }
.two { display: grid; grid-template-columns: 1fr 1fr; gap: 20px; }
.two section { margin: 0; min-width: 0; }
svg { display: block; overflow: visible; } svg svg { overflow: hidden; }
svg text { fill: var(--ink); font-size: 14px; }
.bars .name { font-weight: 550; } .bars .value { font-weight: 650; font-variant-numeric: tabular-nums; }
.track { fill: var(--track); }
.part.complexity, .key.complexity { fill: var(--complexity); background: var(--complexity); }
.part.risk, .key.risk { fill: var(--risk); background: var(--risk); }
.part.documentation, .key.documentation { fill: var(--documentation); background: var(--documentation); }
.part.open_ends, .key.open_ends { fill: var(--open_ends); background: var(--open_ends); }
.part.broken, .key.broken { fill: var(--broken); background: var(--broken); }
.part { stroke: var(--card); stroke-width: 1.5px; }
.legend { display: flex; flex-wrap: wrap; gap: 6px 18px; list-style: none; padding: 0; margin: 0 0 18px; font-size: 13.5px;
  color: var(--soft); }
.key { display: inline-block; width: 11px; height: 11px; border-radius: 3px; margin-right: 7px; }
.key.attention { background: var(--attention-cell); } .key.watch { background: var(--watch-cell); }
  .key.calm { background: var(--calm-cell); }
.cell { stroke: var(--card); stroke-width: 3px; }
.cell.attention { fill: var(--attention-cell); } .cell.watch { fill: var(--watch-cell); } .cell.calm { fill: var(--calm-cell); }
.cell-name { font-weight: 600; font-size: 13px !important; } .cell-name.small { font-size: 11px !important; }
  .cell-value { font-size: 12px !important; opacity: .75; }
.ring { width: 150px; margin: 0 auto 6px; } .ring circle { fill: none; stroke-width: 11; }
.ring .track { stroke: var(--track); } .ring .arc { stroke-linecap: round; }
.ring.attention .arc { stroke: var(--attention); } .ring.watch .arc { stroke: var(--watch); } .ring.calm .arc { stroke: var(--calm); }
.ring text { font-size: 28px; font-weight: 700; letter-spacing: -.02em; }
  .ring .of { font-size: 11px; font-weight: 400; fill: var(--soft); letter-spacing: 0; }
.trend { width: 100%; max-width: 170px; margin: 4px auto 0; }
  .trend polyline { fill: none; stroke: var(--complexity); stroke-width: 2.5; } .trend circle { fill: var(--complexity); }
.pill { display: inline-block; padding: 1px 10px; border-radius: 99px; font-size: 12.5px; font-weight: 600; white-space: nowrap; }
.pill.attention { background: var(--attention-cell); } .pill.watch { background: var(--watch-cell); }
  .pill.calm { background: var(--calm-cell); }
.wide { overflow-x: auto; margin: 0 -24px -8px; padding: 0 24px; } .wide:focus-visible { outline: 2px solid var(--link); }
table { border-collapse: collapse; width: 100%; font-size: 14.5px; font-variant-numeric: tabular-nums; }
th { text-align: right; font-size: 12.5px; font-weight: 600; color: var(--soft); padding: 6px 10px; border-bottom: 1px solid var(--line);
  white-space: nowrap; }
td { text-align: right; padding: 7px 10px; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child, .left { text-align: left; padding-left: 0; } tr:last-child td { border-bottom: 0; }
td.zero { color: var(--soft); opacity: .8; }
details { border-top: 1px solid var(--line); } details:first-of-type { border-top: 0; }
summary { cursor: pointer; padding: 11px 0; display: flex; gap: 12px; align-items: center; list-style: none; }
summary::-webkit-details-marker { display: none; }
  summary::before { content: "›"; font-size: 20px; line-height: 1; color: var(--soft); width: 12px; transition: transform .12s; }
details[open] > summary::before { transform: rotate(90deg); }
  summary:focus-visible { outline: 2px solid var(--link); outline-offset: 2px; border-radius: 6px; }
summary b { font-weight: 600; overflow-wrap: anywhere; } summary .soft { margin-left: auto; font-size: 13.5px; text-align: right; }
.inside { padding: 0 0 16px 24px; } .inside h3:first-child { margin-top: 0; }
.finds { margin: 0; padding: 0; list-style: none; font-size: 14.5px; }
.finds li { padding: 5px 0; display: grid; grid-template-columns: minmax(0, 1fr) auto; gap: 2px 18px; }
.finds .where { color: var(--soft); text-align: right; }
.moves { margin: 0; padding: 0; list-style: none; } .moves li { padding: 6px 0; border-top: 1px solid var(--line); font-size: 14.5px; }
  .moves li:first-child { border-top: 0; }
.up { color: var(--attention); font-weight: 650; } .down { color: var(--calm); font-weight: 650; }
.notice { border-left: 4px solid var(--watch); }
footer { padding: 8px 20px 48px; font-size: 13.5px; color: var(--soft); }
@media (max-width: 820px) { .two { grid-template-columns: 1fr; } }
@media (max-width: 640px) { .top { grid-template-columns: 1fr; } section { padding: 18px; border-radius: 12px; }
  .wide { margin: 0 -18px -8px; padding: 0 18px; }
  header { padding-top: 28px; } main, header, footer { padding-left: 14px; padding-right: 14px; }
  .cards { grid-template-columns: 1fr 1fr; gap: 16px; } .cards dd { font-size: 22px; }
  .finds li { grid-template-columns: 1fr; } .finds .where { text-align: left; } .inside { padding-left: 0; } }
@media (max-width: 640px) { summary { flex-wrap: wrap; row-gap: 0; } summary .soft { margin: 0 0 0 24px; width: 100%; text-align: left; }
  .cell-name { font-size: 11.5px !important; } .cell-name.small, .cell-name.small + .cell-value { display: none; }
  .cell-value { font-size: 11px !important; } }
@media (prefers-reduced-motion: reduce) { summary::before { transition: none; } }
@media print { body { background: #fff; } section { break-inside: avoid; } details .inside { display: block; } }
"""
