"""dwv in a real browser: what its own buffers hold of a segmentation, and how it draws it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from playwright.sync_api import Browser

from tests.viewers.picture import Picture

#: dwv is a module; what it imports are scripts that leave a global name, which the import map gives it.
PAGE = b"""<!doctype html><html><head><meta charset="utf-8"><title>dwv</title><link rel="icon" href="data:,">
<style>body { margin: 0; background: black } #layerGroup0 { position: relative; width: 800px; height: 800px }
.layer { position: absolute; left: 0; top: 0 }</style>
<script src="/jszip/dist/jszip.min.js"></script><script src="/konva/konva.min.js"></script>
<script src="/magic-wand-tool/dist/magic-wand.min.js"></script>
<script type="importmap">{"imports": {
  "jszip": "data:text/javascript,export default globalThis.JSZip",
  "konva": "data:text/javascript,export default globalThis.Konva",
  "magic-wand-tool": "data:text/javascript,export default globalThis.MagicWand"}}</script>
</head><body><div id="layerGroup0"></div><script type="module">
import * as dwv from '/dwv/dwv.min.js';
const above = new dwv.ViewConfig('layerGroup0');
above.opacity = 0.6;
const app = new dwv.App();
app.init(new dwv.AppOptions({'*': [new dwv.ViewConfig('layerGroup0')], '1': [above]}));
window.faults = [];
for (const name of ['error', 'loaderror', 'abort']) {
  app.addEventListener(name, event => window.faults.push(String(event.error ?? name)));
}
const loaded = urls => new Promise(done => {
  const end = () => { app.removeEventListener('loadend', end); done(); };
  app.addEventListener('loadend', end);
  app.loadURLs(urls);
});
const layers = () => [...app.getViewLayersByDataId('0'), ...app.getViewLayersByDataId('1')];
window.show = async (images, seg) => { await loaded(images); await loaded([seg]); };
window.turnTo = place => layers().forEach(layer => {
  const here = layer.getViewController().getCurrentIndex();
  layer.getViewController().setCurrentIndex(new dwv.Index([...here.getValues().slice(0, 2), place]));
});
window.segments = () => {
  const image = app.getData('1').image, size = image.getGeometry().getSize().getValues();
  const sums = {};
  image.getBuffer().forEach((value, at) => {
    if (value === 0) return;
    const sum = sums[value] ??= [0, 0, 0, 0];
    sum[0] += 1; sum[1] += at % size[0]; sum[2] += Math.floor(at / size[0]) % size[1];
    sum[3] += Math.floor(at / (size[0] * size[1]));
  });
  return Object.fromEntries(Object.entries(sums).map(([value, [n, x, y, z]]) => [value, {
    voxels: n, column: x / n, row: y / n, slice: z / n, origin: image.getGeometry().getOrigins()[0].getValues()
  }]));
};
window.ready = true;
</script></body></html>"""


@dataclass(frozen=True, kw_only=True, eq=False)
class Drawn:
    """What dwv made of a segmentation."""

    segments: dict[int, dict[str, Any]]  # segment number -> voxels, and the mean column, row and slice
    picture: Picture
    complaints: tuple[str, ...]


class Dwv:
    """The viewer at an address."""

    def __init__(self, browser: Browser, address: str) -> None:
        self._browser, self._address = browser, address

    def show(self, images: Sequence[str], seg: str, place: int) -> Drawn:
        """Load the files of a series and a segmentation (paths below the site) and turn to slice *place* from 0."""
        context = self._browser.new_context(viewport={"width": 800, "height": 800})
        complaints: list[str] = []
        try:
            page = context.new_page()
            page.on("pageerror", lambda error: complaints.append(f"script: {error}"))
            page.on("console", lambda m: complaints.append(f"console: {m.text}") if m.type == "error" else None)
            page.on("response", lambda a: complaints.append(f"{a.status}: {a.url}") if a.status >= 400 else None)
            page.goto(f"{self._address}/dwv.html")
            page.wait_for_function("window.ready === true", timeout=30_000)
            page.evaluate(
                "([images, seg]) => show(images, seg)",
                [[self._address + path for path in images], self._address + seg],
            )
            page.evaluate("place => turnTo(place)", place)
            page.wait_for_timeout(500)
            segments = page.evaluate("segments()")
            complaints += page.evaluate("window.faults")
            return Drawn(
                segments={int(number): found for number, found in segments.items()},
                picture=Picture.of_png(page.locator("#layerGroup0").screenshot()), complaints=tuple(complaints),
            )  # fmt: skip
        finally:
            context.close()
