// The marks of models beside the figure, and the library that draws it.
const SWATCHES = {
  circle: "M6 1a5 5 0 1 0 .01 0z",
  square: "M1.5 1.5h9v9h-9z",
  "triangle-up": "M6 1l5.5 10H.5z",
  diamond: "M6 .5L11.5 6 6 11.5.5 6z",
  "triangle-down": "M6 11L.5 1h11z",
  cross: "M4 1h4v3h3v4H8v3H4V8H1V4h3z",
  "triangle-left": "M1 6L11 .5v11z",
};

// The library lies packed in the page; it becomes a script of the page when the first figure comes into view. False
// where a browser cannot unpack it.
const UNDRAWN = "This browser cannot unpack the figure; the tables below hold what it shows.";
let unpacked = null;
function library() {
  unpacked ||= (async () => {
    const packed = document.getElementById("recscale-library").textContent;
    const bytes = Uint8Array.from(atob(packed), letter => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    document.head.append(make("script", {}, await new Response(stream).text()));
    return true;
  })().catch(() => false);
  return unpacked;
}

function swatch(model) {
  const space = "http://www.w3.org/2000/svg";
  const [picture, path] = ["svg", "path"].map(tag => document.createElementNS(space, tag));
  for (const [name, value] of Object.entries({viewBox: "0 0 12 12", width: 12, height: 12, "aria-hidden": "true"}))
    picture.setAttribute(name, value);
  path.setAttribute("d", SWATCHES[model.symbol]);
  path.setAttribute("fill", model.colour);
  picture.append(path);
  return picture;
}
