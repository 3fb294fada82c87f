"""The style sheet of the page."""

__all__ = ["CSS"]

CSS = """
:root {
  color-scheme: light dark;
  --paper: #ffffff; --ink: #1c2430; --soft: #5b6675; --line: #d5dbe3; --box: #f5f7fa;
  --before: #b6c0cd; --after: #2166ac; --mark: #c2410c;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #14181e; --ink: #e4e8ee; --soft: #9aa5b3; --line: #343d49; --box: #1c222a;
    --before: #566272; --after: #6cb0f0; --mark: #f08a4b;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; max-width: 76rem; padding: 1rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: break-word;
}
h1 { font-size: 1.6rem; margin: .5rem 0; }
h2 { font-size: 1.2rem; margin: 2.2rem 0 .3rem; border-top: 1px solid var(--line); padding-top: 1rem; }
h3 { font-size: 1rem; margin: 1.4rem 0 .3rem; }
p { margin: .3rem 0 .8rem; max-width: 46rem; }
p.verdict { font-size: 1.1rem; }
p.why, figcaption { color: var(--soft); font-size: .92rem; }
aside { border-left: 4px solid var(--mark); background: var(--box); padding: .6rem 1rem; margin: 1rem 0; }
aside ul { margin: 0; padding-left: 1.1rem; }
code { font: .88em/1.4 ui-monospace, monospace; }
pre { background: var(--box); padding: .7rem; overflow-x: auto; white-space: pre-wrap; }
.scroll { overflow: auto; max-height: 34rem; border: 1px solid var(--line); border-radius: 4px; width: fit-content;
  max-width: 100%; margin: .5rem 0 1rem; }
table { border-collapse: collapse; font-size: .9rem; overflow-wrap: normal; }
th, td { padding: .3rem .7rem; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
tbody tr:last-child > * { border-bottom: 0; }
thead th { position: sticky; top: 0; background: var(--box); white-space: nowrap; }
.number { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
.name { min-width: 11rem; }
.prose { min-width: 16rem; }
.parts { color: var(--soft); font-size: .85em; }
tr.chosen > * { font-weight: 600; color: var(--mark); }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 21rem), 1fr)); gap: 1rem 1.5rem; }
.small { grid-template-columns: repeat(auto-fill, minmax(min(46%, 10rem), 1fr)); gap: .5rem; }
figure { margin: 0; max-width: 28rem; min-width: 0; }
svg { width: 100%; height: auto; display: block; stroke-linejoin: round; }
@media (max-width: 30rem) {
  th, td { padding: .3rem .4rem; }
}
@media print {
  :root { color-scheme: light; --paper: #fff; --ink: #000; --soft: #444; --line: #bbb; --box: #f3f3f3;
    --before: #b6c0cd; --after: #2166ac; --mark: #b03a06; }
  html { font-size: 12px; }
  body { max-width: none; padding: 0; }
  .scroll { max-height: none; overflow: visible; border: 0; }
  table { font-size: .85rem; }
  th, td { padding: .15rem .35rem; }
  .number { white-space: normal; }
  .name { min-width: 0; }
  .prose { min-width: 10rem; }
  thead th { position: static; white-space: normal; }
  tr, figure, aside { break-inside: avoid; }
  h2, h3, p.why { break-after: avoid; }
}
"""
