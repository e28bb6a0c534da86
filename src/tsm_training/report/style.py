"""How a report looks: on a desk, on a phone, on paper, by day and by night."""

from __future__ import annotations

from typing import Final

STYLE: Final = """
:root {
  color-scheme: light dark;
  --paper: #ffffff; --raised: #f4f6f8; --ink: #1d2126; --soft: #525a63; --rule: #d6dbe0;
  --good: #0b6b4b; --bad: #a8331b; --open: #7a5200;
  --quiet: #767e87;
  --series-0: #0072b2; --series-1: #c64f00; --series-2: #00805c; --series-3: #b0558a; --series-4: #8a6100;
  --series-5: #2580b0;
}
@media screen and (prefers-color-scheme: dark) {
  :root {
    --paper: #14171a; --raised: #1e2328; --ink: #e8ebee; --soft: #aab2bb; --rule: #39414a;
    --good: #5fd3a4; --bad: #ff9a80; --open: #f0c05a;
    --quiet: #8b949e;
    --series-0: #5bb4ee; --series-1: #ff9a52; --series-2: #3ecb9d; --series-3: #e49ac6; --series-4: #e0b04a;
    --series-5: #9ad4f5;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body {
  margin: 0 auto; padding: 1.5rem clamp(0.9rem, 4vw, 2.5rem) 3rem; max-width: 66rem;
  background: var(--paper); color: var(--ink);
  font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif;
  overflow-wrap: anywhere;
}
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 0.3rem; }
h2 { font-size: 1.2rem; line-height: 1.3; margin: 2.4rem 0 0.6rem; }
h3 { font-size: 1rem; margin: 1.4rem 0 0.5rem; }
p { margin: 0.5rem 0; max-width: 54rem; }
.soft, caption, figcaption, .legend, .unit, footer { color: var(--soft); font-size: 0.9rem; }
.verdict { border-left: 0.4rem solid var(--open); background: var(--raised); padding: 0.8rem 1.1rem; margin: 1.3rem 0; }
.verdict.ship { border-color: var(--good); }
.verdict.none { border-color: var(--quiet); }
.verdict.dont { border-color: var(--bad); }
.verdict h2 { margin: 0; font-size: 1.05rem; }
.verdict .decision {
  font-size: 1.5rem; font-weight: 700; line-height: 1.25; margin: 0.1rem 0 0.3rem; color: var(--open);
}
.verdict.ship .decision { color: var(--good); }
.verdict.none .decision { color: var(--ink); }
.verdict.dont .decision { color: var(--bad); }
dl.facts {
  display: grid; grid-template-columns: repeat(auto-fit, minmax(8.2rem, 1fr)); gap: 0.8rem 1.4rem; margin: 1rem 0;
}
dl.facts div { display: flex; flex-direction: column-reverse; justify-content: flex-end; }
dl.facts dt { color: var(--soft); font-size: 0.9rem; }
dl.facts div:first-child dd { font-size: 2.2rem; line-height: 1; color: var(--series-0); }
dl.facts dd { margin: 0; font-size: 1.35rem; font-weight: 600; font-variant-numeric: tabular-nums; }
table { border-collapse: separate; border-spacing: 0; width: 100%; font-variant-numeric: tabular-nums; }
table + table, table + figure { margin-top: 1.6rem; }
caption { text-align: left; padding: 0 0 0.5rem; }
th, td { padding: 0.32rem 1rem 0.32rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--rule); }
th:last-child, td:last-child { padding-right: 0; }
thead th { overflow-wrap: normal; color: var(--soft); font-size: 0.9rem; font-weight: 600; vertical-align: bottom; }
tbody th, dt { overflow-wrap: normal; }
tbody th { font-weight: 600; min-width: 8rem; }
th.number, td.number { text-align: right; }
td.number, .short { white-space: nowrap; }
.ranking table { table-layout: fixed; }
th.who { width: 19%; }
th.interval { width: 13%; }
th.gain { width: 17%; }
.ranking .number { width: 6.5%; }
.ranking .soft { font-weight: 400; }
.ranking caption { position: absolute; opacity: 0; }
td.interval { white-space: nowrap; }
.bar { display: block; overflow: visible; }
.wide { overflow-x: auto; }
.sideways { display: none; }
.wide table { min-width: 52rem; }
.wide td.name { min-width: 11rem; }
.wide tbody th, .wide thead th:first-child { position: sticky; left: 0; background: var(--paper); }
.wide:focus-visible { outline: 2px solid var(--series-0); outline-offset: 2px; }
details { margin: 0.8rem 0; }
summary { cursor: pointer; color: var(--soft); }
.drawn { display: flex; flex-wrap: wrap; gap: 0.5rem 2.5rem; margin: 0.6rem 0; }
.drawn .chart { flex: none; width: 34rem; max-width: 100%; height: auto; color: var(--soft); }
.drawn div { flex: 1 1 16rem; }
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: 0.15rem 1.3rem; padding: 0; margin: 0.4rem 0; }
.legend svg { vertical-align: middle; }
.pictures {
  display: grid; grid-template-columns: repeat(auto-fill, minmax(9.2rem, 1fr)); gap: 0.9rem; padding: 0; margin: 0;
  list-style: none;
}
figure { margin: 0; }
.pictures img { display: block; width: 100%; height: auto; background: var(--raised); }
.pictures .none {
  aspect-ratio: 4 / 3; background: var(--raised); display: grid; place-items: center; color: var(--soft);
}
.pictures strong { display: block; color: var(--ink); }
.reason { display: flex; flex-wrap: wrap; align-items: center; gap: 0.3rem 1rem; margin: 0.5rem 0 0; }
.reason img { flex: none; width: 15rem; max-width: 100%; height: auto; }
.heat { margin: 1rem 0; max-width: 28rem; }
.heat img { display: block; width: 100%; height: 0.8rem; }
.heat div { display: flex; justify-content: space-between; color: var(--soft); font-size: 0.9rem; }
.severity { font-weight: 600; white-space: nowrap; }
.severity.error { color: var(--bad); }
.severity.warning { color: var(--open); }
code { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; font-size: 0.9em; }
footer { margin-top: 3rem; border-top: 1px solid var(--rule); padding-top: 0.6rem; }
@media screen and (max-width: 54rem) {
  .sideways { display: block; }
}
@media (max-width: 34rem) {
  .wide tbody th { max-width: 9rem; }
  tbody th { min-width: 6rem; }
  th, td { padding-right: 0.7rem; }
  .pictures { grid-template-columns: repeat(2, minmax(0, 1fr)); }
}
@media (max-width: 23rem) {
  tbody th { min-width: 4rem; }
  table { font-size: 0.85rem; }
  th, td { padding-right: 0.35rem; }
}
@media print {
  :root {
    color-scheme: light;
    --ink: #000000; --soft: #444a50; --rule: #c8cdd2;
  }
  @page { margin: 14mm; }
  html { font-size: 9.5pt; }
  body { max-width: none; padding: 0; -webkit-print-color-adjust: exact; print-color-adjust: exact; }
  h2, h3, caption, h2 + p { break-after: avoid; }
  tr, figure, .verdict, .row { break-inside: avoid; }
  details::details-content { content-visibility: visible; }
  .wide { overflow: visible; }
  .wide table { min-width: 0; font-size: 0.9rem; }
  .wide tbody th, .wide thead th:first-child { position: static; }
  .pictures { grid-template-columns: repeat(6, minmax(0, 1fr)); gap: 0.5rem; }
  .pictures figcaption { font-size: 0.8rem; }
}
"""
"""The style sheet; colours of text stand out from the paper by 4.5 to 1 at least, in both schemes."""
