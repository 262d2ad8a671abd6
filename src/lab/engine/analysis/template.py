"""The page's own style and script; the style gives text and lines of figures the colours of a light or dark page."""

# Nothing may be fetched, whatever a config's text holds
POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"

FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif'
STYLE = """
:root { --ink: #1f2430; --soft: #5b6375; --line: #dfe3ea; --paper: #ffffff; --back: #f5f6f8; --mark: #e8f1fb;
        --veil: rgba(255,255,255,.82); color-scheme: light dark; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e7ee; --soft: #9aa3b5; --line: #343b49; --paper: #1b202a; --back: #12161d; --mark: #20324a;
          --veil: rgba(27,32,42,.82); } }
* { box-sizing: border-box; }
body { margin: 0; padding: 2rem 1.5rem 4rem; background: var(--back); color: var(--ink);
       font: 16px/1.5 FONT; }
main { max-width: 1360px; margin: auto; }
h1 { font-size: 1.7rem; margin: 0 0 .2rem; } h2 { font-size: 1.2rem; margin: 0 0 .2rem; }
p { margin: .2rem 0 .8rem; color: var(--soft); max-width: 110ch; }
section { background: var(--paper); border: 1px solid var(--line); border-radius: 10px; padding: 1.2rem 1.4rem;
          margin-top: 1.2rem; }
.scroll { overflow: auto; max-height: 36rem; }
table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums; width: 100%; }
th, td { padding: .35rem .55rem; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line); }
th { position: sticky; top: 0; background: var(--paper); color: var(--soft); font-weight: 600; }
th:first-child, td:first-child { text-align: left; white-space: normal; min-width: 14rem; }
tr.best td { background: var(--mark); font-weight: 600; } tr.baseline td { font-style: italic; }
.plot { width: 100%; height: 440px; } #pruned .plot { height: 340px; } #importance .plot, .grid .plot { height: 300px; }
.plot text { fill: var(--ink) !important; }
.plot .gridlayer path, .plot .zerolinelayer path { stroke: var(--line) !important; }
.plot .annotation .bg { fill: var(--veil) !important; }
.plot .hovertext path { fill: var(--paper) !important; stroke: var(--line) !important; }
.plot .modebar-btn path { fill: var(--line) !important; }
.plot .modebar-btn:is(.active, :hover) path { fill: var(--ink) !important; }
.grid { display: grid; grid-template-columns: repeat(auto-fit, minmax(340px, 1fr)); gap: 1rem; }
select { font: inherit; color: inherit; background: var(--paper); border: 1px solid var(--line); border-radius: 6px;
         padding: .2rem .5rem; }
ul { margin: .6rem 0 0; padding-left: 1.2rem; color: var(--soft); font-size: .9rem; }
""".replace("FONT", FONT)

SCRIPT = """
const figures = JSON.parse(document.getElementById("figures").textContent);
const draw = place => Plotly.react(place, figures[place.dataset.figure].data, figures[place.dataset.figure].layout,
  {responsive: true, displaylogo: false, modeBarButtonsToRemove: ["select2d", "lasso2d", "zoomIn2d", "zoomOut2d"]});

for (const choice of document.querySelectorAll("select"))
  choice.addEventListener("change", () => {
    const place = choice.parentElement.nextElementSibling;
    place.dataset.figure = choice.value;
    draw(place);
  });

// A run's line stands out while the pointer is on it
Promise.all([...document.querySelectorAll("[data-figure]")].map(draw)).then(drawn => {
  for (const place of document.querySelectorAll('[data-figure="parallel"]')) {
    const mark = (event, width, opacity) =>
      Plotly.restyle(place, {"line.width": width, opacity}, [event.points[0].curveNumber]);
    place.on("plotly_hover", event => mark(event, 5, 1));
    place.on("plotly_unhover", event => mark(event, 1.6, 0.75));
  }
  document.documentElement.dataset.drawn = drawn.length;
});
"""
